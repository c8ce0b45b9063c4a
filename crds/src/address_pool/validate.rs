// SPDX-License-Identifier: Apache-2.0
//! What is wrong with the spec of an AddressPool, all of it at once. Most of it the schema refuses already; a spec may be
//! older than the schema, and read from a file.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_model::{IpFamily, IpRange, address_bits};
use ipnet::IpNet;

use super::{AddressPoolSpec, PoolUse};
use crate::Fault;
use crate::pool::{quota_faults, selector_faults};
use crate::retention::parse_retention;

/// The widest IPv6 range that the API server takes for Services (`ValidateServiceCIDR`, 1.37).
const WIDEST_V6: u8 = 64;

impl AddressPoolSpec {
    /// Everything that is wrong with the spec; empty when it can be used whole.
    pub fn validate(&self) -> Vec<Fault> {
        let mut faults = self.address_faults();
        faults.extend(self.exclude_faults());
        faults.extend(self.reservation_faults());
        faults.extend(selector_faults(self.selector.as_ref()));
        faults.extend(quota_faults(self.quota.as_ref()));
        faults.extend(self.faults_of_use());
        if let Some(text) = self
            .max_retention
            .as_ref()
            .filter(|text| parse_retention(text).is_none())
        {
            faults.push(Fault::new(
                "spec.maxRetention",
                text,
                "is no duration such as 72h or 1h30m",
            ));
        }
        faults
    }

    fn address_faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut seen: Vec<(usize, IpRange)> = Vec::new();
        for (index, text) in self.addresses.iter().enumerate() {
            let fault = |problem: String| Fault::new(format!("spec.addresses[{index}]"), text, problem);
            match text.parse::<IpRange>() {
                Err(error) => faults.push(fault(error.to_string())),
                Ok(range) => {
                    if let Some((earlier, _)) = seen.iter().find(|(_, other)| other.overlaps(&range)) {
                        faults.push(fault(format!(
                            "overlaps spec.addresses[{earlier}] ({}); list each address once",
                            self.addresses[*earlier]
                        )));
                    }
                    seen.push((index, range));
                }
            }
        }
        if self.addresses.is_empty() {
            faults.push(Fault::new(
                "spec.addresses",
                "[]",
                "a pool needs at least one CIDR or range",
            ));
        }
        faults
    }

    fn exclude_faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (index, text) in self.exclude.iter().enumerate() {
            if let Err(error) = text.parse::<IpRange>() {
                faults.push(Fault::new(
                    format!("spec.exclude[{index}]"),
                    text,
                    error.to_string(),
                ));
            }
        }
        let ranges = self.ranges();
        let excluded: Vec<IpRange> = self.excluded().into_iter().map(|(_, range)| range).collect();
        if !ranges.is_empty() && ranges.iter().all(|(_, range)| is_covered(range, &excluded)) {
            faults.push(Fault::new(
                "spec.exclude",
                self.exclude.join(", "),
                "leaves no address; to give nothing new, set spec.draining",
            ));
        }
        faults
    }

    fn reservation_faults(&self) -> Vec<Fault> {
        let (ranges, excluded) = (self.ranges(), self.excluded());
        let mut faults = Vec::new();
        let mut by_address: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let mut by_service: BTreeMap<(&str, &str, IpFamily), usize> = BTreeMap::new();
        for (index, reservation) in self.reservations.iter().enumerate() {
            let at = format!("spec.reservations[{index}].address");
            let mut fault = |problem: String| faults.push(Fault::new(&at, &reservation.address, problem));
            let Ok(address) = reservation.address.parse::<IpAddr>() else {
                fault("is no IP address".to_owned());
                continue;
            };
            if !ranges.iter().any(|(_, range)| range.contains(address)) {
                fault("is not in spec.addresses".to_owned());
            }
            if let Some((index, range)) = excluded.iter().find(|(_, range)| range.contains(address)) {
                fault(format!("is excluded by spec.exclude[{index}] ({range})"));
            }
            if self.use_never_gives(address) {
                fault("is the network or broadcast address of its CIDR, which is never given".to_owned());
            }
            if let Some(earlier) = by_address.insert(address, index) {
                fault(format!("is reserved already, by spec.reservations[{earlier}]"));
            }
            let service = (
                reservation.namespace.as_str(),
                reservation.name.as_str(),
                IpFamily::of(address),
            );
            if let Some(earlier) = by_service.insert(service, index) {
                fault(format!(
                    "is the second {} address for Service {}/{}, after spec.reservations[{earlier}]; it has one at most",
                    service.2, service.0, service.1
                ));
            }
        }
        faults
    }

    /// The first address of a CIDR, and the last of an IPv4 one, unless it is too small to have any others.
    fn use_never_gives(&self, address: IpAddr) -> bool {
        let avoids = match self.r#use {
            PoolUse::ClusterIp => true,
            PoolUse::LoadBalancer => self.avoid_network_and_broadcast == Some(true),
        };
        let nets = self
            .addresses
            .iter()
            .filter_map(|text| text.parse::<IpNet>().ok());
        let mut nets = nets.filter(|net| net.max_prefix_len() - net.prefix_len() > 1);
        avoids
            && nets.any(|net| address == net.network() || (address.is_ipv4() && address == net.broadcast()))
    }

    fn faults_of_use(&self) -> Vec<Fault> {
        let other = |field: &str, value: String| {
            let problem = format!("does not go with use: {}; remove it", self.r#use.as_str());
            Fault::new(format!("spec.{field}"), value, problem)
        };
        match self.r#use {
            PoolUse::LoadBalancer => {
                let band = self.static_band.map(|band| other("staticBand", band.to_string()));
                let cidr = self
                    .create_service_cidr
                    .then(|| other("createServiceCIDR", "true".to_owned()));
                band.into_iter().chain(cidr).collect()
            }
            PoolUse::ClusterIp => {
                let avoid = self.avoid_network_and_broadcast;
                let avoid = avoid.map(|value| other("avoidNetworkAndBroadcast", value.to_string()));
                let shared = self
                    .share_across_namespaces
                    .then(|| other("shareAcrossNamespaces", "true".to_owned()));
                let negative = self.static_band.filter(|band| *band < 0);
                let negative =
                    negative.map(|band| Fault::new("spec.staticBand", band, "is negative; 0 is no band"));
                avoid
                    .into_iter()
                    .chain(shared)
                    .chain(negative)
                    .chain(self.service_cidr_faults())
                    .collect()
            }
        }
    }

    /// A ServiceCIDR holds CIDRs.
    fn service_cidr_faults(&self) -> Vec<Fault> {
        if !self.create_service_cidr {
            return Vec::new();
        }
        let mut faults = Vec::new();
        for (index, text) in self.addresses.iter().enumerate() {
            let fault = |problem: &str| Fault::new(format!("spec.addresses[{index}]"), text, problem);
            match text.parse::<IpNet>() {
                Err(_) if text.parse::<IpRange>().is_ok() => {
                    faults.push(fault("is no CIDR, which it has to be for spec.createServiceCIDR"));
                }
                Ok(IpNet::V6(net)) if net.prefix_len() < WIDEST_V6 => {
                    faults.push(fault(
                        "is wider than the API server takes an IPv6 range of Services, which is /64",
                    ));
                }
                Ok(IpNet::V4(_) | IpNet::V6(_)) | Err(_) => {}
            }
        }
        faults
    }
}

/// Whether the others together hold all of a range.
fn is_covered(range: &IpRange, by: &[IpRange]) -> bool {
    let mut others: Vec<&IpRange> = by.iter().filter(|other| other.overlaps(range)).collect();
    others.sort_unstable_by_key(|other| address_bits(other.first()));
    let mut next = address_bits(range.first());
    let last = address_bits(range.last());
    for other in others {
        if address_bits(other.first()) > next {
            return false;
        }
        let end = address_bits(other.last());
        if end >= last {
            return true;
        }
        next = next.max(end + 1);
    }
    false
}
