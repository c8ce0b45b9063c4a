// SPDX-License-Identifier: Apache-2.0
//! How fast a death is noticed, and what that costs.
//!
//! The arithmetic of the defaults (100 ms, 1 s): a peer is taken for dead when nine heartbeats in a row are
//! lost, because the tenth may come a moment too late. At 20 % loss, independent for each packet, that is
//! 0.8 * 0.2^9 = 4.1e-7 for each heartbeat, at 36,000 an hour 0.015 false deaths an hour for each direction of a pair:
//! 0.09 an hour at 3 nodes (6 directions), 0.6 at 7 (42), if such a loss were permanent. Where nodes have
//! addresses of both families each heartbeat travels twice and the figure is 0.04^9: never. At 1 % loss it
//! is never. A falsely dead peer is back with its next heartbeat, and has answered all the while.
//! A node sends, and receives, 10 packets a second for each address of each peer, some 100 bytes each: 20 at
//! 3 nodes, 490 at 50, 1,990 at 200. The full mesh is meant for tens of nodes.

use std::time::Duration;

/// How often to speak and how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub interval: Duration,
    /// Silence after which a peer is dead.
    pub dead_after: Duration,
}

/// Timing that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// No time at all between two heartbeats.
    #[error("the heartbeat interval is {0:?}; it must be at least 1ms")]
    IntervalTooShort(Duration),
    /// One or two lost heartbeats would be a failover.
    #[error(
        "a peer would be dead after {dead_after:?} of silence, which is less than three heartbeat intervals of {interval:?}"
    )]
    DeadAfterTooShort {
        /// Between two heartbeats.
        interval: Duration,
        /// Silence after which a peer is dead.
        dead_after: Duration,
    },
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            dead_after: Duration::from_secs(1),
        }
    }
}

impl Timing {
    /// Checks that the two fit together.
    ///
    /// # Errors
    /// Which of the two is too short.
    pub fn validate(&self) -> Result<(), TimingError> {
        let Self { interval, dead_after } = *self;
        if interval < Duration::from_millis(1) {
            return Err(TimingError::IntervalTooShort(interval));
        }
        if dead_after < interval.saturating_mul(3) {
            return Err(TimingError::DeadAfterTooShort { interval, dead_after });
        }
        Ok(())
    }
}
