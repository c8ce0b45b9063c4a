// SPDX-License-Identifier: Apache-2.0
//! `AdmissionReview` of `admission.k8s.io/v1`, as far as it bears on Services.

use std::time::Duration;

use berth_controllers_core::admission::Patch;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::admission::Operation;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// What the API server asks webhooks to keep to, so that warnings fit a line and all of them a header.
const LONGEST_WARNING: usize = 120;

/// Why a request's body is no review.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// No JSON, or not of the fields that a review has.
    #[error("the body is no AdmissionReview of a Service: {0}")]
    Json(String),
    /// Something else than a review.
    #[error("the body is {api_version} {kind}; only {API_VERSION} {KIND} is answered")]
    Kind {
        /// As sent.
        api_version: String,
        /// As sent.
        kind: String,
    },
    /// A review without a request.
    #[error("the AdmissionReview has no request")]
    NoRequest,
    /// A create or update without an object.
    #[error("the AdmissionReview's request has no object, for operation {0}")]
    NoObject(String),
    /// An update without what is stored.
    #[error("the AdmissionReview's request has no oldObject, for operation UPDATE")]
    NoOldObject,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    api_version: String,
    kind: String,
    request: Option<RawRequest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRequest {
    uid: String,
    resource: Resource,
    sub_resource: Option<String>,
    namespace: Option<String>,
    operation: String,
    object: Option<serde_json::Value>,
    old_object: Option<serde_json::Value>,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    version: String,
    resource: String,
}

impl Resource {
    fn is_service(&self) -> bool {
        self.group.is_empty() && self.version == "v1" && self.resource == "services"
    }
}

/// The request of a review.
#[derive(Debug)]
pub(super) struct Review {
    /// To be repeated in the answer: it says nothing else, a retry has another one.
    pub(super) uid: String,
    pub(super) namespace: String,
    /// What is stored, on an update.
    pub(super) old: Option<Service>,
    pub(super) dry_run: bool,
    /// None where the review is not of a Service's create or update.
    write: Option<(Operation, Service)>,
}

impl Review {
    pub(super) fn read(body: &[u8]) -> Result<Self, Malformed> {
        let json = |error: serde_json::Error| Malformed::Json(error.to_string());
        let envelope: Envelope = serde_json::from_slice(body).map_err(json)?;
        if (envelope.api_version.as_str(), envelope.kind.as_str()) != (API_VERSION, KIND) {
            return Err(Malformed::Kind {
                api_version: envelope.api_version,
                kind: envelope.kind,
            });
        }
        let request = envelope.request.ok_or(Malformed::NoRequest)?;
        let operation = match request.operation.as_str() {
            "CREATE" => Some(Operation::Create),
            "UPDATE" => Some(Operation::Update),
            _ => None,
        };
        let is_whole = request.sub_resource.is_none_or(|name| name.is_empty());
        let operation = operation.filter(|_| is_whole && request.resource.is_service());
        let mut review = Self {
            uid: request.uid,
            namespace: request.namespace.unwrap_or_default(),
            old: None,
            dry_run: request.dry_run.unwrap_or(false),
            write: None,
        };
        let Some(operation) = operation else {
            return Ok(review);
        };
        let object = request.object.ok_or(Malformed::NoObject(request.operation))?;
        review.write = Some((operation, serde_json::from_value(object).map_err(json)?));
        if operation == Operation::Update {
            let old = request.old_object.ok_or(Malformed::NoOldObject)?;
            review.old = Some(serde_json::from_value(old).map_err(json)?);
        }
        Ok(review)
    }

    /// The write of a Service that is reviewed.
    pub(super) fn service(&self) -> Option<(Operation, &Service)> {
        self.write
            .as_ref()
            .map(|(operation, service)| (*operation, service))
    }
}

/// The response of a review.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl Answer {
    /// Lets it through as it is.
    pub(super) fn allow() -> Self {
        Self {
            allowed: true,
            ..Self::default()
        }
    }

    /// Lets it through with a patch, if there is anything in it.
    pub(super) fn with(patch: &Patch) -> Self {
        if patch.is_empty() {
            return Self::allow();
        }
        Self {
            patch_type: Some("JSONPatch"),
            patch: Some(ByteString(patch.to_json().to_string().into_bytes())),
            ..Self::allow()
        }
    }

    /// Refuses it. kubectl shows: Error from server (REASON): admission webhook "..." denied the request: MESSAGE.
    pub(super) fn refuse(code: u16, reason: &str, message: String) -> Self {
        Self {
            status: Some(Status {
                code: Some(i32::from(code)),
                reason: Some(reason.to_owned()),
                status: Some("Failure".to_owned()),
                message: Some(message),
                ..Status::default()
            }),
            ..Self::default()
        }
    }

    /// The same, about an object and perhaps a field of it.
    pub(super) fn about(mut self, name: Option<&str>, field: Option<&str>) -> Self {
        if let Some(status) = &mut self.status {
            let cause = |field: &str| StatusCause {
                field: Some(field.to_owned()),
                message: status.message.clone(),
                reason: status.reason.clone(),
            };
            let causes = field.map(|field| vec![cause(field)]);
            let details = status.details.get_or_insert_with(StatusDetails::default);
            details.kind = Some("services".to_owned());
            details.name = name.map(str::to_owned);
            details.causes = causes;
        }
        self
    }

    /// The same, with a time after which to try again: the API server makes a `Retry-After` of it.
    pub(super) fn retry_after(mut self, after: Duration) -> Self {
        if let Some(status) = &mut self.status {
            let details = status.details.get_or_insert_with(StatusDetails::default);
            // 0 would mean never.
            let seconds = i32::try_from(after.as_secs()).unwrap_or(i32::MAX).max(1);
            details.retry_after_seconds = Some(seconds);
        }
        self
    }

    /// The same, with something to be shown to the user, cut to what may be shown.
    pub(super) fn with_warning(mut self, warning: &str) -> Self {
        self.warnings
            .push(warning.chars().take(LONGEST_WARNING).collect());
        self
    }

    /// As a review.
    pub(super) fn to_json(&self, uid: &str) -> String {
        let mut response = json!(self);
        response["uid"] = json!(uid);
        json!({"apiVersion": API_VERSION, "kind": KIND, "response": response}).to_string()
    }
}
