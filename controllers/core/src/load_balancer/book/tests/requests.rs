// SPDX-License-Identifier: Apache-2.0
//! Certain addresses and pools asked for, met and refused.

use super::*;

#[test]
fn a_requested_address_is_given_whichever_way_it_is_asked_for() {
    for (case, service, expected) in [
        (
            "spec.loadBalancerIP",
            mk_service("web", V4).spec(|spec| spec.load_balancer_ip = Some("10.0.0.5".to_owned())),
            &["10.0.0.5"][..],
        ),
        (
            "our annotation",
            mk_service("web", V4).annotated("berth.dev/load-balancer-ips", "10.0.0.5"),
            &["10.0.0.5"],
        ),
        (
            "MetalLB's annotation, both families",
            mk_service("web", DUAL).annotated("metallb.io/loadBalancerIPs", "fd00::9, 10.0.0.5"),
            &["10.0.0.5", "fd00::9"],
        ),
        (
            "MetalLB's deprecated annotation, one of two families",
            mk_service("web", DUAL).annotated("metallb.universe.tf/loadBalancerIPs", "fd00::9"),
            &["10.0.0.0", "fd00::9"],
        ),
        (
            "the current annotation before the deprecated one",
            mk_service("web", V4)
                .annotated("metallb.universe.tf/loadBalancerIPs", "10.0.0.4")
                .annotated("metallb.io/loadBalancerIPs", "10.0.0.5"),
            &["10.0.0.5"],
        ),
        (
            "field and annotation agree",
            mk_service("web", V4)
                .annotated("berth.dev/load-balancer-ips", "10.0.0.5")
                .spec(|spec| spec.load_balancer_ip = Some("10.0.0.5".to_owned())),
            &["10.0.0.5"],
        ),
        (
            "an empty annotation asks for nothing",
            mk_service("web", V4).annotated("berth.dev/load-balancer-ips", " "),
            &["10.0.0.0"],
        ),
    ] {
        let mut service = service;
        settle(&mut book(&lan()), &mut service);
        assert_eq!(listed(&service), expected, "{case}");
        assert_eq!(condition(&service).0, "True", "{case}");
    }
}

/// A request that cannot be met: the Service, the reason, what the message must name.
type BadRequest = (Service, &'static str, Vec<&'static str>);

fn bad_requests() -> Vec<BadRequest> {
    let mut all = bad_addresses();
    all.extend(bad_pools());
    all
}

fn bad_addresses() -> Vec<BadRequest> {
    let ips = "berth.dev/load-balancer-ips";
    let web = |families| mk_service("web", families);
    vec![
        (
            web(V4).annotated(ips, "10.0.0.x"),
            "MalformedAddress",
            vec![ips, "10.0.0.x"],
        ),
        (
            web(V4).annotated(ips, "10.0.0.4,10.0.0.5"),
            "TwoOfOneFamily",
            vec![ips, "two IPv4"],
        ),
        (
            web(V4).annotated(ips, "fd00::9"),
            "FamilyNotInService",
            vec![ips, "fd00::9", "spec.ipFamilies"],
        ),
        (
            web(V4).annotated(ips, "192.0.2.1"),
            "AddressNotInAnyPool",
            vec![ips, "192.0.2.1"],
        ),
        (
            web(V4).annotated(ips, "10.0.0.7"),
            "AddressInUse",
            vec![ips, "10.0.0.7", "held by shop/holder"],
        ),
        (
            web(V4).spec(|spec| spec.load_balancer_ip = Some("10.0.0.7".to_owned())),
            "AddressInUse",
            vec!["spec.loadBalancerIP", "held by shop/holder"],
        ),
        (
            web(V4)
                .annotated(ips, "10.0.0.5")
                .spec(|spec| spec.load_balancer_ip = Some("10.0.0.6".to_owned())),
            "ConflictingRequests",
            vec![ips, "spec.loadBalancerIP", "10.0.0.6", "10.0.0.5"],
        ),
    ]
}

fn bad_pools() -> Vec<BadRequest> {
    let pool = "berth.dev/address-pool";
    let web = |families| mk_service("web", families);
    vec![
        (
            web(V4).annotated(pool, "wan"),
            "NoSuchPool",
            vec![pool, "AddressPool wan"],
        ),
        (
            web(V4).annotated(pool, "late"),
            "PoolNotUsable",
            vec![pool, "pool lan has 10.0.0.2-10.0.0.3 already"],
        ),
        (
            web(V4)
                .annotated(pool, "other")
                .annotated("metallb.io/loadBalancerIPs", "10.0.0.5"),
            "AddressNotInPool",
            vec!["10.0.0.5", "AddressPool other"],
        ),
        (
            web(V4).annotated(pool, "tiny"),
            "PoolExhausted",
            vec![pool, "AddressPool tiny"],
        ),
        (
            web(&["IPv6"]).annotated(pool, "other"),
            "FamilyNotAvailable",
            vec!["IPv6"],
        ),
    ]
}

fn book_with_holders() -> LoadBalancers {
    let mut book = book(&[
        mk_pool("lan", 1, &["10.0.0.0/29", "fd00::/64"]),
        mk_pool("late", 2, &["10.0.0.2-10.0.0.3"]),
        mk_pool("other", 3, &["10.0.1.0/29"]),
        mk_pool("tiny", 4, &["10.0.2.0"]),
    ]);
    for (name, address) in [("holder", "10.0.0.7"), ("small", "10.0.2.0")] {
        let mut holder = mk_service(name, V4).annotated("berth.dev/load-balancer-ips", address);
        settle(&mut book, &mut holder);
    }
    book
}

#[test]
fn a_request_that_cannot_be_met_names_field_value_and_holder_and_gives_nothing() {
    for (mut service, reason, named) in bad_requests() {
        let plan = settle(&mut book_with_holders(), &mut service);
        assert_eq!(listed(&service), Vec::<String>::new(), "{reason}");
        let (status, is, message) = condition(&service);
        assert_eq!((status.as_str(), is.as_str()), ("False", reason), "{message}");
        for name in named {
            assert!(message.contains(name), "{reason}: {name} not in {message}");
        }
        assert_eq!(
            plan.event,
            Some(LbEvent {
                warning: true,
                reason,
                message
            })
        );
    }
}

#[test]
fn a_message_fits_into_a_condition_however_long_the_value() {
    let long = "10.0.0.1;é".repeat(20_000);
    let mut service = mk_service("web", V4).annotated("berth.dev/load-balancer-ips", &long);
    settle(&mut book(&lan()), &mut service);
    let (_, reason, message) = condition(&service);
    assert_eq!(reason, "MalformedAddress");
    assert!(message.len() < 1_000, "{}", message.len());
}

#[test]
fn a_request_that_cannot_be_met_never_costs_the_working_address() {
    for (bad, reason, _) in bad_requests() {
        let mut book = book_with_holders();
        let families: Vec<&str> = bad
            .spec
            .as_ref()
            .unwrap()
            .ip_families
            .as_ref()
            .unwrap()
            .iter()
            .map(String::as_str)
            .collect();
        let mut service = mk_service("web", &families);
        settle(&mut book, &mut service);
        let before = listed(&service);
        assert_eq!(before.len(), 1, "{reason}");
        service.metadata.annotations = bad.metadata.annotations.clone();
        service.spec = bad.spec.clone();
        settle(&mut book, &mut service);
        assert_eq!(listed(&service), before, "{reason}");
        let (status, is, message) = condition(&service);
        assert_eq!((status.as_str(), is.as_str()), ("False", reason));
        assert!(
            message.contains(&format!("Keeps the addresses: {}", before[0])),
            "{message}"
        );
    }
}

#[test]
fn a_changed_request_holds_the_old_address_until_the_new_status_is_seen() {
    let mut book = book(&lan());
    let mut service = mk_service("web", V4);
    settle(&mut book, &mut service);
    let mut service = service.annotated("berth.dev/load-balancer-ips", "10.0.0.5");
    let plan = turn(&mut book, &mut service);
    assert_eq!(listed(&service), ["10.0.0.5"]);
    assert_eq!(
        plan.released,
        Vec::<IpAddr>::new(),
        "the write has not been seen yet"
    );
    let plan = turn(&mut book, &mut service);
    assert_eq!(plan.released, ["10.0.0.0".parse::<IpAddr>().unwrap()]);
    assert!(plan.is_empty());
}

#[test]
fn an_address_that_a_write_on_its_way_may_list_is_not_freed() {
    let pools = [
        mk_pool("lan", 1, &["10.0.0.0/29"]),
        mk_pool("dmz", 2, &["10.0.1.0/29"]),
    ];
    let mut book = book(&pools);
    let mut seen = mk_service("web", V4);
    seen.metadata.resource_version = Some("7".to_owned());
    let key = key_of(&seen.metadata);
    book.reconcile(&key, Some(&seen), &at(1));
    // The write may have been stored. Another turn on the same observation wants another address.
    let seen = seen.annotated("berth.dev/address-pool", "dmz");
    let plan = book.reconcile(&key, Some(&seen), &at(2));
    assert_eq!((plan.taken.len(), plan.released), (1, vec![]));
    let mut later = seen.listing(&["10.0.1.0"]);
    later.metadata.resource_version = Some("8".to_owned());
    let plan = book.reconcile(&key, Some(&later), &at(3));
    assert_eq!(plan.released, ["10.0.0.0".parse::<IpAddr>().unwrap()]);
}

#[test]
fn a_pool_by_annotation_is_the_only_one_asked_and_moving_to_it_keeps_the_old_address_till_then() {
    let pools = [
        mk_pool("lan", 1, &["10.0.0.0/29"]),
        mk_pool("dmz", 2, &["10.0.1.0"]),
    ];
    for annotation in crate::load_balancer::ADDRESS_POOL_ANNOTATIONS {
        let mut book = book(&pools);
        let mut service = mk_service("web", V4);
        settle(&mut book, &mut service);
        let mut service = service.annotated(annotation, "dmz");
        settle(&mut book, &mut service);
        assert_eq!(listed(&service), ["10.0.1.0"], "{annotation}");
        let mut second = mk_service("api", V4);
        settle(&mut book, &mut second);
        let mut second = second.annotated(annotation, "dmz");
        settle(&mut book, &mut second);
        assert_eq!(listed(&second), ["10.0.0.1"], "{annotation}: dmz is full");
        assert_eq!(condition(&second).1, "PoolExhausted");
    }
}
