// SPDX-License-Identifier: Apache-2.0
//! Patches.

use std::collections::BTreeMap;

use berth_model::Port;
use proptest::prelude::*;

use super::*;

pub(super) fn chosen() -> Chosen {
    Chosen {
        cluster_ips: BTreeMap::from([
            (IpFamily::V4, "10.96.1.1".parse().unwrap()),
            (IpFamily::V6, "fd00::11".parse().unwrap()),
        ]),
        node_ports: (0..4)
            .map(|index| (usize::from(index), Port::new(31_000 + index).unwrap()))
            .collect(),
        health_check: Port::new(31_900),
    }
}

fn patched(old: Option<&Value>, new: &Value, chosen: &Chosen) -> Patch {
    match decided(old, new, TWO_FAMILIES) {
        Decision::Exempt(_) | Decision::LeaveToServer(_) => Patch::default(),
        Decision::Nothing(needs) | Decision::Serve(needs) => patch(&mk_service(new), &needs, chosen),
    }
}

#[test]
fn a_patch_holds_what_was_chosen_and_nothing_else() {
    for (behaviour, old, new, expected) in [
        (
            "singular and plural",
            None,
            json!({"ports": [{"port": 80}]}),
            r#"/spec/clusterIP="10.96.1.1", /spec/clusterIPs=["10.96.1.1"]"#,
        ),
        (
            "the user's first stays as it is written",
            None,
            json!({"clusterIP": "FD00::7", "ipFamilyPolicy": "PreferDualStack"}),
            r#"/spec/clusterIPs=["FD00::7","10.96.1.1"]"#,
        ),
        (
            "the user's alone needs none",
            None,
            json!({"clusterIP": "10.96.0.7"}),
            "",
        ),
        (
            "ports that share a node port all have it",
            None,
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "clusterIP": "10.96.0.7",
                "ports": [{"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 80, "nodePort": 30080},
                    {"name": "c", "port": 53}]}),
            "/spec/ports/0/nodePort=31000, /spec/ports/2/nodePort=31000, /spec/healthCheckNodePort=31900",
        ),
        (
            "those that share the user's are left to the API server",
            None,
            json!({"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [{"name": "a", "port": 53, "protocol": "UDP"},
                {"name": "c", "port": 53, "nodePort": 30053}]}),
            "",
        ),
        ("nothing for headless", None, json!({"clusterIP": "None"}), ""),
        (
            "nothing for what is left alone",
            None,
            json!({"type": "Strange"}),
            "",
        ),
    ] {
        assert_eq!(patched(old, &new, &chosen()).to_string(), expected, "{behaviour}");
    }
}

#[test]
fn what_the_api_server_copies_is_not_in_a_patch_except_beside_a_new_address() {
    let old = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "ports": [{"name": "a", "port": 80, "nodePort": 30001}]});
    for (behaviour, old, new, expected) in [
        (
            "what is copied is left to it too",
            Some(&old),
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 80}]}),
            "",
        ),
        (
            "except beside a new address",
            Some(&old),
            json!({"type": "NodePort", "ipFamilyPolicy": "PreferDualStack", "ports": [{"name": "a", "port": 80}]}),
            r#"/spec/clusterIP="10.96.0.9", /spec/clusterIPs=["10.96.0.9","fd00::11"]"#,
        ),
        (
            "a new port beside a copied one",
            Some(&old),
            json!({"type": "NodePort", "ports": [{"name": "b", "port": 81}, {"name": "a", "port": 80}]}),
            "/spec/ports/0/nodePort=31000",
        ),
    ] {
        assert_eq!(patched(old, &new, &chosen()).to_string(), expected, "{behaviour}");
    }
}

#[test]
fn what_was_not_chosen_is_left_to_the_api_server() {
    let new = json!({"type": "NodePort", "ipFamilyPolicy": "PreferDualStack",
        "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]});
    let mut chosen = chosen();
    chosen.node_ports.remove(&0);
    chosen.cluster_ips.remove(&IpFamily::V6);
    assert_eq!(
        patched(None, &new, &chosen).to_string(),
        r#"/spec/clusterIP="10.96.1.1", /spec/clusterIPs=["10.96.1.1"], /spec/ports/1/nodePort=31001"#
    );
    // The second address is not set without the first.
    let only_second = Chosen {
        cluster_ips: BTreeMap::from([(IpFamily::V6, "fd00::11".parse().unwrap())]),
        ..Chosen::default()
    };
    assert!(patched(None, &new, &only_second).is_empty());
}

#[test]
fn a_patch_is_json_as_admission_wants_it() {
    let patch = patched(
        None,
        &json!({"clusterIP": "10.96.0.7", "type": "NodePort", "ports": [{"port": 80}]}),
        &chosen(),
    );
    assert_eq!(
        patch.to_json(),
        json!([{"op": "add", "path": "/spec/ports/0/nodePort", "value": 31000}])
    );
    assert_eq!(Patch::default().to_json(), json!([]));
}

pub(super) fn applied(new: &Value, patch: &Patch) -> Value {
    let mut object = json!({"spec": new});
    for operation in patch.operations() {
        let (parent, name) = operation.path.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(parent).unwrap();
        match &operation.value {
            Some(value) => parent[name] = value.clone(),
            None => assert!(
                parent.as_object_mut().unwrap().remove(name).is_some(),
                "{}",
                operation.path
            ),
        }
    }
    object["spec"].clone()
}

pub(super) fn any_of(values: &'static [&'static str]) -> impl Strategy<Value = Value> {
    proptest::sample::select(values).prop_map(|text| serde_json::from_str(text).unwrap())
}

pub(super) fn any_spec() -> impl Strategy<Value = Value> {
    let ports = proptest::collection::vec((0..3i32, 0..3i32, 0..4i32), 0..4).prop_map(|ports| {
        let port = |(index, (number, protocol, node_port)): (usize, (i32, i32, i32))| {
            let protocol = ["TCP", "UDP", "SCTP"][usize::try_from(protocol).unwrap()];
            let node_port = if node_port > 1 { 30_000 + node_port } else { 0 };
            json!({"name": format!("p{index}"), "port": 80 + number, "protocol": protocol, "nodePort": node_port})
        };
        ports.into_iter().enumerate().map(port).collect::<Value>()
    });
    (
        any_of(&[
            r#""ClusterIP""#,
            r#""NodePort""#,
            r#""LoadBalancer""#,
            r#""ExternalName""#,
        ]),
        any_of(&["null", "null", r#""10.96.0.9""#, r#""None""#, r#""fd00::9""#]),
        any_of(&[
            "null",
            "null",
            r#"["10.96.0.9"]"#,
            r#"["10.96.0.9","fd00::9"]"#,
            r#"["None"]"#,
        ]),
        any_of(&["null", r#"["IPv4"]"#, r#"["IPv6"]"#, r#"["IPv4","IPv6"]"#]),
        any_of(&[
            "null",
            r#""SingleStack""#,
            r#""PreferDualStack""#,
            r#""RequireDualStack""#,
        ]),
        any_of(&[r#""Local""#, r#""Cluster""#]),
        any_of(&["true", "false"]),
        ports,
    )
        .prop_map(|(kind, ip, ips, families, policy, local, allocates, ports)| {
            let spec = json!({"type": kind, "ports": ports, "externalTrafficPolicy": local,
                "allocateLoadBalancerNodePorts": allocates});
            with(
                &spec,
                json!({"clusterIP": ip, "clusterIPs": ips, "ipFamilies": families, "ipFamilyPolicy": policy}),
            )
        })
}

/// What the API server keeps: addresses in both fields, and the families that they are of.
pub(super) fn stored(mut spec: Value) -> Value {
    let addresses = match (&spec["clusterIPs"], &spec["clusterIP"]) {
        (Value::Array(addresses), _) => addresses.clone(),
        (_, Value::String(address)) => vec![json!(address)],
        _ => vec![json!("10.96.0.9")],
    };
    if spec["type"] == "ExternalName" {
        return with(&spec, json!({"clusterIP": null, "clusterIPs": null}));
    }
    if addresses[0] != "None" {
        let is_ipv6 = |address: &Value| address.as_str().is_some_and(|address| address.contains(':'));
        let family = |address| if is_ipv6(address) { "IPv6" } else { "IPv4" };
        spec["ipFamilies"] = addresses.iter().map(family).collect();
    }
    spec["clusterIP"] = addresses[0].clone();
    spec["clusterIPs"] = Value::Array(addresses);
    spec
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn applied_once_a_patch_is_applied_for_good(old in proptest::option::of(any_spec().prop_map(stored)), new in any_spec()) {
        let old = old.as_ref();
        let first = patched(old, &new, &chosen());
        let result = applied(&new, &first);
        prop_assert!(patched(old, &result, &chosen()).is_empty(), "{first}");
        let before = decided(old, &new, TWO_FAMILIES);
        let after = decided(old, &result, TWO_FAMILIES);
        // What was served is served again, with nothing left to choose.
        if let (Decision::Serve(before), false) = (&before, first.is_empty()) {
            let Decision::Serve(after) = &after else {
                return Err(TestCaseError::fail(format!("{before} became {after}")));
            };
            prop_assert_eq!(&after.families, &before.families);
            prop_assert_eq!(after.policy, before.policy);
            prop_assert_eq!(&after.released, &before.released);
            prop_assert_eq!(after.slots(), before.slots());
            prop_assert!(!after.to_string().contains("any"), "{}", after);
        } else {
            prop_assert_eq!(before, after);
        }
    }
}
