// SPDX-License-Identifier: Apache-2.0
//! On what terms several Services have one address.
//!
//! All of them say the same sharing key, are of one namespace (or of a pool that allows otherwise), want different ports, and,
//! under externalTrafficPolicy Local, have the same Pods: the node that announces an address has to have endpoints of all of
//! them (MetalLB's rules, but for the namespace).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::Service;

use super::wish::{SHARING_KEY_ANNOTATIONS, annotation};

/// The terms of a Service that shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// What the annotation says.
    key: String,
    /// The selector, under policy Local.
    pods: Option<BTreeMap<String, String>>,
    /// Protocol and number.
    ports: BTreeSet<(String, i32)>,
}

/// Why two Services do not have one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlike {
    /// The other shares with nobody.
    NoKey,
    /// The other shares with others.
    OtherKey,
    /// The other is of another namespace, and the pool does not allow that.
    OtherNamespace,
    /// One is under policy Local, and their Pods are not the same.
    OtherPods,
    /// Both want this port.
    PortTaken {
        /// As in `spec.ports`.
        protocol: String,
        /// As in `spec.ports`.
        port: i32,
    },
}

impl fmt::Display for Unlike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => write!(f, "which shares it with nobody (annotation {})", SHARING_KEY_ANNOTATIONS[0]),
            Self::OtherKey => f.write_str("which shares it under another key"),
            Self::OtherNamespace => f.write_str(
                "which is of another namespace, and the AddressPool does not allow that (spec.shareAcrossNamespaces)",
            ),
            Self::OtherPods => f.write_str("which has other Pods, or another externalTrafficPolicy"),
            Self::PortTaken { protocol, port } => write!(f, "which has {protocol} port {port} of it"),
        }
    }
}

impl Terms {
    /// None where the Service shares with nobody.
    pub(super) fn of(service: &Service) -> Option<Self> {
        let key = annotation(service, &SHARING_KEY_ANNOTATIONS)?
            .value
            .trim()
            .to_owned();
        let spec = service.spec.as_ref()?;
        let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
        let ports = spec.ports.iter().flatten().map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            (protocol, port.port)
        });
        Some(Self {
            key,
            pods: is_local.then(|| spec.selector.clone().unwrap_or_default()),
            ports: ports.collect(),
        })
    }

    /// Whether the two may have an address together.
    pub(super) fn check(&self, other: &Self) -> Result<(), Unlike> {
        if self.key != other.key {
            return Err(Unlike::OtherKey);
        }
        // Who has no selector has Pods that nobody knows.
        let unknown = self.pods.as_ref().is_some_and(BTreeMap::is_empty);
        if self.pods != other.pods || unknown {
            return Err(Unlike::OtherPods);
        }
        match self.ports.intersection(&other.ports).next() {
            Some((protocol, port)) => Err(Unlike::PortTaken {
                protocol: protocol.clone(),
                port: *port,
            }),
            None => Ok(()),
        }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

/// A Service that shares, or did and has not left yet, as its last turn saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tenant {
    /// Since when its terms are these: of two that do not go together any more, the later one goes.
    pub(super) since: u64,
    /// None where it shares no longer.
    pub(super) terms: Option<Terms>,
    /// Whether it is known to share, or to have done so: false of one that was found with an address and without terms.
    pub(super) has_shared: bool,
}

/// All Services that share.
#[derive(Clone, Debug, Default)]
pub(super) struct Tenants {
    of: BTreeMap<ServiceKey, Tenant>,
    by_key: BTreeMap<String, BTreeSet<ServiceKey>>,
    next: u64,
}

impl Tenants {
    /// Notes the terms of a Service; whether they are others than before. One that never shared is not kept.
    pub(super) fn set(&mut self, key: &ServiceKey, terms: Option<Terms>) -> bool {
        let same = match self.of.get(key) {
            Some(tenant) => tenant.terms == terms,
            None => terms.is_none(),
        };
        if !same {
            self.stamp(key, terms, true);
        }
        !same
    }

    /// Notes the terms of a Service as later than all that are known.
    pub(super) fn stamp(&mut self, key: &ServiceKey, terms: Option<Terms>, has_shared: bool) {
        self.forget(key);
        if let Some(terms) = &terms {
            let alike = self.by_key.entry(terms.key.clone()).or_default();
            alike.insert(key.clone());
        }
        self.next += 1;
        let since = self.next;
        let tenant = Tenant {
            since,
            has_shared: has_shared || terms.is_some(),
            terms,
        };
        self.of.insert(key.clone(), tenant);
    }

    pub(super) fn forget(&mut self, key: &ServiceKey) {
        let terms = self.of.remove(key).and_then(|tenant| tenant.terms);
        if let Some(terms) = terms
            && let Some(alike) = self.by_key.get_mut(&terms.key)
        {
            alike.remove(key);
            if alike.is_empty() {
                self.by_key.remove(&terms.key);
            }
        }
    }

    pub(super) fn get(&self, key: &ServiceKey) -> Option<&Tenant> {
        self.of.get(key)
    }

    pub(super) fn terms(&self, key: &ServiceKey) -> Option<&Terms> {
        self.of.get(key)?.terms.as_ref()
    }

    /// Those with the same sharing key, in whatever namespace.
    pub(super) fn alike(&self, terms: &Terms) -> impl Iterator<Item = &ServiceKey> {
        self.by_key.get(&terms.key).into_iter().flatten()
    }
}
