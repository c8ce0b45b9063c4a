// SPDX-License-Identifier: Apache-2.0
//! Who claims a frontend, the oldest first. Nearly always it is one Service port, so the claims are a list of just that
//! size: a map of its own for each frontend would be most of what an intent takes.

use std::cmp::Ordering;
use std::sync::Arc;

use berth_model::{Service, ServicePort, ServicePortName};

use crate::FrontendIntent;

/// Rank of a claim: oldest creation, then uid, then name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    created: i64,
    uid: Arc<str>,
    pub(super) port: ServicePortName,
}

impl Claim {
    pub(super) fn of(service: &Service, port: &ServicePort) -> Self {
        Self {
            created: service.created,
            uid: service.uid.as_str().into(),
            port: ServicePortName {
                service: service.key.clone(),
                port: port.name.clone(),
                protocol: port.protocol,
            },
        }
    }
}

impl Ord for Claim {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.created, &self.uid, &self.port).cmp(&(other.created, &other.uid, &other.port))
    }
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The claims on one frontend, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims(Vec<(Claim, FrontendIntent)>);

impl Claims {
    /// Takes a claim in. One that is there already stays as it is.
    pub(super) fn insert(&mut self, claim: Claim, intent: FrontendIntent) {
        if let Err(place) = self.place(&claim) {
            self.0.reserve_exact(1);
            self.0.insert(place, (claim, intent));
        }
    }

    /// Takes a claim out, if it is there.
    pub(super) fn remove(&mut self, claim: &Claim) {
        if let Ok(place) = self.place(claim) {
            self.0.remove(place);
        }
    }

    fn place(&self, claim: &Claim) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(claim))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the oldest claim is for.
    pub(super) fn first(&self) -> Option<&FrontendIntent> {
        self.0.first().map(|(_, intent)| intent)
    }

    /// The Service ports, the oldest claim first.
    pub(super) fn ports(&self) -> impl Iterator<Item = &ServicePortName> {
        self.0.iter().map(|(claim, _)| &claim.port)
    }
}
