// SPDX-License-Identifier: Apache-2.0
//! What a write needs, by behaviour. That the API server sees it so too is shown in `e2e/tests/admission_defaults`.

mod creates;
mod patches;
mod reviews;
mod updates;

use berth_model::IpFamily;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::*;

pub(super) const ONE_FAMILY: ClusterFamilies = ClusterFamilies {
    primary: IpFamily::V4,
    dual_stack: false,
};

pub(super) const TWO_FAMILIES: ClusterFamilies = ClusterFamilies {
    primary: IpFamily::V4,
    dual_stack: true,
};

/// A Service `default/web` with this spec, and a selector where the spec does not name one.
pub(super) fn mk_service(spec: &Value) -> Service {
    let mut spec = spec.clone();
    if spec.get("selector").is_none() {
        spec["selector"] = json!({"app": "web"});
    }
    serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
}

pub(super) fn decided(old: Option<&Value>, new: &Value, cluster: ClusterFamilies) -> Decision {
    let (service, old) = (mk_service(new), old.map(mk_service));
    let request = Request {
        namespace: "default",
        service: &service,
        old: old.as_ref(),
    };
    decide(&request, cluster, &Exemptions::with([]))
}

/// The decision on a create, printed.
pub(super) fn created(new: &Value) -> String {
    decided(None, new, TWO_FAMILIES).to_string()
}

/// The decision on an update, printed.
pub(super) fn updated(old: &Value, new: &Value) -> String {
    decided(Some(old), new, TWO_FAMILIES).to_string()
}

/// The fields of the second over those of the first; null removes one.
pub(super) fn with(spec: &Value, fields: Value) -> Value {
    let mut spec = spec.clone();
    for (name, value) in fields.as_object().cloned().unwrap_or_default() {
        if value.is_null() {
            spec.as_object_mut().unwrap().remove(&name);
        } else {
            spec[name] = value;
        }
    }
    spec
}

#[test]
fn the_api_servers_own_service_and_system_namespaces_are_exempt() {
    let exemptions = Exemptions::with(["berth-system".to_owned()]);
    let mut service = mk_service(&json!({"type": "NodePort", "ports": [{"port": 80}]}));
    for (namespace, name, expected) in [
        ("default", "kubernetes", Some(Exempt::ApiServerService)),
        ("kube-system", "kube-dns", Some(Exempt::SystemNamespace)),
        ("berth-system", "berth-admission", Some(Exempt::SystemNamespace)),
        ("default", "web", None),
        ("team-a", "kubernetes", None),
    ] {
        service.metadata.name = Some(name.to_owned());
        let request = Request {
            namespace,
            service: &service,
            old: None,
        };
        let found = match decide(&request, TWO_FAMILIES, &exemptions) {
            Decision::Exempt(exempt) => Some(exempt),
            Decision::LeaveToServer(_) | Decision::Nothing(_) | Decision::Serve(_) => None,
        };
        assert_eq!(found, expected, "{namespace}/{name}");
    }
}

#[test]
fn a_name_that_is_yet_to_be_made_is_no_obstacle() {
    let mut service = mk_service(&json!({"ports": [{"port": 80}]}));
    service.metadata.name = None;
    service.metadata.generate_name = Some("web-".to_owned());
    let request = Request {
        namespace: "default",
        service: &service,
        old: None,
    };
    let decision = decide(&request, ONE_FAMILY, &Exemptions::with([]));
    assert_eq!(decision.to_string(), "serve: IPv4 any (SingleStack)");
}

#[test]
fn slots_stand_in_the_order_of_the_service_and_leave_out_what_is_kept() {
    let old = json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30001}]});
    let new = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ipFamilyPolicy": "PreferDualStack",
        "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}, {"name": "c", "port": 82, "nodePort": 30009}]});
    let Decision::Serve(needs) = decided(Some(&old), &new, TWO_FAMILIES) else {
        panic!("nothing to serve");
    };
    assert_eq!(
        needs.slots(),
        [
            Slot::ClusterIp(IpFamily::V6),
            Slot::NodePort(1),
            Slot::NodePort(2),
            Slot::HealthCheckNodePort
        ]
    );
}
