// SPDX-License-Identifier: Apache-2.0
//! What is written for pools and claims, step by step, with a watch that shows every write.

mod claims;
mod lives;
mod lives_world;
mod pools;
mod retention;
mod service_cidrs;

use std::time::Duration;

use berth_crds::{AddressClaim, AddressPool, NodePortPool};
use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value as Json, json};

use crate::admission::Exemptions;
use crate::holder::{AskId, Book, ReplicaId};
use crate::values::{CidrState, Shown, Values};

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(1_800_000_000 + second).unwrap())
}

fn key(text: &str) -> ServiceKey {
    text.parse().unwrap()
}

fn ask(number: u64) -> AskId {
    AskId {
        replica: ReplicaId("a".into()),
        number,
    }
}

/// A cluster with addresses 10.0.0.1 to 10.0.0.14 and ports 30000 to 30009.
fn cluster() -> Values {
    let mut values = Values::new("30000-30009".parse().unwrap(), Exemptions::with([]), 1);
    values.apply_service_cidr("kubernetes", &["10.0.0.0/28".to_owned()], CidrState::Gives);
    values
}

fn mk_pool(name: &str, second: i64, spec: &Json) -> AddressPool {
    let mut spec = spec.clone();
    spec["use"] = json!("ClusterIP");
    let pool = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "AddressPool",
        "metadata": {"name": name, "generation": 1, "creationTimestamp": format!("2026-01-02T03:04:{second:02}Z")},
        "spec": spec});
    serde_json::from_value(pool).unwrap()
}

fn mk_ports(name: &str, spec: &Json) -> NodePortPool {
    let pool = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "NodePortPool",
        "metadata": {"name": name, "generation": 1, "creationTimestamp": "2026-01-02T03:04:00Z"}, "spec": spec});
    serde_json::from_value(pool).unwrap()
}

fn mk_claim(name: &str, second: i64, spec: &Json) -> AddressClaim {
    let mut spec = spec.clone();
    spec["use"] = json!("ClusterIP");
    let claim = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "AddressClaim",
        "metadata": {"namespace": "a", "name": name, "uid": name, "generation": 1,
            "creationTimestamp": format!("2026-01-02T03:04:{second:02}Z")}, "spec": spec});
    serde_json::from_value(claim).unwrap()
}

/// One that has these addresses, and these node ports.
fn mk_service(key: &ServiceKey, addresses: &[&str], ports: &[u16]) -> Service {
    let ports = ports.iter().map(|port| json!({"port": port, "nodePort": port}));
    let service = json!({"metadata": {"namespace": key.namespace(), "name": key.name(), "uid": "u",
            "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"type": "NodePort", "clusterIP": addresses.first(), "clusterIPs": addresses,
            "ports": ports.collect::<Vec<_>>()}});
    serde_json::from_value(service).unwrap()
}

/// `True InUse: message`.
fn condition(conditions: &[Condition], type_: &str) -> String {
    let found = conditions.iter().find(|condition| condition.type_ == type_);
    let found = found.unwrap();
    let text = format!("{} {}: {}", found.status, found.reason, found.message);
    text.trim_end_matches(": ").to_owned()
}
