// SPDX-License-Identifier: Apache-2.0
//! What an earlier review of the same write may have put into a Service. Another webhook has changed the Service since, and it
//! is reviewed anew: what was chosen for what it was then is taken out first, or it would look like a wish of the user, and a
//! node port that a type no longer has is refused by the API server.
//!
//! Reviews of one write have nothing in common that says so, not even a number. But the API server notes who set which
//! field before it asks any webhook (`metadata.managedFields`), and what webhooks set is nobody's. So what may be taken out is
//! what no user set, the stored Service does not have, and the book remembers to have chosen. Each of the three alone would do
//! but for odd cases; together they never touch what a user set.

use std::collections::BTreeSet;

use berth_model::Port;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use serde_json::{Value, json};

use super::patch::{Operation, Patch};
use crate::address;
use crate::pools::Item;

/// The addresses and node ports of a Service that nobody is noted for and that the stored one does not have. None where the
/// API server has noted nothing.
pub fn unclaimed(service: &Service, old: Option<&Service>) -> BTreeSet<Item> {
    let (Some(spec), Some(managers)) = (service.spec.as_ref(), Managers::of(service)) else {
        return BTreeSet::new();
    };
    let (mut claimed, mut unclaimed) = (BTreeSet::new(), BTreeSet::new());
    for (item, is_claimed) in values(spec, |place| managers.have_set(place)) {
        if is_claimed {
            claimed.insert(item);
        } else {
            unclaimed.insert(item);
        }
    }
    let stored = old.and_then(|old| old.spec.as_ref());
    claimed.extend(
        stored
            .into_iter()
            .flat_map(|spec| values(spec, |_| ()))
            .map(|(item, ())| item),
    );
    unclaimed.difference(&claimed).copied().collect()
}

/// The Service without these values, which a review has put there.
pub fn without(service: &Service, values: &BTreeSet<Item>) -> Service {
    let mut bare = service.clone();
    let Some(spec) = &mut bare.spec else {
        return bare;
    };
    let is_one = |text: &String| address_of(text).is_some_and(|item| values.contains(&item));
    let is_port = |number: i32| port_of(number).is_some_and(|item| values.contains(&item));
    spec.cluster_ip = spec.cluster_ip.take().filter(|text| !is_one(text));
    // A list with one of them was set whole.
    spec.cluster_ips = spec.cluster_ips.take().filter(|texts| !texts.iter().any(is_one));
    for port in spec.ports.iter_mut().flatten() {
        port.node_port = port.node_port.filter(|number| !is_port(*number));
    }
    spec.health_check_node_port = spec.health_check_node_port.filter(|number| !is_port(*number));
    bare
}

/// A patch of the Service without some values, as one of the Service that has them: what comes out is the same.
pub fn over(service: &Service, bare: &Service, patch: Patch) -> Patch {
    let mut operations = patch.into_operations();
    let empty = ServiceSpec::default();
    let had = fields(service.spec.as_ref().unwrap_or(&empty));
    let has = fields(bare.spec.as_ref().unwrap_or(&empty));
    for ((path, had), (_, has)) in had.into_iter().zip(has).filter(|((_, had), (_, has))| had != has) {
        match operations.iter().position(|operation| operation.path == path) {
            Some(place)
                if operations
                    .get(place)
                    .is_some_and(|operation| operation.value == had) =>
            {
                operations.remove(place);
            }
            Some(_) => {}
            None => operations.push(Operation { path, value: has }),
        }
    }
    Patch::from(operations)
}

/// Where a value stands in a Service.
#[derive(Clone, Copy)]
enum Place<'a> {
    ClusterIp,
    ClusterIps,
    NodePort(&'a ServicePort),
    HealthCheckNodePort,
}

/// The values of a Service, each with what is to be said of its place.
fn values<T>(spec: &ServiceSpec, of: impl Fn(Place<'_>) -> T) -> Vec<(Item, T)> {
    let singular = spec
        .cluster_ip
        .iter()
        .map(|text| (address_of(text), of(Place::ClusterIp)));
    let plural = spec.cluster_ips.iter().flatten();
    let plural = plural.map(|text| (address_of(text), of(Place::ClusterIps)));
    let ports = spec.ports.iter().flatten();
    let ports = ports.map(|port| (port.node_port.and_then(port_of), of(Place::NodePort(port))));
    let health_check = spec.health_check_node_port.iter();
    let health_check = health_check.map(|number| (port_of(*number), of(Place::HealthCheckNodePort)));
    let all = singular.chain(plural).chain(ports).chain(health_check);
    all.filter_map(|(item, said)| Some((item?, said))).collect()
}

fn address_of(text: &str) -> Option<Item> {
    address::parse(text).map(Item::Address)
}

fn port_of(number: i32) -> Option<Item> {
    let number = u16::try_from(number).ok()?;
    Port::new(number).map(Item::Port)
}

/// The fields that hold values, by path; the same ones for two Services that differ in values alone.
fn fields(spec: &ServiceSpec) -> Vec<(String, Option<Value>)> {
    let mut fields = vec![
        (
            "/spec/clusterIP".to_owned(),
            spec.cluster_ip.as_ref().map(|text| json!(text)),
        ),
        (
            "/spec/clusterIPs".to_owned(),
            spec.cluster_ips.as_ref().map(|texts| json!(texts)),
        ),
    ];
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let number = port.node_port.map(|number| json!(number));
        fields.push((format!("/spec/ports/{index}/nodePort"), number));
    }
    let number = spec.health_check_node_port.map(|number| json!(number));
    fields.push(("/spec/healthCheckNodePort".to_owned(), number));
    fields
}

/// What is noted of each client that has set a field of the spec, in the form of FieldsV1 (structured-merge-diff).
struct Managers<'a>(Vec<&'a Value>);

impl<'a> Managers<'a> {
    /// None where nothing is noted.
    fn of(service: &'a Service) -> Option<Self> {
        let entries = service.metadata.managed_fields.as_deref().unwrap_or_default();
        let specs = entries
            .iter()
            .filter_map(|entry| entry.fields_v1.as_ref()?.0.get("f:spec"));
        let specs: Vec<&Value> = specs.collect();
        (!specs.is_empty()).then_some(Self(specs))
    }

    fn have_set(&self, place: Place<'_>) -> bool {
        let has = |field: &str| self.0.iter().any(|spec| spec.get(field).is_some());
        match place {
            Place::ClusterIp => has("f:clusterIP"),
            Place::ClusterIps => has("f:clusterIPs"),
            Place::HealthCheckNodePort => has("f:healthCheckNodePort"),
            Place::NodePort(port) => self.have_set_node_port(port),
        }
    }

    fn have_set_node_port(&self, port: &ServicePort) -> bool {
        let lists = self.0.iter().filter_map(|spec| spec.get("f:ports")?.as_object());
        let mut ports = lists.flatten();
        ports.any(|(key, fields)| is_key_of(key, port) && fields.get("f:nodePort").is_some())
    }
}

/// Whether this is how a port is called: `k:{"port":80,"protocol":"TCP"}`.
fn is_key_of(key: &str, port: &ServicePort) -> bool {
    let key: Option<Value> = key
        .strip_prefix("k:")
        .and_then(|key| serde_json::from_str(key).ok());
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    key.is_some_and(|key| key == json!({"port": port.port, "protocol": protocol}))
}
