// SPDX-License-Identifier: Apache-2.0
//! Named cases.

use super::*;

#[test]
fn without_any_pool_of_a_supply_nothing_of_it_is_chosen() {
    let mut values = cluster();
    assert_eq!(given(&mut values, 0, &with_ports("a", "web"), 0), "");
    values.apply_port_pool(&mk_ports(
        "team-b",
        0,
        &json!({"ports": ["30009"], "selector": {"namespaces": ["b"]}}),
    ));
    let grant = values.grant(&ask(1), &with_ports("a", "web"), at(0)).unwrap();
    assert!(grant.cluster_ips.is_empty());
    assert_eq!(grant.node_ports.len(), 2);
    assert!(grant.node_ports.values().all(|port| port.get() < 30_009));
}

#[test]
fn a_pool_is_usable_to_its_last_value_and_says_so_when_it_is_full() {
    let mut values = cluster();
    values.apply_address_pool(&pool_of_two());
    assert_eq!(given(&mut values, 0, &plain("a", "one"), 0), "10.0.0.4");
    assert_eq!(given(&mut values, 1, &plain("a", "two"), 0), "10.0.0.5");
    assert_eq!(
        given(&mut values, 2, &plain("a", "three"), 0),
        "PoolExhausted: no IPv4 cluster IP for Service a/three: AddressPool team-a is exhausted: 2 of 2 addresses given, 2 of \
         these on their way; delete a Service that holds one, or add addresses to it"
    );
    let service = mk_service(&key("a/one"), 1, &[address("10.0.0.4")].into());
    assert_eq!(values.apply_service(Shown::of(&service), at(1)), [ask(0)]);
    values.remove_service(&key("a/one"), at(2));
    assert_eq!(
        given(&mut values, 3, &plain("a", "three"), 3),
        "10.0.0.4",
        "one deletion makes one more succeed"
    );
    assert!(given(&mut values, 4, &plain("a", "four"), 3).starts_with("PoolExhausted"));
    assert_eq!(
        given(&mut values, 4, &plain("a", "four"), 1 + HOLD.as_secs()),
        "10.0.0.5",
        "the hold of two has lapsed"
    );
}

#[test]
fn what_no_pool_is_for_gets_a_value_outside_every_pool() {
    let mut values = cluster();
    values.apply_address_pool(&pool_of_two());
    let mut seen = BTreeSet::new();
    for number in 0..12 {
        let grant = values
            .grant(&ask(number), &plain("b", &format!("s{number}")), at(0))
            .unwrap();
        seen.extend(grant.cluster_ips);
    }
    assert_eq!(seen.len(), 12);
    for never in ["10.0.0.0", "10.0.0.4", "10.0.0.5", "10.0.0.15"] {
        assert!(!seen.contains(&never.parse().unwrap()), "{never}");
    }
    assert_eq!(
        given(&mut values, 12, &plain("b", "late"), 0),
        "RangeExhausted: no IPv4 cluster IP for Service b/late: no pool is for it, and outside every pool nothing of the \
         ServiceCIDRs that are ready is left, 12 of 12 given: delete a Service that holds one, have a pool select the Service, \
         or add a ServiceCIDR"
    );
}

#[test]
fn outside_every_pool_the_static_bands_come_last() {
    let mut values = Values::new("30000-32767".parse().unwrap(), Exemptions::with([]), 7);
    values.apply_service_cidr("kubernetes", &["10.0.0.0/24".to_owned()], CidrState::Gives);
    values.apply_service_cidr("more", &["10.0.2.0/27".to_owned()], CidrState::Gives);
    values.apply_address_pool(&pool_of_two());
    values.apply_port_pool(&mk_ports(
        "p",
        0,
        &json!({"ports": ["32767"], "selector": {"namespaces": ["a"]}}),
    ));
    let band = |address: &IpAddr| {
        let IpAddr::V4(address) = address else {
            return false;
        };
        let [_, _, third, last] = address.octets();
        (1..=16).contains(&last) && (third == 0 || third == 2)
    };
    let mut given = Vec::new();
    for number in 0..238 + 14 {
        let grant = values
            .grant(&ask(number), &with_ports("b", &format!("s{number}")), at(0))
            .unwrap();
        assert!(grant.node_ports.values().all(|port| port.get() > 30_085));
        given.extend(grant.cluster_ips);
    }
    assert!(!given.iter().any(band), "{given:?}");
    let grant = values.grant(&ask(999), &plain("b", "late"), at(0)).unwrap();
    assert!(grant.cluster_ips.iter().all(band));
}

#[test]
fn what_lies_in_no_service_cidr_that_is_ready_is_skipped_and_told_of() {
    let mut values = cluster();
    values.apply_address_pool(&mk_addresses(
        "p",
        0,
        &json!({"addresses": ["10.0.0.4", "10.0.9.0-10.0.9.1"]}),
    ));
    assert_eq!(given(&mut values, 0, &plain("a", "one"), 0), "10.0.0.4");
    assert_eq!(
        given(&mut values, 1, &plain("a", "two"), 0),
        "NoServiceCidr: no IPv4 cluster IP for Service a/two: AddressPool p is exhausted: 1 of 3 addresses given, 1 of these \
         on their way, 2 in no ServiceCIDR that is ready; add a ServiceCIDR around those, or set spec.createServiceCIDR, or \
         delete a Service that holds one, or add addresses to it"
    );
    values.apply_service_cidr("more", &["10.0.9.0/24".to_owned()], CidrState::Unready);
    assert!(
        given(&mut values, 1, &plain("a", "two"), 0).starts_with("NoServiceCidr"),
        "not ready"
    );
    values.apply_service_cidr("more", &["10.0.9.0/24".to_owned()], CidrState::Gives);
    assert_eq!(
        given(&mut values, 1, &plain("a", "two"), 0),
        "10.0.9.1",
        "10.0.9.0 is the network's"
    );
    values.remove_service_cidr("more");
    assert_eq!(values.figures()[0].counts[0].1.held, 2, "what was given stays");
}

#[test]
fn one_service_gets_all_that_it_needs_or_nothing() {
    let mut values = cluster();
    values.apply_address_pool(&pool_of_two());
    values.apply_port_pool(&mk_ports(
        "p",
        0,
        &json!({"ports": ["30001-30003"], "strategy": "LowestFirst"}),
    ));
    assert_eq!(
        given(&mut values, 0, &with_ports("a", "one"), 0),
        "10.0.0.4 30001 30002"
    );
    let before: Vec<Use> = values.uses().collect();
    assert!(
        given(&mut values, 1, &with_ports("a", "two"), 0)
            .starts_with("PoolExhausted: no node port of ports[1]")
    );
    assert_eq!(values.uses().collect::<Vec<_>>(), before);
    assert_eq!(
        given(&mut values, 2, &plain("a", "three"), 0),
        "10.0.0.5",
        "as if it had never been asked"
    );
}

#[test]
fn who_asks_again_under_the_same_name_gets_the_same_values() {
    let mut values = cluster();
    values.apply_address_pool(&pool_of_two());
    values.apply_port_pool(&mk_ports("p", 0, &json!({"ports": ["30001-30003"]})));
    let first = given(&mut values, 0, &with_ports("a", "web"), 0);
    for number in 1..9 {
        assert_eq!(given(&mut values, number, &with_ports("a", "web"), number), first);
    }
    let nameless = |values: &mut Values, number| {
        let spec = json!({"selector": {"app": "x"}, "ports": [{"port": 80}]});
        given(values, number, &wish("a", None, spec), 9)
    };
    let second = nameless(&mut values, 20);
    assert!(!first.starts_with(&second), "{first} {second}");
    assert!(
        nameless(&mut values, 21).starts_with("PoolExhausted"),
        "no name, no second time"
    );
    let stored = [address("10.0.0.4"), address("10.0.0.5")]
        .into_iter()
        .find(|item| item.to_string() == second);
    let service = mk_service(&key("a/web-x7k2p"), 10, &stored.into_iter().collect());
    assert_eq!(
        values.apply_service(Shown::of(&service), at(10)),
        [ask(20)],
        "recognised by what it has"
    );
}

#[test]
fn a_port_that_moves_to_another_place_is_not_given_to_a_new_one() {
    let mut values = cluster();
    values.apply_port_pool(&mk_ports(
        "p",
        0,
        &json!({"ports": ["30001-30003"], "strategy": "LowestFirst"}),
    ));
    let old = mk_service(&key("a/web"), 1, &[address("10.0.0.3"), port(30_009)].into());
    values.apply_service(Shown::of(&old), at(1));
    let added = json!({"type": "NodePort", "clusterIP": "10.0.0.3", "clusterIPs": ["10.0.0.3"],
        "ports": [{"name": "new", "port": 80}, {"name": "old", "port": 30009, "nodePort": 30009}]});
    assert_eq!(
        given(&mut values, 0, &wished("a", Some("web"), Some(&old), added), 1),
        "30001"
    );
    let stored: Service = serde_json::from_value(json!({"metadata": {"namespace": "a", "name": "web", "uid": "uid-1"},
        "spec": {"type": "NodePort", "clusterIP": "10.0.0.3", "clusterIPs": ["10.0.0.3"], "ports": [
            {"name": "new", "port": 80, "nodePort": 30001}, {"name": "old", "port": 30009, "nodePort": 30009}]}})).unwrap();
    let shifted = json!({"type": "NodePort", "clusterIP": "10.0.0.3", "clusterIPs": ["10.0.0.3"], "ports": [
        {"name": "newer", "port": 79}, {"name": "new", "port": 80, "nodePort": 30001}]});
    let wish = wished("a", Some("web"), Some(&stored), shifted);
    assert_eq!(
        given(&mut values, 1, &wish, 2),
        "30002",
        "the watch has not shown 30001 yet"
    );
}

#[test]
fn an_update_is_over_when_all_of_it_is_there_and_a_create_when_the_service_appears() {
    let mut values = cluster();
    values.apply_port_pool(&mk_ports(
        "p",
        0,
        &json!({"ports": ["30001-30003"], "strategy": "LowestFirst"}),
    ));
    let old = mk_service(&key("a/web"), 1, &[address("10.0.0.3"), port(30_009)].into());
    values.apply_service(Shown::of(&old), at(1));
    let added = json!({"type": "NodePort", "clusterIP": "10.0.0.3", "clusterIPs": ["10.0.0.3"],
        "ports": [{"name": "new", "port": 80}, {"name": "old", "port": 30009, "nodePort": 30009}]});
    given(&mut values, 0, &wished("a", Some("web"), Some(&old), added), 1);
    assert_eq!(
        values.apply_service(Shown::of(&old), at(2)),
        [],
        "an earlier state, or another write"
    );
    let new = mk_service(
        &key("a/web"),
        1,
        &[address("10.0.0.3"), port(30_009), port(30_001)].into(),
    );
    assert_eq!(values.apply_service(Shown::of(&new), at(3)), [ask(0)]);
    let create = |number| (ask(number), with_ports("a", "other"));
    let (asked, wish) = create(1);
    values.grant(&asked, &wish, at(4)).unwrap();
    let came = mk_service(&key("a/other"), 5, &[port(30_005), port(30_006)].into());
    assert_eq!(
        values.apply_service(Shown::of(&came), at(5)),
        [asked],
        "it came with other values"
    );
    assert!(values.uses().all(|used| used.ground == Ground::InUse));
}

#[test]
fn a_dry_run_says_what_comes_next_and_takes_nothing() {
    let mut values = cluster();
    values.apply_address_pool(&mk_addresses(
        "p",
        0,
        &json!({"addresses": ["10.0.0.1-10.0.0.9"]}),
    ));
    for number in 0..9 {
        let wish = plain("a", &format!("s{number}"));
        let peeked = values.peek(&wish, at(0));
        assert_eq!(values.peek(&wish, at(0)), peeked);
        assert_eq!(values.grant(&ask(number), &wish, at(0)), peeked);
    }
    assert!(values.peek(&plain("a", "late"), at(0)).is_err());
}

#[test]
fn wishes_are_held_and_what_the_api_server_refuses_is_left_to_it() {
    let mut values = cluster();
    values.apply_address_pool(&pool_of_two());
    let wants = |namespace: &str, name: &str, ip: &str| {
        let spec = json!({"clusterIP": ip, "selector": {"app": "x"}, "ports": [{"port": 80}]});
        wish(namespace, Some(name), spec)
    };
    assert_eq!(
        given(&mut values, 0, &wants("a", "one", "10.0.0.4"), 0),
        "10.0.0.4"
    );
    assert!(
        given(&mut values, 1, &wants("a", "two", "10.0.0.4"), 0).starts_with(
            "WishBeingGiven: no IPv4 cluster IP for \
        Service a/two: 10.0.0.4 is on its way to another Service"
        )
    );
    assert_eq!(
        given(&mut values, 2, &plain("a", "three"), 0),
        "10.0.0.5",
        "not the one that is wished for"
    );
    values.apply_service(
        Shown::of(&mk_service(&key("a/one"), 1, &[address("10.0.0.4")].into())),
        at(1),
    );
    assert_eq!(
        given(&mut values, 3, &wants("a", "two", "10.0.0.4"), 1),
        "",
        "the API server says it is taken"
    );
    assert!(given(&mut values, 4, &wants("b", "two", "10.0.0.4"), 1).starts_with("WishInPool"));
    assert!(given(&mut values, 5, &wants("a", "two", "10.0.0.9"), 1).starts_with("WishOutside"));
    assert_eq!(
        given(&mut values, 6, &wants("b", "two", "10.0.0.9"), 1),
        "10.0.0.9"
    );
    assert_eq!(
        given(&mut values, 7, &wants("b", "two", "192.0.2.1"), 1),
        "",
        "not in its range"
    );
}
