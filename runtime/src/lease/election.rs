// SPDX-License-Identifier: Apache-2.0
//! The decision part of leader election: a state machine on the observed Lease and our own clock.
//!
//! The writer's wall clock is never trusted: a foreign claim expires when *we* have seen no change of
//! the Lease for its whole duration. Our own claim ends `renew_deadline` after the moment *before* the
//! last successful renewal was sent, which is earlier than any other candidate's view of it.

use std::time::Duration;

use tokio::time::Instant;

/// The three durations of an election, as Kubernetes' own components have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// How long a candidate waits without seeing a renewal before it takes over.
    pub(crate) lease_duration: Duration,
    /// How long a leader goes on without a successful renewal.
    pub(crate) renew_deadline: Duration,
    /// How often candidates look and leaders renew.
    pub(crate) retry_period: Duration,
}

/// A Lease as far as the election cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// `spec.holderIdentity`; empty where the lease was released.
    pub(crate) holder: String,
    /// Which run of the holder wrote it (an annotation of ours), to tell two processes of one identity apart.
    pub(crate) instance: String,
    /// `spec.leaseDurationSeconds` as the holder wrote it.
    pub(crate) duration: Duration,
    /// Changes with each write.
    pub(crate) resource_version: String,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Create the Lease in our name.
    Create,
    /// Write our name into the Lease as observed (precondition: its resourceVersion); `transition` if
    /// the holder changes by it.
    Claim {
        /// The version to replace.
        resource_version: String,
        /// Whether `leaseTransitions` goes up.
        transition: bool,
    },
    /// Someone else leads; look again after the retry period.
    Follow,
    /// We led and must stop.
    Stop(Lost),
}

/// Why leadership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// No renewal succeeded before the deadline.
    #[error("the Lease could not be renewed before the deadline")]
    Deadline,
    /// Another identity holds the Lease.
    #[error("another process holds the Lease")]
    Taken,
    /// Another process with our identity wrote the Lease: two replicas share one --identity.
    #[error("another process with the same --identity holds the Lease; give each replica its own")]
    SameIdentity,
}

/// One candidate.
#[derive(Debug)]
pub(crate) struct Election {
    identity: String,
    instance: String,
    timing: Timing,
    /// The Lease as last seen changed, and when by our clock.
    seen: Option<(Claim, Instant)>,
    /// Until when we lead, if we lead.
    until: Option<Instant>,
}

impl Election {
    pub(crate) fn new(identity: String, instance: String, timing: Timing) -> Self {
        Self {
            identity,
            instance,
            timing,
            seen: None,
            until: None,
        }
    }

    /// The name of this run.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// Until when we lead without another renewal.
    pub(crate) fn leading_until(&self) -> Option<Instant> {
        self.until
    }

    /// Decides on what was observed (`None`: there is no Lease).
    pub(crate) fn observe(&mut self, lease: Option<Claim>, now: Instant) -> Step {
        if let Some(lost) = self.tick(now) {
            return Step::Stop(lost);
        }
        let Some(claim) = lease else {
            return Step::Create;
        };
        let (mine, this_run) = (claim.holder == self.identity, claim.instance == self.instance);
        if self.until.is_some() && !(mine && this_run) {
            self.until = None;
            self.note(claim, now);
            return Step::Stop(if mine { Lost::SameIdentity } else { Lost::Taken });
        }
        let seen_at = self.note(claim.clone(), now);
        let expired = now >= seen_at + claim.duration.max(self.timing.lease_duration);
        // A restarted holder goes on at once: its predecessor is gone, or will see our instance and stop.
        if mine || claim.holder.is_empty() || expired {
            return Step::Claim {
                resource_version: claim.resource_version,
                transition: !mine,
            };
        }
        Step::Follow
    }

    /// Our write went through; `sent` is the moment before it was sent.
    pub(crate) fn claimed(&mut self, claim: Claim, sent: Instant, now: Instant) {
        self.note(claim, now);
        self.until = Some(sent + self.timing.renew_deadline);
    }

    /// Checks the deadline alone; to be called when the Lease could not be read or written.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Lost> {
        if self.until.is_some_and(|until| now >= until) {
            self.until = None;
            return Some(Lost::Deadline);
        }
        None
    }

    /// Remembers the Lease and yields since when it looks like this, by our clock.
    fn note(&mut self, claim: Claim, now: Instant) -> Instant {
        match &self.seen {
            Some((before, at)) if *before == claim => *at,
            Some(_) | None => {
                self.seen = Some((claim, now));
                now
            }
        }
    }
}

#[cfg(test)]
mod tests;
