// SPDX-License-Identifier: Apache-2.0
//! Which relays the intent asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use berth_model::{IpFamily, Protocol, ServicePortName, SessionAffinity};

use crate::names::List;
use crate::{Frontend, FrontendIntent, Intent, Outcome, Target};

/// One relay: it serves one list of one Service port, in one family. Every frontend with that list leads to it, so
/// that the round robin and the affinity of a Service port are one, whichever way its clients come.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relay {
    /// The Service port.
    pub owner: ServicePortName,
    /// The family of its clients and endpoints.
    pub family: IpFamily,
    /// Everybody's list, or the local one: under internal policy Local, and for outsiders under external policy Local.
    pub list: List,
}

impl Relay {
    /// The transport protocol that it relays.
    pub fn protocol(&self) -> Protocol {
        self.owner.protocol
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = match self.list {
            List::Main => "all endpoints",
            List::Local => "local endpoints",
        };
        write!(f, "{} ({}, {list})", self.owner, self.family)
    }
}

/// What a relay does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayIntent {
    /// The endpoints that get new connections, sorted. Never empty.
    pub targets: Arc<[Target]>,
    /// The endpoints to which existing UDP flows stay.
    pub serving: Arc<[Target]>,
    /// Whether connections of one client stay with one endpoint.
    pub affinity: SessionAffinity,
}

impl fmt::Display for RelayIntent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets: Vec<String> = self.targets.iter().map(Target::to_string).collect();
        f.write_str(&targets.join(", "))?;
        if let SessionAffinity::ClientIp { timeout_seconds } = self.affinity {
            write!(f, "; clients stay for {timeout_seconds} s")?;
        }
        Ok(())
    }
}

/// The relays that frontends need, kept up to date frontend by frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    relays: BTreeMap<Relay, BTreeMap<Frontend, RelayIntent>>,
    frontends: BTreeMap<Frontend, Vec<Relay>>,
}

impl Demand {
    /// Everything that an intent asks for.
    pub fn of(intent: &Intent) -> Self {
        let mut demand = Self::default();
        demand.update(intent, intent.frontends().map(|(frontend, _)| frontend));
        demand
    }

    /// Looks at the given frontends anew. Returns the relays that are concerned.
    ///
    /// A frontend needs a relay for each of its lists that has endpoints. SCTP has none: no socket of it can be
    /// relayed byte for byte, and its frontends are refused for want of a relay.
    pub fn update<'a>(
        &mut self,
        intent: &Intent,
        frontends: impl IntoIterator<Item = &'a Frontend>,
    ) -> BTreeSet<Relay> {
        let mut concerned = BTreeSet::new();
        for frontend in frontends {
            for relay in self.frontends.remove(frontend).unwrap_or_default() {
                if let Some(users) = self.relays.get_mut(&relay) {
                    users.remove(frontend);
                    if users.is_empty() {
                        self.relays.remove(&relay);
                    }
                }
                concerned.insert(relay);
            }
            let wishes = intent.get(frontend).map(|wish| needs(frontend, wish));
            for (relay, wish) in wishes.unwrap_or_default() {
                let users = self.relays.entry(relay.clone()).or_default();
                users.insert(*frontend, wish);
                concerned.insert(relay.clone());
                self.frontends.entry(*frontend).or_default().push(relay);
            }
        }
        concerned
    }

    /// What the relay should do; `None` if nobody needs it.
    pub fn get(&self, relay: &Relay) -> Option<&RelayIntent> {
        let (_, wish) = self.relays.get(relay)?.first_key_value()?;
        Some(wish)
    }

    /// The frontends that lead to the relay.
    pub fn frontends(&self, relay: &Relay) -> impl Iterator<Item = &Frontend> {
        self.relays.get(relay).into_iter().flat_map(BTreeMap::keys)
    }

    /// Every relay with what it should do, ordered.
    pub fn relays(&self) -> impl Iterator<Item = (&Relay, &RelayIntent)> {
        self.relays
            .iter()
            .filter_map(|(relay, users)| Some((relay, users.first_key_value()?.1)))
    }

    /// Whether nobody needs a relay.
    pub fn is_empty(&self) -> bool {
        self.relays.is_empty()
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (relay, wish) in self.relays() {
            writeln!(f, "relay {relay}: {wish}")?;
            for frontend in self.frontends(relay) {
                writeln!(f, "    from {frontend}")?;
            }
        }
        Ok(())
    }
}

/// The list that a frontend has for everybody, or for those that are not outside.
pub(super) fn list_of(wish: &FrontendIntent) -> List {
    if wish.here_only { List::Local } else { List::Main }
}

/// The relay of one list of a frontend.
pub(super) fn relay_of(frontend: &Frontend, wish: &FrontendIntent, list: List) -> Relay {
    Relay {
        owner: wish.owner.clone(),
        family: frontend.family(),
        list,
    }
}

fn needs(frontend: &Frontend, wish: &FrontendIntent) -> Vec<(Relay, RelayIntent)> {
    if frontend.protocol() == Protocol::Sctp {
        return Vec::new();
    }
    let outside = wish.outside.as_ref().map(|outcome| (List::Local, outcome));
    [(list_of(wish), &wish.outcome)]
        .into_iter()
        .chain(outside)
        .filter_map(|(list, outcome)| match outcome {
            Outcome::Endpoints(targets) => Some((
                relay_of(frontend, wish, list),
                RelayIntent {
                    targets: sorted(targets),
                    serving: Arc::clone(&wish.serving),
                    affinity: wish.affinity,
                },
            )),
            Outcome::Reject(_) | Outcome::Drop(_) => None,
        })
        .collect()
}

/// Each endpoint once, in order: round robin goes by it.
fn sorted(targets: &Arc<[Target]>) -> Arc<[Target]> {
    if targets.is_sorted_by(|a, b| a < b) {
        return Arc::clone(targets);
    }
    let targets: BTreeSet<Target> = targets.iter().copied().collect();
    targets.into_iter().collect()
}
