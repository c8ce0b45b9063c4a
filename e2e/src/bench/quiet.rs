// SPDX-License-Identifier: Apache-2.0
//! Waiting until nobody has anything left to do, and having the API server clear up before it is measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;

/// How long all processes have to use next to nothing.
const FOR: Duration = Duration::from_millis(1_500);
/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(250);
/// Next to nothing: CPU seconds a look, of all of them. A tick is 0.01 s; an idle API server has one now and then.
const NOTHING: f64 = 0.025;
/// A machine that is busy with other things is measured all the same.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until what everybody has used, in CPU seconds, stands still.
pub(crate) async fn quiet(used: impl Fn() -> Result<f64>) -> Result<()> {
    let started = Instant::now();
    let (mut last, mut since) = (used()?, Instant::now());
    while since.elapsed() < FOR && started.elapsed() < DEADLINE {
        tokio::time::sleep(LOOK).await;
        let now = used()?;
        if now - last > NOTHING {
            since = Instant::now();
        }
        last = now;
    }
    Ok(())
}

/// Has the API server collect its garbage: a collection of its large heap costs as much as a hundred writes, and
/// whether one falls into what is measured must not depend on what was before.
pub(crate) async fn collect_garbage(apiserver: &Client) -> Result<()> {
    let path = "/debug/pprof/heap?gc=1";
    let request = http::Request::get(path).body(Body::empty())?;
    let answer = apiserver.send(request).await.context(path)?;
    answer.into_body().collect().await.context(path)?;
    Ok(())
}
