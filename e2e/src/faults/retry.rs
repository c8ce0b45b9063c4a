// SPDX-License-Identifier: Apache-2.0
//! The users of a cluster whose API server comes and goes: they try until they have an answer.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cluster::PATIENCE;

const AGAIN: Duration = Duration::from_millis(50);

/// Repeats a request until it is answered for good. `None`: there is nothing by that name, or, of a creation that was
/// repeated, it is there already.
pub(super) async fn persist<T, F>(mut request: impl FnMut() -> F) -> Result<Option<T>>
where
    F: Future<Output = kube::Result<T>>,
{
    let started = Instant::now();
    loop {
        let error = match request().await {
            Ok(answer) => return Ok(Some(answer)),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(None),
            // A server that has just started may not know anyone's rights yet; one that is going cannot reach itself to
            // take a ClusterIP, and blames the Service.
            Err(kube::Error::Api(status))
                if !matches!(status.code, 401 | 403 | 429 | 500..=599)
                    && !status.message.contains("failed to allocate IP: ") =>
            {
                bail!("{} {}: {}", status.code, status.reason, status.message);
            }
            Err(error) => error,
        };
        if started.elapsed() > PATIENCE {
            bail!("no answer for {PATIENCE:?}: {error}");
        }
        tokio::time::sleep(AGAIN).await;
    }
}
