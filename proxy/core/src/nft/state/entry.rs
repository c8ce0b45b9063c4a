// SPDX-License-Identifier: Apache-2.0
//! What the kernel holds for one list, and since when no packet starts to use which part of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;

use crate::names::List;
use crate::{AffinityNumber, Target};

/// The elements of one list of a frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryState {
    /// Main list: in the set of frontends, so that packets look for a slot count. Local list: in the set of frontends
    /// under policy Local, so that packets from outside look here.
    pub listed: bool,
    /// In the set of frontends without endpoints: packets are rejected before anything else.
    pub refused: bool,
    /// In the set of those that drop: before anything else.
    pub dropped: bool,
    /// In the set of frontends that masquerade always.
    pub masqueraded: bool,
    /// In the set of frontends that let only some sources in.
    pub ranged: bool,
    /// Those sources.
    pub sources: BTreeSet<IpNet>,
    /// In these count sets. The smallest acts; larger ones are left over.
    pub counts: BTreeSet<u32>,
    /// The slots.
    pub slots: BTreeMap<u32, Target>,
    /// The number of the list, if it remembers its clients.
    pub number: Option<AffinityNumber>,
    /// Left-over counts, each with the time since when no packet starts to use it.
    pub(in crate::nft) shadowed: BTreeMap<u32, Duration>,
    /// Since when no packet starts to look for a count.
    pub(in crate::nft) idle_since: Option<Duration>,
    /// Since when no packet starts to look for its source.
    pub(in crate::nft) open_since: Option<Duration>,
}

impl EntryState {
    /// Whether the kernel holds nothing.
    pub fn is_empty(&self) -> bool {
        self.elements() == 0
    }

    pub(super) fn elements(&self) -> usize {
        let flags = [
            self.listed,
            self.refused,
            self.dropped,
            self.masqueraded,
            self.ranged,
        ];
        flags.into_iter().filter(|flag| *flag).count()
            + self.sources.len()
            + self.counts.len()
            + self.slots.len()
            + usize::from(self.number.is_some())
    }

    /// A local list stays listed when it drops: this host's packets are masqueraded for it.
    fn holds_translation(&self, list: List) -> bool {
        let leads_there = list == List::Main && (self.listed || self.masqueraded);
        leads_there || !self.counts.is_empty() || !self.slots.is_empty()
    }

    pub(super) fn stamp(&mut self, list: List, now: Duration) {
        let acting = self.counts.first().copied();
        let left_over: BTreeSet<u32> = self.counts.iter().copied().skip(1).collect();
        self.shadowed
            .retain(|count, _| left_over.contains(count) && Some(*count) != acting);
        for count in left_over {
            self.shadowed.entry(count).or_insert(now);
        }
        let stopped = self.refused || self.dropped || !self.listed;
        let idle = self.holds_translation(list) && stopped;
        self.idle_since = idle.then(|| self.idle_since.unwrap_or(now));
        let open = !self.ranged && !self.sources.is_empty();
        self.open_since = open.then(|| self.open_since.unwrap_or(now));
    }

    /// An idle list goes as a whole, its left-over counts with it.
    pub(super) fn next_due(&self, delay: Duration) -> Option<Duration> {
        let counts = self.idle_since.or_else(|| self.shadowed.values().copied().min());
        counts
            .into_iter()
            .chain(self.open_since)
            .min()
            .map(|since| since + delay)
    }

    pub(super) fn as_old_as(&mut self, known: &Self) {
        for (count, since) in &mut self.shadowed {
            *since = known
                .shadowed
                .get(count)
                .map_or(*since, |known| *known.min(since));
        }
        let older = |since: Option<Duration>, known: Option<Duration>| {
            since.map(|since| known.map_or(since, |known| known.min(since)))
        };
        self.idle_since = older(self.idle_since, known.idle_since);
        self.open_since = older(self.open_since, known.open_since);
    }
}
