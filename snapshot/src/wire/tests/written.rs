// SPDX-License-Identifier: Apache-2.0
//! What is written reads as it was. The reader is held against the API server's own bytes elsewhere, and the server
//! takes what is written here in every end-to-end test.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::wire::{Compose, Message, Named, Wire, enveloped, open, partial_object_metadata};

fn assert_comes_back<K: Wire + Compose + DeserializeOwned + PartialEq + Debug>(json: Value) {
    let object: K = serde_json::from_value(json).unwrap();
    let body = enveloped(&object);
    let named = Named {
        namespace: Arc::from(""),
        name: Arc::from(""),
    };
    let raw = open(&body, K::KIND).unwrap();
    assert_eq!(K::read(raw, &named, &mut K::Shared::default()).unwrap(), object);
}

fn full_meta() -> Value {
    json!({
        "name": "web-x", "generateName": "web-", "namespace": "shop", "selfLink": "/x",
        "uid": "3e25960a-79db-4b9d-8a2d-5d4f2ac6c4d8", "resourceVersion": "77", "generation": 300,
        "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "1969-12-31T23:59:59Z",
        "deletionGracePeriodSeconds": 30,
        "labels": {"app": "web", "empty": ""}, "annotations": {"note": "ä".repeat(200)},
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "u", "controller": true, "blockOwnerDeletion": false},
            {"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "u"},
        ],
        "finalizers": ["a/b", "c/d"],
    })
}

fn target() -> Value {
    json!({
        "kind": "Pod", "namespace": "shop", "name": "web-0", "uid": "p", "apiVersion": "v1",
        "resourceVersion": "5", "fieldPath": "spec",
    })
}

#[test]
fn slices_come_back_with_every_field_with_none_and_with_empty_pointers() {
    assert_comes_back::<EndpointSlice>(json!({
        "metadata": full_meta(), "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.0.0.1", "10.0.0.2"],
                "conditions": {"ready": true, "serving": false, "terminating": true},
                "hostname": "web-0", "targetRef": target(), "deprecatedTopology": {"zone": "a"},
                "nodeName": "n1", "zone": "z1",
                "hints": {"forZones": [{"name": "z1"}, {"name": "z2"}], "forNodes": [{"name": "n1"}]},
            },
            {"addresses": ["10.0.0.3"]},
        ],
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 65535, "appProtocol": "h2c"},
            {"port": 1},
            {},
        ],
    }));
    assert_comes_back::<EndpointSlice>(json!({"metadata": {}, "addressType": "IPv6", "endpoints": null}));
    assert_comes_back::<EndpointSlice>(json!({
        "metadata": {}, "addressType": "FQDN",
        "endpoints": [{"addresses": [], "conditions": {}, "hostname": "", "targetRef": {}, "nodeName": "", "zone": "", "hints": {}}],
        "ports": [{"name": "", "protocol": "", "port": 0, "appProtocol": ""}],
    }));
}

#[test]
fn endpoints_come_back_with_every_field_and_with_none() {
    assert_comes_back::<Endpoints>(json!({
        "metadata": full_meta(),
        "subsets": [
            {
                "addresses": [{"ip": "10.0.0.1", "hostname": "web-0", "nodeName": "n1", "targetRef": target()}],
                "notReadyAddresses": [{"ip": "10.0.0.2"}, {"ip": "10.0.0.3", "nodeName": ""}],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": ""}, {"port": 1}],
            },
            {},
        ],
    }));
    assert_comes_back::<Endpoints>(json!({"metadata": {}}));
}

#[test]
fn the_metadata_of_what_is_stored_is_read_off_the_answer_to_a_write() {
    let slice: EndpointSlice =
        serde_json::from_value(json!({"metadata": full_meta(), "addressType": "IPv4", "endpoints": []}))
            .unwrap();
    let mut unknown = Message::default();
    unknown.nested(1, |kind| {
        kind.bytes(1, b"meta.k8s.io/v1");
        kind.bytes(2, b"PartialObjectMetadata");
    });
    // Metadata are its first field as they are a slice's; of what else a slice has, it knows nothing.
    unknown.bytes(2, open(&enveloped(&slice), "EndpointSlice").unwrap());
    let body = [b"k8s\0".as_slice(), &unknown.into_bytes()].concat();
    assert_eq!(partial_object_metadata(&body).unwrap(), slice.metadata);
    assert!(
        partial_object_metadata(&enveloped(&slice)).is_err(),
        "another kind"
    );
}
