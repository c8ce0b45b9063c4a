// SPDX-License-Identifier: Apache-2.0
//! Who hands out values among replicas that all serve admission, and how another goes on when it dies.
//!
//! In: what a replica is asked, hears from others, reads and writes of the Lease; the time. Out: actions. Touches: nothing.
//!
//! ```text
//!              Lease: holder, term, in sync {a, c}
//!                 |  compare-and-swap
//!   b: follows -> a: holds ---- Hold ----> c: follows
//!     Ask ------>  grants <---- Ack -----
//!     Answer <---  answers, when all that are in sync have acknowledged
//! ```
//!
//! One replica, the holder, grants for all: quotas, the last free value and the order of releases need one book. What it
//! grants is a hold, and whoever the Lease names as in sync has every hold before anybody is answered. So any of those
//! may take over at once, by compare-and-swap of the very version that names it, and cannot give a value twice: a holder
//! that lost a follower grants nothing more before the Lease names that follower no longer, and that write fails if the
//! follower has taken over. Followers keep a hold until their own watch shows its value in use, or its deadline is over.
//! Whoever joins is told what is held, not what the holder's watch has shown in use already: so it lists everything anew
//! before it acknowledges, and is in sync only then. How far caches lag behind is therefore of no account.
//!
//! Who is not in sync takes over only where nobody else can: where the holder is gone and the Lease names nobody besides, or
//! when the Lease has expired. It lists everything anew before its first grant.

mod follow;
mod lead;
mod record;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use record::{Record, WriteFault};

use follow::{Claiming, Following, Looking};
use lead::Holding;

/// How long a Lease stands that nobody renews (client-go's `LeaseDuration` of kube-controller-manager is 15 s; here a
/// create waits for it).
pub const LEASE_DURATION: Duration = Duration::from_secs(10);
/// How long after its last renewal a holder grants: less than the Lease stands, by what clocks and pauses may differ.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(6);
/// Between two renewals.
pub const RENEW_PERIOD: Duration = Duration::from_secs(2);
/// How long an acknowledgement may take before its follower counts as lost.
pub const ACK_PATIENCE: Duration = Duration::from_millis(250);
/// Between two signs of life of the holder.
pub const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long the holder may be silent before a follower takes it for dead.
pub const SILENCE: Duration = Duration::from_secs(2);
/// How long those that are in sync have to take over before anybody else tries.
pub const COLD_PATIENCE: Duration = Duration::from_secs(3);
/// How long whoever takes over without the holds of its predecessor waits before it lists what there is: what that answered
/// last is on its way through the API server, which takes milliseconds.
pub const COLD_PAUSE: Duration = Duration::from_secs(1);
/// How long a hold stands: longer than the API server works on one request (`--request-timeout`, 60 s).
pub const HOLD: Duration = Duration::from_secs(65);
/// Between two looks at the Lease while nothing is known.
const LOOK: Duration = Duration::from_millis(500);

/// One process: a restarted one is another replica.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub Arc<str>);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One question, however often it is asked: whom, and its number there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AskId {
    /// The replica that was asked by the API server.
    pub replica: ReplicaId,
    /// Counted from 0.
    pub number: u64,
}

/// What holders hand out of.
pub trait Book {
    /// What is asked for.
    type Wish: Clone + fmt::Debug;
    /// What is given.
    type Grant: Clone + fmt::Debug;
    /// Why nothing is given.
    type Refusal: Clone + fmt::Debug;

    /// Finds values that are neither in use nor held, and holds them.
    ///
    /// # Errors
    /// Why there are none.
    fn grant(&mut self, ask: &AskId, wish: &Self::Wish, now: Duration) -> Result<Self::Grant, Self::Refusal>;

    /// Another replica granted this: for a book that tells which holds a watch has settled while it follows.
    fn note(&mut self, ask: &AskId, hold: &Hold<Self::Grant>) {
        let _ = (ask, hold);
    }

    /// Takes over the holds of a predecessor, before the first grant. What is in use is read off the caches.
    fn adopt(&mut self, holds: &BTreeMap<AskId, Hold<Self::Grant>>);
}

/// Values that somebody was given and that no watch has shown yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold<G> {
    /// The values.
    pub grant: G,
    /// When they are free again unless they are in use by then, on this replica's clock.
    pub until: Duration,
    /// Whether whoever asks again is given them again. Not so where the holder of a later term did not know of them: they
    /// were never answered, or are in use already, and only this replica's watch has not shown it.
    pub stands: bool,
}

/// What comes of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome<G, R> {
    /// Held for whoever asked.
    Granted(G),
    /// The book says no.
    Refused(R),
    /// Nobody can say at the moment; asking again helps.
    Unavailable,
}

/// The outcome of a question to this book.
pub type OutcomeOf<B> = Outcome<<B as Book>::Grant, <B as Book>::Refusal>;

/// What replicas tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message<W, G, R> {
    /// To the holder of this term: I follow you.
    Join {
        /// The term.
        term: u64,
    },
    /// To a follower that joined: everything that is held, and the number of the last hold.
    Welcome {
        /// The number of the last hold.
        sequence: u64,
        /// All holds.
        holds: Vec<(AskId, G)>,
    },
    /// To a replica that takes another for the holder.
    NotHolder,
    /// To the holder.
    Ask {
        /// Its name.
        ask: AskId,
        /// What is wanted.
        wish: W,
    },
    /// To followers.
    Hold {
        /// One more than the last.
        sequence: u64,
        /// Who asked.
        ask: AskId,
        /// What was found.
        grant: G,
    },
    /// To the holder: this hold and all before it are noted.
    Ack {
        /// The number of the last.
        sequence: u64,
    },
    /// To whoever asked.
    Answer {
        /// What was asked.
        ask: AskId,
        /// What came of it.
        outcome: Outcome<G, R>,
    },
    /// To followers: I live.
    Heartbeat,
}

/// The messages of this book's replicas.
pub type MessageOf<B> = Message<<B as Book>::Wish, <B as Book>::Grant, <B as Book>::Refusal>;

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Event<B: Book> {
    /// Time has passed: to be told at least every 100 ms.
    Tick,
    /// The API server asks, and waits until then at the longest.
    Asked {
        /// Its name.
        ask: AskId,
        /// What is wanted.
        wish: B::Wish,
        /// When an answer is of no use any more.
        until: Duration,
    },
    /// The answer to [`Action::Read`]; `None` where there is no Lease yet, and nothing where it could not be read.
    Read(Option<Option<Record>>),
    /// The answer to [`Action::Write`].
    Written(Result<Record, WriteFault>),
    /// The answer to [`Action::Refresh`] of this number: the caches hold whatever was there when it was asked for.
    Refreshed(u64),
    /// The connection that [`Action::Connect`] asked for is there.
    Connected,
    /// A connection to, or from, a replica is over, or could not be had.
    Closed {
        /// Who was at the other end.
        peer: ReplicaId,
        /// Whether nobody listens there any more.
        refused: bool,
    },
    /// The process is about to end.
    Leave,
    /// A message.
    Received {
        /// From whom.
        from: ReplicaId,
        /// What it says.
        message: MessageOf<B>,
    },
}

/// What a replica wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<W, G, R> {
    /// Read the Lease.
    Read,
    /// Write the Lease, if it is still of the version that it was read in.
    Write(Record),
    /// List everything that the book is made of anew, settle the holds whose values turn out to be in use, and say so with
    /// this number. What a watch still has to say of the time before the list is of no account any more.
    Refresh(u64),
    /// Connect to a holder.
    Connect {
        /// Which.
        peer: ReplicaId,
        /// Where.
        address: String,
    },
    /// Let go of a connection, if there is one.
    Disconnect {
        /// To or from whom.
        peer: ReplicaId,
    },
    /// Send a message; where there is no connection it is lost.
    Send {
        /// To whom.
        to: ReplicaId,
        /// What.
        message: Message<W, G, R>,
    },
    /// Answer the API server.
    Answer {
        /// What was asked.
        ask: AskId,
        /// What came of it.
        outcome: Outcome<G, R>,
    },
}

/// The actions of this book's replicas.
pub type ActionOf<B> = Action<<B as Book>::Wish, <B as Book>::Grant, <B as Book>::Refusal>;

/// Where a replica stands.
#[derive(Debug)]
enum Role<B: Book> {
    Looking(Looking),
    Following(Following),
    Claiming(Claiming),
    Holding(Holding<B>),
    /// It has given the Lease back.
    Left,
}

/// A question of this replica's API server.
#[derive(Clone, Debug)]
struct Asked<W> {
    wish: W,
    until: Duration,
}

/// One replica.
#[derive(Debug)]
pub struct Replica<B: Book> {
    id: ReplicaId,
    address: String,
    book: B,
    role: Role<B>,
    /// What is asked here and not answered.
    asked: BTreeMap<AskId, Asked<B::Wish>>,
    /// Everything that is held, as far as this replica was told.
    holds: BTreeMap<AskId, Hold<B::Grant>>,
    /// The last Lease read, and since when it has been what it is.
    seen: Option<(Record, Duration)>,
    /// The number of the last list that was asked for.
    refreshes: u64,
    actions: Vec<ActionOf<B>>,
}

impl<B: Book> Replica<B> {
    /// A replica that others find at `address`.
    pub fn new(id: ReplicaId, address: String, book: B, now: Duration) -> Self {
        Self {
            id,
            address,
            book,
            role: Role::Looking(Looking::from(now)),
            asked: BTreeMap::new(),
            holds: BTreeMap::new(),
            seen: None,
            refreshes: 0,
            actions: Vec::new(),
        }
    }

    /// What it hands out of.
    pub fn book(&self) -> &B {
        &self.book
    }

    /// The same, to be told what watches show.
    pub fn book_mut(&mut self) -> &mut B {
        &mut self.book
    }

    /// Everything that is held, as far as this replica knows.
    pub fn holds(&self) -> &BTreeMap<AskId, Hold<B::Grant>> {
        &self.holds
    }

    /// Whether it grants.
    pub fn is_holder(&self) -> bool {
        match &self.role {
            Role::Holding(_) => true,
            Role::Looking(_) | Role::Following(_) | Role::Claiming(_) | Role::Left => false,
        }
    }

    /// The watch shows the values of a hold in use, or that they never will be.
    pub fn settle(&mut self, ask: &AskId) {
        self.holds.remove(ask);
    }

    /// Takes in what happened; yields what is to be done, in order.
    pub fn handle(&mut self, event: Event<B>, now: Duration) -> Vec<ActionOf<B>> {
        match event {
            Event::Tick => self.tick(now),
            Event::Asked { ask, wish, until } => self.asked(ask, wish, until, now),
            Event::Read(read) => self.read(read, now),
            Event::Written(written) => self.written(written, now),
            Event::Refreshed(number) if number == self.refreshes => self.refreshed(now),
            // Asked for in another role, or before the last welcome.
            Event::Refreshed(_) => {}
            Event::Connected => self.connected(now),
            Event::Closed { peer, refused } => self.closed(&peer, refused, now),
            Event::Leave => self.leave(),
            Event::Received { from, message } => self.received(&from, message, now),
        }
        std::mem::take(&mut self.actions)
    }

    fn asked(&mut self, ask: AskId, wish: B::Wish, until: Duration, now: Duration) {
        let known = Asked {
            wish: wish.clone(),
            until,
        };
        self.asked.insert(ask.clone(), known);
        match &self.role {
            Role::Holding(_) => self.wanted(ask, wish, None, now),
            Role::Following(following) if following.is_welcome() => {
                let to = following.holder.clone();
                let message = Message::Ask { ask, wish };
                self.actions.push(Action::Send { to, message });
            }
            // Asked as soon as there is somebody to ask.
            Role::Following(_) | Role::Looking(_) | Role::Claiming(_) | Role::Left => {}
        }
    }

    fn refresh(&mut self) {
        self.refreshes += 1;
        self.actions.push(Action::Refresh(self.refreshes));
    }

    fn refreshed(&mut self, now: Duration) {
        match &self.role {
            Role::Holding(_) => self.begin_if_waiting(now),
            Role::Following(_) => self.caught_up(),
            Role::Looking(_) | Role::Claiming(_) | Role::Left => {}
        }
    }

    fn answer(&mut self, ask: AskId, outcome: OutcomeOf<B>) {
        if self.asked.remove(&ask).is_some() {
            self.actions.push(Action::Answer { ask, outcome });
        }
    }

    fn tick(&mut self, now: Duration) {
        self.holds.retain(|_, hold| hold.until > now);
        let late: Vec<AskId> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.until <= now)
            .map(|(ask, _)| ask.clone())
            .collect();
        for ask in late {
            self.answer(ask, Outcome::Unavailable);
        }
        match &self.role {
            Role::Looking(_) => self.look(now),
            Role::Following(_) => self.follow_on(now),
            Role::Holding(_) => self.hold_on(now),
            Role::Claiming(_) | Role::Left => {}
        }
    }

    fn received(&mut self, from: &ReplicaId, message: MessageOf<B>, now: Duration) {
        match message {
            Message::Join { term } => self.join(from, term, now),
            Message::Ask { ask, wish } => self.ask_of(from, ask, wish, now),
            Message::Ack { sequence } => self.acknowledged(from, sequence, now),
            Message::Welcome { sequence, holds } => self.welcome(from, sequence, holds, now),
            Message::NotHolder => self.misled(from, now),
            Message::Hold { sequence, ask, grant } => self.note(from, sequence, ask, grant, now),
            Message::Answer { ask, outcome } => {
                if self.hears(from, now) {
                    self.answer(ask, outcome);
                }
            }
            Message::Heartbeat => {
                self.hears(from, now);
            }
        }
    }
}
