// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use berth_model::{SessionAffinity, View};
use proptest::prelude::*;

use super::names::SetName;
use super::walk::{Ruleset, verdicts};
use super::*;
use crate::oracle::{State, verdict};
use crate::sample::{Sample, key, mk_view, node_ips, packet, sample, samples, settings};
use crate::{Intent, Settings, Target, Touched};

mod cases;

const BOUND: Duration = Duration::from_secs(100);

fn own() -> BTreeSet<IpAddr> {
    (0..2)
        .flat_map(node_ips)
        .chain(["127.0.0.1".parse().unwrap()])
        .collect()
}

fn plan(installed: &Installed, intent: &Intent, touched: Option<&Touched>, now: Duration) -> Plan {
    let own = own();
    let choice = Choice {
        own: &own,
        scheduler: Scheduler::Rr,
        drain_bound: BOUND,
    };
    diff(installed, intent, &choice, touched, now)
}

/// Carries a plan out. Every change must be possible where it comes.
fn carry_out(installed: &mut Installed, plan: &Plan, now: Duration) {
    for change in plan.changes() {
        check_possible(installed, change);
        installed.apply(change, now);
    }
}

fn check_possible(installed: &Installed, change: &Change) {
    let destination = |key: &ServerKey, target: &Target| {
        installed
            .server(key)
            .and_then(|server| server.destinations.get(target).copied())
    };
    let fits = match change {
        Change::Join(set, member) => !has(installed, *set, member),
        Change::Leave(set, member) => has(installed, *set, member),
        Change::AddServer(key, _) => {
            let claimed = match key {
                ServerKey::Socket(socket) => installed
                    .socket(socket)
                    .is_some_and(|state| state.sets.contains(&SetName::Sockets)),
                ServerKey::Mark { .. } => true,
            };
            claimed && installed.server(key).is_none()
        }
        Change::EditServer(key, _) | Change::RemoveServer(key) => installed.server(key).is_some(),
        Change::AddDestination(key, target) => {
            installed.server(key).is_some() && destination(key, target).is_none()
        }
        Change::Weigh(key, target, weight) => destination(key, target).is_some_and(|d| d.weight != *weight),
        Change::RemoveDestination(key, target) => destination(key, target).is_some(),
        Change::Bind(ip) => {
            !installed.is_bound(*ip) && installed.has(SetName::Addresses, Member::Address(*ip))
        }
        Change::Unbind(ip) => installed.is_bound(*ip),
    };
    assert!(fits, "{change} of {installed:#?}");
}

fn has(installed: &Installed, set: SetName, member: &Member) -> bool {
    let state = |socket: &Socket| installed.socket(socket).cloned().unwrap_or_default();
    match member {
        Member::Socket(socket) => state(socket).sets.contains(&set),
        Member::Steered(socket, mark) => state(socket).mark == Some(*mark),
        Member::Source(socket, net) => state(socket).sources.contains(net),
        Member::Address(_) | Member::Net(_) | Member::Pair(_) => installed.has(set, *member),
    }
}

fn synced(intent: &Intent) -> Installed {
    let mut installed = Installed::default();
    let all = plan(&installed, intent, None, Duration::ZERO);
    carry_out(&mut installed, &all, Duration::ZERO);
    installed
}

/// All that the kernel holds, but which mark is whose.
fn shape(installed: &Installed) -> Vec<String> {
    let mut lines: Vec<String> = installed
        .sockets()
        .map(|(socket, state)| {
            let inside = state.mark.and_then(|mark| {
                let family = socket.family();
                installed.server(&ServerKey::Mark { family, mark })
            });
            format!(
                "{socket} {:?} {:?} {:?} {inside:?}",
                state.sets, state.sources, state.server
            )
        })
        .collect();
    lines.push(format!("{:?} {:?}", installed.bound, installed.members));
    lines.push(format!("{} servers", installed.servers().count()));
    lines
}

/// What the agent would read back.
fn read_back(installed: &Installed, now: Duration) -> Installed {
    let mut seen = Installed::default();
    let elements = installed.sockets().flat_map(|(socket, state)| {
        let sets = state.sets.iter().map(|set| (*set, Member::Socket(*socket)));
        let sources = state
            .sources
            .iter()
            .map(|net| (SetName::Sources, Member::Source(*socket, *net)));
        let steered = state
            .mark
            .map(|mark| (SetName::Inside, Member::Steered(*socket, mark)));
        sets.chain(sources).chain(steered)
    });
    for (set, member) in elements.chain(installed.members.iter().copied()) {
        seen.apply(&Change::Join(set, member), now);
    }
    for (key, server) in installed.servers() {
        seen.apply(&Change::AddServer(key, server.config), now);
        for (target, destination) in &server.destinations {
            seen.observed(&key, *target, destination.weight, now);
        }
    }
    for ip in installed.bound() {
        seen.apply(&Change::Bind(ip), now);
    }
    seen
}

fn put(view: &mut View, intent: &mut Intent, n: u8, change: Option<Sample>) -> Touched {
    match change {
        Some(mut sample) => {
            sample.service.key = key(n);
            sample.service.uid = format!("uid-{n}");
            sample.put(view);
        }
        None => {
            view.services.remove(&key(n));
            view.endpoints.remove(&key(n));
        }
    }
    intent.update(view, [&key(n)])
}

fn with_affinity(samples: &mut [Sample], stays: bool) {
    for sample in samples.iter_mut().filter(|_| stays) {
        sample.service.affinity = SessionAffinity::ClientIp { timeout_seconds: 60 };
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_rules_and_servers_do_what_the_table_says_but_for_the_named_deviations(
        samples in samples(),
        stays in any::<bool>(),
        settings in settings(),
        packets in proptest::collection::vec(packet(), 24),
    ) {
        let mut samples = samples;
        with_affinity(&mut samples, stays);
        let view = mk_view(&samples);
        let state = State { view: &view, settings: &settings };
        let intent = Intent::of(&view, settings.clone());
        let installed = synced(&intent);
        let rules = Ruleset::of(&settings);
        for packet in packets {
            let (wanted, _) = deviation::expected(&packet, &intent, &own(), verdict(&packet, state));
            let walked = verdicts(&rules, &installed, &packet);
            prop_assert_eq!(&walked, &wanted, "{:?}\n{}\n{:#?}", packet, intent, installed);
        }
    }

    #[test]
    fn updates_one_by_one_come_to_the_same_as_one_full_sync_and_nothing_is_left_of_nothing(
        history in proptest::collection::vec((0u8..3, proptest::option::weighted(0.8, sample(0))), 1..10),
        before in settings(),
        after in settings(),
    ) {
        let mut view = View::default();
        let mut intent = Intent::empty(before.clone());
        let mut installed = Installed::default();
        let reconfigured_at = history.len() / 2;
        for (turn, (n, change)) in history.into_iter().enumerate() {
            let now = Duration::from_secs(turn as u64);
            let touched = put(&mut view, &mut intent, n, change);
            let next = if turn == reconfigured_at {
                intent.reconfigure(after.clone(), &view);
                plan(&installed, &intent, None, now)
            } else {
                plan(&installed, &intent, Some(&touched), now)
            };
            carry_out(&mut installed, &next, now);
            let again = plan(&installed, &intent, None, now);
            prop_assert!(again.is_empty() || turn == 0, "{}", again);
            carry_out(&mut installed, &again, now);
            // A restart finds nothing to do, either.
            let restarted = plan(&read_back(&installed, now), &intent, None, now);
            prop_assert!(restarted.is_empty(), "{}", restarted);
        }
        let later = Duration::from_secs(1_000);
        let fresh = Intent::of(&view, after.clone());
        let rest = plan(&installed, &intent, Some(&Touched::default()), later);
        carry_out(&mut installed, &rest, later);
        prop_assert_eq!(shape(&installed), shape(&synced(&fresh)));
        prop_assert_eq!(installed.waiting().count(), 0);
        let nothing = Intent::empty(Settings { cluster_cidrs: vec![], ..after });
        let away = plan(&installed, &nothing, None, later);
        carry_out(&mut installed, &away, later);
        let rest = plan(&installed, &nothing, None, later + BOUND);
        carry_out(&mut installed, &rest, later + BOUND);
        prop_assert!(installed.is_empty(), "{:#?}", installed);
    }

    #[test]
    fn while_a_plan_is_carried_out_a_packet_meets_the_old_state_or_the_new_or_is_turned_away(
        before in samples(),
        after in samples(),
        settings in settings(),
        packets in proptest::collection::vec(packet(), 12),
    ) {
        let (old, new) = (Intent::of(&mk_view(&before), settings.clone()), Intent::of(&mk_view(&after), settings.clone()));
        let rules = Ruleset::of(&settings);
        let mut installed = synced(&old);
        let all = plan(&installed, &new, None, Duration::ZERO);
        let settled = synced(&new);
        for packet in packets {
            let mut now = installed.clone();
            let targets = |state: &Installed| -> BTreeSet<Target> {
                verdicts(&rules, state, &packet).into_iter().filter_map(|verdict| match verdict {
                    crate::walk::Verdict::Translated { target, .. } => Some(target),
                    crate::walk::Verdict::Untouched
                    | crate::walk::Verdict::Rejected
                    | crate::walk::Verdict::Dropped
                    | crate::walk::Verdict::Untranslated => None,
                }).collect()
            };
            let known: BTreeSet<Target> = targets(&installed).union(&targets(&settled)).copied().collect();
            let served_throughout = !targets(&installed).is_empty() && !targets(&settled).is_empty();
            for change in all.changes() {
                now.apply(change, Duration::ZERO);
                let met = targets(&now);
                if served_throughout {
                    prop_assert!(!met.is_empty(), "{:?} has nowhere to go after {}\n{}", packet, change, all);
                }
                let stray: Vec<_> = met.difference(&known).collect();
                prop_assert!(stray.is_empty() || !served_throughout, "{:?} to {:?} after {}\n{}", packet, stray, change, all);
            }
        }
        carry_out(&mut installed, &all, Duration::ZERO);
    }
}
