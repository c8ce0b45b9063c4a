// SPDX-License-Identifier: Apache-2.0
//! Which lists of endpoints remember their clients: every frontend of a Service port that picks from the same list
//! shares its memory, as in kube-proxy, whose affinity is per Service port. A backend that keeps that memory in the
//! kernel tells the lists apart by number.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use berth_model::{IpFamily, ServicePortName};

use crate::Target;
use crate::hash::fnv1a;

/// Tells a list of endpoints from all others of the node. In the kernel it is a traffic class (`meta priority`), and
/// its top four bits make it one that no queueing discipline has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityNumber(u32);

impl AffinityNumber {
    /// The bits that all numbers share, and their mask.
    pub const PREFIX: u32 = 0xb000_0000;
    /// See [`AffinityNumber::PREFIX`].
    pub const MASK: u32 = 0xf000_0000;

    /// A number that was written once; `None` if it is none.
    pub fn read(number: u32) -> Option<Self> {
        (number & Self::MASK == Self::PREFIX).then_some(Self(number))
    }

    /// As the kernel has it.
    pub fn get(self) -> u32 {
        self.0
    }

    fn hashed(list: &AffineList) -> Self {
        let text = format!("{} {} {}", list.owner, list.family, list.here_only);
        let hash = fnv1a(text.as_bytes());
        let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
        Self::within(u32::from_le_bytes([a ^ e, b ^ f, c ^ g, d ^ h]))
    }

    fn within(number: u32) -> Self {
        Self(Self::PREFIX | number & !Self::MASK)
    }

    fn next(self) -> Self {
        Self::within(self.0.wrapping_add(1))
    }
}

impl fmt::Display for AffinityNumber {
    /// As nft writes a traffic class.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:{:x}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// A list that remembers: the endpoints of a Service port in a family, all or those on this node only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AffineList {
    pub(super) owner: ServicePortName,
    pub(super) family: IpFamily,
    pub(super) here_only: bool,
}

/// What a list remembers, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The family of its endpoints.
    pub family: IpFamily,
    /// How long after a client's last new connection, in seconds (1 to 86,400).
    pub timeout_seconds: u32,
    /// To which endpoints a client may be bound. A binding to any other one does not count.
    pub targets: Arc<[Target]>,
}

/// The lists that remember, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Affinities {
    numbers: BTreeMap<AffineList, AffinityNumber>,
    by_number: BTreeMap<AffinityNumber, Affinity>,
}

impl Affinities {
    /// Takes a list in. Its number follows from its name, so that it is the same after a restart, unless two names
    /// have one number: then the later comer has the next that is free.
    pub(super) fn insert(&mut self, list: AffineList, affinity: Affinity) -> AffinityNumber {
        let mut number = AffinityNumber::hashed(&list);
        if let Some(known) = self.numbers.get(&list) {
            number = *known;
        } else {
            while self.by_number.contains_key(&number) {
                number = number.next();
            }
            self.numbers.insert(list, number);
        }
        self.by_number.insert(number, affinity);
        number
    }

    /// Takes a list out; yields what it was.
    pub(super) fn remove(&mut self, list: &AffineList) -> Option<(AffinityNumber, Affinity)> {
        let number = self.numbers.remove(list)?;
        Some((number, self.by_number.remove(&number)?))
    }

    pub(super) fn number(&self, list: &AffineList) -> Option<AffinityNumber> {
        self.numbers.get(list).copied()
    }

    pub(super) fn get(&self, number: AffinityNumber) -> Option<&Affinity> {
        self.by_number.get(&number)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (AffinityNumber, &Affinity)> {
        self.by_number
            .iter()
            .map(|(number, affinity)| (*number, affinity))
    }
}

#[cfg(test)]
mod tests {
    use berth_model::{PortName, Protocol, ServiceKey};

    use super::*;

    fn mk_list(name: &str) -> AffineList {
        AffineList {
            owner: ServicePortName {
                service: ServiceKey::new("shop", name),
                port: PortName::new("http"),
                protocol: Protocol::Tcp,
            },
            family: IpFamily::V4,
            here_only: false,
        }
    }

    fn mk_affinity(timeout_seconds: u32) -> Affinity {
        Affinity {
            family: IpFamily::V4,
            timeout_seconds,
            targets: Arc::new([]),
        }
    }

    #[test]
    fn a_number_is_the_same_each_time_and_two_lists_never_share_one() {
        let mut affinities = Affinities::default();
        let first = affinities.insert(mk_list("web"), mk_affinity(1));
        assert_eq!(affinities.insert(mk_list("web"), mk_affinity(2)), first);
        assert_eq!(
            affinities.get(first).map(|affinity| affinity.timeout_seconds),
            Some(2)
        );
        assert_eq!(AffinityNumber::read(first.get()), Some(first));
        assert_eq!(AffinityNumber::read(6), None);

        let taken = AffinityNumber::hashed(&mk_list("api"));
        affinities.by_number.insert(taken, mk_affinity(3));
        let moved = affinities.insert(mk_list("api"), mk_affinity(4));
        assert_eq!(moved, taken.next());
        let (number, _) = affinities.remove(&mk_list("api")).unwrap();
        assert_eq!((number, affinities.number(&mk_list("api"))), (moved, None));
    }

    #[test]
    fn after_the_last_number_comes_the_first() {
        let last = AffinityNumber::read(0xbfff_ffff).unwrap();
        assert_eq!(last.next().get(), AffinityNumber::PREFIX);
        assert_eq!(last.to_string(), "bfff:ffff");
    }
}
