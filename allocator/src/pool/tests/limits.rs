// SPDX-License-Identifier: Apache-2.0
//! Reservations, quotas, draining, and what refusals say.

use super::*;

fn limited(each: Option<u64>, groups: &[(&str, u64)]) -> Quota {
    let groups = groups.iter().map(|(group, limit)| ((*group).to_owned(), *limit));
    Quota {
        each,
        groups: groups.collect(),
    }
}

#[test]
fn a_reserved_item_waits_for_its_owner_however_full_the_pool_is() {
    let definition = AddressDefinition {
        reservations: vec![
            (ip("192.0.2.1"), owner("db")),
            (ip("192.0.2.1"), owner("second")),
            (ip("198.51.100.1"), owner("outside")),
        ],
        ..definition(&["192.0.2.0/31"])
    };
    let mut pool = Pool::new(&definition, REST);
    assert_eq!(pool.reservations().count(), 1);
    assert_eq!(
        definition.void_reservations(),
        [
            (ip("192.0.2.1"), owner("second"), VoidReservation::SecondForItem),
            (ip("198.51.100.1"), owner("outside"), VoidReservation::OutsidePool),
        ]
    );
    assert_eq!(any(&mut pool, IpFamily::V4, "web", at(0)), Ok(ip("192.0.2.0")));
    assert_eq!(
        pool.check_any(IpFamily::V4, &owner("api")).unwrap_err().as_str(),
        "Exhausted"
    );
    assert_eq!(
        this(&mut pool, ip("192.0.2.1"), "api", at(0))
            .unwrap_err()
            .to_string(),
        "192.0.2.1 is reserved for shop/db in AddressPool p"
    );
    let counts = pool.counts(IpFamily::V4);
    assert_eq!((counts.reserved, counts.free), (1, 0));
    assert_eq!(any(&mut pool, IpFamily::V4, "db", at(0)), Ok(ip("192.0.2.1")));
    assert_eq!(pool.counts(IpFamily::V4).reserved, 0);
    assert!(any(&mut pool, IpFamily::V4, "db", at(0)).is_err(), "it has one");
    pool.release(ip("192.0.2.1"), &owner("db"), at(1)).unwrap();
    assert_eq!(pool.state(ip("192.0.2.1")), State::Reserved(&owner("db")));
    assert!(
        any(&mut pool, IpFamily::V4, "api", at(99)).is_err(),
        "kept for it"
    );
    assert_eq!(
        any(&mut pool, IpFamily::V4, "db", at(2)),
        Ok(ip("192.0.2.1")),
        "at once"
    );
}

#[test]
fn an_owner_gets_its_reservations_before_other_items() {
    let mut pool = Pool::new(
        &PortDefinition {
            strategy: Strategy::Random,
            reservations: vec![(port(30_007), owner("web")), (port(30_003), owner("web"))],
            ..ports(&["30000-30009"])
        },
        REST,
    );
    let mut next = || any(&mut pool, crate::NodePorts, "web", at(0)).unwrap().get();
    assert_eq!([next(), next(), next()], [30_003, 30_007, 30_000]);
}

#[test]
fn a_group_holds_as_many_as_its_quota_says_holds_included() {
    let mut pool = Pool::new(
        &AddressDefinition {
            quota: limited(Some(2), &[("lab", 1)]),
            ..definition(&["192.0.2.0/29", "fd00::/64"])
        },
        REST,
    );
    let web = owner("web");
    pool.allocate_any(IpFamily::V4, &Request::hold(&web, at(0), at(60)))
        .unwrap();
    any(&mut pool, IpFamily::V4, "api", at(0)).unwrap();
    let refusal = any(&mut pool, IpFamily::V4, "db", at(1)).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "shop holds 2 of the 2 IPv4 addresses that it may hold in AddressPool p"
    );
    assert_eq!(
        refusal.way_out(),
        "give one up, or have the quota of the pool raised (spec.quota)"
    );
    assert_eq!(this(&mut pool, ip("192.0.2.7"), "db", at(1)), Err(refusal));
    assert!(
        any(&mut pool, IpFamily::V6, "db", at(1)).is_ok(),
        "each family by itself"
    );
    let lab = ServiceKey::new("lab", "one");
    assert!(
        pool.allocate_any(IpFamily::V4, &Request::for_good(&lab, at(1)))
            .is_ok()
    );
    assert!(
        pool.allocate_any(IpFamily::V4, &Request::for_good(&lab, at(1)))
            .is_err()
    );
    assert_eq!(
        pool.use_by_group(IpFamily::V4).collect::<Vec<_>>(),
        [("lab", 1), ("shop", 2)]
    );
    assert!(
        any(&mut pool, IpFamily::V4, "db", at(60)).is_ok(),
        "the hold has lapsed"
    );
}

#[test]
fn a_draining_pool_keeps_what_it_gave_and_gives_nothing_new() {
    let full = definition(&["192.0.2.0/30"]);
    let drained = AddressDefinition {
        draining: true,
        reservations: vec![(ip("192.0.2.3"), owner("db"))],
        ..full
    };
    let (mut pool, _) = Pool::rebuild(&drained, REST, [(ip("192.0.2.1"), owner("web"))]);
    assert_eq!(
        this(&mut pool, ip("192.0.2.1"), "web", at(0)),
        Ok(Granted::Already)
    );
    for name in ["api", "db"] {
        let refusal = any(&mut pool, IpFamily::V4, name, at(0)).unwrap_err();
        assert_eq!(refusal.as_str(), "Draining");
    }
    assert_eq!(
        this(&mut pool, ip("192.0.2.2"), "api", at(0))
            .unwrap_err()
            .to_string(),
        "AddressPool p is being drained and gives nothing new"
    );
    assert_eq!(pool.release(ip("192.0.2.1"), &owner("web"), at(0)), Ok(()));
}

#[test]
fn refusals_name_ports_where_ports_are_asked_for() {
    let mut pool = Pool::new(
        &PortDefinition {
            quota: limited(Some(1), &[]),
            ..ports(&["30000-30001"])
        },
        REST,
    );
    any(&mut pool, crate::NodePorts, "web", at(0)).unwrap();
    let quota = any(&mut pool, crate::NodePorts, "api", at(0)).unwrap_err();
    let outside = this(&mut pool, port(80), "api", at(0)).unwrap_err();
    let lab = ServiceKey::new("lab", "a");
    pool.allocate_any(crate::NodePorts, &Request::for_good(&lab, at(0)))
        .unwrap();
    let full = pool
        .check_any(crate::NodePorts, &ServiceKey::new("den", "a"))
        .unwrap_err();
    for (refusal, said) in [
        (
            &quota,
            "shop holds 1 of the 1 node ports that it may hold in NodePortPool p",
        ),
        (&outside, "80 is not in NodePortPool p"),
        (&full, "no node port is left in NodePortPool p"),
    ] {
        assert_eq!(refusal.to_string(), said);
    }
    assert_eq!(
        full.way_out(),
        "add ports to the pool, or delete a Service that holds one"
    );
}
