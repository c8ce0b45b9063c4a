// SPDX-License-Identifier: Apache-2.0
//! The one place where the announcer looks at a clock.

use berth_announcer_core::Moment;
use jiff::Timestamp;
use tokio::time::Instant;

/// Relates the core's moments to the machine's clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now.
    pub(crate) fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// Now, for the core.
    pub(crate) fn now(&self) -> Moment {
        Moment::after_origin(self.origin.elapsed())
    }

    /// When the runtime is to wake up for a moment.
    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        self.origin + moment.since_origin()
    }

    /// The wall clock at a moment in the past, as far as it has not been set since.
    pub(crate) fn wall(&self, moment: Moment) -> Timestamp {
        let ago = self.now().since(moment);
        let now = Timestamp::now();
        jiff::SignedDuration::try_from(ago).map_or(now, |ago| now.saturating_sub(ago).unwrap_or(now))
    }
}
