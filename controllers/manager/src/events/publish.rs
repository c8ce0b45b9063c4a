// SPDX-License-Identifier: Apache-2.0
//! Writes events as upstream's controllers do: core/v1, with a source and a count.

use berth_runtime::lease::Leadership;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Note;
use super::correlate::{Correlator, Posted, Verdict};
use crate::metrics::Metrics;

/// Longer messages are cut, as the API server demands of events.k8s.io/v1.
const TEXT_LIMIT: usize = 1024;

/// The task that publishes.
pub(super) struct Publisher {
    client: Client,
    leadership: Leadership,
    instance: String,
    metrics: Metrics,
    correlator: Correlator,
}

impl Publisher {
    pub(super) fn new(client: Client, leadership: Leadership, instance: String, metrics: Metrics) -> Self {
        Self {
            client,
            leadership,
            instance,
            metrics,
            correlator: Correlator::default(),
        }
    }

    pub(super) async fn run(mut self, mut receiver: mpsc::Receiver<Note>, stop: CancellationToken) {
        loop {
            let note = tokio::select! {
                () = stop.cancelled() => return,
                note = receiver.recv() => match note {
                    Some(note) => note,
                    None => return,
                },
            };
            let result = match self.publish(&note).await {
                Ok(result) => result,
                Err(error) => {
                    tracing::debug!(reason = note.reason, %error, "event not published");
                    "failed"
                }
            };
            self.metrics.event(result);
        }
    }

    async fn publish(&mut self, note: &Note) -> Result<&'static str, Error> {
        // What a leader had to say when it was put to sleep is not said once another leads.
        if !self.leadership.is_leading() {
            return Ok("not_leading");
        }
        let now = Timestamp::now();
        let namespace = note.about.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let posted = match self.correlator.judge(note, now) {
            Verdict::Drop => return Ok("limited"),
            Verdict::Create(posted) => posted,
            Verdict::Repeat(posted) => match self.repeat(&api, &posted, now).await {
                // Events last for an hour only.
                Err(Error::Api(status)) if status.code == 404 => posted,
                other => return other.map(|()| "repeated"),
            },
        };
        if !self.leadership.is_leading() {
            self.correlator.forget(&posted.name);
            return Ok("not_leading");
        }
        let event = event(note, &posted, &self.instance, now);
        let created = api.create(&PostParams::default(), &event).await;
        if let Err(error) = created {
            self.correlator.forget(&posted.name);
            return Err(error);
        }
        Ok("created")
    }

    async fn repeat(&self, api: &Api<Event>, posted: &Posted, now: Timestamp) -> Result<(), Error> {
        let patch = json!({
            "count": posted.count,
            "lastTimestamp": Time(now),
            "message": shortened(posted.text.clone()),
        });
        api.patch_metadata(&posted.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        Ok(())
    }
}

fn event(note: &Note, posted: &Posted, instance: &str, now: Timestamp) -> Event {
    let namespace = note.about.namespace.as_deref().unwrap_or("default");
    Event {
        metadata: ObjectMeta {
            name: Some(posted.name.clone()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: note.about.clone(),
        type_: Some(note.kind().to_owned()),
        reason: Some(note.reason.to_owned()),
        message: Some(shortened(posted.text.clone())),
        count: Some(posted.count),
        first_timestamp: Some(Time(posted.first)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(note.reporter.as_str().to_owned()),
            host: None,
        }),
        reporting_component: Some(note.reporter.as_str().to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

/// Cuts a text at a character boundary.
fn shortened(mut text: String) -> String {
    if text.len() > TEXT_LIMIT {
        let mut end = TEXT_LIMIT - 3;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;
    use crate::Controller;

    #[test]
    fn a_long_note_is_cut_at_a_character() {
        let short = shortened("ä".repeat(2000));
        assert!(
            short.len() <= TEXT_LIMIT && short.ends_with("..."),
            "{}",
            short.len()
        );
        assert_eq!(shortened("short".to_owned()), "short");
    }

    #[test]
    fn an_event_reads_as_upstreams() {
        let note = Note {
            reporter: Controller::Mirroring.into(),
            about: ObjectReference {
                kind: Some("Endpoints".to_owned()),
                namespace: Some("shop".to_owned()),
                name: Some("db".to_owned()),
                ..ObjectReference::default()
            },
            warning: true,
            reason: "InvalidIPAddress",
            text: "one".to_owned(),
        };
        let now = Timestamp::from_second(100).unwrap();
        let Verdict::Create(posted) = Correlator::default().judge(&note, now) else {
            panic!("a first event is created");
        };
        let event = serde_json::to_value(event(&note, &posted, "host-1", now)).unwrap();
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "db.174876e800", "namespace": "shop"},
            "involvedObject": {"kind": "Endpoints", "namespace": "shop", "name": "db"},
            "type": "Warning",
            "reason": "InvalidIPAddress",
            "message": "one",
            "count": 1,
            "firstTimestamp": "1970-01-01T00:01:40Z",
            "lastTimestamp": "1970-01-01T00:01:40Z",
            "source": {"component": "endpoint-slice-mirroring-controller"},
            "reportingComponent": "endpoint-slice-mirroring-controller",
            "reportingInstance": "host-1",
        });
        assert_eq!(event, expected);
    }
}
