// SPDX-License-Identifier: Apache-2.0
//! Exponential delays between attempts.

use std::time::Duration;

/// Doubling delays from `first` up to `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure.
    pub first: Duration,
    /// The longest delay.
    pub cap: Duration,
}

impl Backoff {
    /// Reconnects: a node agent must not lag long behind an API server that is back, so the cap is
    /// far below kube's default of 30 s (an agent that serves traffic on stale rules is worse than a
    /// few more requests).
    pub const CONNECT: Self = Self {
        first: Duration::from_millis(200),
        cap: Duration::from_secs(5),
    };

    /// The delay after the `failures`th failure in a row (1 for the first), without jitter.
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        self.first.saturating_mul(1 << doublings).min(self.cap)
    }
}

/// The delay cut at random to between half and all of it, so that thousands of agents that lost the
/// same server do not return in step. `random` is uniform.
pub fn jitter(delay: Duration, random: u32) -> Duration {
    let half = delay / 2;
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let millis: Vec<u128> = (1..=7).map(|n| Backoff::CONNECT.delay(n).as_millis()).collect();
        assert_eq!(millis, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(Backoff::CONNECT.delay(u32::MAX), Backoff::CONNECT.cap);
    }

    #[test]
    fn jitter_keeps_between_half_and_all() {
        let delay = Duration::from_secs(4);
        assert_eq!(jitter(delay, 0), Duration::from_secs(2));
        assert_eq!(jitter(delay, u32::MAX), delay);
    }
}
