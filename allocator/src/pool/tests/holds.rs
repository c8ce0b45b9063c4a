// SPDX-License-Identifier: Apache-2.0
//! Holds: they turn into allocations, lapse, or never were; and what is taken in from a list.

use super::*;

fn hold(pool: &mut Pool, name: &str, now: u64, until: u64) -> Result<IpAddr, Refusal> {
    let name = owner(name);
    pool.allocate_any(IpFamily::V4, &Request::hold(&name, at(now), at(until)))
}

#[test]
fn a_hold_turns_into_an_allocation_of_the_same_owner_alone() {
    let mut pool = pool(&["192.0.2.0/30"]);
    let address = hold(&mut pool, "web", 0, 60).unwrap();
    assert_eq!(pool.state(address), State::Held(&owner("web"), at(60)));
    assert_eq!(
        this(&mut pool, address, "api", at(1)),
        Err(Refusal::BeingGiven {
            item: address,
            holder: owner("web")
        })
    );
    let counts = pool.counts(IpFamily::V4);
    assert_eq!((counts.held, counts.allocated, counts.free), (1, 0, 3));
    assert_eq!(this(&mut pool, address, "web", at(2)), Ok(Granted::Bound));
    let counts = pool.counts(IpFamily::V4);
    assert_eq!((counts.held, counts.allocated, counts.free), (0, 1, 3));
    assert_eq!(pool.lapse(at(1_000)), [], "no deadline is left");
}

#[test]
fn asking_again_keeps_the_later_deadline_and_never_unbinds() {
    let mut pool = pool(&["192.0.2.0/30"]);
    let (web, address) = (owner("web"), ip("192.0.2.1"));
    for (until, deadline) in [(60, 60), (90, 90), (70, 90)] {
        pool.allocate_this(address, &Request::hold(&web, at(0), at(until)))
            .unwrap();
        assert_eq!(pool.state(address), State::Held(&web, at(deadline)));
        assert_eq!(pool.next_deadline(), Some(at(deadline)));
    }
    this(&mut pool, address, "web", at(1)).unwrap();
    let again = pool.allocate_this(address, &Request::hold(&web, at(2), at(99)));
    assert_eq!(again, Ok(Granted::Already));
    assert_eq!(pool.state(address), State::Allocated(&web));
}

#[test]
fn a_hold_lapses_at_its_deadline_and_the_item_rests_from_then_on() {
    let mut pool = pool(&["192.0.2.0/31"]);
    let address = hold(&mut pool, "web", 0, 60).unwrap();
    assert_eq!(pool.lapse(at(59)), []);
    assert_eq!(pool.lapse(at(61)), [(address, owner("web"))]);
    assert_eq!(pool.state(address), State::Resting(at(120)));
    assert_eq!(hold(&mut pool, "b", 62, 122), Ok(ip("192.0.2.1")));
    assert_eq!(hold(&mut pool, "c", 63, 123), Ok(address), "nothing else is left");
    assert!(hold(&mut pool, "d", 64, 124).is_err());
    assert_eq!(
        hold(&mut pool, "d", 122, 182),
        Ok(ip("192.0.2.1")),
        "lapsed by itself"
    );
}

#[test]
fn a_withdrawn_hold_leaves_no_trace() {
    let mut pool = pool(&["192.0.2.0/31"]);
    any(&mut pool, IpFamily::V4, "a", at(0)).unwrap();
    let fresh = pool.clone();
    let address = hold(&mut pool, "b", 1, 61).unwrap();
    assert_eq!(pool.withdraw(address, &owner("b")), Ok(()));
    assert_eq!(pool, fresh);
    // Of one that rested as well.
    any(&mut pool, IpFamily::V4, "b", at(2)).unwrap();
    pool.release(address, &owner("b"), at(3)).unwrap();
    let rested = pool.clone();
    assert_eq!(hold(&mut pool, "c", 4, 64), Ok(address));
    assert_eq!(
        pool.withdraw(address, &owner("d")),
        Err(ReleaseError::HeldByAnother {
            item: address,
            holder: owner("c")
        })
    );
    assert_eq!(pool.withdraw(address, &owner("c")), Ok(()));
    assert_eq!(pool, rested);
    assert_eq!(
        pool.withdraw(ip("192.0.2.0"), &owner("a")),
        Err(ReleaseError::NoHold {
            item: ip("192.0.2.0"),
            holder: owner("a")
        })
    );
}

#[test]
fn what_is_in_use_ends_a_hold_and_overrides_what_was_meant() {
    let mut pool = Pool::new(
        &AddressDefinition {
            draining: true,
            quota: Quota {
                each: Some(0),
                ..Quota::default()
            },
            reservations: vec![(ip("192.0.2.0"), owner("db"))],
            ..definition(&["192.0.2.0/30"])
        },
        REST,
    );
    assert_eq!(
        pool.adopt(ip("192.0.2.0"), &owner("web")),
        Ok(Adopted {
            granted: Granted::New,
            displaced: None,
            reserved_for: Some(owner("db"))
        })
    );
    let contested: Vec<_> = pool.contested_reservations().collect();
    assert_eq!(contested, [(ip("192.0.2.0"), &owner("db"), &owner("web"))]);
    let mut pool = super::pool(&["192.0.2.0/30"]);
    let address = hold(&mut pool, "nonce", 0, 60).unwrap();
    assert_eq!(
        pool.adopt(address, &owner("web-x1")),
        Ok(Adopted {
            granted: Granted::New,
            displaced: Some(owner("nonce")),
            reserved_for: None
        })
    );
    assert!(pool.adopt(address, &owner("nonce")).is_err());
    assert_eq!(
        pool.adopt(address, &owner("web-x1")).unwrap().granted,
        Granted::Already
    );
    assert_eq!(pool.lapse(at(99)), []);
}

#[test]
fn a_rebuild_reports_every_conflict_and_restores_the_rest() {
    let list = [
        (ip("192.0.2.1"), owner("web")),
        (ip("192.0.2.1"), owner("api")),
        (ip("198.51.100.1"), owner("lost")),
        (ip("192.0.2.1"), owner("web")),
        (ip("192.0.2.2"), owner("early")),
        (ip("192.0.2.3"), owner("db")),
    ];
    let definition = AddressDefinition {
        reservations: vec![(ip("192.0.2.2"), owner("late"))],
        ..definition(&["192.0.2.0/30"])
    };
    let (pool, conflicts) = Pool::rebuild(&definition, REST, list);
    let allocated: Vec<_> = pool
        .allocated()
        .map(|(item, owner)| (item, owner.clone()))
        .collect();
    assert_eq!(
        allocated,
        [
            (ip("192.0.2.1"), owner("web")),
            (ip("192.0.2.2"), owner("early")),
            (ip("192.0.2.3"), owner("db")),
        ]
    );
    let said: Vec<_> = conflicts
        .iter()
        .map(|conflict| {
            (
                conflict.claimant.name(),
                conflict.restored,
                conflict.refusal.to_string(),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("api", false, "192.0.2.1 is held by shop/web".to_owned()),
            ("lost", false, "198.51.100.1 is not in AddressPool p".to_owned()),
            (
                "early",
                true,
                "192.0.2.2 is reserved for shop/late in AddressPool p".to_owned()
            ),
        ]
    );
}
