// SPDX-License-Identifier: Apache-2.0
//! A keyed work queue: each key waits at most once, is worked on by at most one worker, and comes back
//! after a delay when its work failed. First come, first served.

mod core;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use self::core::{Core, Next};
use crate::backoff::Backoff;

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
    backoff: Backoff,
}

impl<T: Ord + Clone> Queue<T> {
    /// An empty queue whose failed keys come back after delays of `backoff`.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            shared: Arc::new(Shared {
                core: Mutex::new(Core::default()),
                wake: Notify::new(),
                backoff,
            }),
        }
    }

    /// Adds a key, now. One that already waits is not added twice; one being worked on comes again
    /// once that work ends.
    pub fn add(&self, key: T) {
        self.lock().add(key);
        self.shared.wake.notify_one();
    }

    /// Adds a key after a delay. Of several delays of one key the earliest counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.lock().add_at(key, Instant::now() + delay);
        self.shared.wake.notify_one();
    }

    /// Takes the next key, waiting for one. `None` after [`Queue::close`]. Safe to cancel.
    pub async fn next(&self) -> Option<Taken<T>> {
        loop {
            let notified = self.shared.wake.notified();
            let next = self.lock().next(Instant::now());
            match next {
                Next::Take(key, more) => {
                    if more {
                        self.shared.wake.notify_one();
                    }
                    return Some(Taken {
                        key: Some(key),
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

    /// Lets every worker end; what still waits is dropped.
    pub fn close(&self) {
        self.lock().close();
        self.shared.wake.notify_one();
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

    /// The work is done: earlier failures are forgotten.
    pub fn done(mut self) {
        if let Some(key) = self.key.take() {
            self.queue.lock().done(&key);
            self.queue.shared.wake.notify_one();
        }
    }

    /// The work is done for now, and due again after a delay.
    pub fn done_until(mut self, delay: Duration) {
        if let Some(key) = self.key.take() {
            let mut core = self.queue.lock();
            core.done(&key);
            core.add_at(key, Instant::now() + delay);
            drop(core);
            self.queue.shared.wake.notify_one();
        }
    }

    /// The work failed: the key comes back after its back-off. Yields how often it failed in a row.
    pub fn retry(mut self) -> u32 {
        let Some(key) = self.key.take() else {
            return 0;
        };
        let mut core = self.queue.lock();
        let failures = core.failed(&key);
        core.add_at(key, Instant::now() + self.queue.shared.backoff.delay(failures));
        drop(core);
        self.queue.shared.wake.notify_one();
        failures
    }
}

impl<T: Ord + Clone> Drop for Taken<T> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let mut core = self.queue.lock();
            core.release(&key);
            core.add(key);
            drop(core);
            self.queue.shared.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
