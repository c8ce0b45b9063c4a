// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::SERVICE_NAME_LABEL;
use berth_model::{PortName, Protocol};

fn service(name: &str, cluster_ip: &str) -> Service {
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": "shop", "name": name, "uid": name},
        "spec": {"clusterIP": cluster_ip, "ports": [{"name": "http", "port": 80}]},
    }))
    .unwrap()
}

fn slice(name: &str, of: &str, endpoints: &[(&str, bool)]) -> EndpointSlice {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(ip, terminating)| {
            serde_json::json!({"addresses": [ip],
                "conditions": {"ready": !terminating, "serving": true, "terminating": terminating}})
        })
        .collect();
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {SERVICE_NAME_LABEL: of}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}],
    }))
    .unwrap()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn addresses(index: &Index, name: &str) -> Vec<String> {
    let port = EndpointPort {
        name: PortName::new("http"),
        protocol: Protocol::Tcp,
    };
    index
        .view()
        .endpoints_of(&key(name), &port)
        .iter()
        .map(|endpoint| endpoint.ip.to_string())
        .collect()
}

#[test]
fn an_event_without_a_change_makes_nothing_dirty() {
    let mut index = Index::default();
    index.apply_service(&service("web", "10.0.0.1"));
    index.apply_slice(&slice("web-1", "web", &[("10.1.0.1", false)]));
    assert_eq!(index.take_dirty(), BTreeSet::from([key("web")]));
    index.apply_service(&service("web", "10.0.0.1"));
    index.apply_slice(&slice("web-1", "web", &[("10.1.0.1", false)]));
    assert!(!index.is_dirty());
}

#[test]
fn a_service_that_turns_headless_is_gone_from_the_view() {
    let mut index = Index::default();
    index.apply_service(&service("web", "10.0.0.1"));
    index.take_dirty();
    index.apply_service(&service("web", "None"));
    assert!(index.view().services.is_empty());
    assert_eq!(index.take_dirty(), BTreeSet::from([key("web")]));
}

#[test]
fn slices_are_merged_sorted_and_each_pair_stands_once() {
    let mut index = Index::default();
    index.apply_slice(&slice(
        "web-b",
        "web",
        &[("10.1.0.3", false), ("10.1.0.1", false)],
    ));
    index.apply_slice(&slice("web-a", "web", &[("10.1.0.2", false), ("10.1.0.1", true)]));
    assert_eq!(addresses(&index, "web"), ["10.1.0.1", "10.1.0.2", "10.1.0.3"]);
    let port = EndpointPort {
        name: PortName::new("http"),
        protocol: Protocol::Tcp,
    };
    assert!(
        !index.view().endpoints_of(&key("web"), &port)[0]
            .conditions
            .terminating
    );
}

#[test]
fn a_slice_that_changes_its_owner_leaves_the_old_one() {
    let mut index = Index::default();
    index.apply_slice(&slice("s", "web", &[("10.1.0.1", false)]));
    index.take_dirty();
    index.apply_slice(&slice("s", "api", &[("10.1.0.1", false)]));
    assert_eq!(
        (addresses(&index, "web"), addresses(&index, "api")),
        (vec![], vec!["10.1.0.1".to_owned()])
    );
    assert_eq!(index.take_dirty(), BTreeSet::from([key("api"), key("web")]));
}

#[test]
fn what_a_relist_does_not_name_is_gone() {
    let mut index = Index::default();
    for name in ["web", "api"] {
        index.apply_service(&service(name, "10.0.0.1"));
        index.apply_slice(&slice(name, name, &[("10.1.0.1", false)]));
    }
    index.take_dirty();
    index.retain_services(&BTreeSet::from([key("web")]));
    index.retain_slices(&BTreeSet::from([("shop".into(), "web".into())]));
    assert_eq!(index.view().services.len(), 1);
    assert!(addresses(&index, "api").is_empty());
    assert_eq!(index.take_dirty(), BTreeSet::from([key("api")]));
}

mod against_a_rebuild {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Event {
        Service(usize, usize),
        NoService(usize),
        Slice(usize, usize, Vec<(u8, bool)>),
        NoSlice(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0usize..3, 0usize..2).prop_map(|(n, ip)| Event::Service(n, ip)),
            (0usize..3).prop_map(Event::NoService),
            (
                0usize..4,
                0usize..3,
                prop::collection::vec((1u8..6, any::<bool>()), 0..4)
            )
                .prop_map(|(n, of, list)| Event::Slice(n, of, list)),
            (0usize..4).prop_map(Event::NoSlice),
        ]
    }

    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    const IPS: [&str; 2] = ["10.0.0.1", "10.0.0.2"];

    fn apply(index: &mut Index, event: &Event) {
        match event {
            Event::Service(n, ip) => drop(index.apply_service(&service(NAMES[*n], IPS[*ip]))),
            Event::NoService(n) => index.delete_service(&key(NAMES[*n])),
            Event::Slice(n, of, list) => {
                let texts: Vec<_> = list
                    .iter()
                    .map(|(last, t)| (format!("10.1.0.{last}"), *t))
                    .collect();
                let texts: Vec<_> = texts.iter().map(|(ip, t)| (ip.as_str(), *t)).collect();
                index.apply_slice(&slice(NAMES[*n], NAMES[*of], &texts));
            }
            Event::NoSlice(n) => index.delete_slice("shop", NAMES[*n]),
        }
    }

    proptest! {
        /// The view after any history is the view of the last state of each object, and whatever differs
        /// between two moments was reported dirty.
        #[test]
        fn history_does_not_matter(events in prop::collection::vec(event(), 0..40)) {
            let mut index = Index::default();
            let mut services: BTreeMap<usize, Event> = BTreeMap::new();
            let mut slices: BTreeMap<usize, Event> = BTreeMap::new();
            for event in &events {
                let before = index.view().clone();
                apply(&mut index, event);
                match event {
                    Event::Service(n, _) => drop(services.insert(*n, event.clone())),
                    Event::NoService(n) => drop(services.remove(n)),
                    Event::Slice(n, ..) => drop(slices.insert(*n, event.clone())),
                    Event::NoSlice(n) => drop(slices.remove(n)),
                }
                let dirty = index.take_dirty();
                for name in NAMES {
                    let k = key(name);
                    let same = before.services.get(&k) == index.view().services.get(&k)
                        && before.endpoints.get(&k) == index.view().endpoints.get(&k);
                    prop_assert_eq!(same, !dirty.contains(&k));
                }
            }
            let mut rebuilt = Index::default();
            services.values().chain(slices.values()).for_each(|event| apply(&mut rebuilt, event));
            prop_assert_eq!(rebuilt.view(), index.view());
        }
    }
}

#[test]
fn a_lone_slice_and_the_view_share_their_endpoints_and_texts_are_there_once() {
    let mut index = Index::default();
    let on_node = |name, of| {
        let mut slice = slice(name, of, &[("10.1.0.1", false), ("10.1.0.2", false)]);
        for endpoint in slice.endpoints.iter_mut().flatten() {
            endpoint.node_name = Some("node-1".to_owned());
        }
        slice
    };
    let nodes = |index: &Index| -> BTreeSet<*const u8> {
        let lists = index.view.endpoints.values().flat_map(|ports| ports.values());
        let names = lists.flatten().filter_map(|endpoint| endpoint.node.as_ref());
        names.map(|node| node.as_str().as_ptr()).collect()
    };
    index.apply_slice(&on_node("web-1", "web"));
    index.apply_slice(&on_node("api-1", "api"));
    assert_eq!(nodes(&index).len(), 1);
    let shared = |index: &Index| {
        let part = &index.slices[&key("web")][0].1;
        Arc::ptr_eq(part, &index.view.endpoints[&key("web")])
    };
    assert!(shared(&index));
    index.take_dirty();
    index.apply_slice(&on_node("web-1", "web"));
    assert!(shared(&index) && !index.is_dirty());
    index.apply_slice(&slice("web-2", "web", &[("10.1.0.3", false)]));
    assert!(!shared(&index));
    index.delete_slice("shop", "web-2");
    assert!(shared(&index));
    assert_eq!(addresses(&index, "web"), ["10.1.0.1", "10.1.0.2"]);
}
