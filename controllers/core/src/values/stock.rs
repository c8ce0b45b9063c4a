// SPDX-License-Identifier: Apache-2.0
//! The addresses, or the ports: on which grounds each is whose, and the pools, which follow the grounds.
//!
//! Whose a value is follows from the grounds alone, in whatever order they came: the oldest Service that uses it, else the
//! IPAddress that bars it, else the Service that a claim keeps it for, else whoever it is held for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use berth_allocator::{
    Item, Owner, Pool, PoolDefinition, PoolName, Pools, RangeSet, Refusal, Request, State,
};
use berth_model::{Port, ServiceKey};

use crate::holder::AskId;
use crate::pools;

/// How long a value that was given back comes after all others: as long as caches of names and connections keep it in mind.
const COOL_DOWN: Duration = Duration::from_secs(60);
/// What is counted for nobody's quota: the name of no namespace.
pub(super) const NO_NAMESPACE: &str = "";
/// Holds end when their question does, and not by themselves.
const FOREVER: Duration = Duration::MAX;

/// Whose a value is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A Service, which need not exist yet.
    Service(ServiceKey),
    /// A Service whose name the API server is yet to make up.
    Unnamed {
        /// Its namespace.
        namespace: Arc<str>,
        /// The question.
        ask: AskId,
    },
    /// A Service that the administrator keeps it for, and that does not have it.
    Reserved(ServiceKey),
    /// Nobody that can be given it: an IPAddress has it that others than the API server's allocator manage.
    Foreign,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) | Self::Reserved(key) => write!(f, "Service {key}"),
            Self::Unnamed { namespace, .. } => {
                write!(f, "a Service of namespace {namespace} without a name yet")
            }
            Self::Foreign => f.write_str("an IPAddress that the API server does not manage"),
        }
    }
}

impl Owner for Holder {
    fn group(&self) -> &str {
        match self {
            Self::Service(key) | Self::Reserved(key) => key.namespace(),
            Self::Unnamed { namespace, .. } => namespace,
            Self::Foreign => NO_NAMESPACE,
        }
    }
}

/// That a claim keeps a value. The oldest comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kept {
    pub(super) created: i64,
    pub(super) claim: String,
    pub(super) service: ServiceKey,
}

/// Why a value is somebody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Grounds {
    /// When the Service was created, and which it is.
    pub(super) used: BTreeSet<(i64, ServiceKey)>,
    /// Whether an IPAddress that others manage has it.
    pub(super) foreign: bool,
    pub(super) kept: BTreeSet<Kept>,
    pub(super) held: BTreeSet<(AskId, Holder)>,
}

impl Grounds {
    fn is_empty(&self) -> bool {
        self.is_spare() && self.held.is_empty()
    }

    /// Whether nothing but holds may stand on it.
    fn is_spare(&self) -> bool {
        self.used.is_empty() && !self.foreign && self.kept.is_empty()
    }

    /// Whether it is, was promised to or is kept for a Service.
    fn is_of_service(&self) -> bool {
        !(self.used.is_empty() && self.kept.is_empty() && self.held.is_empty())
    }

    /// Whose it is, and whether that is a hold.
    pub(super) fn due(&self) -> Option<(Holder, bool)> {
        let used = self.used.first().map(|(_, key)| key);
        if used.is_none() && self.foreign {
            return Some((Holder::Foreign, false));
        }
        let kept = self.kept.first().map(|kept| &kept.service);
        match used.or(kept) {
            Some(key) => Some((Holder::Service(key.clone()), false)),
            None => self.held.first().map(|(_, holder)| (holder.clone(), true)),
        }
    }
}

/// An address or a port, as one of what pools have.
pub(super) trait Value: Item {
    fn of(item: pools::Item) -> Option<Self>;
    fn item(self) -> pools::Item;
}

impl Value for IpAddr {
    fn of(item: pools::Item) -> Option<Self> {
        match item {
            pools::Item::Address(address) => Some(address),
            pools::Item::Port(_) => None,
        }
    }

    fn item(self) -> pools::Item {
        pools::Item::Address(self)
    }
}

impl Value for Port {
    fn of(item: pools::Item) -> Option<Self> {
        match item {
            pools::Item::Port(port) => Some(port),
            pools::Item::Address(_) => None,
        }
    }

    fn item(self) -> pools::Item {
        pools::Item::Port(self)
    }
}

/// For whom something is held.
pub(super) struct Lease<'a> {
    pub(super) ask: &'a AskId,
    pub(super) holder: &'a Holder,
    pub(super) now: Duration,
}

/// The implicit pool of what is in no pool.
pub(super) fn outside() -> PoolName {
    PoolName::new("")
}

#[derive(Clone, Debug)]
pub(super) struct Stock<I: Item> {
    pools: Pools<I, Holder>,
    grounds: BTreeMap<I, Grounds>,
    /// What the API server takes.
    usable: RangeSet<I>,
}

impl<I: Value> Stock<I> {
    pub(super) fn new() -> Self {
        Self {
            pools: Pools::new(COOL_DOWN),
            grounds: BTreeMap::new(),
            usable: RangeSet::default(),
        }
    }

    /// Whoever has something keeps it.
    pub(super) fn define(
        &mut self,
        definitions: Vec<PoolDefinition<I, Holder>>,
        usable: RangeSet<I>,
        now: Duration,
    ) {
        self.usable = usable;
        if self.pools.set_definitions(definitions).is_some() {
            let items: Vec<I> = self.grounds.keys().copied().collect();
            for item in items {
                self.follow(item, now);
            }
        }
    }

    /// Changes the grounds of a value.
    pub(super) fn change(&mut self, item: I, now: Duration, change: impl FnOnce(&mut Grounds)) {
        let grounds = self.grounds.entry(item).or_default();
        change(grounds);
        if grounds.is_empty() {
            self.grounds.remove(&item);
        }
        self.follow(item, now);
    }

    /// Gives the next value of a pool.
    pub(super) fn give_any(
        &mut self,
        family: I::Family,
        from: &PoolName,
        lease: &Lease<'_>,
        random: u64,
    ) -> Result<I, Refusal<I, Holder>> {
        let request = Request::hold(lease.holder, lease.now, FOREVER).at_random(random);
        let item = self.pools.allocate_any(family, &request, Some(from))?.item;
        self.hold(item, lease);
        Ok(item)
    }

    /// Gives this very value, which is free, or reserved for a Service.
    pub(super) fn give_this(
        &mut self,
        item: I,
        reserved_for: Option<&ServiceKey>,
        lease: &Lease<'_>,
    ) -> Result<(), Refusal<I, Holder>> {
        let reserved = reserved_for.map(|key| Holder::Reserved(key.clone()));
        let holder = reserved.as_ref().unwrap_or(lease.holder);
        let request = Request::hold(holder, lease.now, FOREVER);
        self.pools.allocate_this(item, &request, None)?;
        self.hold(item, lease);
        Ok(())
    }

    /// Has a value that is the holder's already kept for this question too.
    pub(super) fn hold(&mut self, item: I, lease: &Lease<'_>) {
        self.change(item, lease.now, |grounds| {
            grounds.held.insert((lease.ask.clone(), lease.holder.clone()));
        });
    }

    /// A question is over.
    pub(super) fn let_go(&mut self, item: I, ask: &AskId, now: Duration) {
        self.change(item, now, |grounds| grounds.held.retain(|(held, _)| held != ask));
    }

    /// As if it had never been asked.
    pub(super) fn withdraw(&mut self, item: I, ask: &AskId, now: Duration) {
        let holder = match self.grounds.get(&item) {
            Some(grounds) if grounds.is_spare() => {
                let mut held = grounds.held.iter();
                held.next()
                    .filter(|(only, _)| only == ask && held.next().is_none())
                    .map(|(_, holder)| holder.clone())
            }
            Some(_) | None => None,
        };
        if let Some(holder) = holder {
            // It has a hold on it, that is why.
            let _ = self.pools.withdraw(item, &holder);
        }
        self.let_go(item, ask, now);
    }

    pub(super) fn state(&self, item: I) -> State<'_, Holder> {
        self.pools.state(item)
    }

    pub(super) fn grounds(&self, item: I) -> Option<&Grounds> {
        self.grounds.get(&item)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (I, &Grounds)> {
        self.grounds.iter().map(|(item, grounds)| (*item, grounds))
    }

    /// Those behind a value, ascending.
    pub(super) fn behind(&self, value: Option<I>) -> impl Iterator<Item = (I, &Grounds)> {
        let from = value.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.grounds.range((from, Bound::Unbounded));
        behind.map(|(item, grounds)| (*item, grounds))
    }

    /// Whether any value from the first to the last is a Service's, or may become one's.
    pub(super) fn has_any(&self, first: I, last: I) -> bool {
        let mut grounds = self.grounds.range(first..=last);
        grounds.any(|(_, grounds)| grounds.is_of_service())
    }

    pub(super) fn is_usable(&self, item: I) -> bool {
        self.usable.contains(item)
    }

    pub(super) fn usable(&self) -> &RangeSet<I> {
        &self.usable
    }

    /// The pool that a value is of, the implicit one included.
    pub(super) fn pool_of(&self, item: I) -> Option<&PoolName> {
        self.pools.pool_of(item)
    }

    pub(super) fn pool(&self, name: &PoolName) -> Option<&Pool<I, Holder>> {
        self.pools.get(name).map(|(_, pool)| pool)
    }

    /// Has the pools say what the grounds say.
    fn follow(&mut self, item: I, now: Duration) {
        let due = self.grounds.get(&item).and_then(Grounds::due);
        let has = match self.pools.state(item) {
            State::Allocated(holder) => Some((holder.clone(), false)),
            State::Held(holder, _) => Some((holder.clone(), true)),
            State::Outside | State::Free | State::Resting(_) | State::Withheld | State::Reserved(_) => None,
        };
        if due == has {
            return;
        }
        let binds = matches!((&due, &has), (Some((to, false)), Some((from, true))) if to == from);
        if let Some((from, _)) = has.filter(|_| !binds) {
            self.pools.release(item, &from, now);
        }
        match due {
            Some((to, false)) => {
                // Nobody has it any more.
                let _ = self.pools.adopt(item, &to);
            }
            Some((to, true)) => {
                // Where no pool covers it there is nobody to keep it from.
                self.pools.adopt_hold(item, &to, FOREVER);
            }
            None => {}
        }
    }
}
