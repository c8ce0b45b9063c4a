// SPDX-License-Identifier: Apache-2.0
//! What the kernel holds for each list of each frontend, and since when it is no longer reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::time::Duration;

use ipnet::IpNet;

use super::diff::Sets;
use super::objects::{Element, Entry, Key};
use super::plan::{Change, Stage};
use crate::names::SetName;
use crate::{AffinityNumber, Frontend, Target};

pub use entry::EntryState;

mod entry;

/// How many elements of a list are in a sample: in which sets it is, and its first slot as a rule.
const SAMPLED: usize = 8;

/// What the kernel holds in one family's table, with the times that retirement needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    pub(super) entries: BTreeMap<Entry, EntryState>,
    pub(super) cluster_ips: BTreeSet<IpAddr>,
    pub(super) hairpin: BTreeSet<IpAddr>,
    pub(super) timeouts: BTreeMap<AffinityNumber, BTreeSet<u32>>,
    waiting: BTreeSet<Entry>,
}

impl Installed {
    /// From elements read back from the kernel. Whatever is left over counts as just left over now.
    /// Networks are part of the layout and not looked at.
    pub fn observed(elements: impl IntoIterator<Item = Element>, now: Duration) -> Self {
        let mut installed = Self::default();
        let mut touched = BTreeSet::new();
        for element in elements {
            installed.put(&element, true);
            touched.extend(element.entry());
        }
        touched.into_iter().for_each(|entry| installed.settle(entry, now));
        installed
    }

    /// The same, with left-overs as old as an earlier look knows them to be.
    #[must_use]
    pub fn as_old_as(mut self, earlier: &Self) -> Self {
        for (entry, state) in &mut self.entries {
            if let Some(known) = earlier.entries.get(entry) {
                state.as_old_as(known);
            }
        }
        self
    }

    /// Takes over what a committed stage changed at time `now`.
    pub fn apply(&mut self, stage: &Stage, now: Duration) {
        let mut touched = BTreeSet::new();
        for change in &stage.changes {
            match change {
                Change::Add(element) => self.put(element, true),
                Change::Remove(element) => self.put(element, false),
                Change::Replace { entry, slot, new, .. } => {
                    self.put(&Element::Slot(*entry, *slot, *new), true)
                }
            }
            touched.extend(change.entry());
        }
        touched.into_iter().for_each(|entry| self.settle(entry, now));
    }

    /// When the next left-over may be retired, if there is one.
    pub fn next_retirement(&self, delay: Duration) -> Option<Duration> {
        self.waiting
            .iter()
            .filter_map(|entry| self.entries.get(entry)?.next_due(delay))
            .min()
    }

    /// The lists with left-overs.
    pub fn waiting(&self) -> impl Iterator<Item = Entry> {
        self.waiting.iter().copied()
    }

    /// What the kernel holds for a list.
    pub fn get(&self, entry: &Entry) -> Option<&EntryState> {
        self.entries.get(entry)
    }

    /// Every frontend of which the kernel holds anything.
    pub fn frontends(&self) -> BTreeSet<Frontend> {
        self.entries.keys().map(|entry| entry.frontend).collect()
    }

    /// Every endpoint in a slot, with the frontend whose slot it is.
    pub fn targets(&self) -> impl Iterator<Item = (Frontend, Target)> {
        let of_entry = |(entry, state): (&'_ Entry, &'_ EntryState)| {
            let frontend = entry.frontend;
            let targets: Vec<Target> = state.slots.values().copied().collect();
            targets.into_iter().map(move |target| (frontend, target))
        };
        self.entries.iter().flat_map(of_entry)
    }

    /// The ClusterIPs in the kernel.
    pub fn cluster_ips(&self) -> impl Iterator<Item = IpAddr> {
        self.cluster_ips.iter().copied()
    }

    /// The hairpin addresses in the kernel.
    pub fn hairpin(&self) -> impl Iterator<Item = IpAddr> {
        self.hairpin.iter().copied()
    }

    /// Whether the address is in the set of ClusterIPs.
    pub fn has_cluster_ip(&self, ip: IpAddr) -> bool {
        self.cluster_ips.contains(&ip)
    }

    /// Whether a list that remembers its clients does so for this many seconds.
    pub fn has_timeout(&self, number: AffinityNumber, seconds: u32) -> bool {
        let timeouts = self.timeouts.get(&number);
        timeouts.is_some_and(|timeouts| timeouts.contains(&seconds))
    }

    /// Whether the address is in the hairpin set.
    pub fn has_hairpin(&self, ip: IpAddr) -> bool {
        self.hairpin.contains(&ip)
    }

    /// Every element, without networks.
    pub fn elements(&self) -> Vec<Element> {
        let address = |set| move |ip: &IpAddr| Element::Member(set, Key::Address(*ip));
        let cluster_ips = self.cluster_ips.iter().map(address(SetName::ClusterIps));
        let hairpin = self.hairpin.iter().map(address(SetName::Hairpin));
        let timeouts = self.timeouts.iter().flat_map(|(number, timeouts)| {
            let member =
                |seconds: &u32| Element::Member(SetName::AffinityTimeout(*seconds), Key::Number(*number));
            timeouts.iter().map(member)
        });
        let of_entries = self
            .entries
            .iter()
            .flat_map(|(entry, state)| elements_of(*entry, state));
        cluster_ips
            .chain(hairpin)
            .chain(timeouts)
            .chain(of_entries)
            .collect()
    }

    /// Some elements of up to `count` lists behind `after` in their order, or of the first ones, and the last of those
    /// lists; `None` at the end. For going through all lists bit by bit.
    pub fn sample(&self, after: Option<Entry>, count: usize) -> (Vec<Element>, Option<Entry>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut lists = self
            .entries
            .range((from, Bound::Unbounded))
            .take(count)
            .peekable();
        let mut elements = Vec::new();
        while let Some((entry, state)) = lists.next() {
            elements.extend(elements_of(*entry, state).into_iter().take(SAMPLED));
            if lists.peek().is_none() {
                let behind = (Bound::Excluded(*entry), Bound::Unbounded);
                let more = self.entries.range(behind).next().is_some();
                return (elements, more.then_some(*entry));
            }
        }
        (elements, None)
    }

    /// How many elements there are in all, without networks.
    pub fn len(&self) -> usize {
        let of_entries = self.entries.values().map(EntryState::elements);
        let timeouts = self.timeouts.values().map(BTreeSet::len);
        self.cluster_ips.len() + self.hairpin.len() + timeouts.sum::<usize>() + of_entries.sum::<usize>()
    }

    /// Whether the kernel holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn settle(&mut self, entry: Entry, now: Duration) {
        let Some(state) = self.entries.get_mut(&entry) else {
            return;
        };
        state.stamp(entry.list, now);
        if state.next_due(Duration::ZERO).is_some() {
            self.waiting.insert(entry);
        } else {
            self.waiting.remove(&entry);
        }
        if state.is_empty() {
            self.entries.remove(&entry);
        }
    }

    fn put(&mut self, element: &Element, present: bool) {
        match element {
            Element::Member(SetName::ClusterIps, Key::Address(ip)) => {
                member(&mut self.cluster_ips, *ip, present);
            }
            Element::Member(SetName::Hairpin, Key::Address(ip)) => member(&mut self.hairpin, *ip, present),
            Element::Member(set, Key::Frontend(_) | Key::Source(..)) => {
                if let Some(entry) = element.entry() {
                    put_member(self.entries.entry(entry).or_default(), *set, element, present);
                }
            }
            Element::Member(SetName::AffinityTimeout(seconds), Key::Number(number)) => {
                let timeouts = self.timeouts.entry(*number).or_default();
                member(timeouts, *seconds, present);
                if timeouts.is_empty() {
                    self.timeouts.remove(number);
                }
            }
            Element::Member(_, Key::Address(_) | Key::Net(_) | Key::Number(_)) => {}
            Element::Numbered(entry, number) => {
                self.entries.entry(*entry).or_default().number = present.then_some(*number);
            }
            Element::Slot(entry, slot, target) => {
                let slots = &mut self.entries.entry(*entry).or_default().slots;
                if present {
                    slots.insert(*slot, *target);
                } else {
                    slots.remove(slot);
                }
            }
        }
    }
}

fn put_member(state: &mut EntryState, set: SetName, element: &Element, present: bool) {
    match set {
        SetName::Frontends(_) | SetName::Local(_) => state.listed = present,
        SetName::NoEndpoint(_) => state.refused = present,
        SetName::Drop(_) => state.dropped = present,
        SetName::Masquerade(_) => state.masqueraded = present,
        SetName::RangedVips => state.ranged = present,
        SetName::AllowedSources => {
            if let Element::Member(_, Key::Source(_, net)) = element {
                member(&mut state.sources, *net, present);
            }
        }
        SetName::Count(_, count) => member(&mut state.counts, count, present),
        SetName::ClusterIps
        | SetName::ServiceCidrs
        | SetName::PodCidrs
        | SetName::NodePortIps
        | SetName::Hairpin
        | SetName::AffinityTimeout(_) => {}
    }
}

fn member<T: Ord>(set: &mut BTreeSet<T>, item: T, present: bool) {
    if present {
        set.insert(item);
    } else {
        set.remove(&item);
    }
}

fn elements_of(entry: Entry, state: &EntryState) -> Vec<Element> {
    let sets = Sets::of(&entry);
    let frontend = entry.frontend;
    let member = |set| Element::Member(set, Key::Frontend(frontend));
    let flags = [
        (state.listed, sets.listed),
        (state.refused, sets.refused),
        (state.dropped, sets.dropped),
        (state.masqueraded, sets.masqueraded),
        (state.ranged, SetName::RangedVips),
    ];
    let flags = flags
        .into_iter()
        .filter(|(present, _)| *present)
        .map(|(_, set)| member(set));
    let source = |net: &IpNet| Element::Member(SetName::AllowedSources, Key::Source(frontend, *net));
    let sources = state.sources.iter().map(source);
    let counts = state.counts.iter().map(|count| member(sets.count(*count)));
    let slots = state
        .slots
        .iter()
        .map(|(slot, target)| Element::Slot(entry, *slot, *target));
    let number = state.number.map(|number| Element::Numbered(entry, number));
    flags
        .chain(sources)
        .chain(counts)
        .chain(slots)
        .chain(number)
        .collect()
}

#[cfg(test)]
mod tests {
    use berth_model::{IpFamily, Protocol};

    use super::*;

    fn mk_installed(lists: u16) -> Installed {
        let node_port = |n: u16| Frontend::NodePort {
            family: IpFamily::V4,
            protocol: Protocol::Tcp,
            port: (30_000 + n).try_into().unwrap(),
        };
        let set = |frontend| SetName::Frontends(Entry::main(frontend).group().kind);
        let member = |frontend| Element::Member(set(frontend), Key::Frontend(frontend));
        let slots = |frontend| {
            let target = |slot: u16| Target {
                ip: [10, 0, 0, 1].into(),
                port: (8_000 + slot).try_into().unwrap(),
            };
            (0..20_u16).map(move |slot| Element::Slot(Entry::main(frontend), slot.into(), target(slot)))
        };
        let of = |n| [member(node_port(n))].into_iter().chain(slots(node_port(n)));
        Installed::observed((0..lists).flat_map(of), Duration::ZERO)
    }

    #[test]
    fn samples_one_behind_the_other_meet_every_list_once_and_few_elements_of_each() {
        assert_eq!(mk_installed(0).sample(None, 4), (Vec::new(), None));
        for lists in [1, 4, 8, 9] {
            let installed = mk_installed(lists);
            let (mut met, mut after) = (Vec::new(), None);
            loop {
                let (elements, next) = installed.sample(after, 4);
                assert!(elements.len() <= 4 * SAMPLED);
                assert!(
                    elements
                        .iter()
                        .all(|element| installed.elements().contains(element))
                );
                met.extend(elements.iter().filter_map(Element::entry));
                after = next;
                if after.is_none() {
                    break;
                }
            }
            met.dedup();
            let all: Vec<Entry> = installed.entries.keys().copied().collect();
            assert_eq!(met, all, "{lists} lists");
        }
    }
}
