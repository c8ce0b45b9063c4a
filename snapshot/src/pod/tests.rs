// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;

use super::*;

const JSON: &str = r#"{
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": "web-0", "namespace": "shop", "uid": "3e25960a-79db-4b9d-8a2d-5d4f2ac6c4d8",
        "resourceVersion": "7", "labels": {"app": "web", "tier": ""}, "annotations": {"big": "thing"},
        "managedFields": [{"manager": "x"}], "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"nodeName": "node-1", "volumes": [{"name": "v"}], "hostname": "web-0",
        "containers": [
            {"name": "c", "image": "i", "ports": [
                {"name": "http", "containerPort": 8080, "protocol": "TCP"},
                {"containerPort": 9}]},
            {"name": "d", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
        "initContainers": [
            {"name": "once", "ports": [{"name": "gone", "containerPort": 1}]},
            {"name": "proxy", "restartPolicy": "Always", "ports": [{"name": "admin", "containerPort": 15000}]}]},
    "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
        "conditions": [
            {"type": "Initialized", "status": "True"},
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"},
            {"type": "Ready", "status": "False"}]}
}"#;

fn read(json: &str) -> Pod {
    let manifest: PodManifest = serde_json::from_str(json).unwrap();
    manifest.into()
}

fn mk_with(edit: impl FnOnce(&mut PodManifest)) -> Pod {
    let mut manifest: PodManifest = serde_json::from_str(JSON).unwrap();
    edit(&mut manifest);
    manifest.into()
}

fn texts(addresses: impl Iterator<Item = IpAddr>) -> Vec<String> {
    addresses.map(|ip| ip.to_string()).collect()
}

#[test]
fn a_pod_keeps_what_is_used() {
    let pod = read(JSON);
    assert_eq!((&**pod.namespace(), &**pod.name()), ("shop", "web-0"));
    assert_eq!(
        pod.uid().unwrap().to_string(),
        "3e25960a-79db-4b9d-8a2d-5d4f2ac6c4d8"
    );
    assert_eq!(pod.version(), Some(Version::Number(7)));
    let labels: Vec<(&str, &str)> = pod
        .labels()
        .iter()
        .map(|(key, value)| (&**key, &**value))
        .collect();
    assert_eq!(labels, [("app", "web"), ("tier", "")]);
    assert_eq!(pod.labels().get("app").map(|value| &**value), Some("web"));
    assert_eq!(pod.labels().get("ap"), None);
    assert_eq!(pod.node_name(), Some("node-1"));
    assert_eq!((pod.hostname(), pod.subdomain()), (Some("web-0"), None));
    let ports = pod.named_ports().iter();
    let ports: Vec<(&str, &str, i32)> = ports
        .map(|port| (&*port.name, &*port.protocol, port.number))
        .collect();
    assert_eq!(
        ports,
        [("http", "TCP", 8080), ("dns", "UDP", 53), ("admin", "TCP", 15000)],
        "by name alone can a Service refer to one; init containers that end have none"
    );
    assert_eq!(texts(pod.addresses()), ["10.0.0.1", "fd00::1"]);
    assert!(pod.is_ready() && !pod.is_finished() && !pod.is_terminating() && pod.has_address());
    assert_eq!(pod.ready_since(), Timestamp::from_second(1_767_225_605).ok());
    assert_eq!(pod.deleted(), None);
}

#[test]
fn a_pod_with_nothing_but_a_name_is_read() {
    let pod = read(r#"{"metadata": {"name": "p"}, "status": {"podIPs": null}}"#);
    assert!(!pod.is_ready() && !pod.has_address() && pod.labels().is_empty());
    assert_eq!(
        (pod.uid(), pod.version(), pod.node_name(), pod.ready_since()),
        (None, None, None, None)
    );
}

/// `podIP` and `podIPs` as written, then as kept.
type AddressCase<'a> = (Option<&'a str>, &'a [&'a str], Option<&'a str>, &'a [&'a str]);

#[test]
fn addresses_keep_their_order_and_their_leniency() {
    let cases: [AddressCase<'_>; 7] = [
        (
            Some("10.0.0.1"),
            &["10.0.0.1", "fd00::1"],
            Some("10.0.0.1"),
            &["10.0.0.1", "fd00::1"],
        ),
        (
            Some("fd00::1"),
            &["10.0.0.1", "fd00::1"],
            Some("fd00::1"),
            &["10.0.0.1", "fd00::1"],
        ),
        (
            Some("010.0.0.01"),
            &["::ffff:10.0.0.1"],
            Some("10.0.0.1"),
            &["10.0.0.1"],
        ),
        (Some("10.0.0.1"), &[], Some("10.0.0.1"), &[]),
        (None, &["10.0.0.1", "10.0.0.1"], None, &["10.0.0.1", "10.0.0.1"]),
        (
            Some("10.0.0.1"),
            &["10.0.0.1", "10.0.0.1"],
            Some("10.0.0.1"),
            &["10.0.0.1", "10.0.0.1"],
        ),
        (Some("odd"), &["", "fd00::2"], None, &["fd00::2"]),
    ];
    for (ip, ips, primary, addresses) in cases {
        let pod = mk_with(|pod| {
            pod.status.pod_ip = ip.map(str::to_owned);
            let ips = ips.iter().map(|ip| (*ip).to_owned());
            pod.status.pod_ips = ips.map(|ip| k8s_openapi::api::core::v1::PodIP { ip }).collect();
        });
        assert_eq!(pod.primary_address().map(|ip| ip.to_string()).as_deref(), primary);
        assert_eq!(texts(pod.addresses()), addresses);
        assert!(pod.has_address());
    }
    let unreadable = mk_with(|pod| {
        pod.status.pod_ip = Some("odd".to_owned());
        pod.status.pod_ips.clear();
    });
    assert!(unreadable.has_address(), "unreadable is not absent");
}

#[test]
fn uids_and_versions_are_given_back_as_they_came() {
    for uid in [
        "3e25960a-79db-4b9d-8a2d-5d4f2ac6c4d8",
        "3E25960A-79DB-4B9D-8A2D-5D4F2AC6C4D8",
        "3e25960a79db4b9d8a2d5d4f2ac6c4d8",
        "3e25960a-79db-4b9d-8a2d-5d4f2ac6c4dx",
        "3e25960a-79db-4b9d-8a2d+5d4f2ac6c4d8",
        "00000000-0000-0000-0000-000000000000",
        "uid-web-0",
        "ü-25960a-79db-4b9d-8a2d-5d4f2ac6c4d8",
    ] {
        let pod = mk_with(|pod| pod.metadata.uid = Some(uid.to_owned()));
        assert_eq!(pod.uid().map(|uid| uid.to_string()).as_deref(), Some(uid));
    }
    for version in [
        "7",
        "0",
        "007",
        "+7",
        "18446744073709551615",
        "18446744073709551616",
        "x",
    ] {
        let pod = mk_with(|pod| pod.metadata.resource_version = Some(version.to_owned()));
        assert_eq!(
            pod.version().map(|version| version.to_string()).as_deref(),
            Some(version)
        );
    }
}

#[test]
fn pods_of_one_deployment_share_what_they_have_in_common() {
    let mut shared = Shared::default();
    let manifest: PodManifest = serde_json::from_str(JSON).unwrap();
    let mut pods: Vec<Pod> = Vec::new();
    for number in 0..3 {
        let mut manifest = manifest.clone();
        manifest.metadata.name = Some(format!("web-{number}"));
        pods.push(manifest.keep(&mut shared));
    }
    assert!(Arc::ptr_eq(&pods[0].class, &pods[1].class));
    assert!(Arc::ptr_eq(&pods[0].class, &pods[2].class));
    let nodes: Vec<&Arc<str>> = pods.iter().flat_map(|pod| &pod.node).collect();
    assert!(Arc::ptr_eq(nodes[0], nodes[1]));
}

/// What one Pod holds for itself alone, on a heap that hands out multiples of 16 bytes with 8 of its own.
fn bytes_of(pod: &Pod) -> usize {
    let heap = |size: usize| {
        if size == 0 {
            0
        } else {
            (size + 8).next_multiple_of(16).max(32)
        }
    };
    let counters = 2 * size_of::<usize>();
    let rare = pod.rare.as_deref().map_or(0, |rare| {
        let texts = [&rare.hostname, &rare.subdomain, &rare.uid, &rare.version];
        let texts = texts.iter().map(|text| heap(text.as_deref().map_or(0, str::len)));
        heap(size_of::<Rare>()) + texts.sum::<usize>()
    });
    heap(counters + size_of::<Pod>())
        + heap(counters + pod.name.len())
        + heap(size_of_val(&*pod.others))
        + rare
}

#[test]
fn a_pod_of_a_deployment_takes_less_than_250_bytes() {
    let ordinary = mk_with(|pod| {
        pod.metadata.name = Some("storefront-7c9d8f6b5d-x2k4q".to_owned());
        pod.spec.hostname = None;
    });
    assert!(bytes_of(&ordinary) <= 250, "{}", bytes_of(&ordinary));
    let single = mk_with(|pod| {
        pod.spec.hostname = None;
        pod.status.pod_ips.truncate(1);
    });
    assert!(bytes_of(&single) <= 220, "{}", bytes_of(&single));
    let named = mk_with(|pod| pod.spec.subdomain = Some("web".to_owned()));
    assert!(bytes_of(&named) <= 400, "{}", bytes_of(&named));
}

proptest! {
    #[test]
    fn of_two_labels_with_one_key_the_later_counts(pairs in prop::collection::vec(("[ab]{1,2}", "[a-c]?"), 0..8)) {
        let labels: LabelSet = pairs.iter().map(|(key, value)| (key, value)).collect();
        let map: std::collections::BTreeMap<&str, &str> =
            pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let found: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (&**key, &**value)).collect();
        prop_assert_eq!(found, map.iter().map(|(key, value)| (*key, *value)).collect::<Vec<_>>());
        for (key, value) in map {
            prop_assert_eq!(labels.get(key).map(|found| &**found), Some(value));
        }
    }

    #[test]
    fn a_pod_written_down_and_read_again_is_the_same(
        uid in "[a-f0-9]{0,3}", ready in any::<bool>(), since in prop::option::of(0_i64..1 << 33),
        deleted in prop::option::of(0_i64..1 << 33), finished in any::<bool>(), hostname in "[a-z]{0,3}",
        ips in prop::collection::vec(prop_oneof![Just("10.0.0.1"), Just("fd00::1")], 0..3),
    ) {
        let time = |second: Option<i64>| second.map(|second| {
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::from_second(second).unwrap())
        });
        let pod = mk_with(|pod| {
            pod.metadata.uid = Some(uid);
            pod.metadata.deletion_timestamp = time(deleted);
            pod.spec.hostname = Some(hostname);
            pod.status.phase = Some(if finished { "Succeeded" } else { "Pending" }.to_owned());
            pod.status.pod_ip = ips.first().map(|ip| (*ip).to_owned());
            let ips = ips.iter().map(|ip| (*ip).to_owned());
            pod.status.pod_ips = ips.map(|ip| k8s_openapi::api::core::v1::PodIP { ip }).collect();
            pod.status.conditions.truncate(2);
            pod.status.conditions[1].status = if ready { "True" } else { "Unknown" }.to_owned();
            pod.status.conditions[1].last_transition_time = time(since);
        });
        prop_assert_eq!(Pod::from(PodManifest::from(&pod)), pod);
    }
}
