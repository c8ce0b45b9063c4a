// SPDX-License-Identifier: Apache-2.0
//! What the controllers count. Labels come from closed sets only.

mod mirror;
mod slices;

use berth_runtime::queue::QueueMetrics;
use berth_runtime::watch::WatchMetrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::Controller;
use crate::cache::Writes;

pub(crate) use mirror::MirrorMetrics;
pub(crate) use slices::{SliceMetrics, changed_by_family};

/// What is done to a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SyncLabels {
    controller: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    verb: &'static str,
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    result: &'static str,
}

/// Clones count into the same place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) watches: WatchMetrics,
    pub(crate) queues: QueueMetrics,
    pub(crate) slices: SliceMetrics,
    pub(crate) mirror: MirrorMetrics,
    syncs: Family<SyncLabels, Counter>,
    leading: Gauge,
    writes: Family<WriteLabels, Counter>,
    events: Family<EventLabel, Counter>,
}

impl Metrics {
    /// Registers all of it.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let this = Self {
            watches: WatchMetrics::register(registry),
            queues: QueueMetrics::register(registry),
            ..Self::default()
        };
        this.slices.register(registry);
        this.mirror.register(registry);
        registry.register(
            "berth_controller_syncs",
            "Turns taken, by outcome",
            this.syncs.clone(),
        );
        registry.register(
            "berth_controllers_leading",
            "1 while this process holds the Lease",
            this.leading.clone(),
        );
        registry.register(
            "berth_controller_writes",
            "Writes sent to the API server, by outcome",
            this.writes.clone(),
        );
        registry.register(
            "berth_controller_events",
            "Events for people, by what became of them",
            this.events.clone(),
        );
        this
    }

    /// Notes how a turn ended.
    pub(crate) fn sync(&self, controller: Controller, result: &'static str) {
        if controller == Controller::EndpointSlices {
            self.slices.sync(result);
        }
        let controller = controller.as_str();
        self.syncs.get_or_create(&SyncLabels { controller, result }).inc();
    }

    /// Notes a write to a slice.
    pub(crate) fn slice_changed(&self, writes: Writes, operation: Operation) {
        match writes {
            Writes::Slices => self.slices.changed(operation),
            Writes::Mirror => self.mirror.changed(operation),
        }
    }

    pub(crate) fn leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    pub(crate) fn write(&self, verb: &'static str, kind: &'static str, result: &'static str) {
        self.writes
            .get_or_create(&WriteLabels { verb, kind, result })
            .inc();
    }

    /// Notes what became of an event.
    pub(crate) fn event(&self, result: &'static str) {
        self.events.get_or_create(&EventLabel { result }).inc();
    }
}

#[cfg(test)]
mod tests;
