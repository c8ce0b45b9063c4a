// SPDX-License-Identifier: Apache-2.0
//! Upstream's metrics of the mirroring controller, by upstream's names
//! (kubernetes/pkg/controller/endpointslicemirroring/metrics).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_controllers_core::figures::{SliceFigures, sum};
use berth_controllers_core::mirror::MirrorPlan;
use berth_model::ServiceKey;
use berth_runtime::metrics::ExactCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::Operation;
use super::slices::{OperationLabel, Totals, sizes};

/// Clones count into the same place.
#[derive(Clone, Debug)]
pub(crate) struct MirrorMetrics {
    figures: Arc<Mutex<SliceFigures>>,
    totals: Totals,
    added: Histogram,
    updated: Histogram,
    removed: Histogram,
    skipped: Histogram,
    duration: Histogram,
    changes: Family<OperationLabel, ExactCounter>,
}

impl Default for MirrorMetrics {
    fn default() -> Self {
        Self {
            figures: Arc::default(),
            totals: Totals::default(),
            added: sizes(),
            updated: sizes(),
            removed: sizes(),
            skipped: sizes(),
            // 1 ms to 16 s.
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            changes: Family::default(),
        }
    }
}

impl MirrorMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        const SUBSYSTEM: &str = "endpoint_slice_mirroring_controller";
        let registry = registry.sub_registry_with_prefix(SUBSYSTEM);
        self.totals.register(registry);
        for (name, help, histogram) in [
            (
                "endpoints_added_per_sync",
                "Endpoints that a turn adds",
                &self.added,
            ),
            (
                "endpoints_updated_per_sync",
                "Endpoints that a turn changes",
                &self.updated,
            ),
            (
                "endpoints_removed_per_sync",
                "Endpoints that a turn takes out",
                &self.removed,
            ),
            (
                "addresses_skipped_per_sync",
                "Addresses that a turn leaves out, because they are invalid or too many",
                &self.skipped,
            ),
            (
                "endpoints_sync_duration",
                "Seconds that a turn takes",
                &self.duration,
            ),
        ] {
            registry.register(name, help, histogram.clone());
        }
        registry.register(
            "changes",
            "EndpointSlices written, by operation",
            self.changes.clone(),
        );
    }

    /// Notes what a turn over Endpoints that are mirrored found and decided.
    pub(crate) fn planned(&self, key: &ServiceKey, plan: &MirrorPlan) {
        let counts = sum(plan.counts.values());
        self.added.observe(counts.added as f64);
        self.updated.observe(counts.updated as f64);
        self.removed.observe(counts.removed as f64);
        self.skipped.observe(plan.addresses_skipped() as f64);
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.set(key, &plan.counts, None);
        self.totals.set(figures.totals());
    }

    /// Notes that these Endpoints are not mirrored.
    pub(crate) fn forget(&self, key: &ServiceKey) {
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.forget(key);
        self.totals.set(figures.totals());
    }

    /// Notes one write.
    pub(crate) fn changed(&self, operation: Operation) {
        self.changes.get_or_create(&OperationLabel::of(operation)).inc();
    }

    /// Notes how long a turn took.
    pub(crate) fn took(&self, duration: Duration) {
        self.duration.observe(duration.as_secs_f64());
    }
}
