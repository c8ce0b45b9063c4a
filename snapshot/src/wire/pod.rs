// SPDX-License-Identifier: Apache-2.0
//! Pods, trimmed (field numbers of `core/v1`, Kubernetes 1.37).

use k8s_openapi::api::core::v1::PodIP;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::field::{Fields, Malformed};
use super::meta::{pair, time};
use super::{Named, Wire};
use crate::pod::{Container, ContainerPort, Pod, PodCondition, PodSpec, PodStatus};

impl Wire for Pod {
    type Shared = ();

    fn read(raw: &[u8], _named: &Named, (): &mut ()) -> Result<Self, Malformed> {
        let mut pod = Self::default();
        for field in Fields::of(raw) {
            let field = field?;
            match field.number {
                1 => pod.metadata = trimmed_meta(field.bytes()?)?,
                2 => pod.spec = spec(field.bytes()?)?,
                3 => pod.status = status(field.bytes()?)?,
                _ => {}
            }
        }
        Ok(pod)
    }
}

fn trimmed_meta(bytes: &[u8]) -> Result<ObjectMeta, Malformed> {
    let mut meta = ObjectMeta::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => meta.name = field.filled()?,
            3 => meta.namespace = field.filled()?,
            5 => meta.uid = field.filled()?,
            6 => meta.resource_version = field.filled()?,
            8 => meta.creation_timestamp = time(field)?.map(Time),
            9 => meta.deletion_timestamp = time(field)?.map(Time),
            11 => pair(&mut meta.labels, field)?,
            _ => {}
        }
    }
    Ok(meta)
}

fn spec(bytes: &[u8]) -> Result<PodSpec, Malformed> {
    let mut spec = PodSpec::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            2 => spec.containers.push(container(field.bytes()?)?),
            10 => spec.node_name = field.filled()?,
            16 => spec.hostname = field.filled()?,
            17 => spec.subdomain = field.filled()?,
            20 => spec.init_containers.push(container(field.bytes()?)?),
            _ => {}
        }
    }
    Ok(spec)
}

fn container(bytes: &[u8]) -> Result<Container, Malformed> {
    let mut container = Container::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            6 => container.ports.push(port(field.bytes()?)?),
            24 => container.restart_policy = field.given()?,
            _ => {}
        }
    }
    Ok(container)
}

fn port(bytes: &[u8]) -> Result<ContainerPort, Malformed> {
    let mut port = ContainerPort::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => port.name = field.filled()?,
            3 => port.container_port = field.int32()?,
            4 => port.protocol = field.filled()?,
            _ => {}
        }
    }
    Ok(port)
}

fn status(bytes: &[u8]) -> Result<PodStatus, Malformed> {
    let mut status = PodStatus::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => status.phase = field.filled()?,
            2 => status.conditions.push(condition(field.bytes()?)?),
            6 => status.pod_ip = field.filled()?,
            12 => status.pod_ips.push(pod_ip(field.bytes()?)?),
            _ => {}
        }
    }
    Ok(status)
}

fn condition(bytes: &[u8]) -> Result<PodCondition, Malformed> {
    let mut condition = PodCondition::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => condition.type_ = field.string()?,
            2 => condition.status = field.string()?,
            4 => condition.last_transition_time = time(field)?.map(Time),
            _ => {}
        }
    }
    Ok(condition)
}

fn pod_ip(bytes: &[u8]) -> Result<PodIP, Malformed> {
    let mut address = PodIP::default();
    for field in Fields::of(bytes) {
        let field = field?;
        if field.number == 1 {
            address.ip = field.string()?;
        }
    }
    Ok(address)
}
