// SPDX-License-Identifier: Apache-2.0
//! Counters of the watches, labelled by kind.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::WatchEvent;
use crate::client::Fault;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabel {
    kind: &'static str,
    fault: &'static str,
}

/// What the watches of a process saw. Clones count into the same place.
#[derive(Clone, Debug, Default)]
pub struct WatchMetrics {
    events: Family<KindLabel, Counter>,
    lists: Family<KindLabel, Counter>,
    failures: Family<FaultLabel, Counter>,
    bytes: Family<KindLabel, Counter>,
}

impl WatchMetrics {
    /// Registers the counters.
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register(
            "berth_watch_events",
            "Objects applied or deleted, as seen by the watches",
            this.events.clone(),
        );
        registry.register(
            "berth_watch_lists",
            "Complete lists received; more than one per kind means relists",
            this.lists.clone(),
        );
        registry.register(
            "berth_watch_failures",
            "Failures of lists and watches",
            this.failures.clone(),
        );
        registry.register(
            "berth_watch_received_bytes",
            "Bytes of lists and watches in protobuf, as received",
            this.bytes.clone(),
        );
        this
    }

    pub(super) fn event<K>(&self, kind: &'static str, event: &WatchEvent<K>) {
        match event {
            WatchEvent::Applied(_) | WatchEvent::Deleted(_) => {
                self.events.get_or_create(&KindLabel { kind }).inc();
            }
            WatchEvent::Listed(_) => {
                self.lists.get_or_create(&KindLabel { kind }).inc();
            }
        }
    }

    pub(super) fn bytes(&self, kind: &'static str, count: usize) {
        self.bytes.get_or_create(&KindLabel { kind }).inc_by(count as u64);
    }

    pub(super) fn failure(&self, kind: &'static str, fault: Fault) {
        let label = FaultLabel {
            kind,
            fault: fault.as_str(),
        };
        self.failures.get_or_create(&label).inc();
    }
}
