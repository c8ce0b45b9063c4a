// SPDX-License-Identifier: Apache-2.0
//! A slice, short.

use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice,
};

use super::address::{Address, Port, Target, owned};
use super::meta::Meta;
use super::{Packed, Texts};

/// An EndpointSlice.
#[derive(Clone, Debug)]
pub(in crate::cache) struct PackedSlice {
    meta: Meta,
    address_type: Arc<str>,
    endpoints: Option<Box<[PackedEndpoint]>>,
    ports: Option<Box<[Port]>>,
}

#[derive(Clone, Debug)]
struct PackedEndpoint {
    address: Address,
    target: Target,
    node: Option<Arc<str>>,
    zone: Option<Arc<str>>,
    rare: Option<Box<Rare>>,
    conditions: Option<Conditions>,
}

/// What few endpoints have.
#[derive(Clone, Debug, PartialEq)]
struct Rare {
    hostname: Option<String>,
    hints: Option<EndpointHints>,
}

/// Ready, serving, terminating.
#[derive(Clone, Copy, Debug)]
struct Conditions([Option<bool>; 3]);

impl Packed for PackedSlice {
    type Object = EndpointSlice;

    fn pack(slice: &EndpointSlice, texts: &mut Texts) -> Option<Self> {
        let EndpointSlice {
            address_type,
            endpoints,
            metadata,
            ports,
        } = slice;
        let meta = Meta::pack(metadata, texts)?;
        let endpoints: Option<Option<Box<[PackedEndpoint]>>> = endpoints.as_ref().map(|endpoints| {
            let endpoints = endpoints.iter();
            endpoints
                .map(|endpoint| PackedEndpoint::pack(endpoint, &meta, texts))
                .collect()
        });
        let endpoints = match endpoints {
            Some(packed) => Some(packed?),
            None => None,
        };
        Some(Self {
            meta,
            address_type: texts.get(&**address_type),
            endpoints,
            ports: ports.as_ref().map(|ports| {
                let ports = ports.iter();
                ports.map(|port| pack_port(port, texts)).collect()
            }),
        })
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn unpack(&self) -> EndpointSlice {
        let namespace = &self.meta.namespace;
        EndpointSlice {
            address_type: self.address_type.to_string(),
            endpoints: self.endpoints.as_ref().map(|endpoints| {
                let endpoints = endpoints.iter();
                endpoints.map(|endpoint| endpoint.unpack(namespace)).collect()
            }),
            metadata: self.meta.unpack(),
            ports: self
                .ports
                .as_ref()
                .map(|ports| ports.iter().map(unpack_port).collect()),
        }
    }
}

#[cfg(test)]
impl PackedSlice {
    /// Names of targets come on top.
    pub(super) fn bytes_per_endpoint() -> usize {
        size_of::<PackedEndpoint>()
    }
}

impl PackedEndpoint {
    fn pack(endpoint: &Endpoint, meta: &Meta, texts: &mut Texts) -> Option<Self> {
        let Endpoint {
            addresses,
            conditions,
            deprecated_topology: None,
            hints,
            hostname,
            node_name,
            target_ref,
            zone,
        } = endpoint
        else {
            return None;
        };
        let [address] = addresses.as_slice() else {
            return None;
        };
        let rare = Rare {
            hostname: hostname.clone(),
            hints: hints.clone(),
        };
        let none = rare.hostname.is_none() && rare.hints.is_none();
        Some(Self {
            address: Address::of(address),
            target: Target::pack(target_ref.as_ref(), &meta.namespace),
            node: node_name.as_deref().map(|node| texts.get(node)),
            zone: zone.as_deref().map(|zone| texts.get(zone)),
            rare: (!none).then(|| Box::new(rare)),
            conditions: conditions
                .as_ref()
                .map(|conditions| Conditions([conditions.ready, conditions.serving, conditions.terminating])),
        })
    }

    fn unpack(&self, namespace: &str) -> Endpoint {
        let rare = self.rare.as_deref();
        Endpoint {
            addresses: vec![self.address.text()],
            conditions: self
                .conditions
                .map(|Conditions([ready, serving, terminating])| EndpointConditions {
                    ready,
                    serving,
                    terminating,
                }),
            deprecated_topology: None,
            hints: rare.and_then(|rare| rare.hints.clone()),
            hostname: rare.and_then(|rare| rare.hostname.clone()),
            node_name: owned(&self.node),
            target_ref: self.target.unpack(namespace),
            zone: owned(&self.zone),
        }
    }
}

fn pack_port(port: &EndpointPort, texts: &mut Texts) -> Port {
    let EndpointPort {
        app_protocol,
        name,
        port,
        protocol,
    } = port;
    Port::pack(
        name.as_ref(),
        protocol.as_ref(),
        app_protocol.as_ref(),
        *port,
        texts,
    )
}

fn unpack_port(port: &Port) -> EndpointPort {
    let [name, protocol, app_protocol] = port.texts();
    EndpointPort {
        app_protocol,
        name,
        port: port.number,
        protocol,
    }
}
