// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const UUID: &str = "5f0c2f3e-0c4b-4b58-9c5c-0123456789ab";

/// Any of these, or absent.
fn maybe(values: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let some = prop::sample::select(values).prop_map(|value| json!(value));
    prop_oneof![1 => Just(Value::Null), 3 => some]
}

fn flag() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), Just(json!(true)), Just(json!(false))]
}

fn pairs() -> impl Strategy<Value = Value> {
    let pairs = prop::collection::btree_map("[a-c]", "[x-z]{0,2}", 0..3);
    prop_oneof![
        1 => Just(Value::Null),
        3 => pairs.prop_map(|pairs: BTreeMap<String, String>| json!(pairs)),
    ]
}

fn meta() -> impl Strategy<Value = Value> {
    let owner = (maybe(&[UUID, "odd"]), flag()).prop_map(|(uid, controller)| {
        json!({"apiVersion": "v1", "kind": "Service", "name": "web",
               "uid": uid.as_str().unwrap_or("UPPER"), "controller": controller})
    });
    (
        pairs(),
        pairs(),
        prop_oneof![
            Just(Value::Null),
            prop::collection::vec(owner, 0..3).prop_map(Value::from)
        ],
        maybe(&["web-"]),
        maybe(&["2026-11-22T20:00:00Z"]),
        prop_oneof![9 => Just(Value::Null), 1 => Just(json!(["example.com/hold"]))],
        maybe(&[
            UUID,
            "00000000-0000-0000-0000-000000000000",
            "5F0C2F3E-0C4B-4B58-9C5C-0123456789AB",
        ]),
    )
        .prop_map(|(labels, annotations, owners, prefix, time, finalizers, uid)| {
            json!({
                "namespace": "shop", "name": "web-1", "resourceVersion": "7", "generation": 2,
                "labels": labels, "annotations": annotations, "ownerReferences": owners,
                "generateName": prefix, "creationTimestamp": time.clone(), "deletionTimestamp": time,
                "finalizers": finalizers, "uid": uid,
            })
        })
}

fn target() -> impl Strategy<Value = Value> {
    let target = (
        maybe(&["Pod", "Thing"]),
        maybe(&["shop", "elsewhere"]),
        maybe(&["web-0"]),
        maybe(&[UUID, "odd"]),
        prop_oneof![9 => Just(Value::Null), 1 => Just(json!("12"))],
    );
    let target = target.prop_map(|(kind, namespace, name, uid, version)| {
        json!({"kind": kind, "namespace": namespace, "name": name, "uid": uid, "resourceVersion": version})
    });
    prop_oneof![1 => Just(Value::Null), 4 => target]
}

const IPS: &[&str] = &[
    "10.0.0.1",
    "fd00::1",
    "FD00::1",
    "010.0.0.1",
    "::ffff:10.0.0.1",
    "example.com",
];

fn endpoint() -> impl Strategy<Value = Value> {
    let addresses = prop_oneof![
        9 => prop::sample::select(IPS).prop_map(|ip| json!([ip])),
        1 => Just(json!([])),
        1 => Just(json!(["10.0.0.1", "10.0.0.2"])),
    ];
    let conditions = (flag(), flag(), flag()).prop_map(|(ready, serving, terminating)| {
        json!({"ready": ready, "serving": serving, "terminating": terminating})
    });
    let hints = prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!({"forZones": [{"name": "a"}], "forNodes": [{"name": "n"}]})),
    ];
    let topology = prop_oneof![9 => Just(Value::Null), 1 => Just(json!({"region": "r"}))];
    (
        addresses,
        prop_oneof![Just(Value::Null), conditions],
        hints,
        topology,
        maybe(&["host"]),
        maybe(&["node-1", ""]),
        target(),
        maybe(&["zone-a"]),
    )
        .prop_map(
            |(addresses, conditions, hints, topology, hostname, node, target, zone)| {
                json!({
                    "addresses": addresses, "conditions": conditions, "hints": hints,
                    "deprecatedTopology": topology, "hostname": hostname, "nodeName": node,
                    "targetRef": target, "zone": zone,
                })
            },
        )
}

fn ports(numbers: &'static [Option<i32>]) -> impl Strategy<Value = Value> {
    let port = (
        prop::sample::select(numbers),
        maybe(&["http", ""]),
        maybe(&["TCP", "UDP"]),
        maybe(&["kubernetes.io/h2c"]),
    );
    let port = port.prop_map(|(port, name, protocol, app)| {
        json!({"port": port, "name": name, "protocol": protocol, "appProtocol": app})
    });
    prop_oneof![1 => Just(Value::Null), 4 => prop::collection::vec(port, 0..3).prop_map(Value::from)]
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoints = prop_oneof![
        1 => Just(Value::Null),
        9 => prop::collection::vec(endpoint(), 0..4).prop_map(Value::from),
    ];
    (meta(), endpoints, ports(&[Some(80), None])).prop_map(|(meta, endpoints, ports)| {
        let slice = json!({"metadata": meta, "addressType": "IPv4", "endpoints": endpoints, "ports": ports});
        serde_json::from_value(slice).unwrap()
    })
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let address = (
        prop::sample::select(IPS),
        maybe(&["host"]),
        maybe(&["node-1", ""]),
        target(),
    );
    let address = address.prop_map(|(ip, hostname, node, target)| {
        json!({"ip": ip, "hostname": hostname, "nodeName": node, "targetRef": target})
    });
    let list = prop_oneof![
        1 => Just(Value::Null),
        4 => prop::collection::vec(address, 0..3).prop_map(Value::from),
    ];
    let list = list.boxed();
    let subset = (list.clone(), list, ports(&[Some(80), Some(443)]));
    let subset = subset.prop_map(|(ready, not_ready, ports)| {
        json!({"addresses": ready, "notReadyAddresses": not_ready, "ports": ports})
    });
    let subsets = prop_oneof![
        1 => Just(Value::Null),
        9 => prop::collection::vec(subset, 0..3).prop_map(Value::from),
    ];
    (meta(), subsets).prop_map(|(meta, subsets)| {
        serde_json::from_value(json!({"metadata": meta, "subsets": subsets})).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_slice_comes_back_as_it_was(slice in slice()) {
        let kept = Kept::<PackedSlice>::of(slice.clone(), &mut Texts::default());
        prop_assert_eq!(&*kept.object(), &slice);
    }

    #[test]
    fn endpoints_come_back_as_they_were(endpoints in endpoints()) {
        let kept = Kept::<PackedEndpoints>::of(endpoints.clone(), &mut Texts::default());
        prop_assert_eq!(&*kept.object(), &endpoints);
    }
}

#[test]
fn the_usual_slice_is_packed_and_small() {
    let endpoint = |n: u32| {
        json!({
            "addresses": [format!("10.0.0.{n}")], "nodeName": "node-1", "zone": "zone-a",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("web-{n}"), "uid": UUID},
        })
    };
    let endpoints: Vec<Value> = (0..10).map(endpoint).collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "web-1", "uid": UUID, "resourceVersion": "7", "managedFields": [{}]},
        "addressType": "IPv4", "endpoints": endpoints,
    }))
    .unwrap();
    let mut texts = Texts::default();
    let kept = Kept::<PackedSlice>::of(slice.clone(), &mut texts);
    assert!(matches!(kept, Kept::Packed(_)));
    let expected = EndpointSlice {
        metadata: ObjectMeta {
            managed_fields: None,
            ..slice.metadata
        },
        ..slice
    };
    assert_eq!(*kept.object(), expected);
    assert!(
        PackedSlice::bytes_per_endpoint() <= 128,
        "{}",
        PackedSlice::bytes_per_endpoint()
    );
    assert_eq!(texts.len(), 4, "one copy of each shared text");
}
