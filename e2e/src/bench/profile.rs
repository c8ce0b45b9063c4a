// SPDX-License-Identifier: Apache-2.0
//! Where the API server's time goes: its own CPU profile, for `go tool pprof`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use tokio::task::JoinHandle;

/// Long enough for all that happens after the start, seconds.
const SECONDS: u32 = 10;

/// A profile that is being taken.
pub(crate) struct Profile(JoinHandle<Result<()>>);

impl Profile {
    /// Begins to take one, for `FOLDER/NAME.pprof`. Taking it costs the API server some of what is measured.
    pub(crate) fn begin(client: &Client, folder: &Path, name: &str) -> Self {
        let file = folder.join(format!("{name}.pprof"));
        Self(tokio::spawn(take(client.clone(), file)))
    }

    /// Waits until it is written.
    ///
    /// # Errors
    /// The API server gave none, or the file cannot be written.
    pub(crate) async fn end(self) -> Result<()> {
        self.0.await?
    }
}

async fn take(client: Client, file: PathBuf) -> Result<()> {
    let path = format!("/debug/pprof/profile?seconds={SECONDS}");
    let request = http::Request::get(&path).body(Body::empty())?;
    let answer = client.send(request).await.with_context(|| path.clone())?;
    anyhow::ensure!(answer.status().is_success(), "{path}: {}", answer.status());
    let bytes = answer.into_body().collect().await.context(path)?.to_bytes();
    std::fs::write(&file, bytes).with_context(|| file.display().to_string())
}
