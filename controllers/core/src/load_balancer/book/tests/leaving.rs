// SPDX-License-Identifier: Apache-2.0
//! Deletion, change of type and class, and other writers.

use super::*;

#[test]
fn deletion_and_type_change_release_and_a_type_change_leaves_no_condition() {
    let mut book = book(&lan());
    let mut service = mk_service("web", DUAL);
    settle(&mut book, &mut service);
    let key = key_of(&service.metadata);
    // The API server empties status.loadBalancer itself when the type changes.
    let mut service = service
        .listing(&[])
        .spec(|spec| spec.type_ = Some("ClusterIP".to_owned()));
    let plan = turn(&mut book, &mut service);
    assert_eq!(
        (plan.outcome.as_str(), plan.released.len()),
        ("NotALoadBalancer", 2)
    );
    assert_eq!(service.status.as_ref().unwrap().conditions, Some(vec![]));
    assert!(turn(&mut book, &mut service).is_empty());

    let mut service = service.spec(|spec| spec.type_ = Some("LoadBalancer".to_owned()));
    settle(&mut book, &mut service);
    let plan = book.reconcile(&key, None, &at(1_000));
    assert_eq!((plan.outcome.as_str(), plan.released.len()), ("Gone", 2));
    assert_eq!(book.pools().owners().count(), 0);
}

#[test]
fn a_class_change_takes_off_what_we_gave_and_frees_it_once_that_is_seen() {
    let mut book = book(&lan());
    let mut service = mk_service("web", V4);
    settle(&mut book, &mut service);
    let mut service = service.spec(|spec| spec.load_balancer_class = Some("example.com/lb".to_owned()));
    let plan = turn(&mut book, &mut service);
    assert_eq!((listed(&service).len(), plan.released.len()), (0, 0));
    let plan = turn(&mut book, &mut service);
    assert_eq!((plan.is_empty(), plan.released.len()), (true, 1));
}

#[test]
fn a_terminating_service_keeps_what_it_has_and_gets_nothing_new() {
    let mut book = book(&lan());
    let mut service = mk_service("web", V4);
    settle(&mut book, &mut service);
    service.metadata.deletion_timestamp = Some(at(900));
    let plan = turn(&mut book, &mut service);
    assert!(plan.is_empty());
    assert_eq!(book.pools().held_by(&plan.key).count(), 1);
    let mut fresh = mk_service("api", V4);
    fresh.metadata.deletion_timestamp = Some(at(900));
    assert_eq!(turn(&mut book, &mut fresh).taken, []);
}

#[test]
fn a_status_that_berth_did_not_write_is_left_alone() {
    let host = |mut service: Service| {
        service.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus {
            ingress: Some(vec![LoadBalancerIngress {
                hostname: Some("lb.example.com".to_owned()),
                ..LoadBalancerIngress::default()
            }]),
        });
        service
    };
    for (case, service, named) in [
        (
            "an address of no pool",
            mk_service("web", V4).listing(&["203.0.113.9"]),
            "203.0.113.9",
        ),
        ("a host name", host(mk_service("web", V4)), "lb.example.com"),
        (
            "one of ours beside a stranger",
            mk_service("web", V4).listing(&["10.0.0.3", "203.0.113.9"]),
            "203.0.113.9",
        ),
    ] {
        let mut service = service;
        let mut book = book(&lan());
        book.adopt([&service]);
        let before = wish::ingress(&service).to_vec();
        settle(&mut book, &mut service);
        assert_eq!(wish::ingress(&service), before, "{case}");
        let (status, reason, message) = condition(&service);
        assert_eq!(
            (status.as_str(), reason.as_str()),
            ("False", "ForeignStatus"),
            "{case}"
        );
        assert!(message.contains(named), "{case}: {message}");
    }
    let mut other = mk_service("web", V4)
        .listing(&["10.0.0.3"])
        .spec(|spec| spec.load_balancer_class = Some("example.com/lb".to_owned()));
    let mut book = book(&lan());
    assert!(turn(&mut book, &mut other).is_empty());
    let mut ours = mk_service("api", V4).annotated("berth.dev/load-balancer-ips", "10.0.0.3");
    settle(&mut book, &mut ours);
    assert_eq!(
        condition(&ours).1,
        "AddressInUse",
        "what another's status lists is not given"
    );
}

#[test]
fn a_wiped_status_gets_the_same_address_again() {
    let mut book = book(&lan());
    let mut first = mk_service("a", V4);
    settle(&mut book, &mut first);
    let mut service = mk_service("web", V4);
    settle(&mut book, &mut service);
    let mut wiped = service.clone().listing(&[]);
    book.reconcile(&key_of(&first.metadata), None, &at(0));
    settle(&mut book, &mut wiped);
    assert_eq!(listed(&wiped), listed(&service));
}
