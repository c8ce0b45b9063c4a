// SPDX-License-Identifier: Apache-2.0
//! Restarts and pools edited under use.

use super::*;

#[test]
fn a_restart_gives_everyone_what_they_had_whatever_the_order() {
    let pools = [mk_pool("lan", 1, &["10.0.0.0/29"])];
    let mut first = book(&pools);
    let mut services: Vec<Service> = ["c", "a", "b"].iter().map(|name| mk_service(name, V4)).collect();
    for service in &mut services {
        settle(&mut first, service);
    }
    let before: Vec<_> = services.iter().map(listed).collect();
    // Created while the controller was down; asks for an address that "any" would pick next.
    services.push(mk_service("0-new", V4));
    services.push(mk_service("z-explicit", V4).annotated("berth.dev/load-balancer-ips", "10.0.0.3"));
    let mut second = book(&pools);
    let adopted = second.adopt(&services);
    assert_eq!(adopted.conflicts, []);
    let order: Vec<&str> = adopted.order.iter().map(ServiceKey::name).collect();
    assert_eq!(order, ["a", "b", "c", "z-explicit", "0-new"]);
    services.reverse();
    for service in &mut services {
        let had_one = !listed(service).is_empty();
        let plan = turn(&mut second, service);
        assert_eq!(plan.is_empty(), had_one, "{plan}");
    }
    services.reverse();
    assert_eq!(services[..3].iter().map(listed).collect::<Vec<_>>(), before);
    assert_eq!(listed(&services[3]), ["10.0.0.4"]);
    assert_eq!(listed(&services[4]), ["10.0.0.3"]);
}

#[test]
fn of_two_services_that_list_one_address_the_older_keeps_it_and_the_other_gets_its_own() {
    let mut old = mk_service("z-old", V4).born(10).listing(&["10.0.0.1"]);
    let mut young = mk_service("a-young", V4).born(20).listing(&["10.0.0.1"]);
    let mut book = book(&lan());
    let adopted = book.adopt([&young, &old]);
    assert_eq!(
        adopted.conflicts,
        [(
            "10.0.0.1".parse().unwrap(),
            ServiceKey::new("shop", "a-young"),
            ServiceKey::new("shop", "z-old")
        )]
    );
    settle(&mut book, &mut young);
    settle(&mut book, &mut old);
    assert_eq!(
        (listed(&old), listed(&young)),
        (vec!["10.0.0.1".to_owned()], vec!["10.0.0.0".to_owned()])
    );
}

#[test]
fn an_address_that_loses_its_pool_is_kept_said_and_survives_a_restart() {
    let mut first = book(&lan());
    let mut service = mk_service("web", V4);
    settle(&mut first, &mut service);
    let key = key_of(&service.metadata);
    let change = first.set_pools(&[]);
    assert_eq!(change.edit.uncovered.len(), 1);
    assert_eq!(change.wake, BTreeSet::from([key.clone()]));
    settle(&mut first, &mut service);
    let kept = |service: &Service| {
        assert_eq!(listed(service), ["10.0.0.0"]);
        let (status, reason, message) = condition(service);
        assert_eq!(
            (status.as_str(), reason.as_str()),
            ("True", "OutsidePools"),
            "{message}"
        );
    };
    kept(&service);

    let mut second = LoadBalancers::new(Settings::default());
    second.adopt([&service]);
    assert!(turn(&mut second, &mut service).is_empty());
    kept(&service);

    let change = second.set_pools(&lan());
    assert_eq!(change.wake, BTreeSet::from([key]));
    settle(&mut second, &mut service);
    assert_eq!(condition(&service).1, "Allocated");
}

#[test]
fn bad_pools_stop_giving_but_take_nothing() {
    for (case, pools) in [
        (
            "malformed",
            vec![mk_pool("lan", 1, &["10.0.0.0/29", "10.0.0.999"])],
        ),
        (
            "overlapping",
            vec![
                mk_pool("older", 0, &["10.0.0.7"]),
                mk_pool("lan", 1, &["10.0.0.0/29"]),
            ],
        ),
    ] {
        let mut book = book(&[mk_pool("lan", 1, &["10.0.0.0/29"])]);
        let mut service = mk_service("web", V4);
        settle(&mut book, &mut service);
        assert!(book.set_pools(&pools).edit.uncovered.is_empty(), "{case}");
        assert!(turn(&mut book, &mut service).is_empty(), "{case}");
        let mut next = mk_service("next", V4).annotated("berth.dev/address-pool", "lan");
        settle(&mut book, &mut next);
        assert_eq!(condition(&next).1, "PoolNotUsable", "{case}");
    }
}
