// SPDX-License-Identifier: Apache-2.0
//! When to look whether somebody else changed what is ours: often where that is cheap, and never so often that it takes
//! more than a small part of the time.

use std::time::{Duration, Instant};

use berth_runtime::exit::ExitError;

use super::Agent;

/// How often somebody else's changes are looked for where that costs next to nothing: what was flushed is back well
/// within a second.
pub(super) const GLANCE_PERIOD: Duration = Duration::from_millis(250);
/// How often all that somebody else may have changed is looked at.
pub(super) const AUDIT_PERIOD: Duration = Duration::from_secs(15);
/// A look that takes long is repeated that much later: it takes 2% of the time at most.
const REST: u32 = 50;
/// Repairs take a fifth of the time at most, whoever changes whatever how often.
const REPAIRS: u32 = 4;

/// When to look again, having looked since `started`.
fn rested(started: Instant, period: Duration) -> Instant {
    let now = Instant::now();
    now + period.max(now.saturating_duration_since(started) * REST)
}

impl Agent {
    /// Looks whether somebody else changed something, repairs it if so, and says when to look again.
    pub(super) async fn glance(&mut self) -> Result<Instant, ExitError> {
        let started = Instant::now();
        let found = match self.syncer.glance().await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "not looked at");
                false
            }
        };
        let next = rested(started, GLANCE_PERIOD);
        if !found {
            return Ok(next);
        }
        let started = Instant::now();
        self.turn().await?;
        Ok(next.max(Instant::now() + started.elapsed() * REPAIRS))
    }

    /// Has everything looked at that somebody else may have changed, and says when to do so again.
    pub(super) async fn audit(&mut self) -> Result<Instant, ExitError> {
        let started = Instant::now();
        if let Err(error) = self.syncer.audit().await {
            tracing::debug!(%error, "ruleset not compared");
        }
        self.turn().await?;
        Ok(rested(started, AUDIT_PERIOD))
    }
}
