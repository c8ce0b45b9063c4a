// SPDX-License-Identifier: Apache-2.0
//! From what the kernel holds to what it should hold, in stages that lose no packet.
//!
//! A packet's lookups (frontend, slot counts in ascending order, slot) are separate, and a transaction
//! may commit between any two of them: measured, behaviour/proxy-dns.md section 3 finding 3. Hence:
//!
//! * *Fill*: slots are added or replaced in place (one element each, so any lookup finds old or new).
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

use super::objects::{Element, Key};
use super::plan::{Change, Plan, Stage, StageKind};
use super::slots::{reassign, slot_count};
use super::state::{FrontendState, Installed};
use crate::intent::Touched;
use crate::names::SetName;
use crate::{Frontend, FrontendIntent, Intent, Outcome, Target};

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
/// other way round.
fn rank(change: &Change) -> u8 {
    let forwards = |element: &Element| match element {
        Element::Slot(..) => 0,
        Element::Member(set, _) => match set {
            SetName::MasqueradeVips | SetName::MasqueradeNodePorts | SetName::PodCidrs | SetName::Hairpin => {
                1
            }
            SetName::VipCount(_) | SetName::NodePortCount(_) => 2,
            SetName::VipFrontends | SetName::NodePortFrontends => 4,
            SetName::NoEndpointVips | SetName::NoEndpointNodePorts => 3,
            SetName::ClusterIps => 5,
        },
    };
    match change {
        Change::Add(element) => forwards(element),
        Change::Remove(element) => 5 - forwards(element),
        Change::Replace { .. } => 0,
    }
}

/// The plan that leads from `installed` to `intent` for one family, as far as it can be carried out at
/// time `now`; [`Installed::next_retirement`] tells when there may be more.
pub fn diff(
    family: IpFamily,
    installed: &Installed,
    intent: &Intent,
    scope: Scope<'_>,
    now: Duration,
    delay: Duration,
) -> Plan {
    let mut stages = Stages::default();
    let due = Due { now, delay };
    for frontend in frontends(family, installed, intent, scope) {
        let state = installed.get(&frontend).cloned().unwrap_or_default();
        match intent.get(&frontend) {
            Some(wanted) => stages.towards(frontend, &state, wanted, due),
            None => stages.away(frontend, &state, due),
        }
    }
    stages.addresses(family, installed, intent, scope);
    stages.finish(family)
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

fn frontends(
    family: IpFamily,
    installed: &Installed,
    intent: &Intent,
    scope: Scope<'_>,
) -> BTreeSet<Frontend> {
    let all: BTreeSet<Frontend> = match scope {
        Scope::All => {
            let wanted = intent.frontends().map(|(frontend, _)| *frontend);
            installed.frontends.keys().copied().chain(wanted).collect()
        }
        Scope::Touched(touched) => installed
            .waiting()
            .chain(touched.frontends.iter().copied())
            .collect(),
    };
    all.into_iter()
        .filter(|frontend| frontend.family() == family)
        .collect()
}

/// The sets that hold a frontend, by its kind.
pub(super) struct Sets {
    pub(super) listed: SetName,
    pub(super) refused: SetName,
    pub(super) masqueraded: SetName,
    pub(super) count: fn(u32) -> SetName,
}

impl Sets {
    pub(super) fn of(frontend: &Frontend) -> Self {
        match frontend {
            Frontend::Vip { .. } => Self {
                listed: SetName::VipFrontends,
                refused: SetName::NoEndpointVips,
                masqueraded: SetName::MasqueradeVips,
                count: SetName::VipCount,
            },
            Frontend::NodePort { .. } => Self {
                listed: SetName::NodePortFrontends,
                refused: SetName::NoEndpointNodePorts,
                masqueraded: SetName::MasqueradeNodePorts,
                count: SetName::NodePortCount,
            },
        }
    }
}

impl Stages {
    fn towards(&mut self, frontend: Frontend, state: &FrontendState, wanted: &FrontendIntent, due: Due) {
        match &wanted.outcome {
            Outcome::Endpoints(targets) => {
                self.serve(frontend, state, targets, wanted.masquerade, due);
            }
            Outcome::Reject(_) => {
                if !state.refused {
                    self.switch_in.push(add(Sets::of(&frontend).refused, frontend));
                }
                self.retire_translation(frontend, state, due);
            }
        }
    }

    fn away(&mut self, frontend: Frontend, state: &FrontendState, due: Due) {
        let sets = Sets::of(&frontend);
        if state.listed {
            self.switch_out.push(remove(sets.listed, frontend));
        }
        if state.refused {
            self.switch_out.push(remove(sets.refused, frontend));
        }
        let unlisted = FrontendState {
            listed: false,
            ..state.clone()
        };
        self.retire_translation(frontend, &unlisted, due);
    }

    fn serve(
        &mut self,
        frontend: Frontend,
        state: &FrontendState,
        targets: &[Target],
        masquerade: bool,
        due: Due,
    ) {
        let sets = Sets::of(&frontend);
        let count = slot_count(targets.len());
        for (slot, new) in reassign(&state.slots, targets, count) {
            self.fill.push(match state.slots.get(&slot) {
                Some(old) => Change::Replace {
                    frontend,
                    slot,
                    old: *old,
                    new,
                },
                None => Change::Add(Element::Slot(frontend, slot, new)),
            });
        }
        if masquerade && !state.masqueraded {
            self.fill.push(add(sets.masqueraded, frontend));
        }
        if !state.counts.contains(&count) {
            self.switch_in.push(add((sets.count)(count), frontend));
        }
        if !state.listed {
            self.switch_in.push(add(sets.listed, frontend));
        }
        let smaller = state.counts.range(..count);
        self.switch_out
            .extend(smaller.map(|smaller| remove((sets.count)(*smaller), frontend)));
        if state.refused {
            self.switch_out.push(remove(sets.refused, frontend));
        }
        if state.masqueraded && !masquerade {
            self.switch_out.push(remove(sets.masqueraded, frontend));
        }
        let (gone, kept): (Vec<u32>, Vec<u32>) = state
            .counts
            .range(count + 1..)
            .copied()
            .partition(|larger| due.is_due(state.shadowed.get(larger).copied()));
        self.retire.extend(
            gone.into_iter()
                .map(|larger| remove((sets.count)(larger), frontend)),
        );
        let reachable = kept.last().copied().unwrap_or(count);
        self.retire.extend(slots_from(frontend, state, reachable));
    }

    fn retire_translation(&mut self, frontend: Frontend, state: &FrontendState, due: Due) {
        if !due.is_due(state.idle_since) {
            return;
        }
        let sets = Sets::of(&frontend);
        if state.listed {
            self.retire.push(remove(sets.listed, frontend));
        }
        let counts = state.counts.iter();
        self.retire
            .extend(counts.map(|count| remove((sets.count)(*count), frontend)));
        self.retire.extend(slots_from(frontend, state, 0));
        if state.masqueraded {
            self.retire.push(remove(sets.masqueraded, frontend));
        }
    }

    fn addresses(&mut self, family: IpFamily, installed: &Installed, intent: &Intent, scope: Scope<'_>) {
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
            changes.sort_by_cached_key(|change| (rank(change), *change));
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

fn add(set: SetName, frontend: Frontend) -> Change {
    Change::Add(Element::Member(set, Key::Frontend(frontend)))
}

fn remove(set: SetName, frontend: Frontend) -> Change {
    Change::Remove(Element::Member(set, Key::Frontend(frontend)))
}

fn slots_from(frontend: Frontend, state: &FrontendState, first: u32) -> impl Iterator<Item = Change> {
    state
        .slots
        .range(first..)
        .map(move |(slot, target)| Change::Remove(Element::Slot(frontend, *slot, *target)))
}
