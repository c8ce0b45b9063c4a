// SPDX-License-Identifier: Apache-2.0
//! From what the kernel holds to what it should hold, in stages that lose no packet.
//!
//! A packet's lookups (frontend, slot counts in ascending order, slot) are separate, and a transaction
//! may commit between any two of them: measured, behaviour/proxy-dns.md section 3 finding 3. Hence:
//!
//! * *Fill*: slots are added or replaced in place (one element each, so any lookup finds old or new). What must be
//!   there before the first packet comes: who is let in, what is masqueraded, whose packets are dropped.
//! * *Switch*: every addition first, then the removals. A larger count is added before the smaller one,
//!   which wins as long as it is there, is removed; a smaller count is added and wins at once.
//! * *Retire*: what no packet has started to use for `delay`: left-over larger counts, then their slots;
//!   everything of a frontend that is refused or gone.
//!
//! Within a stage any split into several transactions, between changes, keeps these properties: a stage
//! too large for the socket's buffer may be split, and a process killed anywhere leaves a working table.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use berth_model::IpFamily;
use ipnet::IpNet;

use super::objects::{Element, Entry, Key};
use super::plan::{Change, Plan, Stage, StageKind};
use super::state::{EntryState, Installed};
use super::wishes::Wishes;
use crate::intent::Touched;
use crate::names::{Group, List, SetName};
use crate::{AffinityNumber, Frontend, Masquerade, Outcome};

mod list;

/// What to compare.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// Everything.
    All,
    /// What an update of the intent touched, and what waits to be retired.
    Touched(&'a Touched),
}

#[derive(Default)]
struct Stages {
    fill: Vec<Change>,
    switch_in: Vec<Change>,
    switch_out: Vec<Change>,
    retire: Vec<Change>,
}

/// In which order a stage's changes must come where it is split: who is listed must have a count, who
/// has a count must have slots, and who stops to be refused must not be listed any more. Removals go the
/// other way round, but for sources: a network that overlaps one to come must have gone.
fn rank(change: &Change) -> u8 {
    let forwards = |element: &Element| match element {
        Element::Slot(..) => 1,
        // A number that the list had before must have gone.
        Element::Numbered(..) => 3,
        Element::Member(set, _) => match set {
            SetName::AllowedSources => 1,
            SetName::Masquerade(_)
            | SetName::RangedVips
            | SetName::ServiceCidrs
            | SetName::PodCidrs
            | SetName::NodePortIps
            | SetName::AffinityTimeout(_)
            | SetName::Hairpin => 2,
            SetName::Drop(group) if group.list == List::Local => 2,
            SetName::Count(..) => 3,
            SetName::NoEndpoint(_) | SetName::Drop(_) | SetName::Local(_) => 4,
            SetName::Frontends(_) => 5,
            SetName::ClusterIps => 6,
        },
    };
    match change {
        Change::Remove(Element::Member(SetName::AllowedSources, _) | Element::Numbered(..)) => 0,
        Change::Add(element) => forwards(element),
        Change::Remove(element) => 7 - forwards(element),
        Change::Replace { .. } => 1,
    }
}

/// The plan that leads from `installed` to `intent` for one family, as far as it can be carried out at
/// time `now`; [`Installed::next_retirement`] tells when there may be more.
pub fn diff(
    family: IpFamily,
    installed: &Installed,
    intent: &impl Wishes,
    scope: Scope<'_>,
    now: Duration,
    delay: Duration,
) -> Plan {
    let mut stages = Stages::default();
    let due = Due { now, delay };
    let nothing = EntryState::default();
    for entry in entries(family, installed, intent, scope) {
        let state = installed.get(&entry).unwrap_or(&nothing);
        match Wanted::of(intent, &entry) {
            Some(wanted) => stages.towards(entry, state, &wanted, due),
            None => stages.away(entry, state, due),
        }
    }
    stages.addresses(family, installed, intent, scope);
    stages.affinities(family, installed, intent, scope);
    stages.finish(family)
}

/// What a list should be.
struct Wanted<'a> {
    outcome: &'a Outcome,
    masqueraded: bool,
    number: Option<AffinityNumber>,
    sources: Option<&'a [IpNet]>,
}

impl<'a> Wanted<'a> {
    fn of(intent: &'a impl Wishes, entry: &Entry) -> Option<Self> {
        let frontend = intent.get(&entry.frontend)?;
        match entry.list {
            List::Main => Some(Self {
                outcome: &frontend.outcome,
                masqueraded: frontend.masquerade == Masquerade::Always,
                number: intent.affinity_of(&entry.frontend, false),
                sources: frontend.source_ranges.as_deref(),
            }),
            List::Local => Some(Self {
                outcome: frontend.outside.as_ref()?,
                masqueraded: false,
                number: intent.affinity_of(&entry.frontend, true),
                sources: None,
            }),
        }
    }
}

#[derive(Clone, Copy)]
struct Due {
    now: Duration,
    delay: Duration,
}

impl Due {
    fn is_due(self, since: Option<Duration>) -> bool {
        since.is_some_and(|since| since + self.delay <= self.now)
    }
}

fn entries(
    family: IpFamily,
    installed: &Installed,
    intent: &impl Wishes,
    scope: Scope<'_>,
) -> BTreeSet<Entry> {
    let both = |frontend: &Frontend| [Entry::main(*frontend), Entry::local(*frontend)];
    let all: BTreeSet<Entry> = match scope {
        Scope::All => {
            let wanted = intent.frontends().flat_map(|(frontend, intent)| {
                let local = intent.outside.as_ref().map(|_| Entry::local(*frontend));
                std::iter::once(Entry::main(*frontend)).chain(local)
            });
            installed.entries.keys().copied().chain(wanted).collect()
        }
        Scope::Touched(touched) => installed
            .waiting()
            .chain(touched.frontends.iter().flat_map(both))
            .collect(),
    };
    all.into_iter()
        .filter(|entry| entry.frontend.family() == family)
        .collect()
}

/// The sets that hold a list's frontend.
pub(super) struct Sets {
    pub(super) listed: SetName,
    pub(super) refused: SetName,
    pub(super) dropped: SetName,
    pub(super) masqueraded: SetName,
    group: Group,
}

impl Sets {
    pub(super) fn of(entry: &Entry) -> Self {
        let group = entry.group();
        let kind = group.kind;
        Self {
            listed: match group.list {
                List::Main => SetName::Frontends(kind),
                List::Local => SetName::Local(kind),
            },
            refused: SetName::NoEndpoint(kind),
            dropped: SetName::Drop(group),
            masqueraded: SetName::Masquerade(kind),
            group,
        }
    }

    pub(super) fn count(&self, count: u32) -> SetName {
        SetName::Count(self.group, count)
    }
}

impl Stages {
    /// A list remembers for as long as its number's sets say; where it has two, a packet takes either.
    fn affinities(
        &mut self,
        family: IpFamily,
        installed: &Installed,
        intent: &impl Wishes,
        scope: Scope<'_>,
    ) {
        let numbers: BTreeSet<AffinityNumber> = match scope {
            Scope::All => {
                let wanted = intent.affinities().map(|(number, _)| number);
                installed.timeouts.keys().copied().chain(wanted).collect()
            }
            Scope::Touched(touched) => touched.affinities.clone(),
        };
        let nothing = BTreeSet::new();
        for number in numbers {
            let wanted = intent
                .affinity(number)
                .filter(|affinity| affinity.family == family);
            let wanted = wanted.map(|affinity| affinity.timeout_seconds);
            let present = installed.timeouts.get(&number).unwrap_or(&nothing);
            let element = |seconds| Element::Member(SetName::AffinityTimeout(seconds), Key::Number(number));
            if let Some(new) = wanted.filter(|seconds| !present.contains(seconds)) {
                self.fill.push(Change::Add(element(new)));
            }
            let gone = present.iter().filter(|seconds| Some(**seconds) != wanted);
            self.retire
                .extend(gone.map(|seconds| Change::Remove(element(*seconds))));
        }
    }

    fn addresses(&mut self, family: IpFamily, installed: &Installed, intent: &impl Wishes, scope: Scope<'_>) {
        let (cluster_ips, local): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = match scope {
            Scope::All => (
                installed
                    .cluster_ips()
                    .chain(intent.cluster_ips(family))
                    .collect(),
                installed
                    .hairpin()
                    .chain(intent.local_endpoints(family))
                    .collect(),
            ),
            Scope::Touched(touched) => (touched.cluster_ips.clone(), touched.local_endpoints.clone()),
        };
        let ours = |ip: &IpAddr| IpFamily::of(*ip) == family;
        for ip in cluster_ips.into_iter().filter(ours) {
            let element = Element::Member(SetName::ClusterIps, Key::Address(ip));
            match (installed.cluster_ips.contains(&ip), intent.is_cluster_ip(ip)) {
                (false, true) => self.switch_in.push(Change::Add(element)),
                (true, false) => self.switch_out.push(Change::Remove(element)),
                (true, true) | (false, false) => {}
            }
        }
        for ip in local.into_iter().filter(ours) {
            let element = Element::Member(SetName::Hairpin, Key::Address(ip));
            match (installed.hairpin.contains(&ip), intent.is_local_endpoint(ip)) {
                (false, true) => self.fill.push(Change::Add(element)),
                (true, false) => self.retire.push(Change::Remove(element)),
                (true, true) | (false, false) => {}
            }
        }
    }

    /// Sorted, so that changes to one set follow each other and the plan is reproducible.
    fn finish(mut self, family: IpFamily) -> Plan {
        for changes in [
            &mut self.fill,
            &mut self.switch_in,
            &mut self.switch_out,
            &mut self.retire,
        ] {
            changes.sort_unstable_by_key(|change| (rank(change), *change));
        }
        self.switch_in.append(&mut self.switch_out);
        let stages = [
            (StageKind::Fill, self.fill),
            (StageKind::Switch, self.switch_in),
            (StageKind::Retire, self.retire),
        ];
        Plan {
            family,
            stages: stages
                .into_iter()
                .filter(|(_, changes)| !changes.is_empty())
                .map(|(kind, changes)| Stage { kind, changes })
                .collect(),
        }
    }
}
