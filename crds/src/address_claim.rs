// SPDX-License-Identifier: Apache-2.0
//! `AddressClaim`: a tenant's address for a Service of its own namespace, kept while the Service is away.
#![expect(
    unreachable_pub,
    reason = "KubeSchema expands to a private copy of each struct, `pub` included"
)]
#![expect(clippy::duplicated_attributes, reason = "printcolumn is meant to be repeated")]

use std::net::IpAddr;

use berth_model::IpFamily;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube_derive::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::address_pool::address_schema;
use crate::retention::{parse_retention, retention_schema};
use crate::{Fault, PoolUse};

/// An address for a Service, whether the Service exists or not.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "AddressClaim",
    plural = "addressclaims",
    shortname = "aclaim",
    category = "berth",
    namespaced,
    status = "AddressClaimStatus",
    doc = "AddressClaim keeps an address of a pool for a Service of its namespace, also before the Service exists and for a while after it is deleted. A claim and a Service that want the last address are served in the order in which they ask; a claim that has to wait asks again whenever something changes. A claim for a Service that has an address of the pool keeps that very address.",
    printcolumn(name = "Service", type_ = "string", json_path = ".spec.serviceName"),
    printcolumn(name = "Use", type_ = "string", json_path = ".spec.use"),
    printcolumn(name = "Addresses", type_ = "string", json_path = ".status.addresses"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(name = "Expires", type_ = "date", json_path = ".status.expires"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Pools", type_ = "string", json_path = ".status.pools", priority = 1),
    crates(
        kube_core = "::kube_core",
        k8s_openapi = "::k8s_openapi",
        schemars = "::schemars",
        serde = "::serde",
        serde_json = "::serde_json"
    )
)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[x_kube(validation = Rule::new("!has(self.address) || self.family == 'Both' || (ip(self.address).family() == 4) == (self.family == 'IPv4')")
    .message("address is not of family; ask for an address of that family, or for family: Both").field_path(".address"))]
#[serde(rename_all = "camelCase")]
pub struct AddressClaimSpec {
    /// The Service of this namespace that the address is for. As long as there is
    /// none, the labels of the claim count as its labels. Of two claims for one
    /// Service the older one is served. Cannot be changed later; make another claim
    /// instead.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("serviceName cannot be changed; create another claim"))]
    pub service_name: String,
    /// What the address is for: the load balancer (LoadBalancer) or the cluster IP
    /// (ClusterIP) of the Service. Cannot be changed later; make another claim
    /// instead.
    #[serde(rename = "use", default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("use cannot be changed; create another claim"))]
    pub r#use: PoolUse,
    /// The pool that the address is to come from; it has to serve the Service.
    /// Absent, the one that serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pool: Option<String>,
    /// The address that is wished for. The claim waits for it where somebody has
    /// it. Absent, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "wish_schema")]
    pub address: Option<String>,
    /// The family of the address, or Both for one of each.
    #[serde(default)]
    pub family: ClaimFamily,
    /// For how long the address is kept while there is no such Service, from when
    /// the claim got it or the Service was deleted: hours, minutes and seconds, as
    /// in 72h or 1h30m. The pool may set a lower limit. Absent, until the claim is
    /// deleted, or as long as the pool allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "retention_schema")]
    pub retention: Option<String>,
}

/// What families a claim is for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClaimFamily {
    /// One IPv4 address.
    #[default]
    #[serde(rename = "IPv4")]
    V4,
    /// One IPv6 address.
    #[serde(rename = "IPv6")]
    V6,
    /// One of each.
    Both,
}

impl ClaimFamily {
    /// The families, IPv4 first.
    pub fn families(self) -> &'static [IpFamily] {
        match self {
            Self::V4 => &[IpFamily::V4],
            Self::V6 => &[IpFamily::V6],
            Self::Both => &IpFamily::ALL,
        }
    }
}

/// What Berth says about a claim.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct AddressClaimStatus {
    /// Ready, and when not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The addresses that are kept, IPv4 first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The pools that they were given of, one for each of them in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<String>,
    /// Since when they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<Time>,
    /// Since when they are kept while there is no such Service. Absent while there
    /// is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<Time>,
    /// When they go back to the pool, if there is no such Service until then.
    /// Absent while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
}

fn wish_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = address_schema(generator);
    schema.insert("nullable".to_owned(), true.into());
    schema
}

impl AddressClaimSpec {
    /// Everything that is wrong with the spec; empty when it can be used whole.
    pub fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.service_name.is_empty() {
            faults.push(Fault::new("spec.serviceName", "", "names no Service"));
        }
        if let Some(text) = &self.address {
            match text.parse::<IpAddr>() {
                Err(_) => faults.push(Fault::new("spec.address", text, "is no IP address")),
                Ok(address) if !self.family.families().contains(&IpFamily::of(address)) => {
                    let problem =
                        "is not of spec.family; ask for an address of that family, or for family: Both";
                    faults.push(Fault::new("spec.address", text, problem));
                }
                Ok(_) => {}
            }
        }
        if let Some(text) = self
            .retention
            .as_ref()
            .filter(|text| parse_retention(text).is_none())
        {
            faults.push(Fault::new(
                "spec.retention",
                text,
                "is no duration such as 72h or 1h30m",
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_wrong_where_its_fields_are_or_do_not_go_together() {
        let good = AddressClaimSpec {
            service_name: "web".to_owned(),
            ..AddressClaimSpec::default()
        };
        let with_address = |address: &str, family| AddressClaimSpec {
            address: Some(address.to_owned()),
            family,
            ..good.clone()
        };
        for (spec, expected) in [
            (good.clone(), vec![]),
            (with_address("192.0.2.7", ClaimFamily::V4), vec![]),
            (with_address("fd00::7", ClaimFamily::Both), vec![]),
            (with_address("fd00::7", ClaimFamily::V4), vec!["spec.address"]),
            (with_address("nonsense", ClaimFamily::V4), vec!["spec.address"]),
            (
                AddressClaimSpec {
                    retention: Some("1 day".to_owned()),
                    ..AddressClaimSpec::default()
                },
                vec!["spec.serviceName", "spec.retention"],
            ),
        ] {
            let faults = spec.validate();
            let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
            assert_eq!(fields, expected, "{spec:?}");
        }
    }
}
