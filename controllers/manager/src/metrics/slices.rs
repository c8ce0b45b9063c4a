// SPDX-License-Identifier: Apache-2.0
//! Upstream's metrics of the EndpointSlice controller, by upstream's names (k8s.io/endpointslice/metrics).
//!
//! Gauges count every family of every Service; upstream's count one family of a dual-stack Service
//! (<https://github.com/kubernetes/kubernetes/issues/126004>).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_controllers_core::figures::{Efficiency, SliceFigures};
use berth_controllers_core::plan::Plan;
use berth_controllers_core::slices::{Routing, SlicePlan};
use berth_model::{IpFamily, ServiceKey};
use berth_runtime::metrics::ExactCounter;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::Operation;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OperationLabel {
    operation: &'static str,
}

impl OperationLabel {
    pub(super) fn of(operation: Operation) -> Self {
        Self {
            operation: operation.as_str(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoutingLabels {
    topology: &'static str,
    traffic_distribution: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DistributionLabel {
    traffic_distribution: &'static str,
}

/// Counts of endpoints: 2 to 32768.
pub(super) fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(2.0, 2.0, 15))
}

/// The default bounds of Prometheus' own client.
fn defaults() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

/// How many there are and how many there would be at best: the sums over all Services.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    desired: Gauge,
    slices: Gauge,
    optimal: Gauge,
}

impl Totals {
    pub(super) fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            ("endpoints_desired", "Endpoints wanted", &self.desired),
            ("num_endpoint_slices", "EndpointSlices", &self.slices),
            (
                "desired_endpoint_slices",
                "EndpointSlices there would be if all were packed densely",
                &self.optimal,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
    }

    pub(super) fn set(&self, totals: Efficiency) {
        for (gauge, value) in [
            (&self.desired, totals.endpoints),
            (&self.slices, totals.slices),
            (&self.optimal, totals.optimal_slices),
        ] {
            gauge.set(as_gauge(value));
        }
    }
}

fn as_gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Clones count into the same place.
#[derive(Clone, Debug)]
pub(crate) struct SliceMetrics {
    figures: Arc<Mutex<SliceFigures>>,
    totals: Totals,
    added: Histogram,
    removed: Histogram,
    changes: Family<OperationLabel, ExactCounter>,
    changed: Family<RoutingLabels, Histogram>,
    syncs: Family<ResultLabel, ExactCounter>,
    by_distribution: Family<DistributionLabel, Gauge>,
}

impl Default for SliceMetrics {
    fn default() -> Self {
        Self {
            figures: Arc::default(),
            totals: Totals::default(),
            added: sizes(),
            removed: sizes(),
            changes: Family::default(),
            changed: Family::new_with_constructor(defaults),
            syncs: Family::default(),
            by_distribution: Family::default(),
        }
    }
}

impl SliceMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        const SUBSYSTEM: &str = "endpoint_slice_controller";
        let registry = registry.sub_registry_with_prefix(SUBSYSTEM);
        self.totals.register(registry);
        registry.register(
            "endpoints_added_per_sync",
            "Endpoints that a turn adds to the slices of one family",
            self.added.clone(),
        );
        registry.register(
            "endpoints_removed_per_sync",
            "Endpoints that a turn takes out of the slices of one family",
            self.removed.clone(),
        );
        registry.register(
            "changes",
            "EndpointSlices written, by operation",
            self.changes.clone(),
        );
        registry.register(
            "endpointslices_changed_per_sync",
            "EndpointSlices of one family that a turn writes",
            self.changed.clone(),
        );
        registry.register(
            "syncs",
            "Turns over the slices of a Service, by outcome",
            self.syncs.clone(),
        );
        registry.register(
            "services_count_by_traffic_distribution",
            "Services that use a traffic distribution",
            self.by_distribution.clone(),
        );
    }

    /// Notes what a turn found and decided.
    pub(crate) fn planned(&self, key: &ServiceKey, plan: &SlicePlan) {
        for counts in plan.counts.values() {
            self.added.observe(counts.added as f64);
            self.removed.observe(counts.removed as f64);
        }
        let mut figures = self.figures();
        figures.set(key, &plan.counts, plan.routing.distribution());
        self.show(&figures);
    }

    /// Notes that a Service is gone.
    pub(crate) fn forget(&self, key: &ServiceKey) {
        let mut figures = self.figures();
        figures.forget(key);
        self.show(&figures);
    }

    /// Notes one write.
    pub(crate) fn changed(&self, operation: Operation) {
        self.changes.get_or_create(&OperationLabel::of(operation)).inc();
    }

    /// Notes that all writes of a turn are made.
    pub(crate) fn settled(&self, routing: Routing, by_family: &[(IpFamily, usize)]) {
        let histogram = self.changed.get_or_create(&RoutingLabels {
            topology: routing.topology_label(),
            traffic_distribution: routing.distribution_label(),
        });
        for (_, changed) in by_family {
            histogram.observe(*changed as f64);
        }
    }

    /// Notes how a turn ended.
    pub(crate) fn sync(&self, result: &'static str) {
        self.syncs.get_or_create(&ResultLabel { result }).inc();
    }

    fn show(&self, figures: &SliceFigures) {
        self.totals.set(figures.totals());
        for (distribution, count) in figures.by_distribution() {
            let traffic_distribution = distribution.as_str();
            self.by_distribution
                .get_or_create(&DistributionLabel { traffic_distribution })
                .set(as_gauge(count));
        }
    }

    fn figures(&self) -> MutexGuard<'_, SliceFigures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many slices of each family a plan writes, the families that the Service has.
pub(crate) fn changed_by_family(plan: &SlicePlan, existing: &[Arc<EndpointSlice>]) -> Vec<(IpFamily, usize)> {
    let writes: &Plan<EndpointSlice> = &plan.writes;
    let deleted = writes.delete.iter().filter_map(|object| {
        existing
            .iter()
            .find(|slice| slice.metadata.name.as_ref() == Some(&object.name))
            .map(|slice| &slice.address_type)
    });
    let written = writes.create.iter().chain(&writes.update);
    let types: Vec<&String> = written.map(|slice| &slice.address_type).chain(deleted).collect();
    let count = |family: IpFamily| types.iter().filter(|kind| **kind == family.as_str()).count();
    plan.counts
        .keys()
        .map(|family| (*family, count(*family)))
        .collect()
}
