// SPDX-License-Identifier: Apache-2.0
use berth_testkit::builders::{mk_service, mk_service_port, mk_slice};

use super::*;

fn applied(name: &str, ip: &str) -> Event {
    let mut service = mk_service("shop", name, &[], &[mk_service_port("http", 80, "8080", "TCP")]);
    let spec = service.spec.get_or_insert_default();
    spec.cluster_ip = Some(ip.to_owned());
    spec.cluster_ips = Some(vec![ip.to_owned()]);
    spec.ip_families = Some(vec!["IPv4".to_owned()]);
    Event::Service(Box::new(WatchEvent::Applied(service)))
}

fn listed(names: &[&str]) -> BTreeSet<ObjectKey> {
    names
        .iter()
        .map(|name| ObjectKey {
            namespace: Some("shop".into()),
            name: (*name).into(),
        })
        .collect()
}

fn services(state: &State) -> Vec<String> {
    state
        .index
        .view()
        .services
        .keys()
        .map(ServiceKey::to_string)
        .collect()
}

#[test]
fn synced_only_when_both_kinds_are_listed() {
    let mut state = State::default();
    state.accept(applied("web", "10.96.0.1"));
    assert!(!state.is_synced());
    state.accept(Event::Service(Box::new(WatchEvent::Listed(listed(&["web"])))));
    assert!(!state.is_synced(), "slices are missing");
    state.accept(Event::Slice(Box::new(WatchEvent::Listed(BTreeSet::new()))));
    assert!(state.is_synced());
    assert_eq!(services(&state), ["shop/web"]);
}

#[test]
fn services_are_selected_by_the_proxys_name_or_by_having_none() {
    let labels = |name: Option<&str>| {
        let selection = Selection {
            service_proxy_name: name.map(str::to_owned),
            node: NodeName::new("node-1"),
            service_cidrs: true,
        };
        selection.services()
    };
    assert_eq!(labels(None), "!service.kubernetes.io/service-proxy-name");
    assert_eq!(
        labels(Some("berth")),
        "service.kubernetes.io/service-proxy-name=berth"
    );
}

#[test]
fn the_own_node_is_unknown_missing_or_what_it_says() {
    let mut state = State::default();
    let mut after = |event: WatchEvent<Node>| {
        state.accept(Event::Node(Box::new(event)));
        (state.eligibility(), state.node.is_some())
    };
    assert_eq!(
        after(WatchEvent::Applied(Node::default())),
        (Eligibility::Eligible, true)
    );
    let key = ObjectKey {
        namespace: None,
        name: "node-1".into(),
    };
    assert_eq!(
        after(WatchEvent::Listed(BTreeSet::from([key.clone()]))),
        (Eligibility::Eligible, true)
    );
    assert_eq!(after(WatchEvent::Deleted(key)), (Eligibility::Missing, false));
    assert_eq!(
        after(WatchEvent::Applied(Node::default())),
        (Eligibility::Eligible, true)
    );
    assert_eq!(
        after(WatchEvent::Listed(BTreeSet::new())),
        (Eligibility::Missing, false)
    );
    assert_eq!(State::default().eligibility(), Eligibility::NotListed);
}

#[test]
fn a_slice_that_changes_endpoints_says_when_that_was_caused() {
    let mut state = State::default();
    let mut slice = mk_slice("shop", "web-1", "web", &["10.1.0.1"], &[("http", 8080, "TCP")]);
    let annotations = slice.metadata.annotations.get_or_insert_default();
    annotations.insert(CAUSE.to_owned(), "2026-11-23T01:02:03.5Z".to_owned());
    let expected = (IpFamily::V4, "2026-11-23T01:02:03.5Z".parse().unwrap());
    let mut after = |event| {
        state.accept(Event::Slice(Box::new(event)));
        state.index.take_dirty();
        let seen = state.take_seen();
        (seen.slices, seen.causes)
    };
    assert_eq!(after(WatchEvent::Applied(slice.clone())), (1, vec![expected]));
    assert_eq!(after(WatchEvent::Applied(slice)), (1, vec![]), "the same again");
    assert_eq!(after(WatchEvent::Listed(BTreeSet::new())), (0, vec![]));
}

fn cidr(name: &str, cidrs: &[&str]) -> Event {
    Event::ServiceCidr(Box::new(WatchEvent::Applied(ServiceCidr {
        name: name.into(),
        cidrs: cidrs.iter().map(|cidr| (*cidr).to_owned()).collect(),
    })))
}

fn cidrs(state: &State) -> Option<String> {
    let texts = |nets: Vec<IpNet>| nets.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" ");
    state.service_cidrs().map(texts)
}

#[test]
fn service_cidrs_are_unknown_until_they_are_listed_and_those_that_go_are_gone() {
    let key = |name: &str| ObjectKey {
        namespace: None,
        name: name.into(),
    };
    let mut state = State::default();
    state.accept(cidr("kubernetes", &["10.96.0.0/16", "fd00:96::/112", "nonsense"]));
    state.accept(cidr("more", &["10.97.0.0/16"]));
    assert_eq!(cidrs(&state), None);
    let listed = |names: &[&str]| {
        let keys = names.iter().map(|name| key(name)).collect();
        Event::ServiceCidr(Box::new(WatchEvent::Listed(keys)))
    };
    state.accept(listed(&["kubernetes", "more"]));
    assert_eq!(
        cidrs(&state).as_deref(),
        Some("10.96.0.0/16 10.97.0.0/16 fd00:96::/112")
    );
    state.accept(Event::ServiceCidr(Box::new(WatchEvent::Deleted(key("more")))));
    assert_eq!(cidrs(&state).as_deref(), Some("10.96.0.0/16 fd00:96::/112"));
    state.accept(cidr("late", &["10.98.0.0/16"]));
    assert_eq!(
        cidrs(&state).as_deref(),
        Some("10.96.0.0/16 10.98.0.0/16 fd00:96::/112")
    );
    state.accept(listed(&["late"]));
    assert_eq!(cidrs(&state).as_deref(), Some("10.98.0.0/16"));
}

#[tokio::test]
async fn service_cidrs_that_cannot_be_listed_count_as_none_until_they_can() {
    let (sender, mut receiver) = mpsc::channel(BACKLOG);
    let (watch, events) = futures::channel::mpsc::unbounded();
    let task = tokio::spawn(forward_cidrs(events, sender, Duration::ZERO));
    let mut state = State::default();
    state.accept(receiver.recv().await.unwrap());
    assert_eq!(cidrs(&state).as_deref(), Some(""));
    let Event::ServiceCidr(late) = cidr("kubernetes", &["10.96.0.0/16"]) else {
        panic!("made above");
    };
    watch.unbounded_send(*late).unwrap();
    state.accept(receiver.recv().await.unwrap());
    assert_eq!(cidrs(&state).as_deref(), Some("10.96.0.0/16"));
    drop(receiver);
    task.await.unwrap();
}

#[test]
fn what_a_list_does_not_hold_and_what_is_deleted_is_gone() {
    let mut state = State::default();
    for (name, ip) in [("a", "10.96.0.1"), ("b", "10.96.0.2"), ("c", "10.96.0.3")] {
        state.accept(applied(name, ip));
    }
    state.accept(Event::Service(Box::new(WatchEvent::Listed(listed(&["a", "b"])))));
    assert_eq!(services(&state), ["shop/a", "shop/b"]);
    for key in listed(&["a"]) {
        state.accept(Event::Service(Box::new(WatchEvent::Deleted(key))));
    }
    assert_eq!(services(&state), ["shop/b"]);
    assert_eq!(state.index.take_dirty().len(), 3);
}
