// SPDX-License-Identifier: Apache-2.0
//! Waiting until kube-apiserver's authorizer knows the RBAC objects that were written.
//!
//! The authorizer reads its own watches of the four RBAC kinds, some milliseconds behind the writes. A watch
//! keeps the order of its kind's writes: once the authorizer allows what the last object of each kind grants,
//! it has seen every earlier one.

use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{Api, DeleteParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);
/// Where the namespaced pair of objects goes; every cluster has it.
const NAMESPACE: &str = "default";
/// A group that no object is of: what the objects allow is of no use to anybody.
const GROUP: &str = "settle.test.berth.dev";

/// Whether the authorizer caught up before the deadline.
pub(super) async fn settle(
    client: &kube::Client,
    token: &str,
    deadline: Duration,
) -> Result<bool, kube::Error> {
    let name = format!("berth-settle-{token}");
    let cluster_roles: Api<ClusterRole> = Api::all(client.clone());
    let cluster_bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let roles: Api<Role> = Api::namespaced(client.clone(), NAMESPACE);
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), NAMESPACE);

    let create = PostParams::default();
    cluster_roles.create(&create, &object(role(&name))?).await?;
    cluster_bindings
        .create(&create, &object(binding(&name, "ClusterRole", "cluster"))?)
        .await?;
    roles.create(&create, &object(role(&name))?).await?;
    bindings
        .create(&create, &object(binding(&name, "Role", "namespace"))?)
        .await?;

    let everywhere = object(review(&name, "cluster", None))?;
    let in_namespace = object(review(&name, "namespace", Some(NAMESPACE)))?;
    let started = Instant::now();
    let mut settled = false;
    while !settled && started.elapsed() < deadline {
        settled = allowed(client, &everywhere).await? && allowed(client, &in_namespace).await?;
        if !settled {
            tokio::time::sleep(POLL).await;
        }
    }

    let delete = DeleteParams::default();
    bindings.delete(&name, &delete).await?;
    roles.delete(&name, &delete).await?;
    cluster_bindings.delete(&name, &delete).await?;
    cluster_roles.delete(&name, &delete).await?;
    Ok(settled)
}

async fn allowed(client: &kube::Client, review: &SubjectAccessReview) -> Result<bool, kube::Error> {
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

fn object<K: DeserializeOwned>(value: Value) -> Result<K, kube::Error> {
    serde_json::from_value(value).map_err(kube::Error::SerdeError)
}

fn role(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "rules": [{"apiGroups": [GROUP], "resources": ["nothings"], "verbs": ["get"]}],
    })
}

fn binding(name: &str, kind: &str, scope: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user(name, scope)}],
    })
}

fn review(name: &str, scope: &str, namespace: Option<&str>) -> Value {
    json!({"metadata": {}, "spec": {
        "user": user(name, scope),
        "resourceAttributes": {"group": GROUP, "resource": "nothings", "verb": "get", "namespace": namespace},
    }})
}

/// One user per scope: what the cluster binding allows would hide a namespace binding that is not seen yet.
fn user(name: &str, scope: &str) -> String {
    format!("{name}-{scope}")
}
