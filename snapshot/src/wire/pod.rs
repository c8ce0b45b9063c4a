// SPDX-License-Identifier: Apache-2.0
//! Pods, trimmed (field numbers of `core/v1`, Kubernetes 1.37).

use super::field::{Fields, Malformed, entry};
use super::meta::time;
use super::{Named, Wire};
use crate::pod::{Facts, Pod, Shared, When};

impl Wire for Pod {
    type Shared = Shared;

    fn read(raw: &[u8], named: &Named, shared: &mut Shared) -> Result<Self, Malformed> {
        let mut facts = Facts::default();
        for field in Fields::of(raw) {
            let field = field?;
            match field.number {
                1 => meta(&mut facts, field.bytes()?)?,
                2 => spec(&mut facts, field.bytes()?)?,
                3 => status(&mut facts, field.bytes()?)?,
                _ => {}
            }
        }
        Ok(facts.build(named, shared))
    }
}

fn meta<'a>(facts: &mut Facts<'a>, bytes: &'a [u8]) -> Result<(), Malformed> {
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            5 => facts.uid = field.text()?,
            6 => facts.version = field.text()?,
            9 => facts.deleted = When::of(time(field)?),
            11 => facts.labels.push(entry(field.bytes()?)?),
            _ => {}
        }
    }
    Ok(())
}

fn spec<'a>(facts: &mut Facts<'a>, bytes: &'a [u8]) -> Result<(), Malformed> {
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            2 => {
                container(&mut facts.ports, field.bytes()?)?;
            }
            10 => facts.node = field.text()?,
            16 => facts.hostname = field.text()?,
            17 => facts.subdomain = field.text()?,
            20 => {
                let others = facts.sidecar_ports.len();
                // KEP-753: an init container that goes on running is a sidecar.
                if container(&mut facts.sidecar_ports, field.bytes()?)? != "Always" {
                    facts.sidecar_ports.truncate(others);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Adds a container's ports; its restart policy stands behind them.
fn container<'a>(ports: &mut Vec<(&'a str, &'a str, i32)>, bytes: &'a [u8]) -> Result<&'a str, Malformed> {
    let mut restart_policy = "";
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            6 => ports.push(port(field.bytes()?)?),
            24 => restart_policy = field.text()?,
            _ => {}
        }
    }
    Ok(restart_policy)
}

fn port(bytes: &[u8]) -> Result<(&str, &str, i32), Malformed> {
    let (mut name, mut protocol, mut number) = ("", "", 0);
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => name = field.text()?,
            3 => number = field.int32()?,
            4 => protocol = field.text()?,
            _ => {}
        }
    }
    Ok((name, protocol, number))
}

fn status<'a>(facts: &mut Facts<'a>, bytes: &'a [u8]) -> Result<(), Malformed> {
    let mut judged = false;
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => facts.phase = field.text()?,
            2 => {
                let (type_, status, since) = condition(field.bytes()?)?;
                if type_ == "Ready" && !judged {
                    judged = true;
                    facts.ready = status == "True";
                    facts.ready_since = since;
                }
            }
            6 => facts.ip = field.text()?,
            12 => facts.ips.push(pod_ip(field.bytes()?)?),
            _ => {}
        }
    }
    Ok(())
}

fn condition(bytes: &[u8]) -> Result<(&str, &str, When), Malformed> {
    let (mut type_, mut status, mut since) = ("", "", When::NEVER);
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => type_ = field.text()?,
            2 => status = field.text()?,
            4 => since = When::of(time(field)?),
            _ => {}
        }
    }
    Ok((type_, status, since))
}

fn pod_ip(bytes: &[u8]) -> Result<&str, Malformed> {
    let mut address = "";
    for field in Fields::of(bytes) {
        let field = field?;
        if field.number == 1 {
            address = field.text()?;
        }
    }
    Ok(address)
}
