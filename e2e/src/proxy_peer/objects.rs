// SPDX-License-Identifier: Apache-2.0
//! Requests to an API server with bodies in JSON, and the Node objects that worlds stand for.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::world::{Both, NODES};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// POST to a collection.
    Create,
    /// PATCH (JSON merge patch) of an object.
    Change,
    /// DELETE of an object.
    Delete,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What is asked.
    pub verb: Verb,
    /// Of which path.
    pub path: String,
    /// With which body; nothing for [`Verb::Delete`].
    pub body: Value,
}

impl Request {
    /// POST.
    pub fn create(collection: &str, object: Value) -> Self {
        Self {
            verb: Verb::Create,
            path: collection.to_owned(),
            body: object,
        }
    }

    /// PATCH.
    pub fn change(path: &str, patch: Value) -> Self {
        Self {
            verb: Verb::Change,
            path: path.to_owned(),
            body: patch,
        }
    }

    /// DELETE.
    pub fn delete(path: &str) -> Self {
        Self {
            verb: Verb::Delete,
            path: path.to_owned(),
            body: Value::Null,
        }
    }

    /// PATCH of an object's status.
    pub fn status(path: &str, status: &Value) -> Self {
        Self::change(&format!("{path}/status"), json!({ "status": status }))
    }

    /// Sends it.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn send(&self, client: &kube::Client) -> Result<()> {
        let (method, content) = match self.verb {
            Verb::Create => ("POST", "application/json"),
            Verb::Change => ("PATCH", "application/merge-patch+json"),
            Verb::Delete => ("DELETE", "application/json"),
        };
        let body = match self.verb {
            Verb::Delete => Vec::new(),
            Verb::Create | Verb::Change => serde_json::to_vec(&self.body)?,
        };
        let request = http::Request::builder()
            .method(method)
            .uri(&self.path)
            .header("content-type", content)
            .body(body)?;
        let sent = client.request_text(request).await;
        sent.with_context(|| format!("{method} {}: {}", self.path, self.body))?;
        Ok(())
    }
}

/// A Node object with its addresses, and `spec.podCIDRs` where some are given.
pub fn node(name: &str, address: Both, pod_cidrs: &[&str]) -> Vec<Request> {
    let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "zone-1"});
    let mut object =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    if let Some(first) = pod_cidrs.first() {
        object["spec"] = json!({"podCIDR": first, "podCIDRs": pod_cidrs});
    }
    let addresses = [address.of(false), address.of(true)];
    let addresses = addresses.map(|address| json!({"type": "InternalIP", "address": address}));
    vec![
        Request::create("/api/v1/nodes", object),
        Request::status(&format!("/api/v1/nodes/{name}"), &json!({"addresses": addresses})),
    ]
}

/// The Node objects of every world.
pub fn nodes() -> Vec<Request> {
    let of = |(name, address): (&str, Both)| node(name, address, &[]);
    NODES.into_iter().flat_map(of).collect()
}
