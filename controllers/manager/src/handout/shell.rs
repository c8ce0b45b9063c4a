// SPDX-License-Identifier: Apache-2.0
//! The one task that owns the replica: it tells it what happens, and does what it wants done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use berth_controllers_core::holder::{
    Action, ActionOf, AskId, Event, MessageOf, Outcome, OutcomeOf, Record, Replica, ReplicaId, WriteFault,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::peers::{Call, Link, News, Peers, Secure};
use super::wire::{Hello, VERSION};
use super::{Change, Handout, LeaseStore, Order, Refresh, TravellingBook};

/// Twice as often as the core asks for.
const TICK: Duration = Duration::from_millis(50);
/// Orders and news that wait for the task.
const WAITING: usize = 4_096;
/// How long giving the Lease back may take when the process ends.
const LEAVING: Duration = Duration::from_secs(2);

/// Where this replica is found and what it speaks to.
pub struct Sites<S> {
    /// Its listener.
    pub listener: TcpListener,
    /// Where others reach that: `HOST:PORT`.
    pub address: String,
    /// How connections are made safe.
    pub secure: S,
    /// The Lease.
    pub lease: LeaseStore,
}

/// What comes back from requests that were made for the replica.
enum Done<B: TravellingBook> {
    Read(Option<Option<Record>>),
    Written(Result<Record, WriteFault>),
    Refreshed(u64, Change<B>),
}

/// A replica at work.
pub struct Shell<B: TravellingBook, S> {
    id: ReplicaId,
    replica: Replica<B>,
    started: Instant,
    lease: LeaseStore,
    refresh: Refresh<B>,
    peers: Peers<S, MessageOf<B>>,
    links: BTreeMap<ReplicaId, Link<MessageOf<B>>>,
    /// Those that are under way, with their numbers.
    calls: BTreeMap<ReplicaId, (u64, Call)>,
    /// The number of the last call: even, since those of accepted connections are odd.
    dialled: u64,
    asked: u64,
    waiting: BTreeMap<AskId, oneshot::Sender<OutcomeOf<B>>>,
    requests: JoinSet<Done<B>>,
    events: VecDeque<Event<B>>,
    orders: mpsc::Receiver<Order<B>>,
    news: mpsc::Receiver<News<MessageOf<B>>>,
    /// Accepts connections as long as the shell is there.
    _accepting: AbortOnDropHandle<()>,
}

impl<B, S> Shell<B, S>
where
    B: TravellingBook,
    S: Secure,
{
    /// A replica of this name, of which there must be no other in the world, and the way to it. Nothing is asked of the
    /// API server before [`Shell::run`].
    pub fn new(name: &str, book: B, refresh: Refresh<B>, sites: Sites<S>) -> (Self, Handout<B>) {
        let id = ReplicaId(Arc::from(name));
        let (orders, ordered) = mpsc::channel(WAITING);
        let (news, heard) = mpsc::channel(WAITING);
        let own = Hello {
            version: VERSION,
            lease: sites.lease.title(),
            id: id.clone(),
        };
        let peers = Peers {
            own,
            secure: Arc::new(sites.secure),
            news,
        };
        let accepting = tokio::spawn(peers.clone().accept(sites.listener));
        let shell = Self {
            replica: Replica::new(id.clone(), sites.address, book, Duration::ZERO),
            id: id.clone(),
            started: Instant::now(),
            lease: sites.lease,
            refresh,
            peers,
            links: BTreeMap::new(),
            calls: BTreeMap::new(),
            dialled: 0,
            asked: 0,
            waiting: BTreeMap::new(),
            requests: JoinSet::new(),
            events: VecDeque::new(),
            orders: ordered,
            news: heard,
            _accepting: AbortOnDropHandle::new(accepting),
        };
        (shell, Handout { id, orders })
    }

    /// Works until it is to stop, then gives the Lease back.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => self.handle(Event::Tick),
                Some(news) = self.news.recv() => self.hear(news),
                Some(order) = self.orders.recv() => self.obey(order),
                Some(done) = self.requests.join_next() => self.finish(done),
            }
        }
        self.leave().await;
    }

    async fn leave(mut self) {
        // Reads and lists are of no use any more; a write that is under way is to arrive before the last one.
        self.handle(Event::Leave);
        let written = async { while self.requests.join_next().await.is_some() {} };
        if tokio::time::timeout(LEAVING, written).await.is_err() {
            tracing::info!("the Lease was not given back in time; others take over all the same");
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn obey(&mut self, order: Order<B>) {
        match order {
            Order::Ask { wish, until, answer } => {
                let ask = AskId {
                    replica: self.id.clone(),
                    number: self.asked,
                };
                self.asked += 1;
                self.waiting.insert(ask.clone(), answer);
                let until = until.saturating_duration_since(self.started);
                self.handle(Event::Asked { ask, wish, until });
            }
            Order::Change(change) => {
                let now = self.now();
                change(&mut self.replica, now);
            }
        }
    }

    fn finish(&mut self, done: Result<Done<B>, tokio::task::JoinError>) {
        match done {
            Ok(Done::Read(read)) => self.handle(Event::Read(read)),
            Ok(Done::Written(written)) => self.handle(Event::Written(written)),
            Ok(Done::Refreshed(number, change)) => {
                let now = self.now();
                change(&mut self.replica, now);
                self.handle(Event::Refreshed(number));
            }
            // Nobody aborts one of them: it panicked, and so does whoever waits for it.
            Err(error) => {
                if error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        }
    }

    fn hear(&mut self, news: News<MessageOf<B>>) {
        match news {
            News::Accepted { peer, link } => {
                // A peer that calls again has lost the connection that it had.
                if self.links.insert(peer.clone(), link).is_some() {
                    self.handle(Event::Closed { peer, refused: false });
                }
            }
            News::Dialled { peer, link } => {
                if let Some(call) = self.call_of(&peer, link.number) {
                    call.detach();
                    self.links.insert(peer, link);
                    self.handle(Event::Connected);
                }
            }
            News::NotReached {
                peer,
                number,
                refused,
            } => {
                if self.call_of(&peer, number).is_some() {
                    self.handle(Event::Closed { peer, refused });
                }
            }
            News::Received {
                peer,
                number,
                message,
            } => {
                if self.is_link(&peer, number) {
                    let from = peer;
                    self.handle(Event::Received { from, message });
                }
            }
            News::Closed { peer, number } => {
                if self.is_link(&peer, number) {
                    self.links.remove(&peer);
                    self.handle(Event::Closed { peer, refused: false });
                }
            }
        }
    }

    /// Takes out the call of this number, if it is the last that was made to the peer.
    fn call_of(&mut self, peer: &ReplicaId, number: u64) -> Option<Call> {
        if self.calls.get(peer).is_some_and(|(last, _)| *last == number) {
            self.calls.remove(peer).map(|(_, call)| call)
        } else {
            None
        }
    }

    fn is_link(&self, peer: &ReplicaId, number: u64) -> bool {
        self.links.get(peer).is_some_and(|link| link.number == number)
    }

    /// Tells the replica, and does what it wants; what comes of that at once is told next.
    fn handle(&mut self, event: Event<B>) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            let held = self.replica.is_holder();
            let now = self.now();
            for action in self.replica.handle(event, now) {
                self.act(action);
            }
            if self.replica.is_holder() != held {
                tracing::info!(replica = %self.id, hands_out = !held, "who hands out values has changed");
            }
        }
    }

    fn act(&mut self, action: ActionOf<B>) {
        match action {
            Action::Read => {
                let lease = self.lease.clone();
                self.requests.spawn(async move { Done::Read(lease.read().await) });
            }
            Action::Write(record) => {
                let lease = self.lease.clone();
                self.requests
                    .spawn(async move { Done::Written(lease.write(record).await) });
            }
            Action::Refresh(number) => {
                let refreshed = (self.refresh)();
                self.requests
                    .spawn(async move { Done::Refreshed(number, refreshed.await) });
            }
            Action::Connect { peer, address } => {
                self.dialled += 2;
                let call = self.peers.clone().dial(peer.clone(), address, self.dialled);
                let call = AbortOnDropHandle::new(tokio::spawn(call));
                self.calls.insert(peer, (self.dialled, call));
            }
            Action::Disconnect { peer } => {
                self.calls.remove(&peer);
                self.links.remove(&peer);
            }
            Action::Send { to, message } => {
                let sent = self.links.get(&to).is_none_or(|link| link.send(message));
                if !sent {
                    tracing::warn!(replica = %to, "does not read what it is sent, or is gone: cut off");
                    self.links.remove(&to);
                    self.events.push_back(Event::Closed {
                        peer: to,
                        refused: false,
                    });
                }
            }
            Action::Answer { ask, outcome } => {
                if let Some(answer) = self.waiting.remove(&ask) {
                    // Whoever asked may have given up.
                    let _gone = answer.send(outcome);
                }
            }
        }
    }
}

impl<B: TravellingBook, S> Drop for Shell<B, S> {
    fn drop(&mut self) {
        for (_, answer) in std::mem::take(&mut self.waiting) {
            let _gone = answer.send(Outcome::Unavailable);
        }
    }
}
