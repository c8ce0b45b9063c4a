// SPDX-License-Identifier: Apache-2.0
//! Events for people, published beside the work and never in its way.

use std::collections::BTreeMap;

use berth_runtime::client::explain;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Controller;
use crate::metrics::Metrics;

/// Events that may wait. An event storm is dropped and counted, not queued without bound.
const WAITING: usize = 512;
/// The API server refuses longer notes (events.k8s.io/v1).
const NOTE_LIMIT: usize = 1024;

/// An event about an object.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    /// Who says it.
    pub(crate) controller: Controller,
    /// About what.
    pub(crate) about: ObjectReference,
    /// Warning, or merely news.
    pub(crate) warning: bool,
    /// A stable word.
    pub(crate) reason: &'static str,
    /// What was being done.
    pub(crate) action: &'static str,
    /// The text.
    pub(crate) text: String,
}

/// Where events are dropped off.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    sender: mpsc::Sender<Note>,
    metrics: Metrics,
}

impl Events {
    /// The drop-off, and the task that publishes.
    pub(crate) fn new(
        client: Client,
        instance: String,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (
            Self { sender, metrics },
            publish(client, instance, receiver, stop),
        )
    }

    /// Drops an event off.
    pub(crate) fn note(&self, note: Note) {
        if self.sender.try_send(note).is_err() {
            self.metrics.event_dropped();
        }
    }
}

/// The name under which a controller reports; those of the first three are upstream's.
fn reporter(controller: Controller) -> &'static str {
    match controller {
        Controller::Endpoints => "endpoint-controller",
        Controller::EndpointSlices => "endpoint-slice-controller",
        Controller::Mirroring => "endpoint-slice-mirroring-controller",
        Controller::LoadBalancer => "berth.dev/load-balancer",
    }
}

async fn publish(
    client: Client,
    instance: String,
    mut receiver: mpsc::Receiver<Note>,
    stop: CancellationToken,
) {
    let recorders: BTreeMap<Controller, Recorder> = Controller::ALL
        .into_iter()
        .map(|controller| {
            let reporter = Reporter {
                controller: reporter(controller).to_owned(),
                instance: Some(instance.clone()),
            };
            (controller, Recorder::new(client.clone(), reporter))
        })
        .collect();
    loop {
        let note = tokio::select! {
            () = stop.cancelled() => return,
            note = receiver.recv() => match note {
                Some(note) => note,
                None => return,
            },
        };
        let Some(recorder) = recorders.get(&note.controller) else {
            continue;
        };
        let type_ = if note.warning {
            EventType::Warning
        } else {
            EventType::Normal
        };
        let event = Event {
            type_,
            reason: note.reason.to_owned(),
            note: Some(shortened(note.text)),
            action: note.action.to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &note.about).await {
            let (fault, error) = explain(&error);
            tracing::debug!(reason = note.reason, %fault, error, "event not published");
        }
    }
}

/// Cuts a text at a character boundary to what the API server takes.
fn shortened(mut text: String) -> String {
    if text.len() > NOTE_LIMIT {
        let mut end = NOTE_LIMIT - 3;
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
    use super::*;

    #[test]
    fn a_long_note_is_cut_at_a_character() {
        let text = "ä".repeat(2000);
        let short = shortened(text);
        assert!(
            short.len() <= NOTE_LIMIT && short.ends_with("..."),
            "{}",
            short.len()
        );
        assert_eq!(shortened("short".to_owned()), "short");
    }
}
