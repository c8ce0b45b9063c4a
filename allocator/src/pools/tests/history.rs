// SPDX-License-Identifier: Apache-2.0
//! Random histories with edits in the middle.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Define(Vec<(u8, u8, u8, bool)>),
    Any(u8, Option<u8>, Option<u8>),
    This(u8, u8, Option<u8>),
    Adopt(u8, u8),
    AdoptHold(u8, u8, u8),
    Release(u8, u8),
    Withdraw(u8, u8),
    Lapse,
}

fn step() -> impl Strategy<Value = Step> {
    let until = || prop::option::of(1u8..20);
    prop_oneof![
        2 => prop::collection::vec((0u8..4, 0u8..32, 0u8..12, prop::bool::weighted(0.9)), 0..5).prop_map(Step::Define),
        4 => (0u8..8, prop::option::of(0u8..4), until()).prop_map(|(o, p, u)| Step::Any(o, p, u)),
        2 => (0u8..40, 0u8..8, until()).prop_map(|(a, o, u)| Step::This(a, o, u)),
        1 => (0u8..40, 0u8..8).prop_map(|(a, o)| Step::Adopt(a, o)),
        1 => (0u8..40, 0u8..8, 1u8..20).prop_map(|(a, o, u)| Step::AdoptHold(a, o, u)),
        3 => (0u8..40, 0u8..8).prop_map(|(a, o)| Step::Release(a, o)),
        1 => (0u8..40, 0u8..8).prop_map(|(a, o)| Step::Withdraw(a, o)),
        1 => Just(Step::Lapse),
    ]
}

fn address(index: u8) -> IpAddr {
    IpAddr::V4([10, 0, 0, index].into())
}

fn pool_letter(index: u8) -> PoolName {
    name(&char::from(b'a' + index).to_string())
}

fn service(index: u8) -> ServiceKey {
    owner(&index.to_string())
}

fn defined((pool, from, length, well_formed): (u8, u8, u8, bool)) -> PoolDefinition {
    let range = IpRange::new(address(from), address(from + length)).unwrap();
    PoolDefinition {
        created: i64::from(pool % 2),
        well_formed,
        ..PoolDefinition::of(pool_letter(pool), [range].into_iter().collect())
    }
}

/// Who has what, and until when.
#[derive(Default)]
struct Held(BTreeMap<IpAddr, (ServiceKey, Option<Duration>)>);

impl Held {
    fn holder(&self, item: IpAddr) -> Option<&ServiceKey> {
        self.0.get(&item).map(|(owner, _)| owner)
    }

    fn lapse(&mut self, now: Duration) {
        self.0
            .retain(|_, (_, until)| until.is_none_or(|until| until > now));
    }

    /// The item is the owner's, who may have a hold on it already.
    fn give(&mut self, item: IpAddr, owner: &ServiceKey, until: Option<Duration>) {
        let had = self.0.get(&item).map(|(_, until)| *until);
        let until = match had {
            None => until,
            Some(before) => before.and_then(|before| Some(until?.max(before))),
        };
        self.0.insert(item, (owner.clone(), until));
    }
}

fn define(pools: &mut Pools, held: &mut Held, list: Vec<(u8, u8, u8, bool)>) {
    let before: BTreeSet<IpAddr> = pools.uncovered().map(|(a, _)| a).collect();
    let edit = pools
        .set_definitions(list.into_iter().map(defined).collect())
        .unwrap_or_default();
    let after: BTreeSet<IpAddr> = pools.uncovered().map(|(a, _)| a).collect();
    let newly: BTreeSet<IpAddr> = edit.uncovered.iter().map(|(a, _)| *a).collect();
    assert_eq!(newly, after.difference(&before).copied().collect::<BTreeSet<_>>());
    let homeless = held
        .0
        .iter()
        .filter(|(item, (_, until))| until.is_some() && pools.pool_of(**item).is_none());
    let homeless: BTreeSet<IpAddr> = homeless.map(|(item, _)| *item).collect();
    assert_eq!(
        edit.ended.iter().map(|(item, _)| *item).collect::<BTreeSet<_>>(),
        homeless
    );
    held.0.retain(|item, _| !homeless.contains(item));
}

/// Whoever may have any item gets one that nobody has, from a pool that gives.
fn any_of(
    pools: &mut Pools,
    held: &mut Held,
    (o, p): (u8, Option<u8>),
    hold_until: Option<Duration>,
    now: Duration,
) {
    let (from, owner) = (p.map(pool_letter), service(o));
    let request = Request {
        hold_until,
        ..Request::for_good(&owner, now)
    };
    held.lapse(now);
    pools.lapse(now);
    let possible = pools.check_any(IpFamily::V4, &owner, from.as_ref());
    let given = pools.allocate_any(IpFamily::V4, &request, from.as_ref());
    assert_eq!(possible.err(), given.as_ref().err().cloned());
    if let Ok(given) = given {
        let pool = given.pool.unwrap();
        assert!(from.is_none_or(|from| from == pool));
        assert_eq!(pools.get(&pool).unwrap().0, &Standing::InUse);
        assert!(held.holder(given.item).is_none(), "given twice");
        held.give(given.item, &owner, hold_until);
    }
}

/// A hold that was given already, whatever stands against it.
fn adopt_hold(pools: &mut Pools, held: &mut Held, (a, o): (u8, u8), until: Duration) {
    let kept = pools.adopt_hold(address(a), &service(o), until);
    let is_free = held.holder(address(a)).is_none();
    assert_eq!(kept, is_free && pools.pool_of(address(a)).is_some());
    if kept {
        held.give(address(a), &service(o), Some(until));
    }
}

fn take(pools: &mut Pools, held: &mut Held, step: Step, now: Duration) {
    let later = |until: Option<u8>| until.map(|seconds| now + Duration::from_secs(seconds.into()));
    match step {
        Step::Define(list) => define(pools, held, list),
        Step::Any(o, p, until) => any_of(pools, held, (o, p), later(until), now),
        Step::This(a, o, until) => {
            let owner = service(o);
            let request = Request {
                hold_until: later(until),
                ..Request::for_good(&owner, now)
            };
            held.lapse(now);
            let result = pools.allocate_this(address(a), &request, None);
            match held.holder(address(a)) {
                Some(holder) if *holder != owner => assert!(result.is_err()),
                Some(_) | None if result.is_ok() => held.give(address(a), &owner, request.hold_until),
                Some(_) | None => {}
            }
        }
        Step::Adopt(a, o) => {
            let result = pools.adopt(address(a), &service(o));
            let taken = held
                .0
                .get(&address(a))
                .is_some_and(|(owner, until)| until.is_none() && *owner != service(o));
            assert_eq!(result.is_err(), taken);
            if !taken {
                held.0.insert(address(a), (service(o), None));
            }
        }
        Step::AdoptHold(a, o, u) => adopt_hold(pools, held, (a, o), now + Duration::from_secs(u.into())),
        Step::Release(a, o) => {
            let was_held = held.holder(address(a)) == Some(&service(o));
            assert_eq!(pools.release(address(a), &service(o), now), was_held);
            if was_held {
                held.0.remove(&address(a));
            }
        }
        Step::Withdraw(a, o) => {
            let was_hold = held
                .0
                .get(&address(a))
                .is_some_and(|(owner, until)| until.is_some() && *owner == service(o));
            assert_eq!(pools.withdraw(address(a), &service(o)).is_ok(), was_hold);
            if was_hold {
                held.0.remove(&address(a));
            }
        }
        Step::Lapse => {
            let before = held.0.len();
            held.lapse(now);
            assert_eq!(pools.lapse(now).len(), before - held.0.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn nobody_loses_an_address_to_an_edit_and_none_has_two_holders(steps in prop::collection::vec(step(), 0..60)) {
        let mut pools = Pools::new(Duration::from_secs(3));
        let mut held = Held::default();
        for (second, step) in steps.into_iter().enumerate() {
            take(&mut pools, &mut held, step, Duration::from_secs(second as u64));
            for a in 0..50 {
                prop_assert_eq!(pools.holder(address(a)), held.holder(address(a)));
                let hold = matches!(pools.state(address(a)), State::Held(..));
                prop_assert_eq!(hold, held.0.get(&address(a)).is_some_and(|(_, until)| until.is_some()));
            }
            let by_owner: BTreeMap<IpAddr, ServiceKey> = pools
                .owners()
                .flat_map(|o| pools.held_by(o).map(|a| (a, o.clone())))
                .collect();
            let all = held.0.iter().map(|(item, (owner, _))| (*item, owner.clone())).collect();
            prop_assert_eq!(by_owner, all);
        }
    }
}
