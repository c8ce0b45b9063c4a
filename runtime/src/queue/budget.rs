// SPDX-License-Identifier: Apache-2.0
//! How many turns are taken while the server fails.

use std::time::Duration;

use tokio::time::Instant;

/// A rate with a burst, as in a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// One more is allowed after each such pause.
    pub every: Duration,
    /// So many are allowed at once.
    pub burst: u32,
}

impl Budget {
    /// The overall limit of upstream's work queues: 10 a second, 100 at once
    /// (client-go, `DefaultTypedControllerRateLimiter`).
    pub const UPSTREAM: Self = Self {
        every: Duration::from_millis(100),
        burst: 100,
    };
}

/// What is spent of a budget.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    /// When all that was taken would be earned (the theoretical arrival time of ATM's cell rate
    /// algorithm, ITU-T I.371).
    earned: Option<Instant>,
}

impl Spent {
    /// When the next one is allowed.
    pub(super) fn next(&self, budget: Budget, now: Instant) -> Instant {
        let ahead = budget.every.saturating_mul(budget.burst.saturating_sub(1));
        self.earned
            .and_then(|earned| earned.checked_sub(ahead))
            .map_or(now, |at| at.max(now))
    }

    /// Takes one.
    pub(super) fn take(&mut self, budget: Budget, now: Instant) {
        self.earned = Some(self.earned.map_or(now, |earned| earned.max(now)) + budget.every);
    }
}
