// SPDX-License-Identifier: Apache-2.0
//! The IPAddresses of the API server's allocator beside the Services: each address of a Service has to have one that names the
//! Service, and no other has one.
//!
//! In: the addresses that Services had before the list, the IPAddresses page by page, the book, the time. Out: findings.
//! Touches: nothing. Of a page nothing is kept but what is wrong with it.
//!
//! Each kube-apiserver mends all three by itself, within a minute or two (pkg/registry/core/service/ipallocator/controller):
//! an IPAddress without its Service is deleted when it is 60 s old, one with a wrong parent is deleted, and one that is missing is
//! made. So nothing is repaired here. What is found twice, in two looks that are minutes apart, is what API servers don't get done:
//! until they do, the address is given to nobody, or the same one could be given twice.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use berth_model::ServiceKey;
use k8s_openapi::api::networking::v1::{IPAddress, ParentReference};

use super::{Found, Reason};
use crate::values::{Subject, Values};

/// How old, in seconds, what is found has to be. During the creation of a Service, and of the IPAddress behind it, one is there
/// without the other: kube-apiserver waits as long before it cleans up (the longest that a request to it takes).
pub const GRACE: i64 = 60;

/// What an IPAddress says that it is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Parent {
    /// A Service.
    Service(ServiceKey),
    /// Something else, or nothing.
    Other(String),
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "Service {key}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl Parent {
    fn of(parent: &ParentReference) -> Self {
        let group = parent.group.as_deref().unwrap_or_default();
        let namespace = parent.namespace.as_deref().unwrap_or_default();
        if group.is_empty() && parent.resource == "services" {
            return Self::Service(ServiceKey::new(namespace, parent.name.as_str()));
        }
        let dot = if group.is_empty() { "" } else { "." };
        Self::Other(format!(
            "{}{dot}{group} {namespace}/{}",
            parent.resource, parent.name
        ))
    }
}

/// An IPAddress of the API server's allocator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    address: IpAddr,
    /// In seconds since 1970, by the API server's clock.
    created: i64,
    parent: Parent,
}

impl Listed {
    /// As a list shows it; none where its name is no address, which the API server does not take.
    pub fn of(object: &IPAddress) -> Option<Self> {
        let meta = &object.metadata;
        let created = meta.creation_timestamp.as_ref();
        Some(Self {
            address: meta.name.as_deref()?.parse().ok()?,
            created: created.map_or(i64::MAX, |created| created.0.as_second()),
            parent: Parent::of(&object.spec.parent_ref),
        })
    }
}

/// What is wrong with an address and its IPAddress.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// No Service has the address.
    Leaked {
        /// The address.
        address: IpAddr,
        /// What the IPAddress says that it is for.
        parent: Parent,
    },
    /// It is another Service that has the address.
    WrongReference {
        /// The address.
        address: IpAddr,
        /// What the IPAddress says that it is for.
        parent: Parent,
        /// Who has it.
        service: ServiceKey,
    },
    /// There is no IPAddress of the allocator.
    Missing {
        /// The address.
        address: IpAddr,
        /// Who has it.
        service: ServiceKey,
    },
}

impl Found for Finding {
    const REASONS: &'static [Reason] = &[
        Reason::ClusterIpNotAllocated,
        Reason::IpAddressNotAllocated,
        Reason::IpAddressWrongReference,
    ];

    fn reason(&self) -> Reason {
        match self {
            Self::Leaked { .. } => Reason::IpAddressNotAllocated,
            Self::WrongReference { .. } => Reason::IpAddressWrongReference,
            Self::Missing { .. } => Reason::ClusterIpNotAllocated,
        }
    }

    fn subject(&self) -> Subject {
        match self {
            Self::Leaked { address, .. } => Subject::IpAddress(*address),
            Self::WrongReference { service, .. } | Self::Missing { service, .. } => {
                Subject::Service(service.clone())
            }
        }
    }

    fn is_told(&self) -> bool {
        true
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repair = "API servers mend this by themselves, and have not: look into the log of kube-apiserver";
        match self {
            Self::Leaked { address, parent } => write!(
                f,
                "IPAddress {address} is kept for {parent}, which does not have the address, so that nobody can be given it. \
                 {repair}, or delete the IPAddress"
            ),
            Self::WrongReference {
                address,
                parent,
                service,
            } => write!(
                f,
                "{address} of Service {service} has an IPAddress that names {parent}, so that the address may be given away. \
                 {repair}, or delete the IPAddress: it is made anew"
            ),
            Self::Missing { address, service } => write!(
                f,
                "{address} of Service {service} has no IPAddress that the API server's allocator manages, so that the address may \
                 be given away. {repair}"
            ),
        }
    }
}

/// One look at all IPAddresses.
#[derive(Clone, Debug)]
pub struct Look {
    unseen: BTreeSet<IpAddr>,
    findings: Vec<Finding>,
}

impl Look {
    /// `used`: the addresses that Services had before the list was asked for.
    pub fn new(used: BTreeSet<IpAddr>) -> Self {
        Self {
            unseen: used,
            findings: Vec::new(),
        }
    }

    /// Takes in some of the IPAddresses, each at most once. `now` in seconds since 1970.
    pub fn page(&mut self, page: &[Listed], book: &Values, now: i64) {
        for listed in page {
            self.unseen.remove(&listed.address);
            if is_settled(listed.created, now) {
                self.findings.extend(wrong(listed, book));
            }
        }
    }

    /// All were taken in: what is wrong.
    pub fn end(self, book: &Values, now: i64) -> Vec<Finding> {
        let missing = self.unseen.into_iter().filter_map(|address| {
            // Nobody's by now, or another's, whose IPAddress is younger than the list.
            let (created, service) = book.users_of(address).next()?;
            is_settled(created, now).then(|| Finding::Missing {
                address,
                service: service.clone(),
            })
        });
        let mut findings = self.findings;
        findings.extend(missing);
        findings
    }
}

fn is_settled(created: i64, now: i64) -> bool {
    created.saturating_add(GRACE) <= now
}

fn wrong(listed: &Listed, book: &Values) -> Option<Finding> {
    let Listed { address, parent, .. } = listed;
    let is_parent = |service: &ServiceKey| *parent == Parent::Service(service.clone());
    let mut users = book.users_of(*address);
    let Some((_, first)) = users.next() else {
        return Some(Finding::Leaked {
            address: *address,
            parent: parent.clone(),
        });
    };
    // Of two Services that have one address, which is said elsewhere, it may be either's.
    let is_ones = is_parent(first) || users.any(|(_, service)| is_parent(service));
    (!is_ones).then(|| Finding::WrongReference {
        address: *address,
        parent: parent.clone(),
        service: first.clone(),
    })
}
