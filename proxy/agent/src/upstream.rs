// SPDX-License-Identifier: Apache-2.0
//! Metrics that kube-proxy has too, under its names and with its meanings (`pkg/proxy/metrics` of Kubernetes
//! v1.37): dashboards and alerts go on. Berth's own are in `metrics.rs`.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use berth_model::IpFamily;
use k8s_openapi::jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::apply::conntrack::Pass;
use crate::feed::Seen;
use crate::iptables::Counts;
use crate::options::ProxyMode;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabel {
    ip_family: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TableLabel {
    table: &'static str,
    ip_family: &'static str,
}

type Histograms = Family<FamilyLabel, Histogram, fn() -> Histogram>;
type Seconds = Family<FamilyLabel, Gauge<f64, AtomicU64>>;

/// What kube-proxy counts. Clones count into the same place.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    healthz: Family<CodeLabel, Counter>,
    livez: Family<CodeLabel, Counter>,
    sync: Histograms,
    full: Histograms,
    partial: Histograms,
    last: Seconds,
    last_queued: Seconds,
    failures: Family<FamilyLabel, Counter>,
    endpoint_changes: Counter,
    endpoint_changes_pending: Gauge,
    service_changes: Counter,
    service_changes_pending: Gauge,
    programming: Histograms,
    conntrack: Histograms,
    conntrack_deleted: Family<FamilyLabel, Counter>,
    rules: Family<TableLabel, Gauge>,
    rules_last: Family<TableLabel, Gauge>,
    restore_failures: Family<FamilyLabel, Counter>,
    partial_restore_failures: Family<FamilyLabel, Counter>,
}

/// 1 ms to 16 s.
fn short() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// Finer where the objective of Kubernetes' scalability group lies, up to five minutes.
fn programming() -> Histogram {
    let whole = (1..60).map(f64::from);
    let fives = (0..12).map(|step| 60.0 + 5.0 * f64::from(step));
    let halves = (0..7).map(|step| 120.0 + 30.0 * f64::from(step));
    Histogram::new([0.25, 0.5].into_iter().chain(whole).chain(fives).chain(halves))
}

impl Upstream {
    /// Registers what has a meaning in this mode.
    pub(crate) fn register(registry: &mut Registry, mode: ProxyMode) -> Self {
        let short = || Histograms::new_with_constructor(short);
        let this = Self {
            healthz: Family::default(),
            livez: Family::default(),
            sync: short(),
            full: short(),
            partial: short(),
            last: Family::default(),
            last_queued: Family::default(),
            failures: Family::default(),
            endpoint_changes: Counter::default(),
            endpoint_changes_pending: Gauge::default(),
            service_changes: Counter::default(),
            service_changes_pending: Gauge::default(),
            programming: Histograms::new_with_constructor(programming),
            conntrack: short(),
            conntrack_deleted: Family::default(),
            rules: Family::default(),
            rules_last: Family::default(),
            restore_failures: Family::default(),
            partial_restore_failures: Family::default(),
        };
        let kubeproxy = registry.sub_registry_with_prefix("kubeproxy");
        this.register_answers(kubeproxy);
        this.register_syncs(kubeproxy);
        this.register_changes(kubeproxy);
        match mode {
            ProxyMode::Nftables => kubeproxy.register(
                "sync_proxy_rules_nftables_sync_failures",
                "Turns that failed",
                this.failures.clone(),
            ),
            ProxyMode::Iptables => this.register_rules(kubeproxy),
            ProxyMode::Ipvs | ProxyMode::Userspace => {}
        }
        this
    }

    fn register_answers(&self, to: &mut Registry) {
        to.register(
            "proxy_healthz",
            "Answers of /healthz by HTTP status",
            self.healthz.clone(),
        );
        to.register(
            "proxy_livez",
            "Answers of /livez by HTTP status",
            self.livez.clone(),
        );
    }

    fn register_syncs(&self, to: &mut Registry) {
        to.register(
            "sync_proxy_rules_duration_seconds",
            "Time of a turn of the sync loop that wrote something; both families are written in one turn",
            self.sync.clone(),
        );
        to.register(
            "sync_full_proxy_rules_duration_seconds",
            "Time of a turn that wrote a table as a whole",
            self.full.clone(),
        );
        to.register(
            "sync_partial_proxy_rules_duration_seconds",
            "Time of a turn that wrote changes only",
            self.partial.clone(),
        );
        to.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "When the rules were last as wanted",
            self.last.clone(),
        );
        to.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When a change of the rules was last asked for",
            self.last_queued.clone(),
        );
        to.register(
            "conntrack_reconciler_sync_duration_seconds",
            "Time of a clean-up of stale UDP flows",
            self.conntrack.clone(),
        );
        to.register(
            "conntrack_reconciler_deleted_entries",
            "Stale UDP flows deleted",
            self.conntrack_deleted.clone(),
        );
    }

    fn register_changes(&self, to: &mut Registry) {
        to.register(
            "sync_proxy_rules_endpoint_changes",
            "Events about EndpointSlices",
            self.endpoint_changes.clone(),
        );
        to.register(
            "sync_proxy_rules_endpoint_changes_pending",
            "Events about EndpointSlices that the rules do not reflect yet",
            self.endpoint_changes_pending.clone(),
        );
        to.register(
            "sync_proxy_rules_service_changes",
            "Events about Services",
            self.service_changes.clone(),
        );
        to.register(
            "sync_proxy_rules_service_changes_pending",
            "Events about Services that the rules do not reflect yet",
            self.service_changes_pending.clone(),
        );
        to.register(
            "network_programming_duration_seconds",
            "Time from the change of a Service or Pod, as its EndpointSlice says, to the rules",
            self.programming.clone(),
        );
    }

    fn register_rules(&self, to: &mut Registry) {
        to.register(
            "sync_proxy_rules_iptables_total",
            "Rules of ours in iptables",
            self.rules.clone(),
        );
        to.register(
            "sync_proxy_rules_iptables_last",
            "Rules written when something was written last",
            self.rules_last.clone(),
        );
        to.register(
            "sync_proxy_rules_iptables_restore_failures",
            "How often iptables-restore refused anything",
            self.restore_failures.clone(),
        );
        to.register(
            "sync_proxy_rules_iptables_partial_restore_failures",
            "How often iptables-restore refused a change, after which everything was read and compared",
            self.partial_restore_failures.clone(),
        );
    }

    /// What is counted of rules in iptables.
    pub(crate) fn rules(&self, counts: &[(IpFamily, Counts)]) {
        let up_to = |counter: &Counter, total: u64| counter.inc_by(total.saturating_sub(counter.get()));
        for (family, counts) in counts {
            for (gauges, rules) in [(&self.rules, &counts.rules), (&self.rules_last, &counts.last)] {
                for (table, count) in rules {
                    let label = TableLabel {
                        table: table.as_str(),
                        ip_family: family.as_str(),
                    };
                    let count = i64::try_from(*count).unwrap_or(i64::MAX);
                    gauges.get_or_create(&label).set(count);
                }
            }
            let label = label(*family);
            up_to(&self.restore_failures.get_or_create(&label), counts.refused);
            up_to(
                &self.partial_restore_failures.get_or_create(&label),
                counts.refused_changes,
            );
        }
    }

    /// An answer of `/healthz`.
    pub(crate) fn healthz(&self, code: u16) {
        self.healthz.get_or_create(&CodeLabel { code }).inc();
    }

    /// An answer of `/livez`.
    pub(crate) fn livez(&self, code: u16) {
        self.livez.get_or_create(&CodeLabel { code }).inc();
    }

    /// Changes wait to be written.
    pub(crate) fn queued(&self, now: Timestamp) {
        for label in families() {
            self.last_queued.get_or_create(&label).set(seconds(now));
        }
    }

    /// Events came in; `pending` are all that wait.
    pub(crate) fn seen(&self, new: &Seen, pending: &Seen) {
        self.service_changes.inc_by(new.services);
        self.endpoint_changes.inc_by(new.slices);
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.service_changes_pending.set(gauge(pending.services));
        self.endpoint_changes_pending.set(gauge(pending.slices));
    }

    /// The rules are as wanted, and reflect all of these.
    pub(crate) fn synced(&self, now: Timestamp, reflected: &Seen) {
        for label in families() {
            self.last.get_or_create(&label).set(seconds(now));
        }
        self.seen(&Seen::default(), &Seen::default());
        for (family, cause) in &reflected.causes {
            let latency = seconds(now) - seconds(*cause);
            self.programming.get_or_create(&label(*family)).observe(latency);
        }
    }

    /// A turn wrote something.
    pub(crate) fn wrote(&self, took: Duration, full: bool) {
        let kind = if full { &self.full } else { &self.partial };
        for label in families() {
            self.sync.get_or_create(&label).observe(took.as_secs_f64());
            kind.get_or_create(&label).observe(took.as_secs_f64());
        }
    }

    /// A turn failed.
    pub(crate) fn failed(&self) {
        for label in families() {
            self.failures.get_or_create(&label).inc();
        }
    }

    /// Stale flows were looked for.
    pub(crate) fn cleaned(&self, passes: Vec<Pass>) {
        for pass in passes {
            let label = label(pass.family);
            self.conntrack
                .get_or_create(&label)
                .observe(pass.took.as_secs_f64());
            let deleted = u64::try_from(pass.deleted).unwrap_or(u64::MAX);
            self.conntrack_deleted.get_or_create(&label).inc_by(deleted);
        }
    }
}

fn families() -> [FamilyLabel; 2] {
    IpFamily::ALL.map(label)
}

fn label(family: IpFamily) -> FamilyLabel {
    FamilyLabel {
        ip_family: family.as_str(),
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests;
