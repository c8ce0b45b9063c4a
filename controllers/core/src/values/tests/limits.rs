// SPDX-License-Identifier: Apache-2.0
//! What pools keep from others: quotas, reservations, claims, and what is in use regardless.

use super::*;

#[test]
fn quotas_count_holds_and_the_next_pool_serves_who_has_reached_one() {
    let mut values = cluster();
    values.apply_address_pool(&mk_addresses(
        "p",
        0,
        &json!({"addresses": ["10.0.0.1-10.0.0.5"], "quota": {"perNamespace": 1}}),
    ));
    given(&mut values, 0, &plain("a", "one"), 0);
    assert_eq!(
        given(&mut values, 1, &plain("a", "two"), 0),
        "QuotaReached: no IPv4 cluster IP for Service a/two: namespace a holds 1 of the 1 addresses that it may hold in \
         AddressPool p; delete a Service that holds one, or have spec.quota of the pool raised"
    );
    values.apply_address_pool(&mk_addresses("q", 1, &json!({"addresses": ["10.0.0.9"]})));
    assert_eq!(given(&mut values, 1, &plain("a", "two"), 0), "10.0.0.9");
    assert_ne!(given(&mut values, 2, &plain("b", "one"), 0), "10.0.0.9");
}

#[test]
fn reservations_and_claims_wait_for_their_service() {
    let mut values = cluster();
    values.apply_address_pool(&mk_addresses(
        "p",
        0,
        &json!({"addresses": ["10.0.0.4-10.0.0.6"],
        "reservations": [{"address": "10.0.0.4", "namespace": "b", "name": "db"}]}),
    ));
    values.apply_claim(&mk_claim("sticky", 0, "a", "web", &["10.0.0.5"]), at(0));
    assert_eq!(given(&mut values, 0, &plain("a", "other"), 0), "10.0.0.6");
    assert!(
        given(&mut values, 1, &plain("a", "late"), 0)
            .contains("2 of 3 addresses given, 1 of these on their way, 1 reserved")
    );
    assert_eq!(given(&mut values, 2, &plain("a", "web"), 0), "10.0.0.5");
    assert_eq!(given(&mut values, 3, &plain("b", "db"), 0), "10.0.0.4");
    values.apply_service(
        Shown::of(&mk_service(&key("a/web"), 1, &[address("10.0.0.5")].into())),
        at(1),
    );
    values.remove_service(&key("a/web"), at(2));
    assert!(
        given(&mut values, 4, &plain("a", "late"), 2).starts_with("PoolExhausted"),
        "the claim keeps it"
    );
    values.remove_claim("a", "sticky", at(3));
    assert_eq!(given(&mut values, 4, &plain("a", "late"), 3), "10.0.0.5");
}

#[test]
fn a_port_that_is_reserved_for_one_port_is_not_given_to_another() {
    let mut values = cluster();
    values.apply_port_pool(&mk_ports(
        "p",
        0,
        &json!({"ports": ["30001-30003"], "strategy": "LowestFirst",
        "reservations": [{"port": 30001, "namespace": "a", "name": "web", "portName": "b"}]}),
    ));
    let grant = values.grant(&ask(0), &with_ports("a", "web"), at(0)).unwrap();
    let of = |index| grant.at(Slot::NodePort(index));
    assert_eq!((of(0), of(1)), (Some(port(30_002)), Some(port(30_001))));
    assert_eq!(
        values.grant(&ask(1), &with_ports("a", "web"), at(0)).unwrap(),
        grant
    );
}

#[test]
fn a_pool_that_is_malformed_overlapping_or_draining_keeps_what_it_gave_and_gives_nothing_new() {
    for (case, spec) in [
        (
            "malformed",
            json!({"addresses": ["10.0.0.4-10.0.0.5", "nonsense"]}),
        ),
        (
            "draining",
            json!({"addresses": ["10.0.0.4-10.0.0.5"], "draining": true}),
        ),
        (
            "overlapping",
            json!({"addresses": ["10.0.0.1", "10.0.0.4-10.0.0.5"]}),
        ),
    ] {
        let mut values = cluster();
        values.apply_address_pool(&mk_addresses(
            "old",
            0,
            &json!({"addresses": ["10.0.0.1"], "selector": {"namespaces": ["b"]}}),
        ));
        values.apply_address_pool(&mk_addresses(
            "p",
            1,
            &json!({"addresses": ["10.0.0.4-10.0.0.5"]}),
        ));
        assert_eq!(given(&mut values, 0, &plain("a", "one"), 0).len(), 8, "{case}");
        values.apply_address_pool(&mk_addresses("p", 1, &spec));
        assert!(
            given(&mut values, 1, &plain("a", "two"), 0).starts_with("PoolsAtRest"),
            "{case}"
        );
        let figures = values.figures();
        let pool = figures.iter().find(|figures| figures.pool.name == "p").unwrap();
        assert_eq!(pool.counts[0].1.held, 1, "{case}");
        assert_eq!(pool.namespaces["a"], [1, 0], "{case}");
        assert_eq!(values.findings(), [], "{case}");
    }
}

#[test]
fn what_is_not_as_it_should_be_is_a_finding_and_stops_nothing() {
    let mut values = cluster();
    values.apply_address_pool(&pool_of_two());
    let item = address("10.0.0.4");
    values.apply_service(Shown::of(&mk_service(&key("b/young"), 9, &[item].into())), at(0));
    values.apply_service(Shown::of(&mk_service(&key("a/old"), 5, &[item].into())), at(0));
    values.apply_service(
        Shown::of(&mk_service(
            &key("kube-system/dns"),
            1,
            &[address("10.0.0.5"), port(9)].into(),
        )),
        at(0),
    );
    let findings: Vec<String> = values
        .findings()
        .iter()
        .map(|finding| finding.as_str().to_owned())
        .collect();
    assert_eq!(
        findings,
        ["Duplicate", "OutOfRange", "Encroachment", "Encroachment"]
    );
    let Finding::Duplicate { holder, service, .. } = &values.findings()[0] else {
        panic!("no duplicate");
    };
    assert_eq!((holder, service), (&key("a/old"), &key("b/young")));
    values.remove_service(&key("a/old"), at(1));
    assert_eq!(
        values.uses().next().unwrap().holder,
        Holder::Service(key("b/young"))
    );
    values.retain_services(&BTreeSet::new(), at(2));
    assert_eq!(values.uses().count(), 0);
}

#[test]
fn who_is_not_older_than_its_pools_and_has_a_value_of_none_is_astray() {
    let mut values = cluster();
    // Made at 3:04.
    values.apply_address_pool(&pool_of_two());
    let (before, same, after) = (239, 240, 300);
    for (number, (service, second, item)) in [
        ("a/early", before, "10.0.0.7"),
        ("a/late", after, "10.0.0.8"),
        ("a/served", after, "10.0.0.4"),
        ("b/other", after, "10.0.0.9"),
        ("kube-system/dns", after, "10.0.0.10"),
        ("a/with", same, "10.0.0.11"),
    ]
    .into_iter()
    .enumerate()
    {
        let shown = Shown::of(&mk_service(&key(service), second, &[address(item)].into()));
        values.apply_service(shown, at(number as u64));
    }
    let pools: Vec<_> = values.figures().into_iter().map(|figures| figures.pool).collect();
    let expected = [("10.0.0.8", "a/late"), ("10.0.0.11", "a/with")];
    let expected = expected.map(|(item, service)| Finding::Astray {
        item: address(item),
        service: key(service),
        pools: pools.clone(),
    });
    assert_eq!(values.findings(), expected);
    let mut parts = Vec::new();
    let mut last = None;
    loop {
        let (part, next) = values.findings_after(last.as_ref(), 2);
        parts.extend(part);
        let Some(next) = next else { break };
        last = Some(next);
    }
    assert_eq!(parts, values.findings());
}

#[test]
fn wishes_grants_and_refusals_travel_as_json() {
    let mut values = cluster();
    values.apply_address_pool(&pool_of_two());
    values.apply_port_pool(&mk_ports("p", 0, &json!({"ports": ["30001-30003"]})));
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "clusterIP": "10.0.0.4", "selector": {"app": "x"},
        "ports": [{"name": "a", "port": 80}]});
    let wish = wish("a", Some("web"), spec);
    let again: Wish = serde_json::from_str(&serde_json::to_string(&wish).unwrap()).unwrap();
    assert_eq!(again, wish);
    let grant = values.grant(&ask(0), &wish, at(0)).unwrap();
    assert_eq!(grant.items().len(), 3);
    let again: Grant = serde_json::from_str(&serde_json::to_string(&grant).unwrap()).unwrap();
    assert_eq!(again, grant);
    assert_eq!(again.chosen().node_ports, grant.node_ports);
    let refused = values.grant(&ask(1), &with_ports("a", "x"), at(0)).unwrap_err();
    let again: Refused = serde_json::from_str(&serde_json::to_string(&refused).unwrap()).unwrap();
    assert_eq!(again, refused);
}
