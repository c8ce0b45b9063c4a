// SPDX-License-Identifier: Apache-2.0
//! Nodes, trimmed (field numbers of `core/v1`, Kubernetes 1.37).

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::field::{Fields, Malformed};
use super::meta::pair;
use super::{Named, Wire};
use crate::node::Node;

impl Wire for Node {
    type Shared = ();

    fn read(raw: &[u8], named: &Named, (): &mut ()) -> Result<Self, Malformed> {
        let mut node = Self {
            name: Arc::clone(&named.name),
            labels: None,
            ready: false,
            allocatable_cpu: None,
        };
        for field in Fields::of(raw) {
            let field = field?;
            match field.number {
                1 => {
                    for field in Fields::of(field.bytes()?) {
                        let field = field?;
                        if field.number == 11 {
                            pair(&mut node.labels, field)?;
                        }
                    }
                }
                3 => status(&mut node, field.bytes()?)?,
                _ => {}
            }
        }
        Ok(node)
    }
}

fn status(node: &mut Node, bytes: &[u8]) -> Result<(), Malformed> {
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            2 => {
                if let Some(cpu) = cpu(field.bytes()?)? {
                    node.allocatable_cpu = Some(cpu);
                }
            }
            4 => node.ready |= is_ready(field.bytes()?)?,
            _ => {}
        }
    }
    Ok(())
}

/// The quantity of an entry of `allocatable`, if it is the CPU's.
fn cpu(entry: &[u8]) -> Result<Option<Quantity>, Malformed> {
    let (mut key, mut quantity) = ("", "");
    for field in Fields::of(entry) {
        let field = field?;
        match field.number {
            1 => key = field.text()?,
            2 => {
                for field in Fields::of(field.bytes()?) {
                    let field = field?;
                    if field.number == 1 {
                        quantity = field.text()?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok((key == "cpu").then(|| Quantity(quantity.to_owned())))
}

/// Whether a condition says that the Node is ready.
fn is_ready(condition: &[u8]) -> Result<bool, Malformed> {
    let (mut type_, mut status) = ("", "");
    for field in Fields::of(condition) {
        let field = field?;
        match field.number {
            1 => type_ = field.text()?,
            2 => status = field.text()?,
            _ => {}
        }
    }
    Ok(type_ == "Ready" && status == "True")
}
