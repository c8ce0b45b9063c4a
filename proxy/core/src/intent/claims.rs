// SPDX-License-Identifier: Apache-2.0
//! Who claims a frontend, the oldest first. Nearly always it is one Service port, so the claims are a list of just that
//! size: a map of its own for each frontend would be most of what an intent takes.

use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{Service, ServicePort, ServicePortName};

use crate::{Conflict, Frontend, FrontendIntent};

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

/// Every frontend with the claims on it, and which of them are claimed more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claimed {
    frontends: BTreeMap<Frontend, Claims>,
    /// Few, if any, and asked for after every change.
    contested: BTreeSet<Frontend>,
}

impl Claimed {
    /// Takes a claim in. One that is there already stays as it is.
    pub(super) fn insert(&mut self, frontend: Frontend, claim: Claim, intent: FrontendIntent) {
        let claims = self.frontends.entry(frontend).or_default();
        claims.insert(claim, intent);
        if claims.0.len() > 1 {
            self.contested.insert(frontend);
        }
    }

    /// Takes a claim out, if it is there.
    pub(super) fn remove(&mut self, frontend: Frontend, claim: &Claim) {
        let Entry::Occupied(mut claims) = self.frontends.entry(frontend) else {
            return;
        };
        claims.get_mut().remove(claim);
        let left = claims.get().0.len();
        if left < 2 {
            self.contested.remove(&frontend);
        }
        if left == 0 {
            claims.remove();
        }
    }

    /// What the oldest claim on a frontend is for.
    pub(super) fn first(&self, frontend: &Frontend) -> Option<&FrontendIntent> {
        self.frontends.get(frontend)?.first()
    }

    /// What the oldest claim on each frontend is for.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Frontend, &FrontendIntent)> {
        self.frontends
            .iter()
            .filter_map(|(frontend, claims)| Some((frontend, claims.first()?)))
    }

    /// Each claim that came too late.
    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let contested = self.contested.iter();
        for (frontend, claims) in contested.filter_map(|frontend| self.frontends.get_key_value(frontend)) {
            let mut ranked = claims.0.iter().map(|(claim, _)| &claim.port);
            let Some(winner) = ranked.next() else {
                continue;
            };
            conflicts.extend(ranked.map(|loser| Conflict {
                frontend: *frontend,
                winner: winner.clone(),
                loser: loser.clone(),
            }));
        }
        conflicts
    }
}

/// The claims on one frontend, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Claims(Vec<(Claim, FrontendIntent)>);

impl Claims {
    fn insert(&mut self, claim: Claim, intent: FrontendIntent) {
        if let Err(place) = self.place(&claim) {
            self.0.reserve_exact(1);
            self.0.insert(place, (claim, intent));
        }
    }

    fn remove(&mut self, claim: &Claim) {
        if let Ok(place) = self.place(claim) {
            self.0.remove(place);
        }
    }

    fn place(&self, claim: &Claim) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(claim))
    }

    fn first(&self) -> Option<&FrontendIntent> {
        self.0.first().map(|(_, intent)| intent)
    }
}
