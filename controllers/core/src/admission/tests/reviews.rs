// SPDX-License-Identifier: Apache-2.0
//! A second review of one write, after another webhook has changed the Service.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::patches::{any_of, any_spec, applied, chosen, stored};
use super::*;
use crate::pools::Item;

/// The Service, with what the API server notes of the client that sent `sent`.
fn noted(spec: &Value, sent: &Value) -> Service {
    let mut fields = json!({});
    for name in ["clusterIP", "clusterIPs", "healthCheckNodePort", "type"] {
        if sent.get(name).is_some() {
            fields[format!("f:{name}")] = json!({});
        }
    }
    for port in sent["ports"].as_array().into_iter().flatten() {
        let protocol = port.get("protocol").cloned().unwrap_or(json!("TCP"));
        let key = json!({"port": port["port"], "protocol": protocol});
        let key = format!("k:{key}");
        fields["f:ports"][&key] = json!({".": {}, "f:port": {}});
        if port["nodePort"].as_i64().is_some_and(|number| number != 0) {
            fields["f:ports"][&key]["f:nodePort"] = json!({});
        }
    }
    let mut service = mk_service(spec);
    let entry = json!([{"manager": "kubectl", "operation": "Update", "apiVersion": "v1",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": fields}}]);
    service.metadata.managed_fields = serde_json::from_value(entry).unwrap();
    service
}

fn chosen_items() -> BTreeSet<Item> {
    let chosen = chosen();
    let addresses = chosen.cluster_ips.into_values().map(Item::Address);
    let ports = chosen.node_ports.into_values().chain(chosen.health_check);
    addresses.chain(ports.map(Item::Port)).collect()
}

/// What comes of a review, where these are the values that the book has chosen for the Service.
fn reviewed(old: Option<&Value>, spec: &Value, sent: &Value, known: &BTreeSet<Item>) -> (Value, Patch) {
    let service = noted(spec, sent);
    let stored = old.map(mk_service);
    let had = unclaimed(&service, stored.as_ref());
    let bare = without(&service, &had.intersection(known).copied().collect());
    let request = Request {
        namespace: "default",
        service: &bare,
        old: stored.as_ref(),
    };
    let patch = match decide(&request, TWO_FAMILIES, &Exemptions::with([])) {
        Decision::Exempt(_) | Decision::LeaveToServer(_) => Patch::default(),
        Decision::Nothing(needs) | Decision::Serve(needs) => patch(&bare, &needs, &chosen()),
    };
    let patch = over(&service, &bare, patch);
    (applied(spec, &patch), patch)
}

#[test]
fn what_another_webhook_makes_needless_is_taken_out_and_what_the_user_set_stays() {
    let sent = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [
        {"name": "a", "port": 80, "protocol": "TCP"}, {"name": "b", "port": 81, "protocol": "TCP"}]});
    let (first, _) = reviewed(None, &sent, &sent, &BTreeSet::new());
    assert_eq!(first["ports"][0]["nodePort"], 31_000);
    for (change, expected) in [
        (json!({}), ""),
        (
            json!({"externalTrafficPolicy": "Cluster"}),
            "no /spec/healthCheckNodePort",
        ),
        (
            json!({"type": "ClusterIP"}),
            "no /spec/ports/0/nodePort, no /spec/ports/1/nodePort, no /spec/healthCheckNodePort",
        ),
        (
            json!({"type": "ExternalName"}),
            "no /spec/clusterIP, no /spec/clusterIPs, no /spec/ports/0/nodePort, no /spec/ports/1/nodePort, no /spec/healthCheckNodePort",
        ),
        (
            json!({"type": "ClusterIP", "clusterIP": "None"}),
            "no /spec/clusterIPs, no /spec/ports/0/nodePort, no /spec/ports/1/nodePort, no /spec/healthCheckNodePort",
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            r#"/spec/clusterIP="fd00::11", /spec/clusterIPs=["fd00::11"]"#,
        ),
    ] {
        let changed = with(&first, change.clone());
        let (_, patch) = reviewed(None, &changed, &sent, &chosen_items());
        assert_eq!(patch.to_string(), expected, "{change}");
        // What the book does not know of is not Berth's, whoever set it.
        let (kept, _) = reviewed(None, &changed, &sent, &BTreeSet::new());
        assert_eq!(kept["ports"], changed["ports"], "{change}");
    }
}

#[test]
fn what_the_client_set_stays_though_the_book_has_chosen_the_same() {
    let sent = json!({"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [
        {"name": "a", "port": 80, "protocol": "TCP"}, {"name": "b", "port": 81, "protocol": "TCP", "nodePort": 31_001}]});
    let (first, _) = reviewed(None, &sent, &sent, &BTreeSet::new());
    let changed = with(&first, json!({"type": "ClusterIP"}));
    let (_, patch) = reviewed(None, &changed, &sent, &chosen_items());
    assert_eq!(patch.to_string(), "no /spec/ports/0/nodePort");
}

#[test]
fn without_a_note_of_who_set_what_nothing_is_taken_out() {
    let spec =
        json!({"type": "ClusterIP", "clusterIP": "10.96.1.1", "ports": [{"port": 80, "nodePort": 31_000}]});
    assert_eq!(unclaimed(&mk_service(&spec), None), BTreeSet::new());
    assert_eq!(unclaimed(&noted(&spec, &spec), None), BTreeSet::new());
    let sent = json!({"ports": [{"port": 80}]});
    assert_eq!(unclaimed(&noted(&spec, &sent), None).len(), 2);
    assert_eq!(
        unclaimed(&noted(&spec, &sent), Some(&mk_service(&spec))),
        BTreeSet::new(),
        "what is stored is nobody's to take out"
    );
}

fn any_change() -> impl Strategy<Value = Value> {
    any_of(&[
        "{}",
        r#"{"type": "ClusterIP"}"#,
        r#"{"type": "NodePort"}"#,
        r#"{"type": "LoadBalancer"}"#,
        r#"{"type": "ExternalName"}"#,
        r#"{"clusterIP": "None"}"#,
        r#"{"type": "ClusterIP", "clusterIP": "None"}"#,
        r#"{"ipFamilies": ["IPv6"]}"#,
        r#"{"ipFamilies": ["IPv6", "IPv4"]}"#,
        r#"{"ipFamilyPolicy": "SingleStack"}"#,
        r#"{"externalTrafficPolicy": "Cluster"}"#,
        r#"{"externalTrafficPolicy": "Local"}"#,
        r#"{"allocateLoadBalancerNodePorts": false}"#,
    ])
}

/// To be compared: a node port of 0 is none, and a stored address that is repeated is as one that is left out.
fn plainly(mut spec: Value, old: Option<&Value>) -> Value {
    if old.is_some_and(|old| old["clusterIP"] == spec["clusterIP"]) {
        spec = with(&spec, json!({"clusterIP": null}));
    }
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if port["nodePort"].as_i64().is_none_or(|number| number == 0) {
            port.as_object_mut().unwrap().remove("nodePort");
        }
    }
    spec
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_second_review_makes_what_the_other_webhook_would_have_got_by_coming_first(
        old in proptest::option::of(any_spec().prop_map(stored)),
        // A list that the client sent is the client's, whatever was put behind its first.
        sent in any_spec().prop_map(|spec| with(&spec, json!({"clusterIPs": null}))),
        change in any_change(),
    ) {
        let old = old.as_ref();
        let (first, _) = reviewed(old, &sent, &sent, &BTreeSet::new());
        let (second, patch) = reviewed(old, &with(&first, change.clone()), &sent, &chosen_items());
        let (other, _) = reviewed(old, &with(&sent, change), &sent, &BTreeSet::new());
        prop_assert_eq!(plainly(second.clone(), old), plainly(other, old), "{}", patch);
        let (third, patch) = reviewed(old, &second, &sent, &chosen_items());
        prop_assert!(patch.is_empty(), "{patch}");
        prop_assert_eq!(third, second);
    }
}
