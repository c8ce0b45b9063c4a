// SPDX-License-Identifier: Apache-2.0
//! Events for people, published beside the work and never in its way.

mod correlate;
mod publish;

use berth_runtime::lease::Leadership;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Controller;
use crate::metrics::Metrics;

/// Events that may wait. An event storm is dropped and counted, not queued without bound.
const WAITING: usize = 512;

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reporter {
    /// A controller.
    Controller(Controller),
    /// The audit of cluster IPs and node ports.
    Audit,
}

impl Reporter {
    /// The name under which it reports; those of the first three controllers are upstream's.
    fn as_str(self) -> &'static str {
        match self {
            Self::Controller(Controller::Endpoints) => "endpoint-controller",
            Self::Controller(Controller::EndpointSlices) => "endpoint-slice-controller",
            Self::Controller(Controller::Mirroring) => "endpoint-slice-mirroring-controller",
            Self::Controller(Controller::LoadBalancer) => "berth.dev/load-balancer",
            Self::Audit => "berth.dev/audit",
        }
    }
}

impl From<Controller> for Reporter {
    fn from(controller: Controller) -> Self {
        Self::Controller(controller)
    }
}

/// An event about an object.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    /// Who says it.
    pub(crate) reporter: Reporter,
    /// About what.
    pub(crate) about: ObjectReference,
    /// Warning, or merely news.
    pub(crate) warning: bool,
    /// A stable word.
    pub(crate) reason: &'static str,
    /// The text.
    pub(crate) text: String,
}

impl Note {
    /// The event's type.
    fn kind(&self) -> &'static str {
        if self.warning { "Warning" } else { "Normal" }
    }
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
        leadership: Leadership,
        instance: String,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let publisher = publish::Publisher::new(client, leadership, instance, metrics.clone());
        (Self { sender, metrics }, publisher.run(receiver, stop))
    }

    /// The drop-off, and what is dropped off.
    #[cfg(test)]
    pub(crate) fn unpublished(metrics: Metrics) -> (Self, mpsc::Receiver<Note>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender, metrics }, receiver)
    }

    /// Drops an event off.
    pub(crate) fn note(&self, note: Note) {
        if self.sender.try_send(note).is_err() {
            self.metrics.event("overflow");
        }
    }
}
