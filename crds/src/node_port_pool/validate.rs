// SPDX-License-Identifier: Apache-2.0
//! What is wrong with the spec of a NodePortPool, all of it at once.

use std::collections::BTreeMap;

use berth_model::{Port, PortRange};

use super::NodePortPoolSpec;
use crate::Fault;
use crate::pool::{quota_faults, selector_faults};

impl NodePortPoolSpec {
    /// Everything that is wrong with the spec; empty when it can be used whole.
    pub fn validate(&self) -> Vec<Fault> {
        let mut faults = self.port_faults();
        faults.extend(self.exclude_faults());
        faults.extend(self.reservation_faults());
        faults.extend(selector_faults(self.selector.as_ref()));
        faults.extend(quota_faults(self.quota.as_ref()));
        faults
    }

    fn port_faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut seen: Vec<(usize, PortRange)> = Vec::new();
        for (index, text) in self.ports.iter().enumerate() {
            let fault = |problem: String| Fault::new(format!("spec.ports[{index}]"), text, problem);
            match text.parse::<PortRange>() {
                Err(error) => faults.push(fault(error.to_string())),
                Ok(range) => {
                    if let Some((earlier, _)) = seen.iter().find(|(_, other)| other.overlaps(&range)) {
                        faults.push(fault(format!(
                            "overlaps spec.ports[{earlier}] ({}); list each port once",
                            self.ports[*earlier]
                        )));
                    }
                    seen.push((index, range));
                }
            }
        }
        if self.ports.is_empty() {
            faults.push(Fault::new("spec.ports", "[]", "a pool needs at least one port"));
        }
        faults
    }

    fn exclude_faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (index, text) in self.exclude.iter().enumerate() {
            if let Err(error) = text.parse::<PortRange>() {
                faults.push(Fault::new(
                    format!("spec.exclude[{index}]"),
                    text,
                    error.to_string(),
                ));
            }
        }
        let (ranges, excluded) = (self.ranges(), self.excluded());
        let gives = |port: Port| !excluded.iter().any(|(_, range)| range.contains(port));
        // There are 65,535 of them at most.
        let mut ports = ranges
            .iter()
            .flat_map(|(_, range)| range.first().get()..=range.last().get())
            .filter_map(Port::new);
        if !ranges.is_empty() && !ports.any(gives) {
            faults.push(Fault::new(
                "spec.exclude",
                self.exclude.join(", "),
                "leaves no port; to give nothing new, set spec.draining",
            ));
        }
        faults
    }

    fn reservation_faults(&self) -> Vec<Fault> {
        let (ranges, excluded) = (self.ranges(), self.excluded());
        let mut faults = Vec::new();
        let mut by_port: BTreeMap<i32, usize> = BTreeMap::new();
        let mut by_service: BTreeMap<(&str, &str, Option<&str>), usize> = BTreeMap::new();
        for (index, reservation) in self.reservations.iter().enumerate() {
            let at = format!("spec.reservations[{index}].port");
            let mut fault = |problem: String| faults.push(Fault::new(&at, reservation.port, problem));
            let Some(port) = u16::try_from(reservation.port).ok().and_then(Port::new) else {
                fault("is no port number, from 1 to 65535".to_owned());
                continue;
            };
            if !ranges.iter().any(|(_, range)| range.contains(port)) {
                fault("is not in spec.ports".to_owned());
            }
            if let Some((index, range)) = excluded.iter().find(|(_, range)| range.contains(port)) {
                fault(format!("is excluded by spec.exclude[{index}] ({range})"));
            }
            if let Some(earlier) = by_port.insert(reservation.port, index) {
                fault(format!("is reserved already, by spec.reservations[{earlier}]"));
            }
            let name = reservation.port_name.as_deref();
            let service = (reservation.namespace.as_str(), reservation.name.as_str(), name);
            if let (Some(earlier), Some(name)) = (by_service.insert(service, index), name) {
                fault(format!(
                    "is the second port for port {name} of Service {}/{}, after spec.reservations[{earlier}]; \
                     it has one at most",
                    service.0, service.1
                ));
            }
        }
        faults
    }
}
