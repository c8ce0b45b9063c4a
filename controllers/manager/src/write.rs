// SPDX-License-Identifier: Apache-2.0
//! Writes to the API server. No decision is made here but one: without the lead nothing is written.

use std::fmt;

use berth_controllers_core::plan::ObjectRef;
use berth_runtime::client::{Fault, explain};
use berth_runtime::lease::Leadership;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::metrics::Metrics;

/// The field manager under which Berth's writes appear.
const FIELD_MANAGER: &str = "berth-controllers";
/// Cause in the answer to a creation in a namespace that is being deleted (core/v1 NamespaceTerminatingCause).
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// Why a write did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// This process does not lead (any more): nothing was sent.
    NotLeading,
    /// The namespace is being deleted: nothing is created in it.
    NamespaceTerminating,
    /// Somebody else wrote first, or the object is there already: look again.
    Conflict(String),
    /// The object is not there.
    Missing(String),
    /// Anything else; whether it was carried out is not known where no answer came.
    Failed(Fault, String),
}

impl WriteError {
    /// Its stable text form.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::NotLeading => "not-leading",
            Self::NamespaceTerminating => "namespace-terminating",
            Self::Conflict(_) => "conflict",
            Self::Missing(_) => "missing",
            Self::Failed(fault, _) => fault.as_str(),
        }
    }

    /// Whether people should hear of it: conflicts are ordinary life.
    pub(crate) fn is_news(&self) -> bool {
        match self {
            Self::Failed(..) | Self::Missing(_) => true,
            Self::NotLeading | Self::NamespaceTerminating | Self::Conflict(_) => false,
        }
    }

    /// Sorts what the API server, or the way to it, answered.
    pub(crate) fn of(error: &kube::Error) -> Self {
        let (fault, text) = explain(error);
        if let kube::Error::Api(status) = error
            && let Some(details) = &status.details
            && details
                .causes
                .iter()
                .any(|cause| cause.reason == NAMESPACE_TERMINATING)
        {
            return Self::NamespaceTerminating;
        }
        match fault {
            Fault::Conflict => Self::Conflict(text),
            Fault::NotFound => Self::Missing(text),
            Fault::Unreachable
            | Fault::Timeout
            | Fault::Unauthorized
            | Fault::Forbidden
            | Fault::Expired
            | Fault::Invalid
            | Fault::Throttled
            | Fault::Server
            | Fault::Malformed
            | Fault::Other => Self::Failed(fault, text),
        }
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeading => f.write_str("another replica leads"),
            Self::NamespaceTerminating => f.write_str("the namespace is being deleted"),
            Self::Conflict(text) | Self::Missing(text) | Self::Failed(_, text) => f.write_str(text),
        }
    }
}

/// An object of a namespace that can be sent and received.
pub(crate) trait Writable:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Serialize
    + DeserializeOwned
    + Clone
    + fmt::Debug
    + k8s_openapi::Resource
{
}

impl<K> Writable for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Serialize
        + DeserializeOwned
        + Clone
        + fmt::Debug
        + k8s_openapi::Resource
{
}

/// The one place that writes.
#[derive(Clone)]
pub(crate) struct Writer {
    client: Client,
    leadership: Leadership,
    metrics: Metrics,
}

impl Writer {
    pub(crate) fn new(client: Client, leadership: Leadership, metrics: Metrics) -> Self {
        Self {
            client,
            leadership,
            metrics,
        }
    }

    /// Creates an object and yields it as stored.
    pub(crate) async fn create<K: Writable>(&self, object: &K) -> Result<K, WriteError> {
        let api: Api<K> = self.api(object.meta().namespace.as_deref());
        self.send(
            "create",
            <K as k8s_openapi::Resource>::KIND,
            api.create(&params(), object),
        )
        .await
    }

    /// Replaces an object and yields it as stored. It carries the version that it was planned from, or
    /// none if it is meant to win.
    pub(crate) async fn replace<K: Writable>(&self, object: &K) -> Result<K, WriteError> {
        let api: Api<K> = self.api(object.meta().namespace.as_deref());
        let name = object.meta().name.as_deref().unwrap_or_default();
        self.send(
            "update",
            <K as k8s_openapi::Resource>::KIND,
            api.replace(name, &params(), object),
        )
        .await
    }

    /// Deletes this very object; that it is gone already is as good.
    pub(crate) async fn delete<K: Writable>(&self, object: &ObjectRef) -> Result<(), WriteError> {
        let api: Api<K> = self.api(Some(&object.namespace));
        let delete = DeleteParams {
            preconditions: Some(Preconditions {
                uid: object.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let sent = self.send(
            "delete",
            <K as k8s_openapi::Resource>::KIND,
            api.delete(&object.name, &delete),
        );
        match sent.await {
            Ok(_) | Err(WriteError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Merges a patch into the status subresource and yields the object as stored.
    pub(crate) async fn patch_status<K>(
        &self,
        api: &Api<K>,
        kind: &'static str,
        name: &str,
        patch: &Value,
    ) -> Result<K, WriteError>
    where
        K: DeserializeOwned + Clone + fmt::Debug,
    {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.send(
            "patch-status",
            kind,
            api.patch_status(name, &params, &Patch::Merge(patch)),
        )
        .await
    }

    /// The client, for reads.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    fn api<K: Writable>(&self, namespace: Option<&str>) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace.unwrap_or_default())
    }

    async fn send<T>(
        &self,
        verb: &'static str,
        kind: &'static str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, WriteError> {
        if !self.leadership.is_leading() {
            return Err(WriteError::NotLeading);
        }
        let answer = request.await.map_err(|error| WriteError::of(&error));
        let result = answer.as_ref().err().map_or("ok", WriteError::as_str);
        self.metrics.write(verb, kind, result);
        answer
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}
