// SPDX-License-Identifier: Apache-2.0
//! Random histories of every operation, time included, against the naive pool.

use super::naive::{Answer, Naive};
use super::*;
use crate::dice::{Dice, scaled};

/// Owners of two namespaces.
fn someone(dice: &mut Dice) -> ServiceKey {
    let namespace = *dice.one_of(&["shop", "lab"]);
    ServiceKey::new(namespace, dice.below(5).to_string())
}

fn answer<I: Item, T>(result: Result<T, Refusal<I, ServiceKey>>) -> Answer<T> {
    result.map_err(|refusal| {
        assert!(!refusal.to_string().is_empty() && !refusal.way_out().is_empty());
        refusal.as_str()
    })
}

fn request<'a>(owner: &'a ServiceKey, now: Duration, dice: &mut Dice) -> Request<'a, ServiceKey> {
    let request = if dice.percent(40) {
        Request::hold(owner, now, now + at(dice.below(120)))
    } else {
        Request::for_good(owner, now)
    };
    request.at_random(dice.roll())
}

/// One operation on both; the item that it was about.
fn step<I: Item>(
    pool: &mut Pool<I, ServiceKey>,
    naive: &mut Naive<I>,
    candidates: &[I],
    now: Duration,
    dice: &mut Dice,
) -> I {
    let (mut item, mut name) = (*dice.one_of(candidates), someone(dice));
    // Those who have something do most of what needs that.
    if let Some(holder) = pool.holder(item).filter(|_| dice.percent(70)) {
        name = holder.clone();
    }
    let asks = request(&name, now, dice);
    match dice.below(100) {
        0..40 => {
            let expected = naive.any(item.family(), &asks);
            assert_eq!(answer(pool.allocate_any(item.family(), &asks)), expected);
            item = expected.unwrap_or(item);
        }
        40..60 => {
            let expected = naive.this(item, &asks);
            assert_eq!(answer(pool.allocate_this(item, &asks)), expected);
        }
        60..66 => {
            let expected = naive.adopt(item, &name);
            assert_eq!(
                answer(pool.adopt(item, &name).map(|adopted| adopted.granted)),
                expected
            );
        }
        66..88 => assert_eq!(
            pool.release(item, &name, now).is_ok(),
            naive.release(item, &name, now)
        ),
        88..95 => assert_eq!(pool.withdraw(item, &name).is_ok(), naive.withdraw(item, &name)),
        _ => assert_eq!(
            pool.lapse(now).into_iter().collect::<BTreeSet<_>>(),
            naive.lapse(now)
        ),
    }
    item
}

fn same_state<I: Item>(pool: &Pool<I, ServiceKey>, naive: &Naive<I>, item: I, now: Duration) {
    let forever = naive.definition.strategy == Strategy::LeastRecentlyReleased;
    let over = |until: Duration| until <= now && !forever;
    let mut state = pool.state(item);
    if matches!(state, State::Resting(until) if over(until)) {
        state = State::Free;
    }
    let expected = match naive.cells.get(&item) {
        None => State::Outside,
        Some(cell) if cell.withheld && cell.holder.is_none() && cell.reserved.is_none() => State::Withheld,
        Some(cell) => match (&cell.holder, cell.deadline, &cell.reserved, cell.rests) {
            (Some(holder), Some(deadline), ..) => State::Held(holder, deadline),
            (Some(holder), None, ..) => State::Allocated(holder),
            (None, _, Some(owner), _) => State::Reserved(owner),
            (None, _, None, Some(until)) if !over(until) => State::Resting(until),
            (None, _, None, _) => State::Free,
        },
    };
    assert_eq!(state, expected, "{item}");
}

fn same_counts<I: Item>(pool: &Pool<I, ServiceKey>, naive: &Naive<I>) {
    for family in I::FAMILIES {
        let cells = || {
            naive
                .cells
                .iter()
                .filter(|(item, _)| item.family() == *family)
                .map(|(_, cell)| cell)
        };
        let count =
            |wanted: &dyn Fn(&super::naive::Cell) -> bool| cells().filter(|cell| wanted(cell)).count() as u64;
        let counts = pool.counts(*family);
        assert_eq!(counts.capacity, cells().count() as u128);
        assert_eq!(
            counts.allocated,
            count(&|cell| cell.holder.is_some() && cell.deadline.is_none())
        );
        assert_eq!(counts.held, count(&|cell| cell.deadline.is_some()));
        assert_eq!(
            counts.reserved,
            count(&|cell| cell.holder.is_none() && cell.reserved.is_some())
        );
        assert_eq!(
            counts.free,
            u128::from(count(&|cell| cell.holder.is_none()
                && cell.reserved.is_none()
                && !cell.withheld))
        );
        assert_eq!(
            counts.withheld,
            u128::from(count(&|cell| cell.holder.is_none()
                && cell.reserved.is_none()
                && cell.withheld))
        );
        let groups: Vec<(&str, u64)> = pool.use_by_group(*family).collect();
        for group in ["shop", "lab"] {
            let used = naive.group_use(*family, group);
            assert_eq!(groups.contains(&(group, used)), used > 0, "{group}: {groups:?}");
        }
    }
}

fn history<I: Item>(definition: PoolDefinition<I, ServiceKey>, candidates: &[I], seed: u64, steps: u64) {
    let mut dice = Dice::new(seed);
    let mut pool = Pool::new(&definition, REST);
    let mut naive = Naive::new(definition.clone(), candidates);
    let mut now = at(0);
    for index in 0..steps {
        // Whole seconds, so that deadlines are met to the instant.
        now += at(dice.below(4));
        let item = step(&mut pool, &mut naive, candidates, now, &mut dice);
        same_state(&pool, &naive, item, now);
        same_counts(&pool, &naive);
        if index % 64 == 0 {
            candidates
                .iter()
                .for_each(|item| same_state(&pool, &naive, *item, now));
            rebuilt_is_the_same(&pool, &definition);
        }
    }
}

/// A restart loses holds and rests, and nothing else.
fn rebuilt_is_the_same<I: Item>(pool: &Pool<I, ServiceKey>, definition: &PoolDefinition<I, ServiceKey>) {
    let list: Vec<(I, ServiceKey)> = pool
        .allocated()
        .map(|(item, owner)| (item, owner.clone()))
        .collect();
    let contested = pool
        .contested_reservations()
        .filter(|(item, ..)| pool.held().all(|(held, ..)| held != *item));
    let contested = contested.count();
    let (again, conflicts) = Pool::rebuild(definition, REST, list.clone());
    assert_eq!(conflicts.len(), contested, "{conflicts:?}");
    assert!(conflicts.iter().all(|conflict| conflict.restored));
    let restored: Vec<(I, ServiceKey)> = again
        .allocated()
        .map(|(item, owner)| (item, owner.clone()))
        .collect();
    assert_eq!(restored, list);
    for family in I::FAMILIES {
        assert_eq!(again.counts(*family).allocated, pool.counts(*family).allocated);
        assert_eq!(again.counts(*family).held, 0);
    }
}

/// Every definition that differs in more than size.
fn variants<I: Item>(
    plain: &PoolDefinition<I, ServiceKey>,
    candidates: &[I],
) -> Vec<PoolDefinition<I, ServiceKey>> {
    let strategies = [
        Strategy::LowestFirst,
        Strategy::Random,
        Strategy::LeastRecentlyReleased,
    ];
    let mut variants = Vec::new();
    for strategy in strategies {
        for kept in [0, 4, 99] {
            for limit in [None, Some(3)] {
                let reservations = candidates.iter().step_by(5).enumerate();
                variants.push(PoolDefinition {
                    strategy,
                    static_band: StaticBand::Lowest(kept),
                    quota: Quota {
                        each: limit,
                        groups: [("lab".to_owned(), 6)].into(),
                    },
                    reservations: reservations
                        .filter(|_| limit.is_some())
                        .map(|(index, item)| (*item, ServiceKey::new("lab", (index % 5).to_string())))
                        .collect(),
                    ..plain.clone()
                });
            }
        }
    }
    let every = |step: usize| {
        let mut set = RangeSet::default();
        let these = candidates.iter().step_by(step);
        these.for_each(|item| set.insert_item(*item));
        set
    };
    for index in 0..variants.len() {
        variants.push(PoolDefinition {
            withheld: every(3),
            kept: every(4),
            ..variants[index].clone()
        });
    }
    variants.push(PoolDefinition {
        draining: true,
        ..plain.clone()
    });
    variants
}

#[test]
fn address_pools_behave_as_the_naive_pool() {
    let plain = AddressDefinition {
        excluded: definition(&["10.0.0.2-10.0.0.3", "10.0.0.9"]).ranges,
        ..definition(&[
            "10.0.0.0/28",
            "0.0.0.0/31",
            "255.255.255.254/31",
            "::/127",
            "fd00::7",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124",
        ])
    };
    let ends = ["9.255.255.255", "10.0.0.16", "0.0.0.2", "::2", "fd00::8"].map(ip);
    let members = plain.ranges.ranges();
    let members = members
        .iter()
        .flat_map(|range| (0..range.size()).filter_map(|offset| range.nth(offset)));
    let candidates: Vec<IpAddr> = members.chain(ends).collect();
    for (seed, definition) in variants(&plain, &candidates).into_iter().enumerate() {
        history(definition, &candidates, seed as u64, scaled(20_000));
    }
}

#[test]
fn port_pools_behave_as_the_naive_pool() {
    let plain = PortDefinition {
        excluded: ports(&["30004-30005"]).ranges,
        ..ports(&["30000-30009", "1-2", "65534-65535", "31000"])
    };
    let members = plain.ranges.ranges();
    let members = members
        .iter()
        .flat_map(|range| range.first().get()..=range.last().get());
    let candidates: Vec<Port> = members.chain([3, 30_010, 65_533]).map(port).collect();
    for (seed, definition) in variants(&plain, &candidates).into_iter().enumerate() {
        history(definition, &candidates, seed as u64, scaled(10_000));
    }
}
