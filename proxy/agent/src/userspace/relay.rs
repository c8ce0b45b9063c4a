// SPDX-License-Identifier: Apache-2.0
//! What the sockets of one relay share: the balancer, and how to reach an endpoint.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_proxy_core::userspace::{Balancer, Limits, RelayIntent};
use tokio::sync::Semaphore;

/// Why something was not relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// TCP: no endpoint took the connection. The client is reset.
    Unreachable,
    /// TCP: no connection could be accepted, or made, for want of something of our own, such as descriptors.
    Exhausted,
    /// UDP: a datagram was dropped because a socket had no room for it, or the endpoint refused it.
    NotSent,
    /// UDP: the client that was silent for longest lost its socket because there are too many.
    Evicted,
    /// A relay could not listen.
    NotOpened,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 5] = [
        Self::Unreachable,
        Self::Exhausted,
        Self::NotSent,
        Self::Evicted,
        Self::NotOpened,
    ];

    /// Stable name for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "Unreachable",
            Self::Exhausted => "Exhausted",
            Self::NotSent => "NotSent",
            Self::Evicted => "Evicted",
            Self::NotOpened => "NotOpened",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What all relays of the process have in common.
#[derive(Debug)]
pub(super) struct Common {
    /// The bit of the packet mark that exempts our own connections from steering.
    pub(super) mark: u32,
    pub(super) started: Instant,
    /// One for each TCP connection that may be relayed at the same time.
    pub(super) connections: Arc<Semaphore>,
    refusals: BTreeMap<Refusal, AtomicU64>,
}

impl Common {
    pub(super) fn new(mark: u32, connections: usize) -> Self {
        Self {
            mark,
            started: Instant::now(),
            connections: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            refusals: Refusal::ALL.map(|refusal| (refusal, AtomicU64::new(0))).into(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn count(&self, refusal: Refusal) {
        if let Some(counter) = self.refusals.get(&refusal) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> {
        let read = |(refusal, counter): (&Refusal, &AtomicU64)| (*refusal, counter.load(Ordering::Relaxed));
        self.refusals.iter().map(read)
    }
}

/// One relay's balancer.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) common: Arc<Common>,
    balancer: Mutex<Balancer>,
}

impl Pool {
    pub(super) fn new(common: Arc<Common>) -> Self {
        Self {
            common,
            balancer: Mutex::new(Balancer::new(Limits::default())),
        }
    }

    /// The balancer, with the time.
    pub(super) fn balancer(&self) -> (MutexGuard<'_, Balancer>, Duration) {
        // Nothing panics while it holds the lock; if something did, the balancer would be as good as before.
        let balancer = self.balancer.lock().unwrap_or_else(PoisonError::into_inner);
        (balancer, self.common.now())
    }

    pub(super) fn update(&self, wish: &RelayIntent) {
        let (mut balancer, now) = self.balancer();
        balancer.update(wish, now);
    }

    /// The endpoint for a new connection.
    pub(super) fn pick(&self, client: IpAddr) -> Option<berth_proxy_core::Target> {
        let (mut balancer, now) = self.balancer();
        balancer.pick(client, now)
    }

    /// Lets an endpoint rest.
    pub(super) fn refused(&self, target: berth_proxy_core::Target) {
        let (mut balancer, now) = self.balancer();
        balancer.refused(target, now);
    }
}
