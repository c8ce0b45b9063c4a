// SPDX-License-Identifier: Apache-2.0
//! `AddressPool`: a supply of addresses that the cluster's administrator gives to Berth.
#![expect(
    unreachable_pub,
    reason = "KubeSchema expands to a private copy of each struct, `pub` included"
)]
#![expect(clippy::duplicated_attributes, reason = "printcolumn is meant to be repeated")]

mod validate;

use berth_model::IpRange;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_derive::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::retention::retention_schema;
use crate::{PoolQuota, PoolSelector, Strategy};

/// A supply of addresses for Services.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
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
    printcolumn(
        name = "Priority",
        type_ = "integer",
        json_path = ".spec.priority",
        priority = 1
    ),
    printcolumn(
        name = "Draining",
        type_ = "boolean",
        json_path = ".spec.draining",
        priority = 1
    ),
    crates(
        kube_core = "::kube_core",
        k8s_openapi = "::k8s_openapi",
        schemars = "::schemars",
        serde = "::serde",
        serde_json = "::serde_json"
    )
)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[x_kube(
    validation = Rule::new("self.use == 'ClusterIP' || !has(self.staticBand)")
        .message("staticBand is for pools with use: ClusterIP; remove it").field_path(".staticBand"),
    validation = Rule::new("self.use == 'ClusterIP' || !has(self.createServiceCIDR) || !self.createServiceCIDR")
        .message("createServiceCIDR is for pools with use: ClusterIP; remove it").field_path(".createServiceCIDR"),
    validation = Rule::new("self.use == 'LoadBalancer' || !has(self.shareAcrossNamespaces) || !self.shareAcrossNamespaces")
        .message("shareAcrossNamespaces is for pools with use: LoadBalancer, a cluster IP is one Service's; remove it")
        .field_path(".shareAcrossNamespaces"),
    validation = Rule::new("self.use == 'LoadBalancer' || !has(self.avoidNetworkAndBroadcast)")
        .message("avoidNetworkAndBroadcast is for pools with use: LoadBalancer, a cluster IP is never one of them; remove it")
        .field_path(".avoidNetworkAndBroadcast"),
    validation = Rule::new(format!("self.use != 'ClusterIP' || self.addresses.all(x, {})", range_rule("x")))
        .message(format!("each of addresses has to be {RANGE}").as_str()).field_path(".addresses")
)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolSpec {
    /// What the addresses are for. LoadBalancer: given to Services of type
    /// LoadBalancer and announced on the LAN. ClusterIP: given to Services as their
    /// cluster IPs. Cannot be changed later; make another pool instead.
    #[serde(rename = "use", default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("use cannot be changed; create another pool"))]
    pub r#use: PoolUse,
    /// The addresses: CIDRs (192.0.2.0/28), ranges (192.0.2.10-192.0.2.20) or
    /// single addresses, of either family. Each may appear once; pools must not
    /// overlap.
    #[schemars(length(min = 1, max = 256), inner(length(min = 2, max = 128)))]
    pub addresses: Vec<String>,
    /// Addresses among them that are never given: CIDRs, ranges or single
    /// addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ranges_schema")]
    pub exclude: Vec<String>,
    /// Addresses that are kept for a Service, whether it exists yet or not. Nobody
    /// else gets them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["address".into()]))]
    pub reservations: Vec<AddressReservation>,
    /// Which Services the pool serves. Absent, it serves all of them, but for those
    /// of system namespaces where it gives cluster IPs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<PoolSelector>,
    /// Which pool serves a Service that several could serve: the higher number,
    /// then the older pool, then the name.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = -1_000_000, max = 1_000_000))]
    pub priority: i64,
    /// How many addresses of each family one namespace may hold. Absent, as many as
    /// there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<PoolQuota>,
    /// Gives nothing new, and takes nothing back: for a pool that is to be emptied.
    #[serde(default, skip_serializing_if = "is_false")]
    pub draining: bool,
    /// Which of the free addresses is given. Absent, the lowest one where use is
    /// LoadBalancer, and any where it is ClusterIP. An address that was just given
    /// back comes last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// For use ClusterIP: how many addresses at the beginning of each of addresses
    /// are given only when no other is left, so that they stay for those who ask
    /// for one by its number. Absent, as the API server does it: a sixteenth of
    /// them, but 16 at least and 256 at most, and none of 16 or fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65_536))]
    pub static_band: Option<i64>,
    /// For use ClusterIP: makes a ServiceCIDR for each of addresses that lies
    /// outside those of the cluster. They have to be CIDRs then. Without a
    /// ServiceCIDR around it, the API server takes no address.
    #[serde(default, rename = "createServiceCIDR", skip_serializing_if = "is_false")]
    pub create_service_cidr: bool,
    /// For use LoadBalancer: does not give the first address of a CIDR, nor the
    /// last of an IPv4 one. Absent, it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avoid_network_and_broadcast: Option<bool>,
    /// For use LoadBalancer: lets Services of several namespaces share an address,
    /// where they say the same sharing key (annotation berth.dev/sharing-key).
    /// Absent, only Services of one namespace do.
    #[serde(default, skip_serializing_if = "is_false")]
    pub share_across_namespaces: bool,
    /// For how long an AddressClaim may keep an address of this pool without a
    /// Service, at most: hours, minutes and seconds, as in 72h or 1h30m. Absent, as
    /// long as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "retention_schema")]
    pub max_retention: Option<String>,
}

/// What an entry has to be, in words.
const RANGE: &str = "a CIDR such as 192.0.2.0/28, without bits behind its prefix, a range such as \
    192.0.2.10-192.0.2.20, of one family, or an address";

/// The same in CEL. That a range does not end before it starts can't be said in
/// it.
fn range_rule(x: &str) -> String {
    format!(
        "isIP({x}) || (isCIDR({x}) && cidr({x}) == cidr({x}).masked()) || ({x}.contains('-') && {x}.split('-').size() == 2 \
         && {x}.split('-').all(y, isIP(y)) && ip({x}.split('-')[0]).family() == ip({x}.split('-')[1]).family())"
    )
}

/// As `addresses`, told entry by entry.
fn ranges_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 256,
        "items": {
            "type": "string",
            "minLength": 2,
            "maxLength": 128,
            "x-kubernetes-validations": [{"rule": range_rule("self"), "message": format!("has to be {RANGE}")}],
        },
    })
}

/// One address, of either family.
pub(crate) fn address_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 2,
        "maxLength": 64,
        "x-kubernetes-validations": [{"rule": "isIP(self)", "message": "has to be an IP address"}],
    })
}

/// An address that is kept for one Service.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AddressReservation {
    /// The address, one of the pool's.
    #[schemars(schema_with = "address_schema")]
    pub address: String,
    /// The namespace of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// The name of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
pub(crate) fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

/// What a pool is for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PoolUse {
    /// Addresses of Services of type LoadBalancer.
    #[default]
    LoadBalancer,
    /// Cluster IPs of Services.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
}

impl PoolUse {
    /// The spelling of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoadBalancer => "LoadBalancer",
            Self::ClusterIp => "ClusterIP",
        }
    }
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
    /// Who holds addresses: the fifty namespaces with the most of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into()]))]
    pub namespaces: Vec<NamespaceUse>,
    /// How many further namespaces hold some.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub other_namespaces: i64,
}

/// What one namespace holds of a pool of addresses.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceUse {
    /// The namespace.
    pub namespace: String,
    /// How many IPv4 addresses.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ipv4: i64,
    /// How many IPv6 addresses.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ipv6: i64,
}

/// Counts of one family. Capacity and free are texts: an IPv6 pool holds more
/// than an integer can count.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FamilyUse {
    /// How many addresses the pool holds, in decimal.
    pub capacity: String,
    /// How many are given to Services.
    pub allocated: i64,
    /// How many are reserved for a Service that does not hold them yet, by the pool
    /// or by an AddressClaim.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserved: i64,
    /// How many are promised to Services that are being created right now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub held: i64,
    /// How many the pool did not give to who has them: Services that are exempt or
    /// came past Berth, and IPAddresses that the API server does not manage.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub encroached: i64,
    /// How many could still be given, in decimal.
    pub free: String,
}

impl AddressPoolSpec {
    /// The ranges that can be read, with the index of the entry each comes from.
    pub fn ranges(&self) -> Vec<(usize, IpRange)> {
        readable(&self.addresses)
    }

    /// The same of those that are never given.
    pub fn excluded(&self) -> Vec<(usize, IpRange)> {
        readable(&self.exclude)
    }
}

fn readable(texts: &[String]) -> Vec<(usize, IpRange)> {
    let texts = texts.iter().enumerate();
    texts
        .filter_map(|(i, text)| Some((i, text.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests;
