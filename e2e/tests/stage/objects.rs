// SPDX-License-Identifier: Apache-2.0
//! Making Nodes, Pods in any state, Services and hand-written Endpoints.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What can be made by [`create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Cluster-scoped.
    Node,
    /// Its status is written too.
    Pod,
    /// As [`Kind::Pod`], deleted at once; bound to a Node without kubelet, it stays in that state.
    TerminatingPod,
    /// Without status.
    Service,
    /// As [`Kind::Service`], deleted at once; a finalizer keeps it.
    TerminatingService,
    /// Hand-written.
    Endpoints,
}

/// Makes one object.
pub(crate) async fn create(client: &Client, namespace: &str, kind: Kind, object: &Value) -> Result<()> {
    let namespaced = || client.clone();
    match kind {
        Kind::Node => post(&Api::<Node>::all(namespaced()), object, false).await,
        Kind::Pod | Kind::TerminatingPod => {
            let pods: Api<Pod> = Api::namespaced(namespaced(), namespace);
            post(&pods, object, false).await?;
            let name = object["metadata"]["name"].as_str().context("a name")?;
            let status = Patch::Merge(json!({"status": object["status"]}));
            pods.patch_status(name, &PatchParams::default(), &status).await?;
            if kind == Kind::TerminatingPod {
                pods.delete(name, &DeleteParams::default()).await?;
            }
            Ok(())
        }
        Kind::Service | Kind::TerminatingService => {
            let services: Api<Service> = Api::namespaced(namespaced(), namespace);
            post(&services, object, kind == Kind::TerminatingService).await
        }
        Kind::Endpoints => {
            post(
                &Api::<Endpoints>::namespaced(namespaced(), namespace),
                object,
                false,
            )
            .await
        }
    }
}

async fn post<K>(api: &Api<K>, object: &Value, delete: bool) -> Result<()>
where
    K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let name = object["metadata"]["name"].as_str().context("a name")?;
    let typed: K = serde_json::from_value(object.clone()).with_context(|| name.to_owned())?;
    api.create(&PostParams::default(), &typed)
        .await
        .with_context(|| name.to_owned())?;
    if delete {
        api.delete(name, &DeleteParams::default()).await?;
    }
    Ok(())
}

/// Two zones, and a Node in none.
pub(crate) fn nodes() -> Vec<(Kind, Value)> {
    let node = |name: &str, zone: Option<&str>| {
        let labels = zone.map(|zone| json!({"topology.kubernetes.io/zone": zone}));
        (Kind::Node, json!({"metadata": {"name": name, "labels": labels}}))
    };
    vec![
        node("node-a", Some("zone-a")),
        node("node-b", Some("zone-b")),
        node("node-c", None),
    ]
}

/// A ready Pod without container ports.
pub(crate) fn ready_pod(name: &str, labels: &Value, node: &str, addresses: &[&str]) -> Value {
    pod(name, labels, node, addresses, "Running", true)
}

/// A Pod without container ports.
pub(crate) fn pod(
    name: &str,
    labels: &Value,
    node: &str,
    addresses: &[&str],
    phase: &str,
    ready: bool,
) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
        "status": {
            "phase": phase, "podIP": addresses.first(), "podIPs": ips,
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": "2026-01-02T03:04:05Z"}],
        },
    })
}

/// A Service of port 80; without `app` it has no selector. `spec` comes over it.
pub(crate) fn service(name: &str, app: &str, spec: Value) -> (Kind, Value) {
    let mut object =
        json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80, "targetPort": 8080}]}});
    if !app.is_empty() {
        object["spec"]["selector"] = json!({"app": app});
    }
    merge(&mut object["spec"], spec);
    (Kind::Service, object)
}

/// Puts the fields of one object into another.
pub(crate) fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
