// SPDX-License-Identifier: Apache-2.0
//! What the replica that is asked knows and the holder does not, and a second review of one write.

use super::*;

fn by_label() -> AddressPool {
    mk_addresses(
        "gold",
        0,
        &json!({"addresses": ["10.0.0.4-10.0.0.5"], "strategy": "LowestFirst",
            "selector": {"namespaceSelector": {"matchLabels": {"tier": "gold"}}}}),
    )
}

fn labels(tier: &str) -> Labels {
    [("tier".to_owned(), tier.to_owned())].into()
}

#[test]
fn the_labels_of_a_namespace_that_the_holder_does_not_know_are_those_that_come_with_the_question() {
    let mut values = cluster();
    values.apply_address_pool(&by_label());
    let with = |tier: &str| Wish {
        namespace_labels: Some(labels(tier)),
        ..plain("new", "web")
    };
    let outside = given(&mut values, 0, &plain("new", "web"), 0);
    assert!(
        !outside.starts_with("10.0.0.4"),
        "{outside}: nobody says what it is"
    );
    assert_eq!(given(&mut values, 1, &with("gold"), 0), "10.0.0.4");
    // Its own watch is behind nobody's once it shows the namespace.
    values.apply_namespace("new", &labels("tin"));
    let outside = given(
        &mut values,
        2,
        &Wish {
            name: Some("db".to_owned()),
            ..with("gold")
        },
        0,
    );
    assert!(!outside.starts_with("10.0.0.5"), "{outside}");
}

#[test]
fn labels_are_asked_for_where_a_pool_goes_by_them_and_the_namespace_is_not_known() {
    let mut values = cluster();
    values.apply_address_pool(&pool_of_two());
    assert_eq!(values.namespace_labels("a"), NamespaceLabels::NotAskedFor);
    values.apply_address_pool(&by_label());
    assert_eq!(values.namespace_labels("a"), NamespaceLabels::Unknown);
    values.apply_namespace("a", &labels("tin"));
    assert_eq!(
        values.namespace_labels("a"),
        NamespaceLabels::Known(labels("tin"))
    );
}

#[test]
fn what_was_chosen_is_told_from_what_was_wished_for_until_the_service_is_there() {
    let mut values = cluster();
    values.apply_address_pool(&pool_of_two());
    values.apply_port_pool(&mk_ports(
        "p",
        0,
        &json!({"ports": ["30001-30003"], "strategy": "LowestFirst"}),
    ));
    let spec = json!({"type": "NodePort", "selector": {"app": "x"},
        "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": 30003}]});
    given(&mut values, 0, &wish("a", Some("web"), spec), 0);
    let all = BTreeSet::from([address("10.0.0.4"), port(30_001), port(30_003), port(30_002)]);
    let chosen = BTreeSet::from([address("10.0.0.4"), port(30_001)]);
    assert_eq!(values.chosen_before("a", Some("web"), &all), chosen);
    assert_eq!(values.chosen_before("a", Some("other"), &all), BTreeSet::new());
    assert_eq!(values.chosen_before("a", None, &all), BTreeSet::new());
    let had = BTreeSet::from([address("10.0.0.4"), port(30_003)]);
    values.apply_service(Shown::of(&mk_service(&key("a/web"), 1, &had)), at(1));
    assert_eq!(values.chosen_before("a", Some("web"), &all), BTreeSet::new());
}

#[test]
fn one_without_a_name_is_given_again_what_it_had_and_holds_it_once() {
    let mut values = cluster();
    values.apply_address_pool(&mk_addresses(
        "p",
        0,
        &json!({"addresses": ["10.0.0.4"], "quota": {"perNamespace": 1}}),
    ));
    let spec = || json!({"selector": {"app": "x"}, "ports": [{"port": 80}]});
    let unnamed = wish("a", None, spec());
    assert_eq!(given(&mut values, 0, &unnamed, 0), "10.0.0.4");
    let had = values.chosen_before("a", None, &[address("10.0.0.4"), address("10.0.0.5")].into());
    assert_eq!(had, [address("10.0.0.4")].into());
    assert_eq!(values.chosen_before("b", None, &had), BTreeSet::new());
    let again = Wish {
        had,
        ..unnamed.clone()
    };
    assert_eq!(
        given(&mut values, 1, &again, 0),
        "10.0.0.4",
        "the last one, and the quota is used up"
    );
    // It is another one that does not say so.
    assert!(given(&mut values, 2, &unnamed, 0).starts_with("QuotaReached"));
    // One of another namespace can't have had it.
    let other = Wish {
        had: again.had.clone(),
        ..wish("b", None, spec())
    };
    assert!(given(&mut values, 3, &other, 0).starts_with("PoolExhausted"));
    let shown = Shown::of(&mk_service(&key("a/web-x7"), 1, &[address("10.0.0.4")].into()));
    assert_eq!(values.apply_service(shown, at(1)), [ask(0), ask(1)]);
    values.remove_service(&key("a/web-x7"), at(2));
    assert!(
        given(&mut values, 4, &unnamed, 2).starts_with("10.0.0.4"),
        "nothing is left held"
    );
}

#[test]
fn a_wish_without_a_name_is_no_conflict_with_the_review_before() {
    let mut values = cluster();
    values.apply_port_pool(&mk_ports("p", 0, &json!({"ports": ["30001-30003"]})));
    let spec = || json!({"type": "NodePort", "clusterIP": "10.0.0.9", "selector": {"app": "x"}, "ports": [{"port": 80, "nodePort": 30002}]});
    for (number, name) in [(0, None), (1, None), (2, Some("web"))] {
        let given = given(&mut values, number, &wish("a", name, spec()), 0);
        let is_other = name.is_some();
        assert_eq!(given.starts_with("WishBeingGiven"), is_other, "{given}");
    }
}
