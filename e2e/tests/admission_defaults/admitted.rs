// SPDX-License-Identifier: Apache-2.0
//! What stands between a request and mutating admission, and what a patch does there.

use anyhow::{Context, Result};
use berth_controllers_core::admission::Patch;
use serde_json::{Value, json};

/// How a Service is written.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    /// POST, or PUT where it exists.
    Whole(Value),
    /// PATCH with a merge patch (RFC 7386).
    Merge(Value),
}

impl Write {
    /// The object as mutating admission sees it.
    pub(crate) fn admitted(&self, stored: Option<&Value>) -> Result<Value> {
        let mut object = match self {
            Self::Whole(object) => object.clone(),
            Self::Merge(patch) => {
                let mut object = stored.context("a patch of nothing")?.clone();
                merge(&mut object, patch);
                object
            }
        };
        without_null(&mut object);
        default(&mut object["spec"]);
        Ok(object)
    }
}

/// A field that is null is one that is not there.
fn without_null(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_null);
        }
        Value::Array(values) => values.iter_mut().for_each(without_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(into) = into.as_object_mut() {
                into.remove(name);
            }
        } else {
            merge(&mut into[name], value);
        }
    }
}

/// The API server's static defaults of a Service's spec (core/v1).
fn default(spec: &mut Value) {
    let missing = |spec: &Value, name: &str| spec[name].is_null() || spec[name] == "";
    if missing(spec, "type") {
        spec["type"] = json!("ClusterIP");
    }
    if missing(spec, "sessionAffinity") {
        spec["sessionAffinity"] = json!("None");
    }
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if missing(port, "protocol") {
            port["protocol"] = json!("TCP");
        }
        if port["targetPort"].is_null() {
            port["targetPort"] = port["port"].clone();
        }
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    let is_external = kind == "NodePort" || kind == "LoadBalancer";
    if is_external && missing(spec, "externalTrafficPolicy") {
        spec["externalTrafficPolicy"] = json!("Cluster");
    }
    if kind != "ExternalName" && spec["internalTrafficPolicy"].is_null() {
        spec["internalTrafficPolicy"] = json!("Cluster");
    }
    if kind == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"].is_null() {
        spec["allocateLoadBalancerNodePorts"] = json!(true);
    }
}

/// The object with the patch applied, as the API server does it: by RFC 6902.
pub(crate) fn patched(object: &Value, patch: &Patch) -> Result<Value> {
    let mut object = object.clone();
    for operation in patch.operations() {
        let (parent, name) = operation.path.rsplit_once('/').context("no path")?;
        let parent = object
            .pointer_mut(parent)
            .with_context(|| format!("nothing at {parent}"))?;
        match (&operation.value, parent.as_object_mut()) {
            (None, Some(parent)) => drop(parent.remove(name)),
            (value, _) => parent[name] = json!(value),
        }
    }
    Ok(object)
}
