// SPDX-License-Identifier: Apache-2.0
//! The book, by behaviour, and beside a naive one.

mod cases;
mod earlier;
mod following;
mod foreign;
mod history;
mod limits;
mod naive;
mod naive_pool;
mod replica;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use berth_crds::{AddressClaim, AddressPool, NodePortPool};
use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value as Json, json};

use super::*;
use crate::admission::{ClusterFamilies, Decision, Request, Slot, decide};

pub(super) fn at(second: u64) -> Duration {
    Duration::from_secs(second)
}

pub(super) fn ask(number: u64) -> AskId {
    AskId {
        replica: crate::holder::ReplicaId("a".into()),
        number,
    }
}

pub(super) fn key(text: &str) -> ServiceKey {
    text.parse().unwrap()
}

pub(super) fn address(text: &str) -> Item {
    Item::Address(text.parse().unwrap())
}

pub(super) fn port(number: u16) -> Item {
    Item::Port(Port::new(number).unwrap())
}

pub(super) fn mk_addresses(name: &str, second: i64, spec: &Json) -> AddressPool {
    let mut spec = spec.clone();
    spec["use"] = json!("ClusterIP");
    let pool = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "AddressPool",
        "metadata": {"name": name, "creationTimestamp": format!("2026-01-02T03:04:{second:02}Z")}, "spec": spec});
    serde_json::from_value(pool).unwrap()
}

pub(super) fn mk_ports(name: &str, second: i64, spec: &Json) -> NodePortPool {
    let pool = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "NodePortPool",
        "metadata": {"name": name, "creationTimestamp": format!("2026-01-02T03:04:{second:02}Z")}, "spec": spec});
    serde_json::from_value(pool).unwrap()
}

pub(super) fn mk_claim(
    name: &str,
    second: i64,
    namespace: &str,
    service: &str,
    addresses: &[&str],
) -> AddressClaim {
    let claim = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "AddressClaim",
        "metadata": {"namespace": namespace, "name": name,
            "creationTimestamp": format!("2026-01-02T03:04:{second:02}Z")},
        "spec": {"serviceName": service, "use": "ClusterIP"}, "status": {"addresses": addresses, "pools": ["p"]}});
    serde_json::from_value(claim).unwrap()
}

/// A Service of type NodePort as it is stored.
pub(super) fn mk_service(key: &ServiceKey, second: i64, items: &BTreeSet<Item>) -> Service {
    let of = |item: &Item| match item {
        Item::Address(address) => Some(address.to_string()),
        Item::Port(_) => None,
    };
    let addresses: Vec<String> = items.iter().filter_map(of).collect();
    let ports = items.iter().filter_map(|item| match item {
        Item::Address(_) => None,
        Item::Port(port) => Some(json!({"port": port.get(), "nodePort": port.get()})),
    });
    let service = json!({"metadata": {"namespace": key.namespace(), "name": key.name(),
            "uid": format!("uid-{second}"), "creationTimestamp": format!("2026-01-02T03:{:02}:{:02}Z", second / 60 % 60, second % 60)},
        "spec": {"type": "NodePort", "clusterIP": addresses.first(), "clusterIPs": addresses,
            "ports": ports.collect::<Vec<_>>()}});
    serde_json::from_value(service).unwrap()
}

/// A cluster with addresses 10.0.0.1 to 10.0.0.14 and ports 30000 to 30009.
pub(super) fn cluster() -> Values {
    let mut values = Values::new("30000-30009".parse().unwrap(), Exemptions::with([]), 1);
    values.apply_service_cidr("kubernetes", &["10.0.0.0/28".to_owned()], CidrState::Gives);
    values
}

/// What a create of this spec asks for, by way of admission.
pub(super) fn wish(namespace: &str, name: Option<&str>, spec: Json) -> Wish {
    wished(namespace, name, None, spec)
}

pub(super) fn wished(namespace: &str, name: Option<&str>, old: Option<&Service>, spec: Json) -> Wish {
    let service: Service = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    let families = ClusterFamilies {
        primary: berth_model::IpFamily::V4,
        dual_stack: false,
    };
    let request = Request {
        namespace,
        service: &service,
        old,
    };
    let needs = match decide(&request, families, &Exemptions::with([])) {
        Decision::Serve(needs) | Decision::Nothing(needs) => needs,
        other @ (Decision::Exempt(_) | Decision::LeaveToServer(_)) => panic!("{other}"),
    };
    let spec = service.spec.clone().unwrap();
    let names: Vec<Option<String>> = spec.ports.into_iter().flatten().map(|port| port.name).collect();
    let stored = old.map(|old| crate::key_of(&old.metadata));
    Wish::new(namespace, name, &Labels::new(), &needs, &names, stored.as_ref())
}

/// One that wants a cluster IP and nothing else.
pub(super) fn plain(namespace: &str, name: &str) -> Wish {
    wish(
        namespace,
        Some(name),
        json!({"selector": {"app": "x"}, "ports": [{"port": 80}]}),
    )
}

/// One that wants a cluster IP and two node ports.
pub(super) fn with_ports(namespace: &str, name: &str) -> Wish {
    wish(
        namespace,
        Some(name),
        json!({"type": "NodePort", "selector": {"app": "x"},
        "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}),
    )
}

pub(super) fn given(values: &mut Values, number: u64, wish: &Wish, second: u64) -> String {
    match values.grant(&ask(number), wish, at(second)) {
        Ok(grant) => {
            let items: Vec<String> = grant.items().iter().map(ToString::to_string).collect();
            items.join(" ")
        }
        Err(refused) => format!("{}: {refused}", refused.as_str()),
    }
}

/// For namespace a.
pub(super) fn pool_of_two() -> AddressPool {
    mk_addresses(
        "team-a",
        0,
        &json!({"addresses": ["10.0.0.4-10.0.0.5"], "strategy": "LowestFirst",
        "selector": {"namespaces": ["a"]}}),
    )
}
