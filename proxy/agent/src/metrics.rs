// SPDX-License-Identifier: Apache-2.0
//! Metrics of the node proxy. Labels come from closed sets.

use std::sync::atomic::AtomicU64;

use berth_model::IpFamily;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::userspace::Refusal;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabel {
    ip_family: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Everything the node proxy counts. Clones count into the same place.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    syncs: Family<ResultLabel, Counter>,
    duration: Histogram,
    elements: Family<FamilyLabel, Gauge>,
    changes: Counter,
    rebuilds: Counter,
    untranslated: Family<FamilyLabel, Gauge<u64, AtomicU64>>,
    forgotten: Counter,
    unremembered: Family<FamilyLabel, Gauge<u64, AtomicU64>>,
    unbound: Counter,
    not_relayed: Family<ReasonLabel, Gauge<u64, AtomicU64>>,
    refused: Gauge,
    conflicts: Gauge,
    health_ports: Gauge,
    sysctls_refused: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let this = Self {
            syncs: Family::default(),
            // 50 microseconds to 26 seconds.
            duration: Histogram::new(exponential_buckets(0.000_05, 2.0, 20)),
            elements: Family::default(),
            changes: Counter::default(),
            rebuilds: Counter::default(),
            untranslated: Family::default(),
            forgotten: Counter::default(),
            unremembered: Family::default(),
            unbound: Counter::default(),
            not_relayed: Family::default(),
            refused: Gauge::default(),
            conflicts: Gauge::default(),
            health_ports: Gauge::default(),
            sysctls_refused: Gauge::default(),
        };
        let proxy = registry.sub_registry_with_prefix("berth_proxy");
        proxy.register(
            "syncs",
            "Turns of the sync loop that found something to do",
            this.syncs.clone(),
        );
        proxy.register(
            "sync_duration_seconds",
            "Time from plan to committed rules",
            this.duration.clone(),
        );
        proxy.register(
            "elements",
            "Set and map elements in the kernel",
            this.elements.clone(),
        );
        proxy.register(
            "changes",
            "Elements added, replaced and removed",
            this.changes.clone(),
        );
        proxy.register("rebuilds", "Tables written as a whole", this.rebuilds.clone());
        proxy.register(
            "untranslated_packets",
            "Packets to a Service that found no endpoint and were dropped; 0 unless Berth is wrong",
            this.untranslated.clone(),
        );
        proxy.register(
            "forgotten_flows",
            "Stale UDP flows deleted",
            this.forgotten.clone(),
        );
        proxy.register(
            "conflicts",
            "Frontends claimed by more than one Service",
            this.conflicts.clone(),
        );
        this.register_surroundings(proxy);
        this
    }

    fn register_surroundings(&self, proxy: &mut Registry) {
        proxy.register(
            "unremembered_connections",
            "Connections of clients that session affinity had no room to remember",
            self.unremembered.clone(),
        );
        proxy.register(
            "refused_services",
            "Services that the kernel refuses and that are left as they were",
            self.refused.clone(),
        );
        proxy.register(
            "unbound_clients",
            "Clients freed of an endpoint that session affinity bound them to and that left its Service",
            self.unbound.clone(),
        );
        proxy.register(
            "not_relayed",
            "Connections and datagrams that user-space relays did not pass on, and relays that could not be opened",
            self.not_relayed.clone(),
        );
        proxy.register(
            "health_check_listeners",
            "Listeners of health-check node ports",
            self.health_ports.clone(),
        );
        proxy.register(
            "sysctls_refused",
            "Sysctls of conntrack that should be different and could not be set",
            self.sysctls_refused.clone(),
        );
    }

    pub(crate) fn synced(&self, seconds: f64) {
        self.syncs.get_or_create(&ResultLabel { result: "ok" }).inc();
        self.duration.observe(seconds);
    }

    pub(crate) fn failed(&self) {
        self.syncs.get_or_create(&ResultLabel { result: "error" }).inc();
    }

    pub(crate) fn elements(&self, family: IpFamily, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.elements.get_or_create(&label(family)).set(count);
    }

    pub(crate) fn wrote(&self, changes: usize, rebuilds: usize) {
        self.changes.inc_by(u64::try_from(changes).unwrap_or(u64::MAX));
        self.rebuilds.inc_by(u64::try_from(rebuilds).unwrap_or(u64::MAX));
    }

    /// Returns how many are new.
    pub(crate) fn untranslated(&self, family: IpFamily, packets: u64) -> u64 {
        let before = self.untranslated.get_or_create(&label(family)).set(packets);
        packets.saturating_sub(before)
    }

    /// Returns how many are new.
    pub(crate) fn unremembered(&self, family: IpFamily, connections: u64) -> u64 {
        let before = self.unremembered.get_or_create(&label(family)).set(connections);
        connections.saturating_sub(before)
    }

    pub(crate) fn refused(&self, services: usize) {
        self.refused.set(i64::try_from(services).unwrap_or(i64::MAX));
    }

    pub(crate) fn unbound(&self, bindings: usize) {
        self.unbound.inc_by(u64::try_from(bindings).unwrap_or(u64::MAX));
    }

    pub(crate) fn not_relayed(&self, reason: Refusal, count: u64) {
        let label = ReasonLabel {
            reason: reason.as_str(),
        };
        self.not_relayed.get_or_create(&label).set(count);
    }

    pub(crate) fn forgotten(&self, flows: usize) {
        self.forgotten.inc_by(u64::try_from(flows).unwrap_or(u64::MAX));
    }

    pub(crate) fn health_ports(&self, count: usize) {
        self.health_ports.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn sysctls_refused(&self, count: usize) {
        self.sysctls_refused.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn conflicts(&self, count: usize) {
        self.conflicts.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

fn label(family: IpFamily) -> FamilyLabel {
    FamilyLabel {
        ip_family: family.as_str(),
    }
}
