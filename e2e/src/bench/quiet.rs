// SPDX-License-Identifier: Apache-2.0
//! Waiting until nobody has anything left to do.

use std::time::{Duration, Instant};

use anyhow::Result;

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
