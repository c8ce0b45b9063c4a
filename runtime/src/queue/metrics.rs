// SPDX-License-Identifier: Apache-2.0
//! What the queues of a process report, under the names of upstream's `workqueue` metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: &'static str,
}

/// Clones count into the same place.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    depth: Family<Name, Gauge>,
    adds: Family<Name, Counter>,
    retries: Family<Name, Counter>,
    waited: Family<Name, Histogram>,
    worked: Family<Name, Histogram>,
}

/// 10 ns to 10 s, as upstream's.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(10e-9, 10.0, 10))
}

impl Default for QueueMetrics {
    fn default() -> Self {
        Self {
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            waited: Family::new_with_constructor(durations),
            worked: Family::new_with_constructor(durations),
        }
    }
}

impl QueueMetrics {
    /// Registers all of it.
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register(
            "workqueue_depth",
            "Keys ready to be worked on, delayed ones excluded",
            this.depth.clone(),
        );
        registry.register(
            "workqueue_adds",
            "Keys made ready, each once however often it was added meanwhile",
            this.adds.clone(),
        );
        registry.register(
            "workqueue_retries",
            "Turns that failed and are taken again after a back-off",
            this.retries.clone(),
        );
        registry.register(
            "workqueue_queue_duration_seconds",
            "How long a key was ready before its turn began",
            this.waited.clone(),
        );
        registry.register(
            "workqueue_work_duration_seconds",
            "How long a turn took",
            this.worked.clone(),
        );
        this
    }

    /// Those of one queue.
    pub(super) fn of(&self, name: &'static str) -> Instruments {
        let name = Name { name };
        Instruments {
            depth: self.depth.get_or_create(&name).clone(),
            adds: self.adds.get_or_create(&name).clone(),
            retries: self.retries.get_or_create(&name).clone(),
            waited: self.waited.get_or_create(&name).clone(),
            worked: self.worked.get_or_create(&name).clone(),
        }
    }
}

/// What one queue counts.
#[derive(Clone, Debug)]
pub(super) struct Instruments {
    pub(super) depth: Gauge,
    pub(super) adds: Counter,
    pub(super) retries: Counter,
    pub(super) waited: Histogram,
    pub(super) worked: Histogram,
}

impl Default for Instruments {
    fn default() -> Self {
        Self {
            depth: Gauge::default(),
            adds: Counter::default(),
            retries: Counter::default(),
            waited: durations(),
            worked: durations(),
        }
    }
}
