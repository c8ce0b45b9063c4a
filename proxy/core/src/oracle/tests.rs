// SPDX-License-Identifier: Apache-2.0
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::nft::{Installed, Layout, Scope, diff};
use crate::sample::{Sample, key, mk_view, packet, sample, samples, settings};
use crate::walk::{Ruleset, verdicts};
use crate::{Intent, Outcome, SourceClass};

/// What the intent says of a packet.
fn by_intent(packet: &Packet, intent: &Intent) -> BTreeSet<Verdict> {
    let settings = intent.settings();
    let node_port = serves_node_ports(packet, settings)
        .then(|| packet.node_port())
        .and_then(|frontend| intent.get(&frontend));
    let found = match (
        intent.get(&packet.vip()),
        intent.is_cluster_ip(packet.destination),
    ) {
        (Some(found), _) => Some(found),
        (None, true) => return [Verdict::Rejected].into(),
        (None, false) => node_port,
    };
    let Some(found) = found else {
        let mut given = settings.service_cidrs.iter().flatten();
        let unallocated = given.any(|net| net.contains(&packet.destination)) && !packet.to_this_node;
        let verdict = if unallocated {
            Verdict::Dropped
        } else {
            Verdict::Untouched
        };
        return [verdict].into();
    };
    if !found.admits(packet.source) {
        return [Verdict::Dropped].into();
    }
    let mut pods = settings.pod_sources(IpFamily::of(packet.source));
    let class = if pods.any(|pods| pods.has(packet.source, packet.link.as_ref())) {
        SourceClass::Pod
    } else if packet.from_this_node {
        SourceClass::Host
    } else {
        SourceClass::Outside
    };
    let (outcome, masquerade) = found.handling(class);
    match outcome {
        Outcome::Reject(_) => [Verdict::Rejected].into(),
        Outcome::Drop(_) => [Verdict::Dropped].into(),
        Outcome::Endpoints(targets) => targets
            .iter()
            .map(|target| Verdict::Translated {
                target: *target,
                masqueraded: masquerade
                    || (target.ip == packet.source && intent.is_local_endpoint(target.ip)),
            })
            .collect(),
    }
}

fn carry_out(family: IpFamily, installed: &mut Installed, intent: &Intent, scope: Scope<'_>, now: Duration) {
    let plan = diff(family, installed, intent, scope, now, Duration::ZERO);
    for stage in &plan.stages {
        installed.apply(stage, now);
    }
}

/// Until nothing is left to retire.
fn settle(family: IpFamily, installed: &mut Installed, intent: &Intent) {
    for _ in 0..2 {
        carry_out(family, installed, intent, Scope::All, Duration::from_secs(1_000));
    }
}

fn synced(family: IpFamily, intent: &Intent) -> Installed {
    let mut installed = Installed::default();
    carry_out(family, &mut installed, intent, Scope::All, Duration::ZERO);
    installed
}

/// Which endpoint is in which slot depends on history; everything else, and that each is there, does not.
fn shape(installed: &Installed) -> Vec<String> {
    let mut lines: Vec<String> = installed
        .elements()
        .into_iter()
        .map(|element| match element {
            crate::nft::Element::Slot(entry, _, target) => format!("{entry:?} has {target}"),
            other @ (crate::nft::Element::Member(..) | crate::nft::Element::Numbered(..)) => {
                format!("{other:?}")
            }
        })
        .collect();
    lines.sort();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn intent_and_the_rules_do_what_the_table_says(
        samples in samples(),
        settings in settings(),
        packets in proptest::collection::vec(packet(), 24),
    ) {
        let view = mk_view(&samples);
        let state = State { view: &view, settings: &settings };
        let intent = Intent::of(&view, settings.clone());
        let tables = IpFamily::ALL.map(|family| {
            let layout = Layout::new(family, &settings);
            (Ruleset::of(&layout), layout, synced(family, &intent))
        });
        for packet in packets {
            let wanted = verdict(&packet, state);
            prop_assert_eq!(&by_intent(&packet, &intent), &wanted, "intent: {:?}\n{}", packet, intent);
            let (rules, layout, installed) = &tables[usize::from(packet.destination.is_ipv6())];
            let walked = verdicts(rules, layout, installed, &packet);
            prop_assert_eq!(&walked, &wanted, "rules: {:?}\n{}", packet, intent);
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
        let mut installed = IpFamily::ALL.map(|family| (family, Installed::default()));
        let reconfigured_at = history.len() / 2;
        for (turn, (n, change)) in history.into_iter().enumerate() {
            let now = Duration::from_millis(10 * turn as u64);
            let mut touched = put(&mut view, &mut intent, n, change);
            if turn == reconfigured_at {
                touched.merge(intent.reconfigure(after.clone(), &view));
            }
            for (family, installed) in &mut installed {
                carry_out(*family, installed, &intent, Scope::Touched(&touched), now);
                prop_assert!(diff(*family, installed, &intent, Scope::All, now, Duration::from_secs(60)).is_empty());
            }
        }
        let fresh = Intent::of(&view, after.clone());
        prop_assert_eq!(&intent, &fresh);
        for (family, installed) in &mut installed {
            settle(*family, installed, &intent);
            prop_assert_eq!(shape(installed), shape(&synced(*family, &fresh)));
            let read_back = Installed::observed(installed.elements(), Duration::ZERO);
            prop_assert_eq!(shape(&read_back), shape(installed));
            settle(*family, installed, &Intent::empty(after.clone()));
            prop_assert!(installed.is_empty(), "{:?}", installed.elements());
        }
    }
}

fn put(view: &mut View, intent: &mut Intent, n: u8, change: Option<Sample>) -> crate::Touched {
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

#[test]
fn every_verdict_of_the_table_is_met_by_random_packets() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut met: BTreeSet<String> = BTreeSet::new();
    for _ in 0..2_000 {
        let tree = (samples(), settings(), packet()).new_tree(&mut runner).unwrap();
        let (samples, settings, packet) = tree.current();
        let view = mk_view(&samples);
        for verdict in verdict(
            &packet,
            State {
                view: &view,
                settings: &settings,
            },
        ) {
            met.insert(match verdict {
                Verdict::Translated { masqueraded, .. } => format!("Translated, masqueraded: {masqueraded}"),
                other @ (Verdict::Untouched
                | Verdict::Rejected
                | Verdict::Dropped
                | Verdict::Untranslated) => {
                    format!("{other:?}")
                }
            });
        }
    }
    assert_eq!(
        met.into_iter().collect::<Vec<_>>(),
        [
            "Dropped",
            "Rejected",
            "Translated, masqueraded: false",
            "Translated, masqueraded: true",
            "Untouched"
        ]
    );
}
