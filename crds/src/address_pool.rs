// SPDX-License-Identifier: Apache-2.0
//! `AddressPool`: a supply of addresses that the cluster's administrator gives to Berth.
#![expect(
    unreachable_pub,
    reason = "KubeSchema expands to a private copy of each struct, `pub` included"
)]
#![expect(clippy::duplicated_attributes, reason = "printcolumn is meant to be repeated")]

use std::fmt;

use berth_model::IpRange;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A supply of addresses for Services.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "AddressPool",
    plural = "addresspools",
    shortname = "apool",
    category = "berth",
    status = "AddressPoolStatus",
    doc = "AddressPool is a supply of addresses from which Berth serves Services.",
    printcolumn(name = "Use", type_ = "string", json_path = ".spec.use"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(name = "IPv4 used", type_ = "integer", json_path = ".status.ipv4.allocated"),
    printcolumn(name = "IPv4 free", type_ = "string", json_path = ".status.ipv4.free"),
    printcolumn(name = "IPv6 used", type_ = "integer", json_path = ".status.ipv6.allocated"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(
        kube_core = "::kube_core",
        k8s_openapi = "::k8s_openapi",
        schemars = "::schemars",
        serde = "::serde",
        serde_json = "::serde_json"
    )
)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolSpec {
    /// What the addresses are for. LoadBalancer: given to Services of type LoadBalancer and announced
    /// on the LAN. Cannot be changed later; make another pool instead.
    #[serde(rename = "use", default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("use cannot be changed; create another pool"))]
    pub r#use: PoolUse,
    /// The addresses: CIDRs (192.0.2.0/28), ranges (192.0.2.10-192.0.2.20) or single addresses, of either family.
    /// Each may appear once; pools must not overlap.
    #[schemars(length(min = 1, max = 256), inner(length(min = 2, max = 128)))]
    pub addresses: Vec<String>,
}

/// What a pool is for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PoolUse {
    /// Addresses of Services of type LoadBalancer.
    #[default]
    LoadBalancer,
}

/// What Berth says about a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolStatus {
    /// Ready, and when not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Use of the IPv4 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<FamilyUse>,
    /// Use of the IPv6 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<FamilyUse>,
}

/// Counts of one family. Capacity and free are texts: an IPv6 pool holds more than an integer can count.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FamilyUse {
    /// How many addresses the pool holds, in decimal.
    pub capacity: String,
    /// How many are given to Services.
    pub allocated: i64,
    /// How many could still be given, in decimal.
    pub free: String,
}

/// One thing that is wrong with a spec. All of them are reported at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, as in `spec.addresses[2]`.
    pub field: String,
    /// What the user wrote there.
    pub value: String,
    /// What is wrong and what to do.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.field, self.value, self.problem)
    }
}

impl AddressPoolSpec {
    /// The ranges that can be read, with the index of the entry each comes from.
    pub fn ranges(&self) -> Vec<(usize, IpRange)> {
        self.addresses
            .iter()
            .enumerate()
            .filter_map(|(i, text)| Some((i, text.parse().ok()?)))
            .collect()
    }

    /// Everything that is wrong with the spec; empty when it can be used whole.
    pub fn validate(&self) -> Vec<Fault> {
        let fault = |index: usize, problem: String| Fault {
            field: format!("spec.addresses[{index}]"),
            value: self.addresses[index].clone(),
            problem,
        };
        let mut faults = Vec::new();
        let mut seen: Vec<(usize, IpRange)> = Vec::new();
        for (index, text) in self.addresses.iter().enumerate() {
            match text.parse::<IpRange>() {
                Err(error) => faults.push(fault(index, error.to_string())),
                Ok(range) => {
                    if let Some((earlier, _)) = seen.iter().find(|(_, other)| other.overlaps(&range)) {
                        faults.push(fault(
                            index,
                            format!(
                                "overlaps spec.addresses[{earlier}] ({}); list each address once",
                                self.addresses[*earlier]
                            ),
                        ));
                    }
                    seen.push((index, range));
                }
            }
        }
        if self.addresses.is_empty() {
            faults.push(Fault {
                field: "spec.addresses".to_owned(),
                value: "[]".to_owned(),
                problem: "a pool needs at least one CIDR or range".to_owned(),
            });
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(addresses: &[&str]) -> AddressPoolSpec {
        AddressPoolSpec {
            r#use: PoolUse::LoadBalancer,
            addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn a_good_pool_has_no_fault() {
        assert_eq!(
            spec(&["192.0.2.0/28", "192.0.2.100-192.0.2.110", "fd00::/64"]).validate(),
            []
        );
    }

    #[test]
    fn every_fault_is_reported_with_field_and_value() {
        let faults = spec(&[
            "192.0.2.0/33",
            "192.0.2.9-192.0.2.1",
            "192.0.2.0/28",
            "192.0.2.4-192.0.2.5",
        ])
        .validate();
        let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(
            fields,
            ["spec.addresses[0]", "spec.addresses[1]", "spec.addresses[3]"]
        );
        assert!(
            faults[2].problem.contains("overlaps spec.addresses[2]"),
            "{}",
            faults[2]
        );
    }

    #[test]
    fn an_empty_pool_is_a_fault() {
        assert_eq!(spec(&[]).validate().len(), 1);
    }

    #[test]
    fn the_readable_entries_of_a_faulty_pool_are_still_there() {
        assert_eq!(
            spec(&["nonsense", "192.0.2.7"]).ranges(),
            [(1, "192.0.2.7".parse().unwrap())]
        );
    }
}
