// SPDX-License-Identifier: Apache-2.0
//! A pool against a naive model, and its edges by name.

use berth_model::IpRange;
use proptest::prelude::*;

use super::*;

const NEVER: Duration = Duration::ZERO;

fn set(ranges: &[&str]) -> AddressSet {
    ranges
        .iter()
        .map(|text| text.parse::<IpRange>().unwrap())
        .collect()
}

fn owner(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn every_address_of_a_range_is_given_once_lowest_first_and_then_it_is_full() {
    for (ranges, family, expected) in [
        (
            &["192.0.2.0/30"][..],
            IpFamily::V4,
            &["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3"][..],
        ),
        (&["192.0.2.9/32"], IpFamily::V4, &["192.0.2.9"]),
        (&["fd00::7/128"], IpFamily::V6, &["fd00::7"]),
        (
            &["255.255.255.254/31", "0.0.0.0/31"],
            IpFamily::V4,
            &["0.0.0.0", "0.0.0.1", "255.255.255.254", "255.255.255.255"],
        ),
        (
            &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127", "::"],
            IpFamily::V6,
            &[
                "::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ],
        ),
    ] {
        let mut pool = Pool::new(set(ranges));
        for (index, address) in expected.iter().enumerate() {
            assert!(pool.has_free(family));
            assert_eq!(
                pool.allocate_any(family, &owner(&index.to_string()), NEVER),
                Ok(ip(address))
            );
        }
        assert!(!pool.has_free(family));
        let before = pool.clone();
        assert_eq!(
            pool.allocate_any(family, &owner("late"), NEVER),
            Err(AllocateError::Full { family })
        );
        assert_eq!(pool, before, "a refusal changes nothing");
        assert_eq!(
            pool.counts(family),
            Counts {
                capacity: expected.len() as u128,
                allocated: expected.len() as u64,
                free: 0,
            }
        );
    }
}

#[test]
fn a_family_that_the_pool_lacks_is_not_called_full() {
    let mut pool = Pool::new(set(&["192.0.2.0/30"]));
    assert_eq!(
        pool.allocate_any(IpFamily::V6, &owner("web"), NEVER),
        Err(AllocateError::NoSuchFamily { family: IpFamily::V6 })
    );
}

#[test]
fn a_wide_range_costs_what_is_allocated_in_it() {
    let mut pool = Pool::new(set(&["::/0", "0.0.0.0/0"]));
    for index in 0..1_000u32 {
        let name = owner(&index.to_string());
        pool.allocate_any(IpFamily::V6, &name, NEVER).unwrap();
    }
    assert_eq!(pool.counts(IpFamily::V6).allocated, 1_000);
    assert_eq!(pool.counts(IpFamily::V6).free, u128::MAX - 1_000);
    assert_eq!(pool.free.ranges().len(), 2);
}

#[test]
fn this_address_is_given_to_its_holder_again_and_to_nobody_else() {
    let mut pool = Pool::new(set(&["192.0.2.0/30"]));
    let (web, api) = (owner("web"), owner("api"));
    assert_eq!(pool.allocate_this(ip("192.0.2.2"), &web), Ok(Granted::New));
    assert_eq!(pool.allocate_this(ip("192.0.2.2"), &web), Ok(Granted::Already));
    assert_eq!(
        pool.allocate_this(ip("192.0.2.2"), &api),
        Err(AllocateError::AlreadyAllocated {
            address: ip("192.0.2.2"),
            holder: web.clone()
        })
    );
    assert_eq!(
        pool.allocate_this(ip("192.0.2.4"), &api),
        Err(AllocateError::NotInRange {
            address: ip("192.0.2.4")
        })
    );
}

#[test]
fn only_the_holder_can_release() {
    let mut pool = Pool::new(set(&["192.0.2.0/30"]));
    let (web, api) = (owner("web"), owner("api"));
    let address = pool.allocate_any(IpFamily::V4, &web, NEVER).unwrap();
    let before = pool.clone();
    assert_eq!(
        pool.release(address, &api, NEVER),
        Err(ReleaseError::HeldByAnother {
            address,
            holder: web.clone()
        })
    );
    assert_eq!(
        pool.release(ip("192.0.2.3"), &web, NEVER),
        Err(ReleaseError::NotAllocated {
            address: ip("192.0.2.3")
        })
    );
    assert_eq!(pool, before, "a refusal changes nothing");
    assert_eq!(pool.release(address, &web, NEVER), Ok(()));
    assert_eq!(pool.counts(IpFamily::V4).allocated, 0);
}

#[test]
fn a_released_address_cools_down_unless_nothing_else_is_left() {
    let mut pool = Pool::new(set(&["192.0.2.0/31"]));
    let at = Duration::from_secs;
    let first = pool.allocate_any(IpFamily::V4, &owner("a"), at(0)).unwrap();
    pool.release(first, &owner("a"), at(60)).unwrap();
    assert_eq!(pool.counts(IpFamily::V4).free, 2, "a cooling address is free");
    let second = pool.allocate_any(IpFamily::V4, &owner("b"), at(1)).unwrap();
    assert_ne!(second, first);
    assert_eq!(
        pool.allocate_any(IpFamily::V4, &owner("c"), at(2)),
        Ok(first),
        "the last one is given all the same"
    );
    pool.release(first, &owner("c"), at(70)).unwrap();
    pool.release(second, &owner("b"), at(90)).unwrap();
    assert_eq!(
        pool.allocate_any(IpFamily::V4, &owner("d"), at(71)),
        Ok(first),
        "cooled down"
    );
    assert_eq!(
        pool.allocate_this(second, &owner("e")),
        Ok(Granted::New),
        "asked for by name"
    );
}

#[test]
fn of_several_cooling_addresses_the_one_nearest_its_end_is_given() {
    let mut pool = Pool::new(set(&["192.0.2.0/31"]));
    let at = Duration::from_secs;
    for name in ["a", "b"] {
        pool.allocate_any(IpFamily::V4, &owner(name), at(0)).unwrap();
    }
    pool.release(ip("192.0.2.0"), &owner("a"), at(90)).unwrap();
    pool.release(ip("192.0.2.1"), &owner("b"), at(60)).unwrap();
    assert_eq!(
        pool.allocate_any(IpFamily::V4, &owner("c"), at(2)),
        Ok(ip("192.0.2.1"))
    );
}

#[test]
fn a_rebuild_reports_every_conflict_and_restores_the_rest() {
    let list = [
        (ip("192.0.2.1"), owner("web")),
        (ip("192.0.2.1"), owner("api")),
        (ip("198.51.100.1"), owner("lost")),
        (ip("192.0.2.1"), owner("web")),
        (ip("192.0.2.3"), owner("db")),
    ];
    let (pool, conflicts) = Pool::rebuild(set(&["192.0.2.0/30"]), list);
    assert_eq!(
        pool.allocated().map(|(a, o)| (a, o.clone())).collect::<Vec<_>>(),
        [(ip("192.0.2.1"), owner("web")), (ip("192.0.2.3"), owner("db"))]
    );
    assert_eq!(
        conflicts,
        [
            Conflict {
                address: ip("192.0.2.1"),
                claimant: owner("api"),
                error: AllocateError::AlreadyAllocated {
                    address: ip("192.0.2.1"),
                    holder: owner("web")
                },
            },
            Conflict {
                address: ip("198.51.100.1"),
                claimant: owner("lost"),
                error: AllocateError::NotInRange {
                    address: ip("198.51.100.1")
                },
            },
        ]
    );
}

/// The naive model: one entry an address, walked from the first.
#[derive(Default)]
struct Naive {
    addresses: BTreeMap<IpAddr, (Option<ServiceKey>, Option<Duration>)>,
}

impl Naive {
    fn allocate_any(&mut self, family: IpFamily, name: &ServiceKey, now: Duration) -> Option<IpAddr> {
        let ready = self
            .addresses
            .iter()
            .find(|(a, (o, c))| IpFamily::of(**a) == family && o.is_none() && c.is_none_or(|c| c <= now))
            .map(|(a, _)| *a);
        let cooling = self
            .addresses
            .iter()
            .filter(|(a, (o, _))| IpFamily::of(**a) == family && o.is_none())
            .min_by_key(|(a, (_, c))| (*c, **a))
            .map(|(a, _)| *a);
        let address = ready.or(cooling)?;
        self.addresses.insert(address, (Some(name.clone()), None));
        Some(address)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Any(bool, u8),
    This(u8, u8),
    Release(u8, u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any::<bool>(), 0u8..6).prop_map(|(v6, o)| Step::Any(v6, o)),
        2 => (0u8..24, 0u8..6).prop_map(|(a, o)| Step::This(a, o)),
        3 => (0u8..24, 0u8..6, 0u8..30).prop_map(|(a, o, c)| Step::Release(a, o, c)),
    ]
}

/// Addresses at both ends of both spaces; every fourth one lies outside the pool.
fn candidate(index: u8) -> IpAddr {
    let offset = u32::from(index / 4);
    match index % 4 {
        0 => IpAddr::V4(offset.into()),
        1 => IpAddr::V4((u32::MAX - offset).into()),
        2 => IpAddr::V6((u128::MAX - u128::from(offset)).into()),
        _ => IpAddr::V4((0x0a00_0000 + offset).into()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_naive_model(steps in prop::collection::vec(step(), 0..80)) {
        let members: Vec<IpAddr> = (0..24).filter(|i| i % 4 != 3).map(candidate).collect();
        let mut pool = Pool::new(members.iter().map(|a| IpRange::new(*a, *a).unwrap()).collect());
        let mut naive = Naive::default();
        naive.addresses.extend(members.iter().map(|a| (*a, (None, None))));
        for (second, step) in steps.into_iter().enumerate() {
            let now = Duration::from_secs(second as u64);
            match step {
                Step::Any(v6, o) => {
                    let (family, name) = (IpFamily::ALL[usize::from(v6)], owner(&o.to_string()));
                    let expected = naive.allocate_any(family, &name, now);
                    prop_assert_eq!(pool.allocate_any(family, &name, now).ok(), expected);
                }
                Step::This(a, o) => {
                    let (address, name) = (candidate(a), owner(&o.to_string()));
                    let result = pool.allocate_this(address, &name);
                    match naive.addresses.get_mut(&address) {
                        None => prop_assert_eq!(result, Err(AllocateError::NotInRange { address })),
                        Some((Some(holder), _)) if *holder != name => {
                            let holder = holder.clone();
                            prop_assert_eq!(result, Err(AllocateError::AlreadyAllocated { address, holder }));
                        }
                        Some(entry) => {
                            prop_assert!(result.is_ok());
                            *entry = (Some(name), None);
                        }
                    }
                }
                Step::Release(a, o, c) => {
                    let (address, name) = (candidate(a), owner(&o.to_string()));
                    let until = now + Duration::from_secs(u64::from(c));
                    let result = pool.release(address, &name, until);
                    match naive.addresses.get_mut(&address) {
                        Some(entry) if entry.0.as_ref() == Some(&name) => {
                            prop_assert_eq!(result, Ok(()));
                            *entry = (None, Some(until));
                        }
                        Some(_) | None => prop_assert!(result.is_err()),
                    }
                }
            }
            for family in IpFamily::ALL {
                let of_family = || naive.addresses.iter().filter(|(a, _)| IpFamily::of(**a) == family);
                let held = of_family().filter(|(_, (o, _))| o.is_some()).count();
                let capacity = of_family().count() as u128;
                prop_assert_eq!(
                    pool.counts(family),
                    Counts { capacity, allocated: held as u64, free: capacity - held as u128 }
                );
                prop_assert_eq!(pool.has_free(family), (held as u128) < capacity);
            }
        }
        for address in (0..24).map(candidate) {
            let expected = naive.addresses.get(&address).and_then(|(o, _)| o.as_ref());
            prop_assert_eq!(pool.holder(address), expected);
        }
    }
}
