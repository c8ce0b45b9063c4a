// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Endpoints, Service};
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

/// What few Services have, one at a time.
fn rare() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"allocateLoadBalancerNodePorts": true, "loadBalancerClass": "berth.dev/pool"}),
        json!({"externalIPs": ["192.0.2.1"]}),
        json!({"externalName": "example.com"}),
        json!({"healthCheckNodePort": 30_000}),
        json!({"loadBalancerIP": "10.0.0.1"}),
        json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}),
        json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}}}),
    ])
}

fn service_ports() -> impl Strategy<Value = Value> {
    let target = prop::sample::select(vec![Value::Null, json!(8080), json!("http"), json!("8080")]);
    let port = (
        maybe(&["http", ""]),
        maybe(&["TCP", "UDP"]),
        maybe(&["kubernetes.io/h2c"]),
        target,
        prop::sample::select(vec![Value::Null, json!(30_080)]),
    );
    let port = port.prop_map(|(name, protocol, app, target, node)| {
        json!({"port": 80, "name": name, "protocol": protocol, "appProtocol": app,
               "targetPort": target, "nodePort": node})
    });
    prop_oneof![1 => Just(Value::Null), 4 => prop::collection::vec(port, 0..3).prop_map(Value::from)]
}

fn spec() -> impl Strategy<Value = Value> {
    let ips = prop::sample::select(vec![
        Value::Null,
        json!([]),
        json!(["10.0.0.1"]),
        json!(["None"]),
        json!(["FD00::1", "10.0.0.1"]),
    ]);
    let families = prop::sample::select(vec![Value::Null, json!([]), json!(["IPv6", "IPv4"])]);
    let texts = (
        maybe(&["ClusterIP", "NodePort"]),
        maybe(&["None", "ClientIP"]),
        maybe(&["Cluster", "Local"]),
        maybe(&["Cluster", "Local"]),
        maybe(&["SingleStack"]),
        maybe(&["PreferSameZone"]),
    );
    let rare = prop_oneof![4 => Just(json!({})), 1 => rare()];
    (ips, families, texts, service_ports(), flag(), pairs(), rare).prop_map(
        |(ips, families, texts, ports, not_ready, selector, rare)| {
            let (kind, affinity, external, internal, policy, distribution) = texts;
            let mut spec = json!({
                "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": families, "type": kind,
                "sessionAffinity": affinity, "externalTrafficPolicy": external,
                "internalTrafficPolicy": internal, "ipFamilyPolicy": policy,
                "trafficDistribution": distribution, "ports": ports,
                "publishNotReadyAddresses": not_ready, "selector": selector,
            });
            spec.as_object_mut()
                .unwrap()
                .extend(rare.as_object().unwrap().clone());
            spec
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let status = prop::sample::select(vec![
        Value::Null,
        json!({}),
        json!({"loadBalancer": {}}),
        json!({"loadBalancer": {"ingress": []}}),
        json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}),
        json!({"conditions": []}),
    ]);
    let spec = prop_oneof![1 => Just(Value::Null), 9 => spec()];
    (meta(), spec, status).prop_map(|(meta, spec, status)| {
        serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()
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
    fn a_service_comes_back_as_it_was(service in service()) {
        let kept = Kept::<PackedService>::of(service.clone(), &mut Texts::default());
        prop_assert_eq!(&*kept.object(), &service);
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

#[test]
fn the_usual_service_is_packed_and_one_of_a_load_balancer_is_not() {
    let mut service: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "web", "uid": UUID, "resourceVersion": "7", "managedFields": [{}]},
        "spec": {
            "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "type": "ClusterIP", "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
        },
        "status": {"loadBalancer": {}},
    }))
    .unwrap();
    let mut texts = Texts::default();
    let usual = Kept::<PackedService>::of(service.clone(), &mut texts);
    assert!(matches!(usual, Kept::Packed(_)));
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}});
    service.status = serde_json::from_value(ingress).unwrap();
    let of_a_load_balancer = Kept::<PackedService>::of(service, &mut texts);
    assert!(matches!(of_a_load_balancer, Kept::Whole(_)));
}
