// SPDX-License-Identifier: Apache-2.0
//! Pools under edits: nobody loses an address, nobody gets a second holder's.

use berth_model::IpRange;
use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::ZERO;

fn owner(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> PoolName {
    PoolName::new(text)
}

fn definition(pool: &str, created: i64, ranges: &[&str]) -> PoolDefinition {
    PoolDefinition {
        name: name(pool),
        created,
        ranges: ranges
            .iter()
            .map(|text| text.parse::<IpRange>().unwrap())
            .collect(),
        well_formed: true,
    }
}

fn pools(definitions: &[PoolDefinition]) -> Pools {
    let mut pools = Pools::new(Duration::ZERO);
    pools.set_definitions(definitions.to_vec());
    pools
}

fn standing(pools: &Pools, pool: &str) -> Standing {
    pools.get(&name(pool)).unwrap().0.clone()
}

#[test]
fn the_older_pool_keeps_a_contested_range_and_the_younger_rests_whole() {
    for (case, definitions, resting) in [
        (
            "older by creation",
            [
                definition("b", 1, &["10.0.0.0/24"]),
                definition("a", 2, &["10.0.0.250-10.0.1.10"]),
            ],
            "a",
        ),
        (
            "first by name where equally old",
            [
                definition("b", 1, &["10.0.0.0/24"]),
                definition("a", 1, &["10.0.0.250-10.0.1.10"]),
            ],
            "b",
        ),
    ] {
        let mut pools = pools(&definitions);
        let Standing::Overlapping(overlaps) = standing(&pools, resting) else {
            panic!("{case}");
        };
        assert_eq!(overlaps.len(), 1, "{case}");
        assert_eq!(
            overlaps[0].ranges,
            ["10.0.0.250-10.0.0.255".parse().unwrap()],
            "{case}"
        );
        assert_eq!(
            pools.allocate_any(IpFamily::V4, &owner("web"), Some(&name(resting)), NOW),
            Err(Refusal::PoolAtRest {
                pool: name(resting),
                standing: Standing::Overlapping(overlaps),
            }),
            "{case}"
        );
    }
}

#[test]
fn a_pool_at_rest_over_a_contest_does_not_contest_others() {
    let pools = pools(&[
        definition("a", 1, &["10.0.0.0-10.0.0.9"]),
        definition("b", 2, &["10.0.0.5-10.0.0.15"]),
        definition("c", 3, &["10.0.0.12-10.0.0.20"]),
    ]);
    assert!(matches!(standing(&pools, "b"), Standing::Overlapping(_)));
    assert_eq!(standing(&pools, "c"), Standing::InUse);
}

#[test]
fn pools_are_drained_oldest_first_and_a_named_pool_is_the_only_one_asked() {
    let mut pools = pools(&[
        definition("young", 2, &["10.0.1.1"]),
        definition("old", 1, &["10.0.0.1"]),
    ]);
    let given = |pools: &mut Pools, who: &str, from: Option<&str>| {
        let from = from.map(name);
        pools
            .allocate_any(IpFamily::V4, &owner(who), from.as_ref(), NOW)
            .map(|allocation| allocation.address)
    };
    assert_eq!(given(&mut pools, "a", None), Ok(ip("10.0.0.1")));
    assert_eq!(
        given(&mut pools, "b", Some("old")),
        Err(Refusal::Exhausted {
            family: IpFamily::V4,
            pools: vec![name("old")]
        })
    );
    assert_eq!(given(&mut pools, "b", None), Ok(ip("10.0.1.1")));
    assert_eq!(
        given(&mut pools, "c", None),
        Err(Refusal::Exhausted {
            family: IpFamily::V4,
            pools: vec![name("old"), name("young")]
        })
    );
}

#[test]
fn every_refusal_says_what_is_missing() {
    let mut full = pools(&[
        definition("a", 1, &["10.0.0.1"]),
        PoolDefinition {
            well_formed: false,
            ..definition("bad", 2, &["10.0.9.0/24"])
        },
    ]);
    full.allocate_this(ip("10.0.0.1"), &owner("web"), None).unwrap();
    let api = owner("api");
    for (address, from, said) in [
        ("10.0.0.1", None, "10.0.0.1 is held by shop/web"),
        ("10.0.7.1", None, "10.0.7.1 is in no AddressPool"),
        ("10.0.7.1", Some("a"), "10.0.7.1 is not in AddressPool a"),
        ("10.0.9.1", Some("a"), "10.0.9.1 is not in AddressPool a"),
        ("10.0.0.1", Some("z"), "there is no AddressPool z"),
        (
            "10.0.9.1",
            None,
            "AddressPool bad gives no addresses: part of its spec cannot be read",
        ),
    ] {
        let from = from.map(name);
        let refusal = full.allocate_this(ip(address), &api, from.as_ref()).unwrap_err();
        assert_eq!(refusal.to_string(), said);
    }
    for (pools, family, said) in [
        (Pools::default(), IpFamily::V4, "there is no AddressPool in use"),
        (
            full.clone(),
            IpFamily::V4,
            "no IPv4 address is left in AddressPool a",
        ),
        (
            full,
            IpFamily::V6,
            "no AddressPool in question has IPv6 addresses",
        ),
    ] {
        assert_eq!(pools.check_any(family, None).unwrap_err().to_string(), said);
    }
}

#[test]
fn a_refusal_stays_short_however_many_pools_there_are() {
    let full: Vec<PoolDefinition> = (0..9)
        .map(|n| definition(&format!("p{n}"), n, &[&format!("10.0.{n}.1")]))
        .collect();
    let mut pools = pools(&full);
    for n in 0..9 {
        pools
            .allocate_any(IpFamily::V4, &owner(&n.to_string()), None, NOW)
            .unwrap();
    }
    assert_eq!(
        pools.check_any(IpFamily::V4, None).unwrap_err().to_string(),
        "no IPv4 address is left in AddressPool p0, p1, p2, p3, 5 more"
    );
}

#[test]
fn an_edit_keeps_every_address_and_names_those_that_lost_their_pool() {
    let mut pools = pools(&[definition("a", 1, &["10.0.0.0/30"])]);
    for who in ["w", "x", "y", "z"] {
        pools.allocate_any(IpFamily::V4, &owner(who), None, NOW).unwrap();
    }
    let edit = pools
        .set_definitions(vec![
            definition("a", 1, &["10.0.0.0/31"]),
            definition("renamed", 5, &["10.0.0.2"]),
        ])
        .unwrap();
    assert_eq!(edit.uncovered, [(ip("10.0.0.3"), owner("z"))]);
    assert_eq!(
        pools.pool_of(ip("10.0.0.2")),
        Some(&name("renamed")),
        "the allocation follows its address"
    );
    assert_eq!(pools.holder(ip("10.0.0.3")), Some(&owner("z")));
    assert_eq!(
        pools.set_definitions(vec![]).unwrap().uncovered.len(),
        3,
        "only the newly uncovered are named"
    );
    let edit = pools
        .set_definitions(vec![definition("b", 9, &["10.0.0.0/30"])])
        .unwrap();
    assert_eq!(edit.recovered.len(), 4);
    assert_eq!(
        pools.check_any(IpFamily::V4, None).unwrap_err(),
        Refusal::Exhausted {
            family: IpFamily::V4,
            pools: vec![name("b")]
        },
        "what was kept is not given again"
    );
}

#[test]
fn an_older_pool_that_grows_into_a_younger_one_takes_over_its_allocations_not_its_addresses() {
    let mut pools = pools(&[
        definition("old", 1, &["10.0.0.0/31"]),
        definition("young", 2, &["10.0.0.2/31"]),
    ]);
    pools
        .allocate_this(ip("10.0.0.2"), &owner("web"), Some(&name("young")))
        .unwrap();
    let edit = pools.set_definitions(vec![
        definition("old", 1, &["10.0.0.0-10.0.0.2"]),
        definition("young", 2, &["10.0.0.2/31"]),
    ]);
    assert_eq!(edit, Some(PoolsEdit::default()));
    assert!(matches!(standing(&pools, "young"), Standing::Overlapping(_)));
    assert_eq!(pools.pool_of(ip("10.0.0.2")), Some(&name("old")));
    let next: Vec<_> = (0..3)
        .map(|n| {
            pools
                .allocate_any(IpFamily::V4, &owner(&n.to_string()), None, NOW)
                .map(|a| a.address)
        })
        .collect();
    assert_eq!(next[..2], [Ok(ip("10.0.0.0")), Ok(ip("10.0.0.1"))]);
    assert!(next[2].is_err());
}

#[test]
fn an_address_in_use_is_adopted_wherever_it_lies_but_has_one_holder() {
    let mut pools = pools(&[definition("a", 1, &["10.0.0.0/30"])]);
    for address in ["10.0.0.1", "203.0.113.1"] {
        assert_eq!(pools.adopt(ip(address), &owner("web")), Ok(Granted::New));
        assert_eq!(pools.adopt(ip(address), &owner("web")), Ok(Granted::Already));
        assert_eq!(
            pools.adopt(ip(address), &owner("api")),
            Err(Refusal::AlreadyAllocated {
                address: ip(address),
                holder: owner("web")
            })
        );
    }
    assert_eq!(
        pools.uncovered().map(|(a, _)| a).collect::<Vec<_>>(),
        [ip("203.0.113.1")]
    );
    assert!(!pools.release(ip("10.0.0.1"), &owner("api"), NOW));
    assert!(pools.release(ip("203.0.113.1"), &owner("web"), NOW));
    assert_eq!(pools.held_by(&owner("web")).collect::<Vec<_>>(), [ip("10.0.0.1")]);
}

#[derive(Clone, Debug)]
enum Step {
    Define(Vec<(u8, u8, u8, bool)>),
    Any(u8, Option<u8>),
    This(u8, u8),
    Adopt(u8, u8),
    Release(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => prop::collection::vec((0u8..4, 0u8..32, 0u8..12, prop::bool::weighted(0.9)), 0..5).prop_map(Step::Define),
        4 => (0u8..8, prop::option::of(0u8..4)).prop_map(|(o, p)| Step::Any(o, p)),
        2 => (0u8..40, 0u8..8).prop_map(|(a, o)| Step::This(a, o)),
        1 => (0u8..40, 0u8..8).prop_map(|(a, o)| Step::Adopt(a, o)),
        3 => (0u8..40, 0u8..8).prop_map(|(a, o)| Step::Release(a, o)),
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn nobody_loses_an_address_to_an_edit_and_none_has_two_holders(steps in prop::collection::vec(step(), 0..60)) {
        let mut pools = Pools::new(Duration::from_secs(3));
        let mut held: BTreeMap<IpAddr, ServiceKey> = BTreeMap::new();
        for (second, step) in steps.into_iter().enumerate() {
            let now = Duration::from_secs(second as u64);
            match step {
                Step::Define(list) => {
                    let before: BTreeSet<IpAddr> = pools.uncovered().map(|(a, _)| a).collect();
                    let edit = pools.set_definitions(list.into_iter().map(|(p, from, length, well_formed)| PoolDefinition {
                        name: pool_letter(p),
                        created: i64::from(p % 2),
                        ranges: [IpRange::new(address(from), address(from + length)).unwrap()].into_iter().collect(),
                        well_formed,
                    }).collect()).unwrap_or_default();
                    let after: BTreeSet<IpAddr> = pools.uncovered().map(|(a, _)| a).collect();
                    let newly: BTreeSet<IpAddr> = edit.uncovered.iter().map(|(a, _)| *a).collect();
                    prop_assert_eq!(newly, after.difference(&before).copied().collect::<BTreeSet<_>>());
                }
                Step::Any(o, p) => {
                    let from = p.map(pool_letter);
                    let possible = pools.check_any(IpFamily::V4, from.as_ref());
                    let given = pools.allocate_any(IpFamily::V4, &service(o), from.as_ref(), now);
                    prop_assert_eq!(possible.err(), given.as_ref().err().cloned());
                    if let Ok(given) = given {
                        let pool = given.pool.unwrap();
                        prop_assert!(from.is_none_or(|from| from == pool));
                        prop_assert_eq!(pools.get(&pool).unwrap().0, &Standing::InUse);
                        prop_assert!(held.insert(given.address, service(o)).is_none(), "given twice");
                    }
                }
                Step::This(a, o) => {
                    let result = pools.allocate_this(address(a), &service(o), None);
                    match held.get(&address(a)) {
                        Some(holder) if *holder != service(o) => prop_assert!(result.is_err()),
                        Some(_) => {}
                        None => if result.is_ok() { held.insert(address(a), service(o)); },
                    }
                }
                Step::Adopt(a, o) => {
                    let result = pools.adopt(address(a), &service(o));
                    let holder = held.entry(address(a)).or_insert_with(|| service(o));
                    prop_assert_eq!(result.is_ok(), *holder == service(o));
                }
                Step::Release(a, o) => {
                    let was_held = held.get(&address(a)) == Some(&service(o));
                    prop_assert_eq!(pools.release(address(a), &service(o), now), was_held);
                    if was_held { held.remove(&address(a)); }
                }
            }
            for a in 0..50 {
                prop_assert_eq!(pools.holder(address(a)), held.get(&address(a)));
            }
            let by_owner: BTreeMap<IpAddr, ServiceKey> = pools
                .owners()
                .flat_map(|o| pools.held_by(o).map(|a| (a, o.clone())))
                .collect();
            prop_assert_eq!(&by_owner, &held);
        }
    }
}
