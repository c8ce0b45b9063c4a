// SPDX-License-Identifier: Apache-2.0
use super::*;

fn slice(body: serde_json::Value) -> api::EndpointSlice {
    let mut object = serde_json::json!({
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {SERVICE_NAME_LABEL: "web"}},
        "addressType": "IPv4", "endpoints": [], "ports": [{"name": "http", "port": 8080}],
    });
    object
        .as_object_mut()
        .unwrap()
        .extend(body.as_object().unwrap().clone());
    serde_json::from_value(object).unwrap()
}

fn converted(object: &api::EndpointSlice) -> Result<SliceEndpoints, SliceSkip> {
    convert_slice(object, &mut Interner::default())
}

#[test]
fn absent_conditions_mean_in_service() {
    let object = slice(serde_json::json!({"endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "node-1"}]}));
    let converted = converted(&object).unwrap();
    let endpoint = &converted.ports.values().next().unwrap()[0];
    assert_eq!(
        (endpoint.conditions, endpoint.port.get()),
        (Conditions::READY, 8080)
    );
    assert!(endpoint.is_on(&NodeName::new("node-1")));
}

#[test]
fn a_mirrored_slice_that_says_only_ready_false_is_not_serving_either() {
    let object = slice(
        serde_json::json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}]}),
    );
    let converted = converted(&object).unwrap();
    let endpoint = &converted.ports.values().next().unwrap()[0];
    assert_eq!(
        endpoint.conditions,
        Conditions {
            ready: false,
            serving: false,
            terminating: false
        }
    );
}

#[test]
fn what_has_no_data_path_is_refused_by_name() {
    let mut orphan = slice(serde_json::json!({}));
    orphan.metadata.labels = None;
    assert_eq!(converted(&orphan), Err(SliceSkip::NoService));
    assert_eq!(
        converted(&slice(serde_json::json!({"addressType": "FQDN"}))),
        Err(SliceSkip::Fqdn)
    );
}

#[test]
fn open_ports_and_bad_addresses_are_skipped_one_by_one() {
    let object = slice(serde_json::json!({
        "ports": [{"name": "http", "port": 80}, {"port": 81}, {"name": "all"}, {"name": "x", "port": 70000}],
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}],
    }));
    let converted = converted(&object).unwrap();
    assert_eq!(converted.ports.len(), 1);
    assert_eq!(converted.ports.values().map(Vec::len).sum::<usize>(), 1);
    assert_eq!(converted.skipped.len(), 4);
}
