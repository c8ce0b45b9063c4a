// SPDX-License-Identifier: Apache-2.0
//! From needs and chosen values to a JSON patch.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use berth_model::{IpFamily, Port};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use serde_json::{Value, json};

use super::{Need, Needs, PortNeed};

/// The values that were chosen. What is missing here is left to the API server, and what is not needed is not used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// By family.
    pub cluster_ips: BTreeMap<IpFamily, IpAddr>,
    /// By index of the port; those that share it need no entry.
    pub node_ports: BTreeMap<usize, Port>,
    /// For the nodes to tell whether they have an endpoint.
    pub health_check: Option<Port>,
}

/// Sets one field, whether it is there or not (`add` of RFC 6902, which replaces what an object has), or takes one out that is
/// there (`remove`).
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Where, as RFC 6901 has it.
    pub path: String,
    /// To what; taken out where there is nothing.
    pub value: Option<Value>,
}

/// A JSON patch of a Service. Empty where nothing changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch(Vec<Operation>);

impl Patch {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What changes, in the order in which it stands in a Service.
    pub fn operations(&self) -> &[Operation] {
        &self.0
    }

    /// As an admission response carries it (RFC 6902), before base64.
    pub fn to_json(&self) -> Value {
        let operation = |Operation { path, value }: &Operation| match value {
            Some(value) => json!({"op": "add", "path": path, "value": value}),
            None => json!({"op": "remove", "path": path}),
        };
        self.0.iter().map(operation).collect()
    }

    pub(super) fn into_operations(self) -> Vec<Operation> {
        self.0
    }

    fn set(&mut self, path: String, value: Value) {
        let value = Some(value);
        self.0.push(Operation { path, value });
    }
}

impl From<Vec<Operation>> for Patch {
    fn from(operations: Vec<Operation>) -> Self {
        Self(operations)
    }
}

impl fmt::Display for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, operation) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match &operation.value {
                Some(value) => write!(f, "{comma}{}={value}", operation.path)?,
                None => write!(f, "{comma}no {}", operation.path)?,
            }
        }
        Ok(())
    }
}

/// Puts the chosen values into a Service, the one that `needs` was said of.
///
/// A value that the write omits and the API server copies is not repeated, except beside a chosen one in the same
/// list. Applied once, the values are the Service's own: said of the result, the needs have no slot left that is not
/// also a wish, and the patch is empty.
pub fn patch(service: &Service, needs: &Needs, chosen: &Chosen) -> Patch {
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let mut patch = Patch::default();
    cluster_ips(spec, needs, chosen, &mut patch);
    node_ports(spec, needs, chosen, &mut patch);
    if let (Some(Need::Any), Some(number)) = (needs.health_check, chosen.health_check) {
        patch.set("/spec/healthCheckNodePort".to_owned(), json!(number));
    }
    patch
}

/// Singular and plural together: the API server refuses the plural alone. The second address can't be set without the
/// first, so a list ends before the first that is left to the API server.
fn cluster_ips(spec: &ServiceSpec, needs: &Needs, chosen: &Chosen, patch: &mut Patch) {
    let mut texts = Vec::new();
    let mut is_news = false;
    for address in needs.cluster_ips.addresses() {
        let text = match address.need.value() {
            Some(value) => Some(value.text.clone()),
            None => {
                let chosen = chosen.cluster_ips.get(&address.family);
                is_news |= chosen.is_some();
                chosen.map(ToString::to_string)
            }
        };
        match text {
            Some(text) => texts.push(text),
            None => break,
        }
    }
    let Some(first) = texts.first().filter(|_| is_news) else {
        return;
    };
    if spec.cluster_ip.as_ref() != Some(first) {
        patch.set("/spec/clusterIP".to_owned(), json!(first));
    }
    patch.set("/spec/clusterIPs".to_owned(), json!(texts));
}

fn node_ports(spec: &ServiceSpec, needs: &Needs, chosen: &Chosen, patch: &mut Patch) {
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let source = match needs.node_ports.get(index) {
            Some(PortNeed::Of(_)) => index,
            Some(PortNeed::SharedWith(first)) => *first,
            Some(PortNeed::Unneeded) | None => continue,
        };
        let is_open = needs.node_ports.get(source) == Some(&PortNeed::Of(Need::Any));
        let number = chosen.node_ports.get(&source).filter(|_| is_open);
        if let Some(number) = number.filter(|number| port.node_port != Some(i32::from(number.get()))) {
            patch.set(format!("/spec/ports/{index}/nodePort"), json!(number));
        }
    }
}
