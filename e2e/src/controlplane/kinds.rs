// SPDX-License-Identifier: Apache-2.0
//! Waiting until kube-apiserver serves and describes Berth's own kinds.
//!
//! A CustomResourceDefinition is `Established` before the kind stands in the API server's description (OpenAPI v3),
//! which `kubectl explain` reads: that is put together behind it, a kind at a time.

use std::time::{Duration, Instant};

use berth_crds::AddressPool;
use kube::CustomResourceExt;
use serde_json::Value;

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// Whether all of them were described before the deadline.
pub(super) async fn described(client: &kube::Client, deadline: Duration) -> Result<bool, kube::Error> {
    let version = AddressPool::api_resource().api_version;
    let paths: Vec<String> = berth_crds::all()
        .into_iter()
        .map(|kind| format!("/apis/{version}/{}", kind.spec.names.plural))
        .collect();
    let started = Instant::now();
    loop {
        let description = description(client, &version).await?;
        let found = description["paths"].as_object();
        if found.is_some_and(|found| paths.iter().all(|path| found.contains_key(path))) {
            return Ok(true);
        }
        if started.elapsed() > deadline {
            return Ok(false);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// `null` while there is none.
async fn description(client: &kube::Client, version: &str) -> Result<Value, kube::Error> {
    let request = http::Request::get(format!("/openapi/v3/apis/{version}"))
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    match client.request(request).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Value::Null),
        answer => answer,
    }
}
