// SPDX-License-Identifier: Apache-2.0
//! What the kernel holds for each frontend, and since when it is no longer reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::diff::Sets;
use super::objects::{Element, Key};
use super::plan::{Change, Stage};
use crate::names::SetName;
use crate::{Frontend, Target};

/// The elements of one frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontendState {
    /// In the set of frontends: packets look for a slot count.
    pub listed: bool,
    /// In the set of frontends without endpoints: packets are rejected before anything else.
    pub refused: bool,
    /// In the set of frontends that masquerade always.
    pub masqueraded: bool,
    /// In these count sets. The smallest acts; larger ones are left over.
    pub counts: BTreeSet<u32>,
    /// The slots.
    pub slots: BTreeMap<u32, Target>,
    /// Left-over counts, each with the time since when no packet starts to use it.
    pub(super) shadowed: BTreeMap<u32, Duration>,
    /// Since when no packet starts to look for a count.
    pub(super) idle_since: Option<Duration>,
}

impl FrontendState {
    /// Whether the kernel holds nothing.
    pub fn is_empty(&self) -> bool {
        !self.listed && !self.refused && !self.masqueraded && self.counts.is_empty() && self.slots.is_empty()
    }

    fn holds_translation(&self) -> bool {
        self.listed || self.masqueraded || !self.counts.is_empty() || !self.slots.is_empty()
    }

    fn stamp(&mut self, now: Duration) {
        let acting = self.counts.first().copied();
        let left_over: BTreeSet<u32> = self.counts.iter().copied().skip(1).collect();
        self.shadowed
            .retain(|count, _| left_over.contains(count) && Some(*count) != acting);
        for count in left_over {
            self.shadowed.entry(count).or_insert(now);
        }
        let idle = self.holds_translation() && (self.refused || !self.listed);
        self.idle_since = if idle {
            Some(self.idle_since.unwrap_or(now))
        } else {
            None
        };
    }

    /// An idle frontend goes as a whole, its left-over counts with it.
    fn next_due(&self, delay: Duration) -> Option<Duration> {
        self.idle_since
            .or_else(|| self.shadowed.values().copied().min())
            .map(|since| since + delay)
    }
}

/// What the kernel holds in one family's table, with the times that retirement needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    pub(super) frontends: BTreeMap<Frontend, FrontendState>,
    pub(super) cluster_ips: BTreeSet<IpAddr>,
    pub(super) hairpin: BTreeSet<IpAddr>,
    waiting: BTreeSet<Frontend>,
}

impl Installed {
    /// From elements read back from the kernel. Whatever is left over counts as just left over now.
    /// Networks are part of the layout and not looked at.
    pub fn observed(elements: impl IntoIterator<Item = Element>, now: Duration) -> Self {
        let mut installed = Self::default();
        let mut touched = BTreeSet::new();
        for element in elements {
            installed.put(&element, true);
            touched.extend(element.frontend());
        }
        touched
            .into_iter()
            .for_each(|frontend| installed.settle(frontend, now));
        installed
    }

    /// The same, with left-overs as old as an earlier look knows them to be.
    #[must_use]
    pub fn as_old_as(mut self, earlier: &Self) -> Self {
        for (frontend, state) in &mut self.frontends {
            let Some(known) = earlier.frontends.get(frontend) else {
                continue;
            };
            for (count, since) in &mut state.shadowed {
                *since = known
                    .shadowed
                    .get(count)
                    .map_or(*since, |known| *known.min(since));
            }
            state.idle_since = state
                .idle_since
                .map(|since| known.idle_since.map_or(since, |known| known.min(since)));
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
                Change::Replace {
                    frontend, slot, new, ..
                } => self.put(&Element::Slot(*frontend, *slot, *new), true),
            }
            touched.extend(change.frontend());
        }
        touched
            .into_iter()
            .for_each(|frontend| self.settle(frontend, now));
    }

    /// When the next left-over may be retired, if there is one.
    pub fn next_retirement(&self, delay: Duration) -> Option<Duration> {
        self.waiting
            .iter()
            .filter_map(|frontend| self.frontends.get(frontend)?.next_due(delay))
            .min()
    }

    /// The frontends with left-overs.
    pub fn waiting(&self) -> impl Iterator<Item = Frontend> {
        self.waiting.iter().copied()
    }

    /// What the kernel holds for a frontend.
    pub fn get(&self, frontend: &Frontend) -> Option<&FrontendState> {
        self.frontends.get(frontend)
    }

    /// Every frontend of which the kernel holds anything.
    pub fn frontends(&self) -> impl Iterator<Item = (&Frontend, &FrontendState)> {
        self.frontends.iter()
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

    /// Whether the address is in the hairpin set.
    pub fn has_hairpin(&self, ip: IpAddr) -> bool {
        self.hairpin.contains(&ip)
    }

    /// Every element, without networks.
    pub fn elements(&self) -> Vec<Element> {
        let address = |set| move |ip: &IpAddr| Element::Member(set, Key::Address(*ip));
        let cluster_ips = self.cluster_ips.iter().map(address(SetName::ClusterIps));
        let hairpin = self.hairpin.iter().map(address(SetName::Hairpin));
        let of_frontends = self
            .frontends
            .iter()
            .flat_map(|(frontend, state)| elements_of(*frontend, state));
        cluster_ips.chain(hairpin).chain(of_frontends).collect()
    }

    /// How many elements there are in all, without networks.
    pub fn len(&self) -> usize {
        let of_frontend = |state: &FrontendState| {
            usize::from(state.listed)
                + usize::from(state.refused)
                + usize::from(state.masqueraded)
                + state.counts.len()
                + state.slots.len()
        };
        self.cluster_ips.len() + self.hairpin.len() + self.frontends.values().map(of_frontend).sum::<usize>()
    }

    /// Whether the kernel holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn settle(&mut self, frontend: Frontend, now: Duration) {
        let Some(state) = self.frontends.get_mut(&frontend) else {
            return;
        };
        state.stamp(now);
        if state.next_due(Duration::ZERO).is_some() {
            self.waiting.insert(frontend);
        } else {
            self.waiting.remove(&frontend);
        }
        if state.is_empty() {
            self.frontends.remove(&frontend);
        }
    }

    fn put(&mut self, element: &Element, present: bool) {
        match element {
            Element::Member(set, Key::Frontend(frontend)) => {
                let state = self.frontends.entry(*frontend).or_default();
                match set {
                    SetName::VipFrontends | SetName::NodePortFrontends => state.listed = present,
                    SetName::NoEndpointVips | SetName::NoEndpointNodePorts => state.refused = present,
                    SetName::MasqueradeVips | SetName::MasqueradeNodePorts => state.masqueraded = present,
                    SetName::VipCount(count) | SetName::NodePortCount(count) => {
                        member(&mut state.counts, *count, present);
                    }
                    SetName::ClusterIps | SetName::PodCidrs | SetName::Hairpin => {}
                }
            }
            Element::Member(SetName::ClusterIps, Key::Address(ip)) => {
                member(&mut self.cluster_ips, *ip, present);
            }
            Element::Member(SetName::Hairpin, Key::Address(ip)) => member(&mut self.hairpin, *ip, present),
            Element::Member(_, Key::Address(_) | Key::Net(_)) => {}
            Element::Slot(frontend, slot, target) => {
                let slots = &mut self.frontends.entry(*frontend).or_default().slots;
                if present {
                    slots.insert(*slot, *target);
                } else {
                    slots.remove(slot);
                }
            }
        }
    }
}

fn member<T: Ord>(set: &mut BTreeSet<T>, item: T, present: bool) {
    if present {
        set.insert(item);
    } else {
        set.remove(&item);
    }
}

fn elements_of(frontend: Frontend, state: &FrontendState) -> Vec<Element> {
    let sets = Sets::of(&frontend);
    let member = |set| Element::Member(set, Key::Frontend(frontend));
    let flags = [
        (state.listed, sets.listed),
        (state.refused, sets.refused),
        (state.masqueraded, sets.masqueraded),
    ];
    let flags = flags
        .into_iter()
        .filter(|(present, _)| *present)
        .map(|(_, set)| member(set));
    let counts = state.counts.iter().map(|count| member((sets.count)(*count)));
    let slots = state
        .slots
        .iter()
        .map(|(slot, target)| Element::Slot(frontend, *slot, *target));
    flags.chain(counts).chain(slots).collect()
}
