// SPDX-License-Identifier: Apache-2.0
//! etcd's own API, as far as it takes to forget the past: its JSON gateway over the socket that the API server uses.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::controlplane::ControlPlane;

/// Compacts everything up to the current revision; yields that revision.
///
/// # Errors
/// etcd does not answer, or refuses.
pub async fn compact(control_plane: &ControlPlane) -> Result<u64> {
    let socket = control_plane.admin_kubeconfig().with_file_name("etcd.sock");
    // Any key: the answer's header has the revision. "AA==" is a single zero byte.
    let range = post(&socket, "/v3/kv/range", &json!({"key": "AA=="})).await?;
    let revision = range["header"]["revision"]
        .as_str()
        .context("etcd told no revision")?
        .to_owned();
    post(
        &socket,
        "/v3/kv/compaction",
        &json!({"revision": revision, "physical": true}),
    )
    .await?;
    Ok(revision.parse()?)
}

async fn post(socket: &Path, path: &str, body: &Value) -> Result<Value> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| socket.display().to_string())?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", "etcd")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    ensure!(
        status.is_success(),
        "etcd answered {status}: {}",
        String::from_utf8_lossy(&body)
    );
    Ok(serde_json::from_slice(&body)?)
}
