// SPDX-License-Identifier: Apache-2.0

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::super::observe::{Listed, observe};
use super::super::rows::HEADLESS;
use super::super::step::{
    Kind, Phase, PodShape, PodStatus, PortShape, ServiceEdit, ServiceShape, Stack, Step, Target,
};
use super::*;

const NAMESPACE: &str = "ns";

/// A Service `a` with a selector, settled.
fn world() -> World {
    let mut world = World::new();
    let shape = ServiceShape {
        kind: Kind::ClusterIp,
        selector: Some(Map::from([("app".to_owned(), "x".to_owned())])),
        ports: vec![PortShape {
            name: None,
            port: 80,
            target: Target::Absent,
            protocol: "TCP".to_owned(),
            app_protocol: None,
        }],
        stack: Stack::default(),
        publish_not_ready: false,
        distribution: None,
        labels: Map::new(),
        annotations: Map::new(),
    };
    world.apply(&Step::CreateService("a".to_owned(), shape));
    world.settle();
    world
}

fn endpoint(ip: &str, node: &str, zone: Option<&str>) -> Value {
    json!({
        "addresses": [ip],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": node,
        "zone": zone,
        "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("pod-{ip}")},
    })
}

fn slice(name: &str, writer: &str, endpoints: &[Value]) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {
            "kubernetes.io/service-name": "a",
            "endpointslice.kubernetes.io/managed-by": writer,
        }},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
    }))
    .unwrap()
}

fn ours(name: &str, endpoints: &[Value]) -> EndpointSlice {
    slice(name, "endpointslice-controller.k8s.io", endpoints)
}

fn written(ips: &[&str], labels: Value) -> Endpoints {
    let addresses: Vec<Value> = ips
        .iter()
        .map(|ip| json!({"ip": ip, "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("pod-{ip}")}}))
        .collect();
    let subsets = if addresses.is_empty() {
        json!([])
    } else {
        json!([{"addresses": addresses, "ports": [{"port": 80}]}])
    };
    serde_json::from_value(json!({
        "metadata": {"name": "a", "namespace": NAMESPACE, "labels": labels},
        "subsets": subsets,
    }))
    .unwrap()
}

fn ended_pod(ip: &str) -> k8s_openapi::api::core::v1::Pod {
    serde_json::from_value(json!({
        "metadata": {"name": format!("pod-{ip}"), "namespace": NAMESPACE},
        "status": {"phase": "Failed"},
    }))
    .unwrap()
}

fn observed(listed: &Listed) -> Observed {
    observe(listed).remove(NAMESPACE).unwrap_or_default()
}

fn side(slices: Vec<EndpointSlice>) -> Listed {
    Listed {
        endpoints: vec![written(&[], json!({}))],
        slices,
        ..Listed::default()
    }
}

fn judge(peer: &Listed, berth: &Listed, world: &World, nodes: &NodeLedger, rigour: Rigour) -> Outcome {
    let terms = Terms {
        theme: Theme::Plain,
        world,
        nodes,
        stuck_mirrors: &BTreeSet::new(),
        before: &Before::default(),
        rigour,
    };
    judge_on(peer, berth, terms)
}

fn judge_after(peer: &Listed, berth: &Listed, before: &Before) -> Outcome {
    let terms = Terms {
        theme: Theme::Plain,
        world: &world(),
        nodes: &NodeLedger::default(),
        stuck_mirrors: &BTreeSet::new(),
        before,
        rigour: Rigour::Settled,
    };
    judge_on(peer, berth, terms)
}

fn judge_on(peer: &Listed, berth: &Listed, terms: Terms<'_>) -> Outcome {
    let (peer, berth) = (observed(peer), observed(berth));
    let pair = Pair {
        peer: &peer,
        berth: &berth,
    };
    compare(pair, terms)
}

fn settled(peer: &Listed, berth: &Listed) -> Outcome {
    judge(peer, berth, &world(), &NodeLedger::default(), Rigour::Settled)
}

fn aspects(outcome: &Outcome) -> Vec<Aspect> {
    outcome
        .differences
        .iter()
        .map(|difference| difference.aspect)
        .collect()
}

#[test]
fn names_and_order_of_slices_do_not_matter_but_one_more_slice_does() {
    let (one, two) = (endpoint("10.0.0.1", "n", None), endpoint("10.0.0.2", "n", None));
    let whole = side(vec![ours("x", &[one.clone(), two.clone()])]);
    let other = side(vec![ours("y", &[two.clone(), one.clone()])]);
    assert_eq!(settled(&whole, &other).differences, []);
    let split = side(vec![ours("y", &[two]), ours("z", &[one])]);
    assert_eq!(aspects(&settled(&whole, &split)), [Aspect::SliceCount]);
    assert_eq!(settled(&split, &whole).differences, [], "fewer are fine");
}

#[test]
fn a_lost_a_doubled_and_a_wrong_endpoint_are_found_out() {
    let (one, two) = (endpoint("10.0.0.1", "n", None), endpoint("10.0.0.2", "n", None));
    let right = side(vec![ours("x", &[one.clone(), two.clone()])]);
    let mut unready = one.clone();
    unready["conditions"]["ready"] = json!(false);
    let mut hinted = one.clone();
    hinted["hints"] = json!({"forZones": [{"name": "z"}]});
    for wrong in [
        vec![one.clone()],
        vec![one.clone(), two.clone(), two.clone()],
        vec![unready, two.clone()],
        vec![hinted, two],
    ] {
        let outcome = settled(&right, &side(vec![ours("x", &wrong)]));
        assert_eq!(aspects(&outcome), [Aspect::Slices], "{wrong:?}");
        assert!(!outcome.differences[0].to_string().is_empty());
    }
    let foreign = side(vec![slice("x", "somebody", &[one])]);
    assert_eq!(aspects(&settled(&right, &foreign)), [Aspect::Slices]);
}

#[test]
fn a_mirror_of_a_service_with_a_selector_is_found_out() {
    let mirror = slice(
        "m",
        "endpointslicemirroring-controller.k8s.io",
        &[endpoint("10.0.0.1", "n", None)],
    );
    let outcome = settled(&side(Vec::new()), &side(vec![mirror]));
    assert!(aspects(&outcome).contains(&Aspect::Mirror), "{outcome:?}");
}

#[test]
fn an_old_zone_is_explained_while_berth_has_the_new_one_and_never_once_touched() {
    let nodes = NodeLedger {
        zones: BTreeMap::from([("n".to_owned(), Some("new".to_owned()))]),
        changed: BTreeSet::from(["n".to_owned()]),
        missing: BTreeSet::new(),
    };
    let with = |zone: &str| side(vec![ours("x", &[endpoint("10.0.0.1", "n", Some(zone))])]);
    let judge = |peer: &str, berth: &str, rigour| judge(&with(peer), &with(berth), &world(), &nodes, rigour);
    let explained = judge("old", "new", Rigour::Settled);
    assert_eq!(explained.differences, []);
    assert_eq!(
        explained.deviations.keys().collect::<Vec<_>>(),
        [&Deviation::ZoneStale]
    );
    assert_eq!(aspects(&judge("new", "old", Rigour::Settled)), [Aspect::Slices]);
    assert_eq!(aspects(&judge("old", "new", Rigour::Touched)), [Aspect::Slices]);
}

#[test]
fn a_pod_that_ended_unseen_is_explained_where_upstream_has_it_and_not_where_berth_has() {
    let with = |published: bool| {
        let endpoints: Vec<Value> = published
            .then(|| endpoint("10.0.0.1", "n", None))
            .into_iter()
            .collect();
        Listed {
            pods: vec![ended_pod("10.0.0.1")],
            endpoints: vec![written(if published { &["10.0.0.1"] } else { &[] }, json!({}))],
            slices: vec![ours("x", &endpoints)],
            ..Listed::default()
        }
    };
    let explained = settled(&with(true), &with(false));
    assert_eq!(explained.differences, []);
    assert_eq!(
        explained.deviations[&Deviation::PhaseUnseen],
        2,
        "Endpoints and slices"
    );
    assert_eq!(
        aspects(&settled(&with(false), &with(true))),
        [Aspect::Endpoints, Aspect::Slices]
    );
    assert_eq!(
        aspects(&settled(&with(true), &with(true))),
        [],
        "both wrong alike is for the unit tests of the planner"
    );
}

#[test]
fn labels_count_but_a_headless_label_may_lag_after_a_change_of_type() {
    let with = |labels| Listed {
        endpoints: vec![written(&[], labels)],
        ..Listed::default()
    };
    let (bare, headless) = (
        with(json!({})),
        with(json!({"service.kubernetes.io/headless": ""})),
    );
    assert_eq!(aspects(&settled(&bare, &headless)), [Aspect::Labels]);
    let mut flipped = world();
    flipped.apply(&Step::EditService("a".to_owned(), ServiceEdit::ToExternalName));
    let back = ServiceEdit::FromExternalName {
        kind: Kind::Headless,
        stack: Stack::default(),
    };
    flipped.apply(&Step::EditService("a".to_owned(), back));
    let lagging = |rigour| judge(&bare, &headless, &flipped, &NodeLedger::default(), rigour);
    assert_eq!(lagging(Rigour::Settled).differences, []);
    assert_eq!(aspects(&lagging(Rigour::Touched)), [Aspect::Labels]);
}

#[test]
fn a_strangers_change_is_explained_where_upstream_keeps_it() {
    let mut meddled = world();
    let how = super::super::step::EndpointsMeddling::Replace;
    meddled.apply(&Step::MeddleEndpoints("a".to_owned(), how));
    let with = |ip| Listed {
        endpoints: vec![written(&[ip], json!({}))],
        ..Listed::default()
    };
    let (right, wrong) = (with("10.0.0.1"), with(super::super::request::STRANGERS_ADDRESS));
    let judge = |peer, berth| judge(peer, berth, &meddled, &NodeLedger::default(), Rigour::Settled);
    assert_eq!(judge(&wrong, &right).differences, []);
    assert_eq!(aspects(&judge(&right, &wrong)), [Aspect::Endpoints]);
}

#[test]
fn what_only_one_side_was_told_is_a_fault_of_the_harness() {
    let told = Listed {
        pods: vec![ended_pod("10.0.0.1")],
        ..side(Vec::new())
    };
    assert_eq!(aspects(&settled(&told, &side(Vec::new()))), [Aspect::Inputs]);
    // Pods are told apart by more than their names.
    let shape = PodShape {
        labels: Map::new(),
        node: None,
        ports: Vec::new(),
        sidecar_ports: Vec::new(),
        host_network: false,
        hostname: None,
        subdomain: None,
        status: Some(PodStatus {
            phase: Phase::Running,
            ips: Vec::new(),
            ready: true,
        }),
    };
    assert!(
        Step::CreatePod("p".to_owned(), shape)
            .to_string()
            .contains("Running")
    );
}

#[test]
fn one_more_slice_is_explained_where_upstream_would_have_as_many_of_berths_own() {
    let (one, two) = (endpoint("10.0.0.1", "n", None), endpoint("10.0.0.2", "n", None));
    let whole = side(vec![ours("x", &[one.clone(), two.clone()])]);
    let split = side(vec![ours("y", &[two]), ours("z", &[one])]);
    let before = Before {
        peer: observed(&whole).slices,
        berth: observed(&split).slices,
    };
    let explained = judge_after(&whole, &split, &before);
    assert_eq!(explained.differences, []);
    assert_eq!(
        explained.deviations.keys().collect::<Vec<_>>(),
        [&Deviation::PackedByLuck]
    );
    assert_eq!((explained.modelled, explained.as_modelled), (1, 1));
    let torn = Before {
        berth: observed(&whole).slices,
        ..before
    };
    assert_eq!(
        aspects(&judge_after(&whole, &split, &torn)),
        [Aspect::SliceCount],
        "it had one slice"
    );
}

#[test]
fn an_earlier_services_placeholder_is_explained_with_its_headless_label_on_upstreams_side_only() {
    let mut earlier = ours("x", &[]);
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: "a".to_owned(),
        uid: "gone".to_owned(),
        ..OwnerReference::default()
    };
    earlier.metadata.owner_references = Some(vec![owner.clone()]);
    let labels = earlier.metadata.labels.get_or_insert_default();
    labels.insert(HEADLESS.to_owned(), String::new());
    let current = Service {
        metadata: ObjectMeta {
            name: Some("a".to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            uid: Some("here".to_owned()),
            ..ObjectMeta::default()
        },
        ..Service::default()
    };
    // Upstream may have kept the ports of what was there; a placeholder of Berth's has none.
    let mut fresh = ours("y", &[]);
    fresh.ports = None;
    fresh.metadata.owner_references = Some(vec![OwnerReference {
        uid: "here".to_owned(),
        ..owner
    }]);
    let with = |slice: &EndpointSlice| Listed {
        services: vec![current.clone()],
        ..side(vec![slice.clone()])
    };
    let explained = settled(&with(&earlier), &with(&fresh));
    assert_eq!(explained.differences, []);
    assert_eq!(
        explained.deviations.keys().collect::<Vec<_>>(),
        [&Deviation::PlaceholderOutdated]
    );
    assert_eq!(
        aspects(&settled(&with(&fresh), &with(&earlier))),
        [Aspect::Slices],
        "not of Berth's"
    );
}
