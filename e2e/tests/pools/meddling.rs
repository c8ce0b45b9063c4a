// SPDX-License-Identifier: Apache-2.0
//! Somebody else changes a Service after Berth has put values into it, and Berth is asked once more. The somebody is a
//! MutatingAdmissionPolicy here, which acts only on what has Berth's values.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use serde_json::{Value, json};

use super::cluster::{Cluster, Made};
use super::{PATIENCE, octet, prepare};

/// What an update is given and does not use is held for 65 s.
const HELD: Duration = Duration::from_secs(100);

/// On Services that are labelled so, once this holds, these operations.
struct Meddler {
    label: &'static str,
    once: &'static str,
    operations: &'static str,
}

const HAS_NODE_PORT: &str =
    "object.spec.type == 'NodePort' && object.spec.ports.exists(port, has(port.nodePort))";
const MEDDLERS: [Meddler; 5] = [
    Meddler {
        label: "cluster-ip",
        once: HAS_NODE_PORT,
        // The API server has set the policy for the type that it was, before anybody is asked.
        operations: r#"JSONPatch{op: "replace", path: "/spec/type", value: "ClusterIP"},
            JSONPatch{op: "remove", path: "/spec/externalTrafficPolicy"}"#,
    },
    Meddler {
        label: "headless",
        once: "has(object.spec.clusterIP) && object.spec.clusterIP != 'None'",
        operations: r#"JSONPatch{op: "replace", path: "/spec/clusterIP", value: "None"}"#,
    },
    Meddler {
        label: "external",
        once: HAS_NODE_PORT,
        operations: r#"JSONPatch{op: "replace", path: "/spec/type", value: "ExternalName"},
            JSONPatch{op: "add", path: "/spec/externalName", value: "web.example"},
            JSONPatch{op: "remove", path: "/spec/externalTrafficPolicy"}"#,
    },
    Meddler {
        label: "everywhere",
        once: "has(object.spec.healthCheckNodePort)",
        operations: r#"JSONPatch{op: "replace", path: "/spec/externalTrafficPolicy", value: "Cluster"}"#,
    },
    Meddler {
        label: "annotate",
        once: "has(object.spec.clusterIP) && !has(object.metadata.annotations)",
        operations: r#"JSONPatch{op: "add", path: "/metadata/annotations", value: {"seen": "yes"}}"#,
    },
];

async fn install(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl_runner();
    for Meddler {
        label,
        once,
        operations,
    } in MEDDLERS
    {
        let name = format!("meddler-{label}");
        let expression = format!("{once} ? [{operations}] : []");
        let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {"failurePolicy": "Fail", "reinvocationPolicy": "IfNeeded",
                "matchConstraints": {
                    "objectSelector": {"matchLabels": {"meddle": label}},
                    "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                        "resources": ["services"]}]},
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]}});
        let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name}, "spec": {"policyName": name}});
        for object in [policy, binding] {
            kubectl
                .run_with_input(["apply", "-f", "-"], &object.to_string())
                .await?;
        }
    }
    Ok(())
}

async fn make(cluster: &Cluster, metadata: Value, label: &str, spec: Value) -> Result<Made> {
    let mut metadata = metadata;
    metadata["labels"] = json!({"meddle": label});
    let object = json!({"metadata": metadata, "spec": spec});
    cluster.send("team-a", object, false).await
}

fn spec_of(made: &Made) -> Result<&ServiceSpec> {
    let stored: &Service = match made {
        Made::Stored(stored) => stored,
        Made::Refused(code, text) => anyhow::bail!("{code}: {text}"),
    };
    stored.spec.as_ref().context("no spec")
}

/// Whether it has this type, an address of the pool or none at all, and this node port.
fn is(made: &Made, kind: &str, address: Option<u8>, node_port: Option<i32>) -> Result<()> {
    let spec = spec_of(made)?;
    ensure!(spec.type_.as_deref() == Some(kind), "{spec:?}");
    let has = spec.cluster_ip.as_deref().filter(|text| *text != "None");
    let has = has.map(octet).transpose()?;
    ensure!(has == address, "{spec:?}");
    let port = spec.ports.iter().flatten().next().context("no port")?;
    ensure!(port.node_port == node_port, "{spec:?}");
    ensure!(spec.health_check_node_port.is_none(), "{spec:?}");
    Ok(())
}

#[test]
fn what_another_makes_of_a_service_after_berth_is_stored_without_what_berth_had_put_there() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-meddling").await?;
        cluster.serve(2, &["--admission-failure-policy=Fail"]).await?;
        let selector = json!({"namespaces": ["team-a"]});
        cluster
            .address_pool(
                "few",
                &json!({"addresses": ["10.96.1.0/28"], "selector": selector}),
            )
            .await?;
        // As few as are needed at once: what is left held would be missed.
        cluster
            .port_pool("one", &json!({"ports": ["30100-30101"], "selector": selector}))
            .await?;
        cluster
            .served("team-a", |address| octet(address).is_ok_and(|octet| octet == 1))
            .await?;
        install(&cluster).await?;
        let node_port = || json!({"type": "NodePort"});
        let named = |name: &str| json!({"name": name});
        eventually("the other is at work", PATIENCE, || async {
            let made = make(&cluster, named("first"), "cluster-ip", node_port()).await?;
            let spec = spec_of(&made)?;
            if spec.type_.as_deref() != Some("ClusterIP") {
                cluster
                    .kubectl(&["-n", "team-a", "delete", "service", "first"])
                    .await?;
            }
            is(&made, "ClusterIP", Some(1), None)
        })
        .await?;
        each_is_stored(&cluster).await?;
        the_users_stays(&cluster).await?;
        // Both ports are there for whoever comes.
        for name in ["one", "two"] {
            eventually("a port is free", HELD, || async {
                cluster
                    .create("team-a", &format!("port-{name}"), node_port())
                    .await?
                    .node_port()
            })
            .await?;
        }
        cluster.check()
    });
}

async fn each_is_stored(cluster: &Cluster) -> Result<()> {
    let named = |name: &str| json!({"name": name});
    let node_port = || json!({"type": "NodePort"});
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": false});
    for (label, spec, kind, address) in [
        ("headless", json!({}), "ClusterIP", None),
        ("external", node_port(), "ExternalName", None),
        ("everywhere", local, "LoadBalancer", Some(1)),
        ("annotate", json!({}), "ClusterIP", Some(1)),
    ] {
        // Whatever was held for the one before is free again by then.
        eventually(label, PATIENCE, || async {
            let made = make(cluster, named(label), label, spec.clone()).await?;
            is(&made, kind, address, None)
        })
        .await?;
    }
    // A name that is made up later is no hindrance.
    for _ in 0..2 {
        let generated = json!({"generateName": "some-"});
        let made = make(cluster, generated.clone(), "annotate", json!({})).await?;
        is(&made, "ClusterIP", Some(1), None)?;
        eventually("of a generated name", PATIENCE, || async {
            let made = make(cluster, generated.clone(), "cluster-ip", node_port()).await?;
            is(&made, "ClusterIP", Some(1), None)
        })
        .await?;
    }
    // The same on an update.
    cluster
        .kubectl(&[
            "-n",
            "team-a",
            "label",
            "service",
            "annotate",
            "meddle=cluster-ip",
            "--overwrite",
        ])
        .await?;
    let patch = r#"{"spec": {"type": "NodePort"}}"#;
    cluster
        .kubectl(&["-n", "team-a", "patch", "service", "annotate", "-p", patch])
        .await?;
    let kind = cluster
        .kubectl(&[
            "-n",
            "team-a",
            "get",
            "service",
            "annotate",
            "-o",
            "jsonpath={.spec.type}{.spec.ports[0].nodePort}",
        ])
        .await?;
    ensure!(kind == "ClusterIP", "{kind}");
    Ok(())
}

/// A node port that the user asks for is for the API server to refuse, with a type that has none.
async fn the_users_stays(cluster: &Cluster) -> Result<()> {
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30100}]});
    let refused = eventually("it is refused for what it is", HELD, || async {
        let made = make(cluster, json!({"name": "asks"}), "cluster-ip", spec.clone()).await?;
        let (code, text) = made.refusal()?;
        ensure!(code == 422, "{code}: {text}");
        anyhow::Ok(text.to_owned())
    })
    .await?;
    ensure!(refused.contains("spec.ports[0].nodePort"), "{refused}");
    Ok(())
}
