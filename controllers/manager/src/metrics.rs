// SPDX-License-Identifier: Apache-2.0
//! What the controllers count. Labels come from closed sets only.

use berth_runtime::watch::WatchMetrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::Controller;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SyncLabels {
    controller: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabel {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    verb: &'static str,
    kind: &'static str,
    result: &'static str,
}

/// Clones count into the same place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) watches: WatchMetrics,
    syncs: Family<SyncLabels, Counter>,
    depth: Family<ControllerLabel, Gauge>,
    leading: Gauge,
    writes: Family<WriteLabels, Counter>,
    events_dropped: Counter,
}

impl Metrics {
    /// Registers all of it.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let this = Self {
            watches: WatchMetrics::register(registry),
            ..Self::default()
        };
        registry.register(
            "berth_controller_syncs",
            "Turns taken, by outcome",
            this.syncs.clone(),
        );
        registry.register(
            "berth_controller_queue_depth",
            "Keys that wait for their turn, delayed ones included",
            this.depth.clone(),
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
            "berth_controller_events_dropped",
            "Events not published because too many were waiting",
            this.events_dropped.clone(),
        );
        this
    }

    pub(crate) fn sync(&self, controller: Controller, result: &'static str) {
        let controller = controller.as_str();
        self.syncs.get_or_create(&SyncLabels { controller, result }).inc();
    }

    pub(crate) fn depth(&self, controller: Controller, depth: usize) {
        let controller = controller.as_str();
        self.depth
            .get_or_create(&ControllerLabel { controller })
            .set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    pub(crate) fn leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    pub(crate) fn write(&self, verb: &'static str, kind: &'static str, result: &'static str) {
        self.writes
            .get_or_create(&WriteLabels { verb, kind, result })
            .inc();
    }

    pub(crate) fn event_dropped(&self) {
        self.events_dropped.inc();
    }
}
