// SPDX-License-Identifier: Apache-2.0
//! A replica that does not hold: it looks for who does, follows, and takes over.

use std::time::Duration;

use super::lead::Holding;
use super::{
    Action, AskId, Book, COLD_PATIENCE, COLD_PAUSE, HOLD, Hold, LEASE_DURATION, LOOK, Message,
    RENEW_DEADLINE, Record, Replica, ReplicaId, Role, SILENCE, WriteFault,
};

/// It does not know who holds.
#[derive(Debug)]
pub(super) struct Looking {
    /// When the Lease is read next.
    next: Duration,
    reading: bool,
    /// A holder that cannot be reached.
    gone: Option<Gone>,
}

impl Looking {
    pub(super) fn from(now: Duration) -> Self {
        Self {
            next: now,
            reading: false,
            gone: None,
        }
    }
}

/// A holder that cannot be reached.
#[derive(Clone, Debug)]
struct Gone {
    holder: ReplicaId,
    since: Duration,
    /// Nobody listens where it was: its process is over.
    refused: bool,
}

/// It knows who holds.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) holder: ReplicaId,
    address: String,
    term: u64,
    stand: Stand,
    /// When the holder was last heard of, or asked for a connection.
    heard: Duration,
    /// Since when it could not be reached, where this is not the first attempt.
    gone: Option<Gone>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Connecting,
    Joining,
    /// It is answered, and lists what is in use before it acknowledges: the last hold that it was told of.
    Listing(u64),
    /// It acknowledges.
    Welcome,
}

impl Following {
    /// Whether the holder answers it.
    pub(super) fn is_welcome(&self) -> bool {
        matches!(self.stand, Stand::Listing(_) | Stand::Welcome)
    }
}

/// It has written itself into the Lease, and waits for the answer.
#[derive(Debug)]
pub(super) struct Claiming {
    /// How long to wait before everything is listed anew; not at all where it was in sync.
    pause: Option<Duration>,
    begun: Duration,
}

impl<B: Book> Replica<B> {
    /// Whether what is asked here now is answered without waiting for somebody to take the Lease.
    pub fn answers(&self, now: Duration) -> bool {
        match &self.role {
            Role::Holding(holding) => holding.grants_at(now),
            Role::Following(following) => following.is_welcome(),
            Role::Looking(_) | Role::Claiming(_) | Role::Left => false,
        }
    }

    /// Reads the Lease, if it is time.
    pub(super) fn look(&mut self, now: Duration) {
        if let Role::Looking(looking) = &mut self.role
            && !looking.reading
            && now >= looking.next
        {
            looking.reading = true;
            self.actions.push(Action::Read);
        }
    }

    /// The Lease, or that it could not be read.
    pub(super) fn read(&mut self, read: Option<Option<Record>>, now: Duration) {
        let record = read.map(|record| record.unwrap_or_else(Record::absent));
        if let Some(record) = &record {
            let known = self.seen.as_ref();
            if known.is_none_or(|(known, _)| known.version != record.version) {
                self.seen = Some((record.clone(), now));
            }
        }
        match &mut self.role {
            Role::Looking(looking) => {
                looking.reading = false;
                looking.next = now + LOOK;
                let gone = looking.gone.clone();
                if let Some(record) = record {
                    self.decide(record, gone, now);
                }
            }
            Role::Holding(_) => self.read_again(record, now),
            Role::Following(_) | Role::Claiming(_) | Role::Left => {}
        }
    }

    fn decide(&mut self, record: Record, gone: Option<Gone>, now: Duration) {
        let warm = record.in_sync.contains(&self.id);
        let Some(holder) = record.holder.clone() else {
            // Given back, or never had.
            return self.claim(&record, warm, now);
        };
        if holder == self.id {
            // A claim whose answer was lost, or a term that could not be renewed: others may count the Lease as expired at any
            // moment, so it is taken anew, and what happened since is listed.
            return self.claim(&record, false, now);
        }
        let gone = gone.filter(|gone| gone.holder == holder);
        let same = self.seen.as_ref().map_or(now, |(_, since)| *since);
        let expired = now >= same + LEASE_DURATION;
        let alone = record.in_sync.iter().all(|id| *id == holder);
        let free = gone.as_ref().is_some_and(|gone| {
            warm || (gone.refused && (alone || now >= gone.since + COLD_PATIENCE)) || expired
        });
        if free {
            return self.claim(&record, warm, now);
        }
        if gone.is_some_and(|gone| gone.refused && now < gone.since + COLD_PATIENCE) {
            return;
        }
        self.follow(holder, &record, now);
    }

    fn claim(&mut self, record: &Record, warm: bool, now: Duration) {
        let pause = match (warm, record.version.is_empty()) {
            (true, _) => None,
            // Never written, or deleted under a holder, which grants until it finds that it cannot renew it.
            (false, true) => Some(RENEW_DEADLINE),
            (false, false) => Some(COLD_PAUSE),
        };
        self.role = Role::Claiming(Claiming { pause, begun: now });
        let record = record.claimed_by(&self.id, &self.address);
        self.actions.push(Action::Write(record));
    }

    fn follow(&mut self, holder: ReplicaId, record: &Record, now: Duration) {
        let gone = match &mut self.role {
            Role::Looking(looking) => looking.gone.take().filter(|gone| gone.holder == holder),
            Role::Following(_) | Role::Claiming(_) | Role::Holding(_) | Role::Left => None,
        };
        self.actions.push(Action::Connect {
            peer: holder.clone(),
            address: record.address.clone(),
        });
        self.role = Role::Following(Following {
            holder,
            address: record.address.clone(),
            term: record.term,
            stand: Stand::Connecting,
            heard: now,
            gone,
        });
    }

    pub(super) fn written(&mut self, written: Result<Record, WriteFault>, now: Duration) {
        match &self.role {
            Role::Claiming(Claiming { pause, begun }) => {
                let (pause, begun) = (*pause, *begun);
                match written {
                    Ok(record) => self.hold(record, pause, begun, now),
                    // Whoever has it now, the Lease says.
                    Err(WriteFault::Conflict | WriteFault::Unknown) => self.lost(now),
                }
            }
            Role::Holding(_) => self.renewed(written, now),
            Role::Looking(_) | Role::Following(_) | Role::Left => {}
        }
    }

    fn hold(&mut self, record: Record, pause: Option<Duration>, begun: Duration, now: Duration) {
        self.seen = Some((record.clone(), now));
        let list_at = pause.map(|pause| now + pause);
        self.role = Role::Holding(Holding::new(record, begun, list_at, now));
        match list_at {
            None => self.begin(now),
            Some(_) => {
                self.overtaken();
                self.hold_on(now);
            }
        }
    }

    /// Starts over, with the Lease.
    pub(super) fn lost(&mut self, now: Duration) {
        self.role = Role::Looking(Looking::from(now));
        self.look(now);
    }

    pub(super) fn connected(&mut self, now: Duration) {
        if let Role::Following(following) = &mut self.role
            && following.stand == Stand::Connecting
        {
            following.stand = Stand::Joining;
            following.heard = now;
            self.actions.push(Action::Send {
                to: following.holder.clone(),
                message: Message::Join { term: following.term },
            });
        }
    }

    pub(super) fn closed(&mut self, peer: &ReplicaId, refused: bool, now: Duration) {
        match &mut self.role {
            Role::Following(following) if following.holder == *peer => {
                if following.stand == Stand::Connecting {
                    self.unreachable(refused, now);
                } else {
                    // A connection may break and the holder live: one that refuses the next one does not.
                    following.stand = Stand::Connecting;
                    following.heard = now;
                    self.actions.push(Action::Connect {
                        peer: peer.clone(),
                        address: following.address.clone(),
                    });
                }
            }
            Role::Holding(_) => self.left(peer, now),
            Role::Following(_) | Role::Looking(_) | Role::Claiming(_) | Role::Left => {}
        }
    }

    pub(super) fn follow_on(&mut self, now: Duration) {
        if let Role::Following(following) = &self.role
            && now >= following.heard + SILENCE
        {
            let peer = following.holder.clone();
            self.actions.push(Action::Disconnect { peer });
            self.unreachable(false, now);
        }
    }

    fn unreachable(&mut self, refused: bool, now: Duration) {
        let Role::Following(following) = &self.role else {
            return;
        };
        let since = following.gone.as_ref().map_or(now, |gone| gone.since);
        let gone = Some(Gone {
            holder: following.holder.clone(),
            since,
            refused,
        });
        self.role = Role::Looking(Looking {
            gone,
            ..Looking::from(now)
        });
        self.look(now);
    }

    /// Whoever was taken for the holder says that it is not.
    pub(super) fn misled(&mut self, from: &ReplicaId, now: Duration) {
        if let Role::Following(following) = &self.role
            && following.holder == *from
        {
            self.actions.push(Action::Disconnect { peer: from.clone() });
            self.role = Role::Looking(Looking::from(now + LOOK));
        }
    }

    /// Notes a sign of life; whether it is the holder's.
    pub(super) fn hears(&mut self, from: &ReplicaId, now: Duration) -> bool {
        if let Role::Following(following) = &mut self.role
            && following.holder == *from
            && following.stand != Stand::Connecting
        {
            following.heard = now;
            following.gone = None;
            return true;
        }
        false
    }

    pub(super) fn welcome(
        &mut self,
        from: &ReplicaId,
        sequence: u64,
        holds: Vec<(AskId, B::Grant)>,
        now: Duration,
    ) {
        if !self.hears(from, now) {
            return;
        }
        self.overtaken();
        for (ask, grant) in holds {
            self.keep(ask, grant, now);
        }
        if let Role::Following(following) = &mut self.role {
            following.stand = Stand::Listing(sequence);
        }
        self.refresh();
        let to = from.clone();
        for (ask, asked) in &self.asked {
            self.actions.push(Action::Send {
                to: to.clone(),
                message: Message::Ask {
                    ask: ask.clone(),
                    wish: asked.wish.clone(),
                },
            });
        }
    }

    pub(super) fn note(
        &mut self,
        from: &ReplicaId,
        sequence: u64,
        ask: AskId,
        grant: B::Grant,
        now: Duration,
    ) {
        if !self.hears(from, now) {
            return;
        }
        self.keep(ask, grant, now);
        let Role::Following(following) = &mut self.role else {
            return;
        };
        if let Stand::Listing(last) = &mut following.stand {
            *last = sequence;
            return;
        }
        self.actions.push(Action::Send {
            to: from.clone(),
            message: Message::Ack { sequence },
        });
    }

    /// What is in use is known as of a time after the welcome: from here on nothing that was granted is unknown here.
    pub(super) fn caught_up(&mut self) {
        if let Role::Following(following) = &mut self.role
            && let Stand::Listing(sequence) = following.stand
        {
            following.stand = Stand::Welcome;
            self.actions.push(Action::Send {
                to: following.holder.clone(),
                message: Message::Ack { sequence },
            });
        }
    }

    pub(super) fn keep(&mut self, ask: AskId, grant: B::Grant, now: Duration) {
        let until = now + HOLD;
        let stands = true;
        let hold = Hold { grant, until, stands };
        self.book.note(&ask, &hold);
        self.holds.insert(ask, hold);
    }

    /// What is known from an earlier term keeps its values from others, and answers nobody any more.
    fn overtaken(&mut self) {
        for hold in self.holds.values_mut() {
            hold.stands = false;
        }
    }
}
