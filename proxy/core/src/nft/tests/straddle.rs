// SPDX-License-Identifier: Apache-2.0
//! Packets that are under way while a plan is carried out: none is lost, whatever it has seen of the change.

use super::*;

/// A packet during whose walk the contents change once, after a number of lookups.
struct Straddle<'a> {
    layout: &'a Layout,
    before: &'a Installed,
    after: &'a Installed,
    left: usize,
}

impl Straddle<'_> {
    fn current(&mut self) -> &Installed {
        if self.left == 0 {
            return self.after;
        }
        self.left -= 1;
        self.before
    }
}

impl Lookups for Straddle<'_> {
    fn has_frontend(&mut self, set: SetName, frontend: &Frontend) -> bool {
        let layout = self.layout;
        (layout, self.current()).has_frontend(set, frontend)
    }

    fn has_address(&mut self, set: SetName, ip: IpAddr) -> bool {
        let layout = self.layout;
        (layout, self.current()).has_address(set, ip)
    }

    fn has_source(&mut self, frontend: &Frontend, source: IpAddr) -> bool {
        let layout = self.layout;
        (layout, self.current()).has_source(frontend, source)
    }

    fn slot(&mut self, map: MapName, frontend: &Frontend, slot: u32) -> Option<Target> {
        let layout = self.layout;
        (layout, self.current()).slot(map, frontend, slot)
    }

    fn number(&mut self, map: NumberMap, frontend: &Frontend) -> Option<AffinityNumber> {
        let layout = self.layout;
        (layout, self.current()).number(map, frontend)
    }

    fn has_timeout(&mut self, number: AffinityNumber, seconds: u32) -> bool {
        let layout = self.layout;
        (layout, self.current()).has_timeout(number, seconds)
    }
}

struct Moment {
    at: Duration,
    state: Installed,
    /// The intents that were in force shortly before and at this moment: the previous and the current one.
    step: usize,
    settled: bool,
}

fn check_no_packet_is_lost(moments: &[Moment], intents: &[Intent]) -> Result<(), TestCaseError> {
    let layout = Layout::new(IpFamily::V4, &settings());
    let rules = Ruleset::of(&layout);
    for (a, before) in moments.iter().enumerate() {
        let window = moments[a..]
            .iter()
            .take_while(|after| after.at < before.at + DELAY);
        for after in window {
            // A moment that is settled shows its own intent only; any other may still show the previous one.
            let first = if before.settled {
                before.step
            } else {
                before.step.saturating_sub(1)
            };
            let in_force = &intents[first..=after.step];
            let known: BTreeSet<Frontend> = in_force
                .iter()
                .flat_map(|intent| intent.frontends().map(|(frontend, _)| *frontend))
                .collect();
            let cases = known
                .iter()
                .flat_map(|frontend| SourceClass::ALL.map(|source| (frontend, source)));
            for (frontend, source) in cases {
                let lists: Option<Vec<_>> = in_force
                    .iter()
                    .map(|intent| targets(intent.get(frontend), source))
                    .collect();
                // With endpoints all along it must reach one of them; otherwise it must not be dropped.
                let allowed = lists.map(|lists| lists.into_iter().flatten().collect());
                let of_any_source: BTreeSet<Target> = in_force
                    .iter()
                    .flat_map(|intent| SourceClass::ALL.map(|source| targets(intent.get(frontend), source)))
                    .flatten()
                    .flatten()
                    .collect();
                check_packet(
                    &layout,
                    &rules,
                    &packet_to(frontend, source),
                    (allowed.as_ref(), &of_any_source),
                    &before.state,
                    &after.state,
                )?;
            }
        }
    }
    Ok(())
}

fn check_packet(
    layout: &Layout,
    rules: &Ruleset,
    packet: &Packet,
    (allowed, of_any_source): (Option<&BTreeSet<Target>>, &BTreeSet<Target>),
    before: &Installed,
    after: &Installed,
) -> Result<(), TestCaseError> {
    for left in 0.. {
        let mut modulus = 1;
        let mut pick = 0;
        let mut unused = 0;
        while pick < modulus {
            let mut lookups = Straddle {
                layout,
                before,
                after,
                left,
            };
            let verdict = walk(rules, &mut lookups, packet, |of| {
                modulus = of;
                pick
            });
            unused = lookups.left;
            let right = match (verdict, allowed) {
                // Between the policies it may get the other list, and is masqueraded then.
                (Verdict::Translated { target, masqueraded }, Some(allowed)) => {
                    allowed.contains(&target) || (masqueraded && of_any_source.contains(&target))
                }
                (Verdict::Untranslated, _)
                | (Verdict::Rejected | Verdict::Dropped | Verdict::Untouched, Some(_)) => false,
                (
                    Verdict::Translated { .. } | Verdict::Rejected | Verdict::Dropped | Verdict::Untouched,
                    None,
                ) => true,
            };
            prop_assert!(
                right,
                "{packet:?}: {verdict:?}, not in {allowed:?}, after {left} lookups in\n{before:?}\nthen\n{after:?}"
            );
            pick += 1;
        }
        if unused > 0 {
            break;
        }
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct StepInput {
    changes: Vec<(u8, Option<BTreeSet<u8>>, TrafficPolicy)>,
    wait_ms: u64,
    split: usize,
}

fn step() -> impl Strategy<Value = StepInput> {
    let endpoints = proptest::option::weighted(0.9, proptest::collection::btree_set(1u8..9, 0..7));
    let policy = proptest::sample::select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local]);
    let wait = prop_oneof![Just(0), 1u64..400, 900u64..1_200, Just(3_000)];
    (
        proptest::collection::vec((0u8..3, endpoints, policy), 1..3),
        wait,
        0usize..40,
    )
        .prop_map(|(changes, wait_ms, split)| StepInput {
            changes,
            wait_ms,
            split,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn no_packet_is_lost_and_the_end_is_that_of_a_full_sync(steps in proptest::collection::vec(step(), 1..14)) {
        let mut view = mk_view(&BTreeMap::from([(0, [1, 2, 3].into()), (1, [4].into())]));
        let mut intent = Intent::of(&view, settings());
        let mut installed = full_sync(&intent);
        let mut now = Duration::from_secs(60);
        let mut intents = vec![intent.clone()];
        let mut moments = vec![Moment { at: now, state: installed.clone(), step: 0, settled: true }];
        for input in steps {
            now += Duration::from_millis(input.wait_ms);
            let mut touched = crate::Touched::default();
            for (n, endpoints, policy) in input.changes {
                set_service(&mut view, n, endpoints.as_ref(), policy);
                touched.merge(intent.update(&view, [&mk_service(n, policy).key]));
            }
            intents.push(intent.clone());
            let step = intents.len() - 1;
            let plan = diff(IpFamily::V4, &installed, &intent, Scope::Touched(&touched), now, DELAY);
            prop_assert_eq!(&plan, &diff(IpFamily::V4, &installed, &intent, Scope::All, now, DELAY));
            for state in carry_out(&mut installed, &plan, now, input.split) {
                moments.push(Moment { at: now, state, step, settled: false });
            }
            moments.push(Moment { at: now, state: installed.clone(), step, settled: true });
            prop_assert!(diff(IpFamily::V4, &installed, &intent, Scope::All, now, DELAY).is_empty());
        }
        while let Some(due) = installed.next_retirement(DELAY) {
            now = now.max(due);
            let plan = diff(IpFamily::V4, &installed, &intent, Scope::All, now, DELAY);
            prop_assert!(!plan.is_empty());
            carry_out(&mut installed, &plan, now, 0);
        }
        check_no_packet_is_lost(&moments, &intents)?;
        prop_assert_eq!(shape(&installed), shape(&full_sync(&intent)));
        prop_assert_eq!(installed.cluster_ips, full_sync(&intent).cluster_ips);
        prop_assert_eq!(installed.hairpin, full_sync(&intent).hairpin);
    }

    /// A process killed after any transaction reads back what is there and ends where it should.
    #[test]
    fn a_restart_after_any_transaction_converges(
        before in proptest::collection::btree_map(0u8..3, proptest::collection::btree_set(1u8..9, 0..7), 0..3),
        after in proptest::collection::btree_map(0u8..3, proptest::collection::btree_set(1u8..9, 0..7), 0..3),
        split in 0usize..40,
        killed in 0usize..8,
    ) {
        let (before, after) = (mk_view(&before), mk_view(&after));
        let mut installed = full_sync(&Intent::of(&before, settings()));
        let intent = Intent::of(&after, settings());
        let plan = plan_at(&installed, &intent, 0);
        let states = carry_out(&mut installed, &plan, Duration::ZERO, split);
        let left = states.get(killed % states.len().max(1)).unwrap_or(&installed);
        let start = Duration::from_secs(100);
        let mut observed = Installed::observed(left.elements(), start);
        prop_assert_eq!(shape(&observed), shape(left));
        for now in [start, start + DELAY] {
            let plan = diff(IpFamily::V4, &observed, &intent, Scope::All, now, DELAY);
            carry_out(&mut observed, &plan, now, 0);
        }
        prop_assert_eq!(shape(&observed), shape(&full_sync(&intent)));
        prop_assert!(diff(IpFamily::V4, &observed, &intent, Scope::All, start + DELAY, DELAY).is_empty());
    }
}
