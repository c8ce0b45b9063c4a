// SPDX-License-Identifier: Apache-2.0
//! Pools under edits: nobody loses an address, nobody gets a second holder's.

use berth_model::{IpFamily, IpRange, Port};

use super::*;

mod history;

const NOW: Duration = Duration::ZERO;

/// Allocates any item of a family for good.
fn any(
    pools: &mut Pools,
    family: IpFamily,
    who: &ServiceKey,
    from: Option<&PoolName>,
    now: Duration,
) -> Result<Allocation, Refusal> {
    pools.allocate_any(family, &Request::for_good(who, now), from)
}

/// Allocates a certain item for good.
fn this(
    pools: &mut Pools,
    address: IpAddr,
    who: &ServiceKey,
    from: Option<&PoolName>,
) -> Result<Allocation, Refusal> {
    pools.allocate_this(address, &Request::for_good(who, NOW), from)
}

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
    let ranges = ranges.iter().map(|text| text.parse::<IpRange>().unwrap());
    PoolDefinition {
        created,
        ..PoolDefinition::of(name(pool), ranges.collect())
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
            any(&mut pools, IpFamily::V4, &owner("web"), Some(&name(resting)), NOW),
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
        any(pools, IpFamily::V4, &owner(who), from.as_ref(), NOW).map(|allocation| allocation.item)
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
    this(&mut full, ip("10.0.0.1"), &owner("web"), None).unwrap();
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
        let refusal = this(&mut full, ip(address), &api, from.as_ref()).unwrap_err();
        assert_eq!(refusal.to_string(), said);
    }
    for (pools, family, said) in [
        (Pools::new(NOW), IpFamily::V4, "there is no AddressPool in use"),
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
        assert_eq!(pools.check_any(family, &api, None).unwrap_err().to_string(), said);
    }
}

#[test]
fn a_refusal_stays_short_however_many_pools_there_are() {
    let full: Vec<PoolDefinition> = (0..9)
        .map(|n| definition(&format!("p{n}"), n, &[&format!("10.0.{n}.1")]))
        .collect();
    let mut pools = pools(&full);
    for n in 0..9 {
        any(&mut pools, IpFamily::V4, &owner(&n.to_string()), None, NOW).unwrap();
    }
    assert_eq!(
        pools
            .check_any(IpFamily::V4, &owner("late"), None)
            .unwrap_err()
            .to_string(),
        "no IPv4 address is left in AddressPool p0, p1, p2, p3, 5 more"
    );
}

#[test]
fn an_edit_keeps_every_address_and_names_those_that_lost_their_pool() {
    let mut pools = pools(&[definition("a", 1, &["10.0.0.0/30"])]);
    for who in ["w", "x", "y", "z"] {
        any(&mut pools, IpFamily::V4, &owner(who), None, NOW).unwrap();
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
        pools.check_any(IpFamily::V4, &owner("late"), None).unwrap_err(),
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
    this(&mut pools, ip("10.0.0.2"), &owner("web"), Some(&name("young"))).unwrap();
    let edit = pools.set_definitions(vec![
        definition("old", 1, &["10.0.0.0-10.0.0.2"]),
        definition("young", 2, &["10.0.0.2/31"]),
    ]);
    assert_eq!(edit, Some(PoolsEdit::default()));
    assert!(matches!(standing(&pools, "young"), Standing::Overlapping(_)));
    assert_eq!(pools.pool_of(ip("10.0.0.2")), Some(&name("old")));
    let next: Vec<_> = (0..3)
        .map(|n| any(&mut pools, IpFamily::V4, &owner(&n.to_string()), None, NOW).map(|a| a.item))
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
                item: ip(address),
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

fn limited(pool: &str, created: i64, ranges: &[&str], limit: u64) -> PoolDefinition {
    let mut definition = definition(pool, created, ranges);
    definition.quota.each = Some(limit);
    definition
}

#[test]
fn one_who_is_refused_by_a_pool_is_served_by_the_next() {
    let mut draining = definition("drained", 1, &["10.0.0.0/30"]);
    draining.draining = true;
    let mut pools = pools(&[
        draining,
        limited("small", 2, &["10.0.1.0/30"], 1),
        definition("last", 3, &["10.0.2.0/32"]),
    ]);
    let given: Vec<_> = (0..2)
        .map(|_| {
            any(&mut pools, IpFamily::V4, &owner("web"), None, NOW)
                .unwrap()
                .item
        })
        .collect();
    assert_eq!(given, [ip("10.0.1.0"), ip("10.0.2.0")]);
    assert_eq!(
        any(&mut pools, IpFamily::V4, &owner("web"), None, NOW)
            .unwrap_err()
            .as_str(),
        "Draining",
        "the first that could serve has the word"
    );
    assert_eq!(
        any(&mut pools, IpFamily::V4, &owner("web"), Some(&name("small")), NOW)
            .unwrap_err()
            .to_string(),
        "shop holds 1 of the 1 IPv4 addresses that it may hold in AddressPool small"
    );
}

#[test]
fn a_hold_survives_an_edit_that_keeps_its_item_and_ends_with_one_that_does_not() {
    let mut pools = pools(&[definition("a", 1, &["10.0.0.0/31"])]);
    let (web, api, until) = (owner("web"), owner("api"), Duration::from_secs(60));
    for who in [&web, &api] {
        pools
            .allocate_any(IpFamily::V4, &Request::hold(who, NOW, until), None)
            .unwrap();
    }
    let edit = pools
        .set_definitions(vec![definition("b", 2, &["10.0.0.0"])])
        .unwrap();
    assert_eq!(edit.ended, [(ip("10.0.0.1"), api.clone())]);
    assert_eq!(pools.state(ip("10.0.0.0")), State::Held(&web, until));
    assert_eq!(pools.next_deadline(), Some(until));
    assert_eq!(pools.held_by(&api).count(), 0);
    assert_eq!(pools.lapse(until), [(ip("10.0.0.0"), web)]);
    assert_eq!(pools.owners().count(), 0);
}

#[test]
fn what_is_observed_in_use_takes_over_the_hold_of_another() {
    let mut pools = pools(&[definition("a", 1, &["10.0.0.0/31"])]);
    let nonce = owner("generated-1");
    let held = Request::hold(&nonce, NOW, Duration::from_secs(60));
    let address = pools.allocate_any(IpFamily::V4, &held, None).unwrap().item;
    assert_eq!(pools.adopt(address, &owner("web-x7")), Ok(Granted::New));
    assert_eq!(pools.held_by(&nonce).count(), 0);
    assert_eq!(pools.holder(address), Some(&owner("web-x7")));
    assert!(pools.withdraw(address, &nonce).is_err());
}

#[test]
fn pools_of_node_ports_contest_and_give_as_those_of_addresses_do() {
    let defined = |pool: &str, created: i64, range: &str| PoolDefinition::<Port, ServiceKey> {
        created,
        ..PoolDefinition::of(name(pool), [range.parse().unwrap()].into_iter().collect())
    };
    let mut pools = Pools::new(NOW);
    pools.set_definitions(vec![
        defined("old", 1, "30000-30001"),
        defined("young", 2, "30001-30099"),
    ]);
    let web = owner("web");
    let mut any = |from: Option<&PoolName>| {
        let given = pools.allocate_any(crate::NodePorts, &Request::for_good(&web, NOW), from);
        given
            .map(|given| given.item.get())
            .map_err(|refusal| refusal.to_string())
    };
    assert_eq!([any(None), any(None)], [Ok(30_000), Ok(30_001)]);
    assert_eq!(
        any(None),
        Err("no node port is left in NodePortPool old".to_owned())
    );
    assert_eq!(
        any(Some(&name("young"))),
        Err("NodePortPool young gives no ports: pool old has 30001 already".to_owned())
    );
}

#[test]
fn what_is_kept_for_an_owner_in_a_later_pool_comes_before_anything_of_an_older_one() {
    let mut later = definition("later", 2, &["10.0.1.0/31"]);
    later.reservations = vec![(ip("10.0.1.1"), owner("web"))];
    let mut pools = pools(&[definition("older", 1, &["10.0.0.0/31"]), later]);
    let mut any = |who: &str| {
        let who = owner(who);
        let request = Request::for_good(&who, NOW);
        pools.allocate_any(IpFamily::V4, &request, None).unwrap().item
    };
    assert_eq!(any("web"), ip("10.0.1.1"));
    assert_eq!(any("web"), ip("10.0.0.0"), "it has what was kept for it");
    assert_eq!(any("other"), ip("10.0.0.1"));
}
