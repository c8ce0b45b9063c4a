// SPDX-License-Identifier: Apache-2.0
//! Which item is given, to whom, and when again.

use super::*;

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
        let mut pool = pool(ranges);
        for (index, address) in expected.iter().enumerate() {
            assert!(pool.has_free(family));
            assert_eq!(any(&mut pool, family, &index.to_string(), at(0)), Ok(ip(address)));
        }
        assert!(!pool.has_free(family));
        let before = pool.clone();
        assert_eq!(
            any(&mut pool, family, "late", at(0)),
            Err(Refusal::Exhausted {
                family,
                pools: vec![PoolName::new("p")]
            })
        );
        assert_eq!(pool, before, "a refusal changes nothing");
        assert_eq!(
            pool.counts(family),
            Counts {
                capacity: expected.len() as u128,
                allocated: expected.len() as u64,
                ..Counts::default()
            }
        );
    }
}

#[test]
fn a_family_that_the_pool_lacks_is_not_called_full() {
    let mut pool = pool(&["192.0.2.0/30"]);
    assert_eq!(
        any(&mut pool, IpFamily::V6, "web", at(0)),
        Err(Refusal::NoSuchFamily { family: IpFamily::V6 })
    );
}

#[test]
fn a_pool_of_nothing_gives_nothing() {
    let mut nothing = Pool::new(
        &AddressDefinition {
            excluded: definition(&["10.0.0.0/24", "::/0"]).ranges,
            ..definition(&["10.0.0.0/24", "::/0"])
        },
        REST,
    );
    for family in IpFamily::ALL {
        assert_eq!(
            any(&mut nothing, family, "web", at(0)),
            Err(Refusal::NoSuchFamily { family })
        );
        assert_eq!(nothing.counts(family), Counts::default());
    }
}

#[test]
fn a_wide_range_costs_what_is_allocated_in_it() {
    for strategy in [Strategy::LowestFirst, Strategy::Random] {
        let mut pool = Pool::new(
            &AddressDefinition {
                strategy,
                ..definition(&["::/0", "0.0.0.0/0"])
            },
            REST,
        );
        for index in 0..1_000u64 {
            let name = owner(&index.to_string());
            let request =
                Request::for_good(&name, at(0)).at_random(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            pool.allocate_any(IpFamily::V6, &request).unwrap();
            pool.allocate_any(IpFamily::V4, &request).unwrap();
        }
        for family in IpFamily::ALL {
            assert_eq!(pool.counts(family).allocated, 1_000);
        }
        assert_eq!(pool.counts(IpFamily::V6).free, u128::MAX - 1_000);
        assert_eq!(pool.counts(IpFamily::V4).free, (1 << 32) - 1_000);
        assert!(pool.set_bytes() < 100_000, "{} bytes", pool.set_bytes());
    }
}

#[test]
fn counts_are_exact_in_ranges_of_every_size() {
    for (range, family, capacity, bytes) in [
        ("10.0.0.0/8", IpFamily::V4, 1u128 << 24, 1 << 22),
        ("10.0.0.0/7", IpFamily::V4, 1 << 25, 50_000),
        ("10.1.2.3/32", IpFamily::V4, 1, 1_000),
        ("fd00::/64", IpFamily::V6, 1 << 64, 50_000),
        ("fd00::/56", IpFamily::V6, 1 << 72, 100_000),
        ("fd00::1/128", IpFamily::V6, 1, 1_000),
    ] {
        let mut pool = Pool::new(
            &AddressDefinition {
                strategy: Strategy::Random,
                ..definition(&[range])
            },
            REST,
        );
        let mut dice = crate::dice::Dice::new(8);
        let wanted = u64::try_from(capacity.min(1_000)).unwrap();
        let mut given = Vec::new();
        for index in 0..wanted {
            let name = owner(&index.to_string());
            let request = Request::for_good(&name, at(0)).at_random(dice.roll());
            given.push((pool.allocate_any(family, &request).unwrap(), name));
        }
        let counts = |allocated: u64| Counts {
            capacity,
            allocated,
            free: capacity - u128::from(allocated),
            ..Counts::default()
        };
        assert_eq!(pool.counts(family), counts(wanted), "{range}");
        assert!(pool.set_bytes() < bytes, "{range}: {} bytes", pool.set_bytes());
        for (item, name) in given {
            pool.release(item, &name, at(1)).unwrap();
        }
        assert_eq!(pool.counts(family), counts(0), "{range}");
    }
}

#[test]
fn this_address_is_given_to_its_holder_again_and_to_nobody_else() {
    let mut pool = pool(&["192.0.2.0/30"]);
    let address = ip("192.0.2.2");
    assert_eq!(this(&mut pool, address, "web", at(0)), Ok(Granted::New));
    assert_eq!(this(&mut pool, address, "web", at(0)), Ok(Granted::Already));
    assert_eq!(
        this(&mut pool, address, "api", at(0)),
        Err(Refusal::AlreadyAllocated {
            item: address,
            holder: owner("web")
        })
    );
    assert_eq!(
        this(&mut pool, ip("192.0.2.4"), "api", at(0)),
        Err(Refusal::NotInPool {
            item: ip("192.0.2.4"),
            pool: PoolName::new("p"),
        })
    );
}

#[test]
fn only_the_holder_can_release() {
    let mut pool = pool(&["192.0.2.0/30"]);
    let address = any(&mut pool, IpFamily::V4, "web", at(0)).unwrap();
    let before = pool.clone();
    assert_eq!(
        pool.release(address, &owner("api"), at(0)),
        Err(ReleaseError::HeldByAnother {
            item: address,
            holder: owner("web")
        })
    );
    assert_eq!(
        pool.release(ip("192.0.2.3"), &owner("web"), at(0)),
        Err(ReleaseError::NotAllocated {
            item: ip("192.0.2.3")
        })
    );
    assert_eq!(pool, before, "a refusal changes nothing");
    assert_eq!(pool.release(address, &owner("web"), at(0)), Ok(()));
    assert_eq!(pool.counts(IpFamily::V4).allocated, 0);
}

#[test]
fn a_released_address_rests_unless_nothing_else_is_left() {
    let mut pool = pool(&["192.0.2.0/31"]);
    let first = any(&mut pool, IpFamily::V4, "a", at(0)).unwrap();
    pool.release(first, &owner("a"), at(0)).unwrap();
    assert_eq!(pool.counts(IpFamily::V4).free, 2, "a resting address is free");
    assert_eq!(pool.state(first), State::Resting(at(60)));
    let second = any(&mut pool, IpFamily::V4, "b", at(1)).unwrap();
    assert_ne!(second, first);
    assert_eq!(
        any(&mut pool, IpFamily::V4, "c", at(2)),
        Ok(first),
        "the last one is given all the same"
    );
    pool.release(first, &owner("c"), at(10)).unwrap();
    pool.release(second, &owner("b"), at(30)).unwrap();
    assert_eq!(any(&mut pool, IpFamily::V4, "d", at(71)), Ok(first), "rested");
    assert_eq!(
        this(&mut pool, second, "e", at(71)),
        Ok(Granted::New),
        "asked for by name"
    );
}

#[test]
fn of_several_resting_addresses_the_one_nearest_its_end_is_given() {
    let mut pool = pool(&["192.0.2.0/31"]);
    for name in ["a", "b"] {
        any(&mut pool, IpFamily::V4, name, at(0)).unwrap();
    }
    pool.release(ip("192.0.2.1"), &owner("b"), at(0)).unwrap();
    pool.release(ip("192.0.2.0"), &owner("a"), at(30)).unwrap();
    assert_eq!(any(&mut pool, IpFamily::V4, "c", at(31)), Ok(ip("192.0.2.1")));
}

#[test]
fn least_recently_released_goes_through_all_before_it_gives_one_again() {
    let mut pool = Pool::new(
        &PortDefinition {
            strategy: Strategy::LeastRecentlyReleased,
            ..ports(&["30000-30003"])
        },
        Duration::ZERO,
    );
    let mut given = Vec::new();
    for second in 0..9 {
        let next = any(&mut pool, crate::NodePorts, "a", at(second)).unwrap();
        given.push(next.get());
        pool.release(next, &owner("a"), at(second)).unwrap();
    }
    assert_eq!(
        given,
        [
            30_000, 30_001, 30_002, 30_003, 30_000, 30_001, 30_002, 30_003, 30_000
        ]
    );
}

#[test]
fn cluster_ips_come_from_the_dynamic_band_first_and_never_from_the_ends_of_the_network() {
    let network: IpRange = "10.96.0.0/27".parse().unwrap();
    let mut pool = Pool::new(
        &AddressDefinition {
            excluded: network_and_broadcast(network),
            static_band: StaticBand::ClusterIps,
            strategy: Strategy::Random,
            ..definition(&["10.96.0.0/27"])
        },
        REST,
    );
    let mut given: Vec<IpAddr> = Vec::new();
    for index in 0..30u64 {
        let name = owner("web");
        let request = Request::for_good(&name, at(0)).at_random(index << 59);
        given.push(pool.allocate_any(IpFamily::V4, &request).unwrap());
    }
    let dynamic = |address: &IpAddr| *address >= ip("10.96.0.17");
    assert!(given[..14].iter().all(dynamic), "{given:?}");
    assert!(!given[14..].iter().any(dynamic), "{given:?}");
    given.sort();
    assert_eq!(given.first(), Some(&ip("10.96.0.1")));
    assert_eq!(given.last(), Some(&ip("10.96.0.30")));
    assert!(any(&mut pool, IpFamily::V4, "late", at(0)).is_err());
}

#[test]
fn the_static_band_of_the_default_node_ports_is_30000_to_30085() {
    let mut pool = Pool::new(
        &PortDefinition {
            static_band: StaticBand::NodePorts,
            ..ports(&["30000-32767"])
        },
        REST,
    );
    assert_eq!(any(&mut pool, crate::NodePorts, "web", at(0)), Ok(port(30_086)));
    assert_eq!(this(&mut pool, port(30_085), "web", at(0)), Ok(Granted::New));
}

#[test]
fn exclusions_are_not_the_pools_to_give() {
    let mut pool = Pool::new(
        &PortDefinition {
            excluded: ports(&["30001-30098"]).ranges,
            ..ports(&["30000-30099", "1", "65535"])
        },
        REST,
    );
    let given: Vec<_> = std::iter::from_fn(|| any(&mut pool, crate::NodePorts, "web", at(0)).ok()).collect();
    assert_eq!(given, [1, 30_000, 30_099, 65_535].map(port));
    assert!(this(&mut pool, port(30_050), "web", at(0)).is_err());
}
