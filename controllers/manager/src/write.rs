// SPDX-License-Identifier: Apache-2.0
//! Writes to the API server. No decision is made here but one: without the lead nothing is written.

mod exchange;

use std::fmt;
use std::time::Duration;

use berth_controllers_core::plan::ObjectRef;
use berth_runtime::client::{Fault, explain};
use berth_runtime::lease::Leadership;
use berth_runtime::queue::Again;
use berth_snapshot::wire::{Compose, enveloped};
use http::header::{CONTENT_TYPE, HeaderValue};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Client, Resource};
use serde_json::Value;

use crate::metrics::Metrics;
use exchange::{Answer, Failure, exchange};

/// Of the bodies of creations and updates.
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/vnd.kubernetes.protobuf");
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
    Failed {
        /// What kind of failure.
        fault: Fault,
        /// In words.
        text: String,
        /// How long the server asks us to stay away.
        wait: Option<Duration>,
    },
}

impl WriteError {
    /// Its stable text form.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::NotLeading => "not-leading",
            Self::NamespaceTerminating => "namespace-terminating",
            Self::Conflict(_) => "conflict",
            Self::Missing(_) => "missing",
            Self::Failed { fault, .. } => fault.as_str(),
        }
    }

    /// Whether people should hear of it: conflicts are ordinary life.
    pub(crate) fn is_news(&self) -> bool {
        match self {
            Self::Failed { .. } | Self::Missing(_) => true,
            Self::NotLeading | Self::NamespaceTerminating | Self::Conflict(_) => false,
        }
    }

    /// How the turn is to be taken again. What is wrong with one object is waited for to change, and
    /// what is wrong with the server is waited out.
    pub(crate) fn again(&self) -> Again {
        match self {
            Self::NotLeading | Self::NamespaceTerminating | Self::Conflict(_) | Self::Missing(_) => {
                Again::Behind
            }
            Self::Failed { fault, wait, .. } => match fault {
                Fault::Unreachable
                | Fault::Timeout
                | Fault::Unauthorized
                | Fault::Forbidden
                | Fault::Expired
                | Fault::Throttled
                | Fault::Server => Again::Failed(wait.unwrap_or_default()),
                Fault::NotFound | Fault::Conflict | Fault::Invalid | Fault::Malformed | Fault::Other => {
                    Again::Refused
                }
            },
        }
    }

    /// Sorts what the API server, or the way to it, answered.
    pub(crate) fn of(error: &kube::Error) -> Self {
        Self::sorted(error, None)
    }

    fn sorted(error: &kube::Error, wait: Option<Duration>) -> Self {
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
            | Fault::Other => Self::Failed { fault, text, wait },
        }
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeading => f.write_str("another replica leads"),
            Self::NamespaceTerminating => f.write_str("the namespace is being deleted"),
            Self::Conflict(text) | Self::Missing(text) | Self::Failed { text, .. } => f.write_str(text),
        }
    }
}

/// How a turn failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TurnError {
    /// The write, or the read, that failed.
    pub(crate) error: WriteError,
    /// Whether an earlier write of the turn went well: the next turn has less to do.
    pub(crate) progress: bool,
}

impl From<WriteError> for TurnError {
    fn from(error: WriteError) -> Self {
        Self {
            error,
            progress: false,
        }
    }
}

/// An object of a namespace that can be sent.
pub(crate) trait Writable:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Compose
{
}

impl<K> Writable for K where K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Compose {}

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

    /// Creates an object and yields the metadata of what is stored.
    pub(crate) async fn create<K: Writable>(&self, object: &K) -> Result<ObjectMeta, WriteError> {
        let path = self.path::<K>(object.meta().namespace.as_deref());
        let request = built(Request::new(path).create(&params(), enveloped(object)));
        let answer = self.send("create", kind::<K>(), request.map(as_protobuf)).await?;
        stored(&answer)
    }

    /// Replaces an object and yields the metadata of what is stored. It carries the version that it was
    /// planned from, or none if it is meant to win.
    pub(crate) async fn replace<K: Writable>(&self, object: &K) -> Result<ObjectMeta, WriteError> {
        let path = self.path::<K>(object.meta().namespace.as_deref());
        let name = object.meta().name.as_deref().unwrap_or_default();
        let request = built(Request::new(path).replace(name, &params(), enveloped(object)));
        let answer = self.send("update", kind::<K>(), request.map(as_protobuf)).await?;
        stored(&answer)
    }

    /// Deletes this very object; that it is gone already is as good.
    pub(crate) async fn delete<K: Writable>(&self, object: &ObjectRef) -> Result<(), WriteError> {
        let delete = DeleteParams {
            preconditions: Some(Preconditions {
                uid: object.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let path = self.path::<K>(Some(&object.namespace));
        let request = Request::new(path).delete(&object.name, &delete);
        match self.send("delete", kind::<K>(), built(request)).await {
            Ok(_) | Err(WriteError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Merges a patch into the status subresource and yields the metadata of what is stored.
    pub(crate) async fn patch_status<K>(
        &self,
        kind: &'static str,
        namespace: Option<&str>,
        name: &str,
        patch: &Value,
    ) -> Result<ObjectMeta, WriteError>
    where
        K: Resource<DynamicType = ()>,
    {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let request = Request::new(K::url_path(&(), namespace)).patch_subresource(
            "status",
            name,
            &params,
            &Patch::Merge(patch),
        );
        let answer = self.send("patch-status", kind, built(request)).await?;
        stored(&answer)
    }

    /// The client, for reads.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    fn path<K: Writable>(&self, namespace: Option<&str>) -> String {
        K::url_path(&(), namespace)
    }

    async fn send(
        &self,
        verb: &'static str,
        kind: &'static str,
        request: Result<http::Request<Vec<u8>>, kube::Error>,
    ) -> Result<Answer, WriteError> {
        if !self.leadership.is_leading() {
            return Err(WriteError::NotLeading);
        }
        let answer = match request {
            Ok(request) => exchange(&self.client, request).await,
            Err(error) => Err(Failure::from(error)),
        };
        let answer = answer.map_err(|failure| WriteError::sorted(&failure.error, failure.wait));
        let result = answer.as_ref().err().map_or("ok", WriteError::as_str);
        self.metrics.write(verb, kind, result);
        answer
    }
}

/// The metadata of what is stored.
fn stored(answer: &Answer) -> Result<ObjectMeta, WriteError> {
    answer.meta().map_err(|error| WriteError::of(&error))
}

fn kind<K: Writable>() -> &'static str {
    <K as k8s_openapi::Resource>::KIND
}

/// Says what the body is; decoding it costs the API server less than JSON does.
fn as_protobuf(mut request: http::Request<Vec<u8>>) -> http::Request<Vec<u8>> {
    request.headers_mut().insert(CONTENT_TYPE, PROTOBUF);
    request
}

fn built(
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<http::Request<Vec<u8>>, kube::Error> {
    request.map_err(kube::Error::BuildRequest)
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}
