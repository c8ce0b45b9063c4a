// SPDX-License-Identifier: Apache-2.0
//! Endpoints, short.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};

use super::address::{Address, Port, Target, owned};
use super::meta::Meta;
use super::{Packed, Texts};

/// An Endpoints object.
#[derive(Clone, Debug)]
pub(in crate::cache) struct PackedEndpoints {
    meta: Meta,
    subsets: Option<Box<[Subset]>>,
}

#[derive(Clone, Debug)]
struct Subset {
    addresses: Option<Box<[PackedAddress]>>,
    not_ready_addresses: Option<Box<[PackedAddress]>>,
    ports: Option<Box<[Port]>>,
}

#[derive(Clone, Debug)]
struct PackedAddress {
    ip: Address,
    target: Target,
    node: Option<Arc<str>>,
    hostname: Option<Box<str>>,
}

impl Packed for PackedEndpoints {
    type Object = Endpoints;

    fn pack(endpoints: &Endpoints, texts: &mut Texts) -> Option<Self> {
        let Endpoints { metadata, subsets } = endpoints;
        let meta = Meta::pack(metadata, texts)?;
        let subsets = subsets.as_ref().map(|subsets| {
            let subsets = subsets.iter();
            subsets.map(|subset| Subset::pack(subset, &meta, texts)).collect()
        });
        Some(Self { meta, subsets })
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn unpack(&self) -> Endpoints {
        let namespace = &self.meta.namespace;
        Endpoints {
            metadata: self.meta.unpack(),
            subsets: self
                .subsets
                .as_ref()
                .map(|subsets| subsets.iter().map(|subset| subset.unpack(namespace)).collect()),
        }
    }
}

impl Subset {
    fn pack(subset: &EndpointSubset, meta: &Meta, texts: &mut Texts) -> Self {
        let EndpointSubset {
            addresses,
            not_ready_addresses,
            ports,
        } = subset;
        Self {
            addresses: pack_addresses(addresses.as_deref(), meta, texts),
            not_ready_addresses: pack_addresses(not_ready_addresses.as_deref(), meta, texts),
            ports: ports.as_ref().map(|ports| {
                let ports = ports.iter();
                ports.map(|port| pack_port(port, texts)).collect()
            }),
        }
    }

    fn unpack(&self, namespace: &str) -> EndpointSubset {
        let addresses = |list: &Option<Box<[PackedAddress]>>| {
            let list = list.as_ref()?.iter();
            Some(list.map(|address| address.unpack(namespace)).collect())
        };
        EndpointSubset {
            addresses: addresses(&self.addresses),
            not_ready_addresses: addresses(&self.not_ready_addresses),
            ports: self
                .ports
                .as_ref()
                .map(|ports| ports.iter().map(unpack_port).collect()),
        }
    }
}

fn pack_addresses(
    addresses: Option<&[EndpointAddress]>,
    meta: &Meta,
    texts: &mut Texts,
) -> Option<Box<[PackedAddress]>> {
    let pack = |address: &EndpointAddress| {
        let EndpointAddress {
            hostname,
            ip,
            node_name,
            target_ref,
        } = address;
        PackedAddress {
            ip: Address::of(ip),
            target: Target::pack(target_ref.as_ref(), &meta.namespace),
            node: node_name.as_deref().map(|node| texts.get(node)),
            hostname: hostname.as_deref().map(Box::from),
        }
    };
    addresses.map(|addresses| addresses.iter().map(pack).collect())
}

impl PackedAddress {
    fn unpack(&self, namespace: &str) -> EndpointAddress {
        EndpointAddress {
            hostname: self.hostname.as_deref().map(str::to_owned),
            ip: self.ip.text(),
            node_name: owned(&self.node),
            target_ref: self.target.unpack(namespace),
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
        Some(*port),
        texts,
    )
}

fn unpack_port(port: &Port) -> EndpointPort {
    let [name, protocol, app_protocol] = port.texts();
    EndpointPort {
        app_protocol,
        name,
        // Always there: it was packed from a number.
        port: port.number.unwrap_or_default(),
        protocol,
    }
}
