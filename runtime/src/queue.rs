// SPDX-License-Identifier: Apache-2.0
//! A keyed work queue: each key waits at most once, is worked on by at most one worker, and comes back
//! after a delay when its work failed. First come, first served: between two turns of one key every
//! other key that waits has its own.

mod budget;
mod core;
mod metrics;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use self::core::{Core, Next};
use self::metrics::Instruments;
use crate::backoff::Backoff;

pub use budget::Budget;
pub use metrics::QueueMetrics;

/// When failed work is taken up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// After work that was tried and failed.
    pub failed: Backoff,
    /// After work that was put off because news has to come first. The news brings it back; this is
    /// for news that never comes.
    pub behind: Backoff,
    /// Turns taken while the server fails, whatever their key.
    pub budget: Option<Budget>,
}

impl Policy {
    /// One back-off for everything.
    pub fn simple(backoff: Backoff) -> Self {
        Self {
            failed: backoff,
            behind: backoff,
            budget: None,
        }
    }
}

/// Why work is to be taken up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Nothing was tried: something has to be seen first. An add brings the key back at once.
    Behind,
    /// It was refused as things are, a conflict for example. An add brings the key back at once.
    Refused,
    /// The server failed. Nothing brings the key back before its back-off, which is at least this long,
    /// and turns of all keys stay within the budget until one ends well.
    Failed(Duration),
}

/// A handle to the queue; clones are the same queue.
#[derive(Debug)]
pub struct Queue<T: Ord + Clone> {
    shared: Arc<Shared<T>>,
}

impl<T: Ord + Clone> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

#[derive(Debug)]
struct Shared<T: Ord + Clone> {
    core: Mutex<Core<T>>,
    wake: Notify,
    policy: Policy,
    instruments: Instruments,
}

impl<T: Ord + Clone> Queue<T> {
    /// An empty queue that reports nothing.
    pub fn new(policy: Policy) -> Self {
        Self::with_instruments(policy, Instruments::default())
    }

    /// An empty queue that reports under a name.
    pub fn reporting(policy: Policy, name: &'static str, metrics: &QueueMetrics) -> Self {
        Self::with_instruments(policy, metrics.of(name))
    }

    fn with_instruments(policy: Policy, instruments: Instruments) -> Self {
        Self {
            shared: Arc::new(Shared {
                core: Mutex::new(Core::default()),
                wake: Notify::new(),
                policy,
                instruments,
            }),
        }
    }

    /// Adds a key, now. One that already waits is not added twice; one being worked on comes again
    /// once that work ends.
    pub fn add(&self, key: T) {
        self.change(|core, now| u64::from(core.add(key, now)));
    }

    /// Adds a key after a delay. Of several delays of one key the earliest counts, and a turn taken
    /// earlier does for all of them.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.change(|core, now| {
            core.add_at(key, now + delay);
            0
        });
    }

    /// Takes the next key, waiting for one. `None` after [`Queue::close`]. Safe to cancel.
    pub async fn next(&self) -> Option<Taken<T>> {
        loop {
            let notified = self.shared.wake.notified();
            let now = Instant::now();
            match self.poll(now) {
                Next::Take { key, since, more } => {
                    if more {
                        self.shared.wake.notify_one();
                    }
                    let waited = now.saturating_duration_since(since);
                    self.shared.instruments.waited.observe(waited.as_secs_f64());
                    return Some(Taken {
                        key: Some(key),
                        since: now,
                        queue: self.clone(),
                    });
                }
                Next::At(at) => {
                    tokio::select! {
                        () = notified => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                Next::Wait => notified.await,
                Next::Closed => {
                    self.shared.wake.notify_one();
                    return None;
                }
            }
        }
    }

    fn poll(&self, now: Instant) -> Next<T> {
        let mut core = self.lock();
        let ripe = core.ripen(now);
        let next = core.next(self.shared.policy.budget, now);
        self.report(&core, ripe);
        next
    }

    /// Lets every worker end; what still waits is dropped.
    pub fn close(&self) {
        self.change(|core, _| {
            core.close();
            0
        });
    }

    /// Keys that wait, delayed ones included, those being worked on excluded.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether no key waits and none is being worked on.
    pub fn is_idle(&self) -> bool {
        self.lock().is_idle()
    }

    /// Changes the state, reports, wakes a worker. `change` yields how many keys it made ready.
    fn change(&self, change: impl FnOnce(&mut Core<T>, Instant) -> u64) {
        let mut core = self.lock();
        let added = change(&mut core, Instant::now());
        self.report(&core, added);
        drop(core);
        self.shared.wake.notify_one();
    }

    fn report(&self, core: &Core<T>, added: u64) {
        let instruments = &self.shared.instruments;
        instruments.adds.inc_by(added);
        instruments
            .depth
            .set(i64::try_from(core.ready()).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Core<T>> {
        // Every operation of the core is total: a panic elsewhere cannot leave it half-written.
        self.shared.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key being worked on. Dropped without an outcome (the work was cancelled or panicked), the key
/// goes back into the queue: none is ever lost.
#[derive(Debug)]
pub struct Taken<T: Ord + Clone> {
    /// Absent once the outcome is known.
    key: Option<T>,
    since: Instant,
    queue: Queue<T>,
}

impl<T: Ord + Clone> Taken<T> {
    /// The key.
    pub fn key(&self) -> &T {
        #[expect(
            clippy::expect_used,
            reason = "only the methods that consume self take the key out"
        )]
        self.key.as_ref().expect("a key until the outcome is known")
    }

    /// How often work on this key failed in a row.
    pub fn failures(&self) -> u32 {
        self.queue.lock().failures(self.key())
    }

    /// The work got somewhere, however it ends: earlier failures are forgotten.
    pub fn progressed(&self) {
        self.queue.lock().forgive(self.key());
    }

    /// The work is done: earlier failures are forgotten.
    pub fn done(mut self) {
        self.settle(|core, key, now| core.done(&key, now));
    }

    /// The work is done for now, and due again after a delay.
    pub fn done_until(mut self, delay: Duration) {
        self.settle(|core, key, now| {
            core.done(&key, now);
            core.add_at(key, now + delay);
        });
    }

    /// The work failed: the key comes back after its back-off. Yields how often it failed in a row.
    pub fn retry(mut self, again: Again) -> u32 {
        let policy = self.queue.shared.policy;
        self.queue.shared.instruments.retries.inc();
        let mut failures = 0;
        self.settle(|core, key, now| {
            failures = core.failed(&key);
            let at = match again {
                Again::Behind => now + policy.behind.delay(failures),
                Again::Refused => now + policy.failed.delay(failures),
                Again::Failed(least) => {
                    let until = now + policy.failed.delay(failures).max(least);
                    core.hold(&key, until);
                    until
                }
            };
            core.release(&key, now);
            core.add_at(key, at);
        });
        failures
    }

    fn settle(&mut self, settle: impl FnOnce(&mut Core<T>, T, Instant)) {
        let Some(key) = self.key.take() else { return };
        let worked = self.since.elapsed();
        self.queue.shared.instruments.worked.observe(worked.as_secs_f64());
        self.queue.change(|core, now| {
            let before = core.ready();
            settle(core, key, now);
            u64::try_from(core.ready().saturating_sub(before)).unwrap_or_default()
        });
    }
}

impl<T: Ord + Clone> Drop for Taken<T> {
    fn drop(&mut self) {
        self.settle(|core, key, now| {
            core.release(&key, now);
            core.add(key, now);
        });
    }
}

#[cfg(test)]
mod tests;
