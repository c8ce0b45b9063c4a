// SPDX-License-Identifier: Apache-2.0
//! Events about Services, beside the sync loop, which must not wait for the API server.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::health::Refusal;

/// Room for a burst; what is beyond is in the log only.
const BACKLOG: usize = 64;

/// Where events go.
#[derive(Clone, Debug)]
pub(crate) struct Events(Option<mpsc::Sender<Refusal>>);

impl Events {
    /// Starts the task that publishes. It ends when the last sender is dropped.
    pub(crate) fn start(client: Client, node: &str) -> Self {
        let reporter = Reporter {
            controller: "berth-proxy".to_owned(),
            instance: Some(node.to_owned()),
        };
        let recorder = Recorder::new(client, reporter);
        let node = node.to_owned();
        let (sender, mut receiver) = mpsc::channel::<Refusal>(BACKLOG);
        tokio::spawn(async move {
            while let Some(refusal) = receiver.recv().await {
                let (event, about) = event(&node, &refusal);
                if let Err(error) = recorder.publish(&event, &about).await {
                    tracing::warn!(%error, reason = event.reason, "event not published");
                }
            }
        });
        Self(Some(sender))
    }

    /// For a proxy without an API server: what would be an event is in the log.
    pub(crate) fn nowhere() -> Self {
        Self(None)
    }

    /// Says that a health-check node port could not be opened.
    pub(crate) fn refused(&self, refusal: Refusal) {
        let Some(sender) = &self.0 else { return };
        if sender.try_send(refusal).is_err() {
            tracing::debug!("event dropped: too many wait");
        }
    }
}

fn event(node: &str, refusal: &Refusal) -> (Event, ObjectReference) {
    let event = Event {
        type_: EventType::Warning,
        reason: Refusal::REASON.to_owned(),
        note: Some(format!("node {node} {refusal}")),
        action: "Listen".to_owned(),
        secondary: None,
    };
    let service = &refusal.listener.service;
    let about = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: Some(service.namespace().to_owned()),
        name: Some(service.name().to_owned()),
        // `kubectl describe` shows only events that have it.
        uid: Some(refusal.uid.clone()),
        ..ObjectReference::default()
    };
    (event, about)
}

#[cfg(test)]
mod tests {
    use berth_model::ServiceKey;
    use berth_proxy_core::health_check::Listener;

    use super::*;

    #[test]
    fn the_event_names_node_service_port_and_cause() {
        let refusal = Refusal {
            listener: Listener {
                address: "0.0.0.0:32000".parse().unwrap(),
                service: ServiceKey::new("shop", "web"),
            },
            uid: "uid-web".to_owned(),
            error: "Address already in use (os error 98)".to_owned(),
        };
        let (event, about) = event("node-1", &refusal);
        assert_eq!(event.reason, "FailedToStartServiceHealthcheck");
        let note = event.note.unwrap();
        for part in ["node-1", "shop/web", "32000", "already in use"] {
            assert!(note.contains(part), "{part}: {note}");
        }
        assert_eq!(about.uid.as_deref(), Some("uid-web"));
    }
}
