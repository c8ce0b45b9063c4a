// SPDX-License-Identifier: Apache-2.0
//! What was foreseen, beside what is stored.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use berth_controllers_core::admission::{Chosen, ClusterIps, Need, Needs, PortNeed, Slot};
use berth_model::Port;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::twin::Twin;

/// Every value that the API server holds for a Service, as text. An ExternalName may carry some that it does not hold.
fn values(service: Option<&Service>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let spec = service.and_then(|service| service.spec.as_ref());
    if let Some(spec) = spec.filter(|spec| !is_external_name(spec)) {
        found.extend(spec.cluster_ips.iter().flatten().cloned());
        let numbers = spec.ports.iter().flatten().filter_map(|port| port.node_port);
        let numbers = numbers.chain(spec.health_check_node_port);
        found.extend(
            numbers
                .filter(|number| *number != 0)
                .map(|number| number.to_string()),
        );
    }
    found
}

fn is_external_name(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("ExternalName")
}

/// Checks each value of the stored Service against where it was to come from. `before` is what was stored then.
pub(crate) struct Foreseen<'a> {
    needs: &'a Needs,
    chosen: &'a Chosen,
    old: BTreeSet<String>,
    asked: BTreeSet<String>,
    fresh: BTreeSet<String>,
}

impl<'a> Foreseen<'a> {
    pub(crate) fn new(needs: &'a Needs, chosen: &'a Chosen, before: Option<&Service>, twin: &Twin) -> Self {
        let asked = &twin.asked;
        let ports = asked.ports.iter().map(ToString::to_string);
        let addresses = asked.v4.iter().chain(&asked.v6).map(ToString::to_string);
        Self {
            needs,
            chosen,
            old: values(before),
            asked: ports.chain(addresses).collect(),
            fresh: BTreeSet::new(),
        }
    }

    /// That the stored Service is as foreseen.
    pub(crate) fn holds(mut self, stored: &Service) -> Result<()> {
        let spec = stored.spec.clone().unwrap_or_default();
        let may_stay = is_external_name(&spec);
        let families: Vec<&str> = self.needs.families.iter().map(|family| family.as_str()).collect();
        ensure!(spec.ip_families.unwrap_or_default() == families, "families");
        let policy = self.needs.policy.map(|policy| policy.as_str().to_owned());
        ensure!(spec.ip_family_policy == policy, "policy");
        self.cluster_ips(&spec.cluster_ips.unwrap_or_default())?;
        let numbers: Vec<i32> = spec
            .ports
            .iter()
            .flatten()
            .map(|port| port.node_port.unwrap_or(0))
            .collect();
        self.node_ports(&numbers, may_stay)?;
        let number = spec.health_check_node_port.unwrap_or(0);
        let chosen = self.chosen.health_check.map(|port| port.to_string());
        match self.needs.health_check {
            None => ensure!(number == 0, "health-check node port {number}"),
            Some(need) => self.comes_from(&need, &number.to_string(), chosen, &Slot::HealthCheckNodePort)?,
        }
        let stays = values(Some(stored));
        let released = &self.needs.released;
        let addresses = released.cluster_ips.iter().map(ToString::to_string);
        let numbers = released.node_ports.iter().map(Port::to_string);
        let released: BTreeSet<String> = addresses.chain(numbers).collect();
        let gone: BTreeSet<String> = self.old.difference(&stays).cloned().collect();
        let is_none = |value: &&String| *value != "None";
        ensure!(
            gone.iter().filter(is_none).eq(released.iter()),
            "released: {gone:?}"
        );
        Ok(())
    }

    fn cluster_ips(&mut self, texts: &[String]) -> Result<()> {
        match &self.needs.cluster_ips {
            // An update can make an ExternalName carry any `clusterIP`, which nobody holds.
            ClusterIps::None => ensure!(texts.len() <= 1, "cluster IPs {texts:?}"),
            ClusterIps::Headless => ensure!(texts == ["None"], "cluster IPs {texts:?}"),
            ClusterIps::Addresses(needs) => {
                ensure!(needs.len() == texts.len(), "cluster IPs {texts:?}");
                for (need, text) in needs.iter().zip(texts) {
                    let chosen = self.chosen.cluster_ips.get(&need.family).map(ToString::to_string);
                    let slot = Slot::ClusterIp(need.family);
                    self.comes_from(&need.need, text, chosen, &slot)?;
                }
            }
        }
        Ok(())
    }

    fn node_ports(&mut self, numbers: &[i32], may_stay: bool) -> Result<()> {
        ensure!(numbers.len() == self.needs.node_ports.len(), "ports");
        for (index, (need, number)) in self.needs.node_ports.iter().zip(numbers).enumerate() {
            match need {
                // An ExternalName may carry numbers that nobody holds.
                PortNeed::Unneeded => {
                    ensure!(*number == 0 || may_stay, "node port {number} of ports[{index}]")
                }
                PortNeed::SharedWith(first) => {
                    ensure!(
                        *number == numbers[*first],
                        "ports[{index}] does not share {number}"
                    );
                }
                PortNeed::Of(need) => {
                    let chosen = self.chosen.node_ports.get(&index).map(Port::to_string);
                    self.comes_from(need, &number.to_string(), chosen, &Slot::NodePort(index))?;
                }
            }
        }
        Ok(())
    }

    fn comes_from<T: ToString>(
        &mut self,
        need: &Need<T>,
        value: &str,
        chosen: Option<String>,
        slot: &Slot,
    ) -> Result<()> {
        match (need, chosen) {
            (Need::Wanted(wanted), _) => {
                ensure!(wanted.to_string() == value, "{slot}: {value}, not the wanted")
            }
            (Need::Kept(kept), _) => ensure!(
                kept.to_string() == value && self.old.contains(value),
                "{slot}: {value}, not the old"
            ),
            (Need::Any, Some(chosen)) => ensure!(chosen == value, "{slot}: {value}, not the chosen {chosen}"),
            (Need::Any, None) => ensure!(
                !value.is_empty() && value != "0" && !self.old.contains(value) && !self.asked.contains(value),
                "{slot}: {value} is not new"
            ),
        }
        if matches!(need, Need::Any) {
            ensure!(self.fresh.insert(value.to_owned()), "{slot}: {value} twice");
        }
        Ok(())
    }
}
