// SPDX-License-Identifier: Apache-2.0
//! One request to the API server and its answer, as little of it as we read.

use std::time::Duration;

use berth_snapshot::wire::partial_object_metadata;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use kube::core::response::reason;
use serde::Deserialize;

/// Asks for the metadata of what was stored instead of all of it: an echo of a slice is as large as the slice, and
/// nobody reads it (Kubernetes API concepts, "alternate representations"). In protobuf where the server has it, which
/// costs it less; it answers refusals in JSON, since a status has no such representation.
const METADATA_ONLY: HeaderValue = HeaderValue::from_static(
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,\
     application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
);
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// How long to wait after a 429 that names no time: API priority and fairness always says one second.
const THROTTLED: Duration = Duration::from_secs(1);

/// What the server answered to a write that it carried out.
pub(super) struct Answer {
    body: Vec<u8>,
    protobuf: bool,
}

impl Answer {
    /// The metadata that trackers need of the object that was stored.
    pub(super) fn meta(&self) -> Result<ObjectMeta, kube::Error> {
        let meta = if self.protobuf {
            partial_object_metadata(&self.body)
                .map_err(|error| kube::Error::Service(format!("the answer to a write: {error}").into()))?
        } else {
            let stored: Stored = serde_json::from_slice(&self.body).map_err(kube::Error::SerdeError)?;
            stored.metadata
        };
        Ok(ObjectMeta {
            name: meta.name,
            uid: meta.uid,
            resource_version: meta.resource_version,
            generation: meta.generation,
            ..ObjectMeta::default()
        })
    }
}

#[derive(Deserialize)]
struct Stored {
    #[serde(default)]
    metadata: ObjectMeta,
}

/// What came back instead of success.
pub(super) struct Failure {
    pub(super) error: kube::Error,
    /// How long the server asks us to stay away.
    pub(super) wait: Option<Duration>,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self { error, wait: None }
    }
}

/// Sends a request and takes the answer in.
pub(super) async fn exchange(
    client: &Client,
    mut request: http::Request<Vec<u8>>,
) -> Result<Answer, Failure> {
    request.headers_mut().insert(ACCEPT, METADATA_ONLY);
    let answer = client.send(request.map(Body::from)).await?;
    let (head, body) = answer.into_parts();
    let body = body.collect_bytes().await?;
    if head.status.is_success() {
        let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        return Ok(Answer {
            protobuf: content_type.is_some_and(|kind| kind.starts_with(PROTOBUF.as_bytes())),
            body: body.to_vec(),
        });
    }
    let status = status_of(head.status.as_u16(), &body);
    let header = head.headers.get(RETRY_AFTER);
    let wait = retry_after(header.and_then(|value| value.to_str().ok()), &status);
    Err(Failure {
        error: kube::Error::Api(status.boxed()),
        wait,
    })
}

/// The status that the server answered, or one for an answer that is none.
fn status_of(code: u16, body: &[u8]) -> Status {
    serde_json::from_slice::<Status>(body)
        .ok()
        .filter(|status| status.code == code)
        .unwrap_or_else(|| {
            let text = String::from_utf8_lossy(body);
            Status::failure(text.trim(), reason::UNKNOWN).with_code(code)
        })
}

/// The pause that the server asks for: by header, as all Kubernetes servers do, or in the status.
fn retry_after(header: Option<&str>, status: &Status) -> Option<Duration> {
    let named = header.and_then(|value| value.parse().ok()).or_else(|| {
        let details = status.details.as_ref()?;
        Some(u64::from(details.retry_after_seconds)).filter(|seconds| *seconds > 0)
    });
    named
        .map(Duration::from_secs)
        .or_else(|| (status.code == 429).then_some(THROTTLED))
}

#[cfg(test)]
mod tests {
    use kube::core::response::StatusDetails;

    use super::*;

    fn mk_status(code: u16, seconds: u32) -> Status {
        let details: StatusDetails =
            serde_json::from_value(serde_json::json!({ "retryAfterSeconds": seconds })).unwrap();
        Status::failure("no", "").with_code(code).with_details(details)
    }

    #[test]
    fn the_pause_is_what_the_server_names_and_a_second_if_it_only_says_too_many_requests() {
        let rows = [
            ("header", Some("7"), mk_status(429, 3), Some(7)),
            ("status", None, mk_status(503, 3), Some(3)),
            (
                "unreadable header",
                Some("Tue, 1 Dec"),
                mk_status(429, 3),
                Some(3),
            ),
            ("429 without a time", None, mk_status(429, 0), Some(1)),
            ("500 without a time", None, mk_status(500, 0), None),
        ];
        for (row, header, status, expected) in rows {
            assert_eq!(
                retry_after(header, &status),
                expected.map(Duration::from_secs),
                "{row}"
            );
        }
    }

    #[test]
    fn an_answer_that_is_no_status_is_taken_by_its_code() {
        for body in [
            "Too many requests, please try again later.",
            "{}",
            r#"{"kind":"Status","code":200}"#,
        ] {
            assert_eq!(status_of(429, body.as_bytes()).code, 429, "{body}");
        }
        let body = r#"{"kind":"Status","status":"Failure","code":409,"reason":"Conflict","message":"newer"}"#;
        assert_eq!(status_of(409, body.as_bytes()).message, "newer");
    }

    #[test]
    fn of_an_answer_only_the_metadata_is_read() {
        let body = r#"{"kind":"EndpointSlice","endpoints":[{}],"metadata":
            {"name":"web-1","uid":"u","resourceVersion":"7","generation":2,"managedFields":[{}]}}"#;
        let answer = Answer {
            body: body.into(),
            protobuf: false,
        };
        let meta = answer.meta().unwrap();
        assert_eq!(meta.name.as_deref(), Some("web-1"));
        assert_eq!(meta.resource_version.as_deref(), Some("7"));
        assert_eq!((meta.uid.as_deref(), meta.generation), (Some("u"), Some(2)));
        assert_eq!(meta.managed_fields, None);
    }
}
