// SPDX-License-Identifier: Apache-2.0
//! Plans: the API writes that were decided on, as ordered values that print themselves.

use std::fmt;

use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Which object to delete, and which incarnation of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: a precondition of the deletion, and the key of the tracker.
    pub uid: Option<String>,
}

impl ObjectRef {
    /// A reference to the object with this metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone(),
        }
    }
}

/// An object kind that a plan can hold and print.
pub trait Planned: Resource {
    /// Its metadata.
    fn meta(&self) -> &ObjectMeta;
    /// What it holds, in a few words: `IPv4, 3 endpoints, ports http=8080/TCP`.
    fn summary(&self) -> String;
}

/// Writes of one kind of object, to be made in this order: create, update, delete.
///
/// Objects are complete. An update without a resource version is meant to be unconditional: it
/// recycles an object that would be deleted otherwise. All other updates carry the version they were
/// planned from, so that a conflict shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan<K> {
    /// Objects to create; a `generateName` without name leaves the name to the API server.
    pub create: Vec<K>,
    /// Objects to replace.
    pub update: Vec<K>,
    /// Objects to delete.
    pub delete: Vec<ObjectRef>,
}

impl<K> Default for Plan<K> {
    fn default() -> Self {
        Self {
            create: Vec::new(),
            update: Vec::new(),
            delete: Vec::new(),
        }
    }
}

impl<K> Plan<K> {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many writes.
    pub fn len(&self) -> usize {
        self.create.len() + self.update.len() + self.delete.len()
    }
}

impl<K: Planned> fmt::Display for Plan<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for object in &self.create {
            write_line(f, "create", object)?;
        }
        for object in &self.update {
            write_line(f, "update", object)?;
        }
        for object in &self.delete {
            writeln!(f, "delete {} {}/{}", K::KIND, object.namespace, object.name)?;
        }
        Ok(())
    }
}

fn write_line<K: Planned>(f: &mut fmt::Formatter<'_>, verb: &str, object: &K) -> fmt::Result {
    let meta = object.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    write!(f, "{verb} {} {namespace}/", K::KIND)?;
    match (meta.name.as_deref(), meta.generate_name.as_deref()) {
        (Some(name), _) => f.write_str(name)?,
        (None, Some(prefix)) => write!(f, "{prefix}*")?,
        (None, None) => f.write_str("*")?,
    }
    writeln!(f, " ({})", object.summary())
}

impl Planned for EndpointSlice {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn summary(&self) -> String {
        let count = self.endpoints.as_ref().map_or(0, Vec::len);
        let ports = self.ports.as_deref().unwrap_or_default();
        let ports = ports.iter().map(|port| {
            let number = port
                .port
                .map_or_else(|| "*".to_owned(), |number| number.to_string());
            port_text(port.name.as_deref(), &number, port.protocol.as_deref())
        });
        format!(
            "{}, {}, {}",
            self.address_type,
            counted(count, "endpoint"),
            ports_text(ports)
        )
    }
}

impl Planned for Endpoints {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn summary(&self) -> String {
        let (mut ready, mut not_ready, mut ports) = (0, 0, Vec::new());
        for subset in self.subsets.as_deref().unwrap_or_default() {
            ready += subset.addresses.as_ref().map_or(0, Vec::len);
            not_ready += subset.not_ready_addresses.as_ref().map_or(0, Vec::len);
            for port in subset.ports.as_deref().unwrap_or_default() {
                ports.push(port_text(
                    port.name.as_deref(),
                    &port.port.to_string(),
                    port.protocol.as_deref(),
                ));
            }
        }
        format!(
            "{ready} ready, {not_ready} not ready, {}",
            ports_text(ports.into_iter())
        )
    }
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

fn port_text(name: Option<&str>, number: &str, protocol: Option<&str>) -> String {
    let protocol = protocol.unwrap_or(crate::pods::TCP);
    match name.filter(|name| !name.is_empty()) {
        Some(name) => format!("{name}={number}/{protocol}"),
        None => format!("{number}/{protocol}"),
    }
}

fn ports_text(ports: impl Iterator<Item = String>) -> String {
    let ports: Vec<String> = ports.collect();
    if ports.is_empty() {
        "no ports".to_owned()
    } else {
        format!("ports {}", ports.join(" "))
    }
}
