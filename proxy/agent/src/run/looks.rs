// SPDX-License-Identifier: Apache-2.0
//! When to look whether somebody else changed what is ours: often where that is cheap, and never so often that it takes
//! more than a small part of the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use berth_runtime::exit::ExitError;

use super::Agent;

/// How often somebody else's changes are looked for where that costs next to nothing: what was flushed is back well
/// within a second.
pub(super) const GLANCE_PERIOD: Duration = Duration::from_millis(250);
/// How often all that somebody else may have changed is looked at.
pub(super) const AUDIT_PERIOD: Duration = Duration::from_secs(15);
/// Looks that take long are repeated that much later: they take 2% of the time at most.
const REST: u32 = 50;
/// How many looks tell how long one takes.
const LOOKS: usize = 4;
/// Repairs take a fifth of the time at most, whoever changes whatever how often.
const REPAIRS: u32 = 4;

/// How long looks take. The shortest of the last few tells: what made a single one long may have been the machine, and
/// then what somebody flushes meanwhile would stay away for as long as fifty of it.
#[derive(Debug, Default)]
struct Times {
    took: VecDeque<Duration>,
}

/// How long each kind of look takes.
#[derive(Debug, Default)]
pub(super) struct LookTimes {
    glances: Times,
    audits: Times,
}

impl Times {
    /// How long to rest after a look that took so long, at least for `period`.
    fn rest(&mut self, took: Duration, period: Duration) -> Duration {
        self.took.truncate(LOOKS - 1);
        self.took.push_front(took);
        let shortest = self.took.iter().min();
        let known = shortest.filter(|_| self.took.len() == LOOKS);
        known.map_or(period, |took| period.max(*took * REST))
    }
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
        let now = Instant::now();
        let next = now
            + self
                .look_times
                .glances
                .rest(now.saturating_duration_since(started), GLANCE_PERIOD);
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
        let now = Instant::now();
        Ok(now
            + self
                .look_times
                .audits
                .rest(now.saturating_duration_since(started), AUDIT_PERIOD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_take_long_come_seldom_and_a_single_long_one_counts_for_nothing() {
        let period = Duration::from_millis(250);
        for (row, took, rest) in [
            ("short", [1, 1, 1, 1], 250),
            ("one of them long, the last", [1, 1, 1, 900], 250),
            ("the first of all", [900, 1, 1, 1], 250),
            ("all long", [40, 30, 20, 30], 1_000),
            ("just as long as the period allows", [5, 5, 5, 5], 250),
        ] {
            let mut times = Times::default();
            let rests = took.map(|took| times.rest(Duration::from_millis(took), period));
            assert_eq!(rests[..3], [period; 3], "{row}");
            assert_eq!(rests[3], Duration::from_millis(rest), "{row}");
        }
        let mut times = Times::default();
        let mut rest = Duration::ZERO;
        for _ in 0..9 {
            rest = times.rest(Duration::from_millis(40), period);
        }
        assert_eq!(rest, Duration::from_secs(2));
        assert_eq!(
            times.rest(Duration::from_millis(6), period),
            Duration::from_millis(300)
        );
    }
}
