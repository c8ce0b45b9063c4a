// SPDX-License-Identifier: Apache-2.0
//! Endpoints and EndpointSlices, complete: controllers write them back (field numbers of `core/v1` and
//! `discovery/v1`, Kubernetes 1.37).

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as CorePort, EndpointSubset, Endpoints, ObjectReference,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};

use super::field::{Fields, Malformed};
use super::meta::{object_meta, pair, push};
use super::{Named, Wire};

impl Wire for EndpointSlice {
    type Shared = ();

    fn read(raw: &[u8], _named: &Named, (): &mut ()) -> Result<Self, Malformed> {
        let mut slice = Self::default();
        for field in Fields::of(raw) {
            let field = field?;
            match field.number {
                1 => slice.metadata = object_meta(field.bytes()?)?,
                2 => push(&mut slice.endpoints, endpoint(field.bytes()?)?),
                3 => push(&mut slice.ports, port(field.bytes()?)?),
                4 => slice.address_type = field.string()?,
                _ => {}
            }
        }
        Ok(slice)
    }
}

fn endpoint(bytes: &[u8]) -> Result<Endpoint, Malformed> {
    let mut endpoint = Endpoint::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => endpoint.addresses.push(field.string()?),
            2 => endpoint.conditions = Some(conditions(field.bytes()?)?),
            3 => endpoint.hostname = field.given()?,
            4 => endpoint.target_ref = Some(object_reference(field.bytes()?)?),
            5 => pair(&mut endpoint.deprecated_topology, field)?,
            6 => endpoint.node_name = field.given()?,
            7 => endpoint.zone = field.given()?,
            8 => endpoint.hints = Some(hints(field.bytes()?)?),
            _ => {}
        }
    }
    Ok(endpoint)
}

fn conditions(bytes: &[u8]) -> Result<EndpointConditions, Malformed> {
    let mut conditions = EndpointConditions::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => conditions.ready = Some(field.bool()?),
            2 => conditions.serving = Some(field.bool()?),
            3 => conditions.terminating = Some(field.bool()?),
            _ => {}
        }
    }
    Ok(conditions)
}

fn hints(bytes: &[u8]) -> Result<EndpointHints, Malformed> {
    let mut hints = EndpointHints::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => {
                let name = name(field.bytes()?)?;
                push(&mut hints.for_zones, ForZone { name });
            }
            2 => {
                let name = name(field.bytes()?)?;
                push(&mut hints.for_nodes, ForNode { name });
            }
            _ => {}
        }
    }
    Ok(hints)
}

fn name(bytes: &[u8]) -> Result<String, Malformed> {
    let mut name = String::new();
    for field in Fields::of(bytes) {
        let field = field?;
        if field.number == 1 {
            name = field.string()?;
        }
    }
    Ok(name)
}

fn port(bytes: &[u8]) -> Result<EndpointPort, Malformed> {
    let mut port = EndpointPort::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => port.name = field.given()?,
            2 => port.protocol = field.given()?,
            3 => port.port = Some(field.int32()?),
            4 => port.app_protocol = field.given()?,
            _ => {}
        }
    }
    Ok(port)
}

impl Wire for Endpoints {
    type Shared = ();

    fn read(raw: &[u8], _named: &Named, (): &mut ()) -> Result<Self, Malformed> {
        let mut endpoints = Self::default();
        for field in Fields::of(raw) {
            let field = field?;
            match field.number {
                1 => endpoints.metadata = object_meta(field.bytes()?)?,
                2 => push(&mut endpoints.subsets, subset(field.bytes()?)?),
                _ => {}
            }
        }
        Ok(endpoints)
    }
}

fn subset(bytes: &[u8]) -> Result<EndpointSubset, Malformed> {
    let mut subset = EndpointSubset::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => push(&mut subset.addresses, address(field.bytes()?)?),
            2 => push(&mut subset.not_ready_addresses, address(field.bytes()?)?),
            3 => push(&mut subset.ports, core_port(field.bytes()?)?),
            _ => {}
        }
    }
    Ok(subset)
}

fn address(bytes: &[u8]) -> Result<EndpointAddress, Malformed> {
    let mut address = EndpointAddress::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => address.ip = field.string()?,
            2 => address.target_ref = Some(object_reference(field.bytes()?)?),
            3 => address.hostname = field.filled()?,
            4 => address.node_name = field.given()?,
            _ => {}
        }
    }
    Ok(address)
}

fn core_port(bytes: &[u8]) -> Result<CorePort, Malformed> {
    let mut port = CorePort::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => port.name = field.filled()?,
            2 => port.port = field.int32()?,
            3 => port.protocol = field.filled()?,
            4 => port.app_protocol = field.given()?,
            _ => {}
        }
    }
    Ok(port)
}

fn object_reference(bytes: &[u8]) -> Result<ObjectReference, Malformed> {
    let mut reference = ObjectReference::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => reference.kind = field.filled()?,
            2 => reference.namespace = field.filled()?,
            3 => reference.name = field.filled()?,
            4 => reference.uid = field.filled()?,
            5 => reference.api_version = field.filled()?,
            6 => reference.resource_version = field.filled()?,
            7 => reference.field_path = field.filled()?,
            _ => {}
        }
    }
    Ok(reference)
}
