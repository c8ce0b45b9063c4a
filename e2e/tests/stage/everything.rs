// SPDX-License-Identifier: Apache-2.0
//! One of everything that the controllers of Endpoints and EndpointSlices treat in a way of its own.

use anyhow::{Context, Result};
use berth_testkit::builders::mk_namespace;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::objects::{Kind, create, merge, nodes, pod, ready_pod, service};

/// Where all of it but the Nodes is.
pub(crate) const NAMESPACE: &str = "everything";

/// Makes all of it.
pub(crate) async fn create_everything(client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .create(&PostParams::default(), &mk_namespace(NAMESPACE))
        .await?;
    for (kind, object) in nodes()
        .into_iter()
        .chain(pods())
        .chain(services())
        .chain(by_hand())
    {
        create(client, NAMESPACE, kind, &object).await?;
    }
    Ok(())
}

/// Of the Service "web" and its like: kind, Node, phase, ready, addresses.
const WEB: [(Kind, &str, &str, bool, &[&str]); 10] = [
    (
        Kind::Pod,
        "node-a",
        "Running",
        true,
        &["10.244.1.10", "fd00:10:244:1::10"],
    ),
    (
        Kind::Pod,
        "node-b",
        "Running",
        true,
        &["10.244.2.10", "fd00:10:244:2::10"],
    ),
    (
        Kind::Pod,
        "node-c",
        "Running",
        false,
        &["10.244.3.10", "fd00:10:244:3::10"],
    ),
    (
        Kind::TerminatingPod,
        "node-a",
        "Running",
        true,
        &["10.244.1.11", "fd00:10:244:1::11"],
    ),
    (
        Kind::TerminatingPod,
        "node-b",
        "Running",
        false,
        &["10.244.2.11", "fd00:10:244:2::11"],
    ),
    (Kind::Pod, "node-a", "Failed", false, &["10.244.1.12"]),
    (Kind::Pod, "node-a", "Succeeded", false, &["10.244.1.13"]),
    (Kind::Pod, "node-a", "Pending", false, &[]),
    (Kind::Pod, "node-b", "Running", true, &["10.244.2.9"]),
    (Kind::Pod, "node-b", "Running", true, &["fd00:10:244:2::9"]),
];

fn pods() -> Vec<(Kind, Value)> {
    let web = json!({"app": "web"});
    let mut pods = Vec::new();
    for (index, (kind, node, phase, ready, addresses)) in WEB.into_iter().enumerate() {
        let name = format!("web-{index}");
        pods.push((kind, pod(&name, &web, node, addresses, phase, ready)));
    }
    let host = json!({"app": "host"});
    for name in ["host-0", "host-1"] {
        let mut pod = ready_pod(name, &host, "node-a", &["192.0.2.1"]);
        pod["spec"]["hostNetwork"] = true.into();
        pods.push((Kind::Pod, pod));
    }
    for (index, node) in ["node-a", "node-b", "node-a"].into_iter().enumerate() {
        let mut pod = ready_pod(
            &format!("db-{index}"),
            &json!({"app": "db"}),
            node,
            &[&format!("10.244.4.{index}")],
        );
        pod["spec"]["hostname"] = format!("db-{index}").into();
        pod["spec"]["subdomain"] = if index < 2 { "db" } else { "elsewhere" }.into();
        pods.push((Kind::Pod, pod));
    }
    pods.extend(with_named_ports());
    for index in 0..13 {
        let node = ["node-a", "node-b"][index % 2];
        let name = format!("many-{index}");
        pods.push((
            Kind::Pod,
            ready_pod(
                &name,
                &json!({"app": "many"}),
                node,
                &[&format!("10.244.5.{index}")],
            ),
        ));
    }
    pods
}

/// Pods that resolve the target port "http" to different numbers, or not at all.
fn with_named_ports() -> Vec<(Kind, Value)> {
    let port = |number: u16| json!([{"name": "http", "containerPort": number}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]);
    let mut pods = Vec::new();
    for (index, number) in [8080_u16, 8080, 9090].into_iter().enumerate() {
        let mut pod = ready_pod(
            &format!("named-{index}"),
            &json!({"app": "named"}),
            "node-a",
            &[&format!("10.244.6.{index}")],
        );
        pod["spec"]["containers"][0]["ports"] = port(number);
        pods.push((Kind::Pod, pod));
    }
    let mut sidecar = ready_pod(
        "named-sidecar",
        &json!({"app": "named"}),
        "node-b",
        &["10.244.6.100"],
    );
    sidecar["spec"]["initContainers"] =
        json!([{"name": "side", "image": "none", "restartPolicy": "Always", "ports": port(7070)}]);
    pods.push((Kind::Pod, sidecar));
    pods.push((
        Kind::Pod,
        ready_pod(
            "named-none",
            &json!({"app": "named"}),
            "node-b",
            &["10.244.6.101"],
        ),
    ));
    pods
}

fn services() -> Vec<(Kind, Value)> {
    let mut services = of_all_families_and_types();
    services.extend(of_all_ports_and_distributions());
    services.extend(labelled());
    let (_, mut leaving) = service("leaving", "web", json!({}));
    leaving["metadata"]["finalizers"] = json!(["example.com/stays"]);
    services.push((Kind::TerminatingService, leaving));
    services
}

fn of_all_families_and_types() -> Vec<(Kind, Value)> {
    let dual = json!({"ipFamilyPolicy": "PreferDualStack"});
    let external = json!({"type": "ExternalName", "externalName": "example.com", "ports": null});
    [
        ("single", "web", json!({"ipFamilyPolicy": "SingleStack"})),
        (
            "single6",
            "web",
            json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]}),
        ),
        ("dual", "web", dual.clone()),
        (
            "dual6",
            "web",
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}),
        ),
        ("loses-a-family", "web", dual.clone()),
        (
            "headless",
            "web",
            json!({"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack"}),
        ),
        (
            "headless-portless",
            "web",
            json!({"clusterIP": "None", "ports": null}),
        ),
        ("node-port", "web", json!({"type": "NodePort"})),
        (
            "balanced",
            "web",
            json!({"type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack"}),
        ),
        ("empty", "nobody", dual.clone()),
        ("loses-its-selector", "web", dual),
        ("nothing-at-all", "", json!({})),
        ("external", "", external.clone()),
        ("external-with-selector", "web", external),
        ("becomes-external", "many", json!({})),
    ]
    .map(|(name, app, spec)| service(name, app, spec))
    .into()
}

fn of_all_ports_and_distributions() -> Vec<(Kind, Value)> {
    let ports = json!([
        {"name": "a", "port": 80, "targetPort": "http"},
        {"name": "b", "port": 53, "protocol": "UDP", "targetPort": "dns"},
        {"name": "c", "port": 53, "targetPort": 5353, "appProtocol": "example.com/dns"},
    ]);
    let to = |distribution: &str| json!({"trafficDistribution": distribution});
    [
        ("named", "named", json!({"ports": ports})),
        (
            "named-headless",
            "named",
            json!({"ports": ports, "clusterIP": "None"}),
        ),
        ("gets-other-ports", "many", json!({})),
        ("host", "host", json!({})),
        ("many", "many", json!({})),
        (
            "not-ready-too",
            "web",
            json!({"publishNotReadyAddresses": true, "ipFamilyPolicy": "PreferDualStack"}),
        ),
        (
            "db",
            "db",
            json!({"clusterIP": "None", "publishNotReadyAddresses": true}),
        ),
        ("close", "many", to("PreferClose")),
        ("same-zone", "many", to("PreferSameZone")),
        ("same-node", "many", to("PreferSameNode")),
        ("same-node-not-ready", "web", to("PreferSameNode")),
        ("loses-its-distribution", "many", to("PreferClose")),
    ]
    .map(|(name, app, spec)| service(name, app, spec))
    .into()
}

/// Services with labels and annotations, reserved ones among them.
fn labelled() -> Vec<(Kind, Value)> {
    let labelled = |name: &str, labels: Value, spec: Value| {
        let (kind, mut object) = service(name, "many", spec);
        object["metadata"]["labels"] = labels;
        object["metadata"]["annotations"] = json!({"example.com/note": "of the Service"});
        (kind, object)
    };
    vec![
        labelled(
            "labelled",
            json!({"team": "one", "example.com/tier": ""}),
            json!({}),
        ),
        labelled(
            "labelled-headless",
            json!({"team": "one"}),
            json!({"clusterIP": "None"}),
        ),
        labelled(
            "reserved-slice-labels",
            json!({
            "kubernetes.io/service-name": "somebody-else", "endpointslice.kubernetes.io/managed-by": "somebody-else"}),
            json!({}),
        ),
        labelled(
            RESERVED_HEADLESS,
            json!({"service.kubernetes.io/headless": ""}),
            json!({"clusterIP": "None"}),
        ),
        labelled(
            RESERVED_MANAGED_BY,
            json!({"endpoints.kubernetes.io/managed-by": "somebody-else"}),
            json!({}),
        ),
    ]
}

/// A Service that carries the reserved headless label itself.
pub(crate) const RESERVED_HEADLESS: &str = "reserved-headless";
/// A Service that carries the label by which Endpoints say whose they are.
pub(crate) const RESERVED_MANAGED_BY: &str = "reserved-managed-by";
/// Endpoints that carry a reserved label of slices, and are mirrored.
pub(crate) const RESERVED_MIRRORED: &str = "mirrored-reserved";

/// Hand-written Endpoints of which there is no Service.
pub(crate) const ORPHAN: &str = "orphan";

/// What leaves something behind, or has it written anew, once a contender has looked at everything.
pub(crate) async fn change_some(client: &Client) -> Result<()> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let headless = json!({"labels": {"team": "three"}});
    for (name, patch) in [
        ("loses-its-selector", json!({"spec": {"selector": null}})),
        (
            "becomes-external",
            json!({"spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": null, "clusterIPs": null}}),
        ),
        ("labelled", json!({"metadata": headless})),
        (
            "loses-a-family",
            json!({"spec": {"ipFamilyPolicy": "SingleStack"}}),
        ),
        (
            "gets-other-ports",
            json!({"spec": {"ports": [{"port": 81, "targetPort": 8081}]}}),
        ),
        (
            "loses-its-distribution",
            json!({"spec": {"trafficDistribution": null}}),
        ),
    ] {
        services
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| name.to_owned())?;
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    for name in ["many-3", "many-4", "db-0"] {
        pods.delete(name, &now).await?;
    }
    Ok(())
}

/// Services without selector and their hand-written Endpoints.
fn by_hand() -> Vec<(Kind, Value)> {
    let subsets = json!([
        {"addresses": [{"ip": "198.51.100.7"}, {"ip": "198.51.100.8", "hostname": "eight"}, {"ip": "2001:db8::7"}],
         "notReadyAddresses": [{"ip": "198.51.100.9", "nodeName": "node-a",
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": "web-0"}}],
         "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 443, "appProtocol": "https"}]},
        {"addresses": [{"ip": "198.51.100.7"}, {"ip": "2001:db8::8"}],
         "ports": [{"name": "u", "port": 53, "protocol": "UDP"}]},
    ]);
    let endpoints = |name: &str, metadata: Value| {
        let mut object = json!({"metadata": {"name": name}, "subsets": subsets});
        merge(&mut object["metadata"], metadata);
        (Kind::Endpoints, object)
    };
    let named_ports = json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 443}, {"name": "u", "port": 53, "protocol": "UDP"}]});
    vec![
        service("mirrored", "", named_ports.clone()),
        endpoints(
            "mirrored",
            json!({"labels": {"team": "two"}, "annotations": {"example.com/note": "by hand"}}),
        ),
        service("mirrored-headless", "", json!({"clusterIP": "None"})),
        endpoints("mirrored-headless", json!({})),
        service(RESERVED_MIRRORED, "", named_ports.clone()),
        endpoints(
            RESERVED_MIRRORED,
            json!({"labels": {"endpointslice.kubernetes.io/managed-by": "somebody-else"}}),
        ),
        service("not-mirrored", "", named_ports),
        endpoints(
            "not-mirrored",
            json!({"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}),
        ),
        service("mirrored-empty", "", json!({})),
        (Kind::Endpoints, json!({"metadata": {"name": "mirrored-empty"}})),
        endpoints(ORPHAN, json!({})),
        endpoints(
            "lock",
            json!({"annotations": {"control-plane.alpha.kubernetes.io/leader": "somebody"}}),
        ),
    ]
}
