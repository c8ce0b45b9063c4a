// SPDX-License-Identifier: Apache-2.0
//! The trimmed Pod: what the controllers read of a Pod, and nothing else.
//!
//! A cluster has more Pods than anything else, and the Pods of one Deployment have almost everything in
//! common: namespace, labels and ports are one object for all of them. What is left is some 200 bytes.

mod facts;
mod labels;
mod manifest;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

pub use facts::Shared;
pub(crate) use facts::{Facts, When};
pub use labels::LabelSet;
pub use manifest::{Container, ContainerPort, PodCondition, PodManifest, PodSpec, PodStatus};

/// A Pod, as far as Service endpoints depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    class: Arc<Class>,
    name: Arc<str>,
    node: Option<Arc<str>>,
    rare: Option<Box<Rare>>,
    primary: Primary,
    /// `podIPs`, without the first where that is the primary one; without those that cannot be read.
    others: Box<[IpAddr]>,
    /// Zero where there is none, and where `rare` has it.
    uid: [u8; 16],
    /// Zero where there is none, and where `rare` has it.
    version: u64,
    ready_since: When,
    ready: bool,
    finished: bool,
}

/// What the Pods of one Deployment share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    namespace: Arc<str>,
    labels: LabelSet,
    ports: Arc<[NamedPort]>,
}

/// What few Pods have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rare {
    deleted: When,
    hostname: Option<Box<str>>,
    subdomain: Option<Box<str>>,
    /// A uid that is no UUID as Kubernetes writes them.
    uid: Option<Box<str>>,
    /// A version that is no number.
    version: Option<Box<str>>,
}

/// A container port that a Service's `targetPort` can name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPort {
    /// Its name, never empty.
    pub name: Arc<str>,
    /// TCP, UDP or SCTP.
    pub protocol: Arc<str>,
    /// Its number.
    pub number: i32,
}

/// `podIP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Primary {
    /// The address, if it can be read.
    address: Option<IpAddr>,
    /// Whether it is also the first of `podIPs`.
    listed: bool,
    /// Whether the status has any address, readable or not.
    any: bool,
}

/// A Pod's uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Uid<'a> {
    /// As Kubernetes gives them.
    Uuid([u8; 16]),
    /// Anything else.
    Text(&'a str),
}

impl fmt::Display for Uid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(bytes) => {
                for (index, byte) in bytes.iter().enumerate() {
                    let hyphen = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
                    write!(f, "{hyphen}{byte:02x}")?;
                }
                Ok(())
            }
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A Pod's resource version: nothing but equality is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version<'a> {
    /// As Kubernetes gives them.
    Number(u64),
    /// Anything else.
    Text(&'a str),
}

impl fmt::Display for Version<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Pod {
    /// Its namespace.
    pub fn namespace(&self) -> &Arc<str> {
        &self.class.namespace
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its uid.
    pub fn uid(&self) -> Option<Uid<'_>> {
        match self.rare().and_then(|rare| rare.uid.as_deref()) {
            Some(text) => Some(Uid::Text(text)),
            None => (self.uid != [0; 16]).then_some(Uid::Uuid(self.uid)),
        }
    }

    /// Its resource version.
    pub fn version(&self) -> Option<Version<'_>> {
        match self.rare().and_then(|rare| rare.version.as_deref()) {
            Some(text) => Some(Version::Text(text)),
            None => (self.version != 0).then_some(Version::Number(self.version)),
        }
    }

    /// Its labels.
    pub fn labels(&self) -> &LabelSet {
        &self.class.labels
    }

    /// The Node it is bound to.
    pub fn node_name(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// `spec.hostname`.
    pub fn hostname(&self) -> Option<&str> {
        self.rare()?.hostname.as_deref()
    }

    /// `spec.subdomain`.
    pub fn subdomain(&self) -> Option<&str> {
        self.rare()?.subdomain.as_deref()
    }

    /// The ports that have names: those of regular containers, then those of sidecars.
    pub fn named_ports(&self) -> &[NamedPort] {
        &self.class.ports
    }

    /// Whether its status has an address, readable or not.
    pub fn has_address(&self) -> bool {
        self.primary.any
    }

    /// `status.podIP`, if it can be read.
    pub fn primary_address(&self) -> Option<IpAddr> {
        self.primary.address
    }

    /// The readable ones of `status.podIPs`, in their order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let first = self.primary.address.filter(|_| self.primary.listed);
        first.into_iter().chain(self.others.iter().copied())
    }

    /// Whether two states of it have the same addresses.
    pub fn has_addresses_of(&self, other: &Self) -> bool {
        self.primary == other.primary && self.others == other.others
    }

    /// Whether the Ready condition is True.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// When the Ready condition last changed, whatever it says.
    pub fn ready_since(&self) -> Option<Timestamp> {
        self.ready_since.time()
    }

    /// Whether it has run to its end: such a Pod is never an endpoint.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether its deletion has been asked for.
    pub fn is_terminating(&self) -> bool {
        self.rare().is_some_and(|rare| rare.deleted != When::NEVER)
    }

    /// When it was or will be deleted, if its deletion has been asked for.
    pub fn deleted(&self) -> Option<Timestamp> {
        self.rare()?.deleted.time()
    }

    fn rare(&self) -> Option<&Rare> {
        self.rare.as_deref()
    }
}

impl k8s_openapi::Resource for Pod {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "Pod";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "pods";
    type Scope = k8s_openapi::NamespaceResourceScope;
}
