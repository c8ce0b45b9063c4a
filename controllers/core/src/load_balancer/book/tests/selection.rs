// SPDX-License-Identifier: Apache-2.0
//! Which pool serves whom.

use berth_crds::{AddressReservation, PoolSelector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::*;

const OF_LAB: &str = "kubernetes.io/metadata.name";

/// For namespaces of this name.
fn for_namespaces(mut pool: AddressPool, names: &[&str]) -> AddressPool {
    pool.spec.selector.get_or_insert_default().namespaces =
        names.iter().map(|name| (*name).to_owned()).collect();
    pool
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn selecting(pairs: &[(&str, &str)]) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels(pairs)),
        ..LabelSelector::default()
    }
}

fn in_namespace(namespace: &str, name: &str) -> Service {
    let mut service = mk_service(name, V4);
    service.metadata.namespace = Some(namespace.to_owned());
    service
}

fn given(book: &mut LoadBalancers, service: &mut Service) -> String {
    settle(book, service);
    listed(service).join(",")
}

#[test]
fn a_pool_serves_whom_it_selects_the_higher_priority_first_and_the_next_one_when_it_is_full() {
    let mut preferred = for_namespaces(mk_pool("lab", 2, &["10.0.1.0/32"]), &["lab"]);
    preferred.spec.priority = 10;
    let mut book = book(&[mk_pool("all", 1, &["10.0.0.0/30"]), preferred]);
    let mut given = |namespace: &str, name: &str| given(&mut book, &mut in_namespace(namespace, name));
    assert_eq!(given("shop", "a"), "10.0.0.0");
    assert_eq!(given("lab", "b"), "10.0.1.0");
    assert_eq!(given("lab", "c"), "10.0.0.1");
}

#[test]
fn whom_no_pool_selects_is_told_of_every_pool_and_served_when_its_namespace_gets_the_label() {
    let mut by_label = mk_pool("gold", 1, &["10.0.0.0/30"]);
    by_label.spec.selector = Some(PoolSelector {
        namespace_selector: Some(selecting(&[("tier", "gold")])),
        ..PoolSelector::default()
    });
    let mut book = book(&[
        by_label,
        for_namespaces(mk_pool("lab", 2, &["10.0.1.0/30"]), &["lab"]),
    ]);
    let mut service = mk_service("web", V4);
    settle(&mut book, &mut service);
    assert_eq!(
        condition(&service),
        (
            "False".to_owned(),
            "NoPoolForService".to_owned(),
            "no AddressPool with IPv4 addresses is for the Service (AddressPool gold does not select the namespace, \
             AddressPool lab does not select the namespace); have one select it (spec.selector), or add one"
                .to_owned()
        )
    );
    let key = key_of(&service.metadata);
    let mut namespaces = Arc::new([("lab".to_owned(), labels(&[(OF_LAB, "lab")]))].into());
    assert_eq!(book.set_namespaces(&namespaces), BTreeSet::new());
    Arc::make_mut(&mut namespaces).insert("shop".to_owned(), labels(&[("tier", "gold")]));
    assert_eq!(book.set_namespaces(&namespaces), BTreeSet::from([key]));
    assert_eq!(given(&mut book, &mut service), "10.0.0.0");
}

#[test]
fn labels_of_a_service_count_too() {
    let mut public = mk_pool("public", 1, &["10.0.0.0/30"]);
    public.spec.selector = Some(PoolSelector {
        service_selector: Some(selecting(&[("exposed", "yes")])),
        ..PoolSelector::default()
    });
    let mut book = book(&[public]);
    let mut service = mk_service("web", V4);
    settle(&mut book, &mut service);
    let (_, reason, message) = condition(&service);
    assert_eq!(reason, "NoPoolForService");
    assert!(
        message.contains("AddressPool public does not select the labels of the Service"),
        "{message}"
    );
    service.metadata.labels = Some(labels(&[("exposed", "yes")]));
    assert_eq!(given(&mut book, &mut service), "10.0.0.0");
}

#[test]
fn what_is_of_a_pool_for_others_is_given_to_nobody_else_but_who_has_it_reserved() {
    let mut lab = for_namespaces(mk_pool("lab", 1, &["10.0.1.0/30"]), &["lab"]);
    lab.spec.reservations = vec![AddressReservation {
        address: "10.0.1.3".to_owned(),
        namespace: "shop".to_owned(),
        name: "guest".to_owned(),
    }];
    let mut book = book(&[lab, mk_pool("all", 2, &["10.0.0.0/30"])]);
    let mut by_address = mk_service("a", V4).annotated("berth.dev/load-balancer-ips", "10.0.1.1");
    let mut by_pool = mk_service("b", V4).annotated("berth.dev/address-pool", "lab");
    for service in [&mut by_address, &mut by_pool] {
        settle(&mut book, service);
        let (_, reason, message) = condition(service);
        assert_eq!((reason.as_str(), listed(service).len()), ("PoolForOthers", 0));
        assert!(
            message.contains("AddressPool lab does not select the namespace"),
            "{message}"
        );
    }
    assert_eq!(given(&mut book, &mut mk_service("guest", V4)), "10.0.1.3");
    let asking = mk_service("c", V4).annotated("berth.dev/load-balancer-ips", "10.0.0.2");
    assert_eq!(given(&mut book, &mut asking.clone()), "10.0.0.2");
}

#[test]
fn who_has_an_address_keeps_it_when_its_pool_is_for_others_from_then_on() {
    let mut book = book(&[mk_pool("lan", 1, &["10.0.0.0/30"])]);
    let mut service = mk_service("web", V4);
    assert_eq!(given(&mut book, &mut service), "10.0.0.0");
    let change = book.set_pools(&[for_namespaces(mk_pool("lan", 1, &["10.0.0.0/30"]), &["lab"])]);
    assert_eq!(change.wake, BTreeSet::from([key_of(&service.metadata)]));
    assert_eq!(given(&mut book, &mut service), "10.0.0.0");
    let (status, reason, message) = condition(&service);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "KeptOfOthers"));
    assert!(
        message.starts_with("10.0.0.0 is kept although AddressPool lan does not select the namespace"),
        "{message}"
    );
    let again = book.set_pools(&[for_namespaces(mk_pool("lan", 1, &["10.0.0.0/30"]), &["lab"])]);
    assert_eq!(again, PoolsChange::default());
}

#[test]
fn a_release_wakes_who_may_have_what_was_released() {
    let pools = [
        for_namespaces(mk_pool("lab", 1, &["10.0.1.0/32"]), &["lab"]),
        for_namespaces(mk_pool("shop", 2, &["10.0.0.0/32"]), &["shop"]),
    ];
    let mut book = book(&pools);
    let mut services = [
        in_namespace("lab", "has"),
        in_namespace("shop", "has"),
        in_namespace("shop", "waits"),
        in_namespace("lab", "waits"),
    ];
    for service in &mut services {
        settle(&mut book, service);
    }
    let gone = book.reconcile(&ServiceKey::new("lab", "has"), None, &at(1));
    assert_eq!(gone.wake, Some(ServiceKey::new("lab", "waits")));
}

#[test]
fn at_start_nothing_is_set_aside_for_who_may_not_have_it() {
    let mut book = book(&[for_namespaces(mk_pool("lab", 1, &["10.0.1.0/32"]), &["lab"])]);
    let asks = mk_service("web", V4).annotated("berth.dev/load-balancer-ips", "10.0.1.0");
    book.adopt([&asks]);
    assert_eq!(given(&mut book, &mut in_namespace("lab", "web")), "10.0.1.0");
}
