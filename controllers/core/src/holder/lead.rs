// SPDX-License-Identifier: Apache-2.0
//! The replica that holds: it grants, has followers acknowledge, and keeps the Lease true to who does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{
    ACK_PATIENCE, Action, AskId, Book, HEARTBEAT, Message, Outcome, OutcomeOf, RENEW_DEADLINE, RENEW_PERIOD,
    Record, Replica, ReplicaId, Role, WriteFault,
};

/// It is in the Lease.
#[derive(Debug)]
pub(super) struct Holding<B: Book> {
    /// The Lease as it was last known.
    record: Record,
    /// When the last write of it began that is known to have succeeded.
    renewed: Duration,
    /// A write without an answer so far: what, and since when.
    writing: Option<(BTreeSet<ReplicaId>, Duration)>,
    /// Whether the book knows everything.
    ready: bool,
    /// When everything is to be listed anew, if it is.
    list_at: Option<Duration>,
    /// Who is connected, and the number of the last hold that each has acknowledged.
    followers: BTreeMap<ReplicaId, Option<u64>>,
    /// The number of the last hold.
    sequence: u64,
    /// The number of the last hold that somebody was told of.
    answered: u64,
    /// Granted, and not acknowledged by all.
    pending: Vec<Pending<B>>,
    /// Asked for before anything may be granted.
    queue: Vec<(AskId, B::Wish, Option<ReplicaId>)>,
    /// When followers hear of it next.
    heartbeat: Duration,
}

#[derive(Debug)]
struct Pending<B: Book> {
    sequence: u64,
    ask: AskId,
    grant: B::Grant,
    /// The follower that asked; this replica itself where absent.
    asker: Option<ReplicaId>,
    since: Duration,
    /// Whose acknowledgement is missing.
    missing: BTreeSet<ReplicaId>,
}

impl<B: Book> Holding<B> {
    pub(super) fn new(record: Record, renewed: Duration, list_at: Option<Duration>, now: Duration) -> Self {
        Self {
            record,
            renewed,
            writing: None,
            ready: false,
            list_at,
            followers: BTreeMap::new(),
            sequence: 0,
            answered: 0,
            pending: Vec::new(),
            queue: Vec::new(),
            heartbeat: now,
        }
    }

    /// Whoever the Lease names as in sync, or may name by now.
    fn in_sync(&self) -> impl Iterator<Item = &ReplicaId> {
        let written = self.writing.iter().flat_map(|(in_sync, _)| in_sync);
        self.record.in_sync.iter().chain(written)
    }

    pub(super) fn grants_at(&self, now: Duration) -> bool {
        self.ready && now < self.renewed + RENEW_DEADLINE
    }

    /// Whoever the Lease should name besides the holder: followers that have every hold that anybody was told of, and those
    /// that have had them and are not late.
    fn deserving(&self, now: Duration) -> impl Iterator<Item = &ReplicaId> {
        let late = move |id: &ReplicaId| {
            let mut missing = self.pending.iter().filter(|pending| pending.missing.contains(id));
            missing.any(|pending| now >= pending.since + ACK_PATIENCE)
        };
        let deserves = move |id: &ReplicaId, acknowledged: Option<u64>| {
            // Who does not know everything itself can bring nobody in sync.
            self.ready
                && !late(id)
                && (acknowledged >= Some(self.answered) || self.record.in_sync.contains(id))
        };
        let followers = self.followers.iter();
        followers
            .filter(move |(id, acknowledged)| deserves(id, **acknowledged))
            .map(|(id, _)| id)
    }
}

impl<B: Book> Replica<B> {
    /// The book knows everything: grants begin.
    pub(super) fn begin(&mut self, now: Duration) {
        self.book.adopt(&self.holds);
        if let Role::Holding(holding) = &mut self.role {
            holding.ready = true;
        }
        let asked = self.asked.iter();
        let own: Vec<_> = asked
            .map(|(ask, asked)| (ask.clone(), asked.wish.clone()))
            .collect();
        for (ask, wish) in own {
            self.wanted(ask, wish, None, now);
        }
        self.work_off(now);
    }

    pub(super) fn begin_if_waiting(&mut self, now: Duration) {
        if let Role::Holding(holding) = &self.role
            && !holding.ready
        {
            self.begin(now);
        }
    }

    /// Somebody wants something, now or as soon as it may be granted.
    pub(super) fn wanted(&mut self, ask: AskId, wish: B::Wish, asker: Option<ReplicaId>, now: Duration) {
        if let Role::Holding(holding) = &mut self.role {
            holding.queue.push((ask, wish, asker));
            self.work_off(now);
        }
    }

    fn work_off(&mut self, now: Duration) {
        let Role::Holding(holding) = &mut self.role else {
            return;
        };
        if !holding.grants_at(now) {
            return;
        }
        for (ask, wish, asker) in std::mem::take(&mut holding.queue) {
            self.grant(ask, &wish, asker, now);
        }
        self.release();
    }

    fn grant(&mut self, ask: AskId, wish: &B::Wish, asker: Option<ReplicaId>, now: Duration) {
        let Role::Holding(holding) = &mut self.role else {
            return;
        };
        if let Some(pending) = holding.pending.iter_mut().find(|pending| pending.ask == ask) {
            pending.asker = asker;
            return;
        }
        // Asked again, because the answer was lost with a connection or with the last holder.
        if let Some(hold) = self.holds.get(&ask).filter(|hold| hold.stands) {
            let outcome = Outcome::Granted(hold.grant.clone());
            return self.tell(ask, outcome, asker);
        }
        let grant = match self.book.grant(&ask, wish, now) {
            Ok(grant) => grant,
            Err(refusal) => return self.tell(ask, Outcome::Refused(refusal), asker),
        };
        holding.sequence += 1;
        for to in holding.followers.keys() {
            self.actions.push(Action::Send {
                to: to.clone(),
                message: Message::Hold {
                    sequence: holding.sequence,
                    ask: ask.clone(),
                    grant: grant.clone(),
                },
            });
        }
        let missing = holding.in_sync().filter(|id| **id != self.id).cloned();
        let pending = Pending {
            sequence: holding.sequence,
            ask: ask.clone(),
            grant: grant.clone(),
            asker,
            since: now,
            missing: missing.collect(),
        };
        holding.pending.push(pending);
        self.keep(ask, grant, now);
    }

    fn tell(&mut self, ask: AskId, outcome: OutcomeOf<B>, asker: Option<ReplicaId>) {
        match asker {
            None => self.answer(ask, outcome),
            Some(to) => self.actions.push(Action::Send {
                to,
                message: Message::Answer { ask, outcome },
            }),
        }
    }

    /// Answers what everybody has acknowledged who must.
    fn release(&mut self) {
        let Role::Holding(holding) = &mut self.role else {
            return;
        };
        let (done, pending) = std::mem::take(&mut holding.pending)
            .into_iter()
            .partition(|pending| pending.missing.is_empty());
        holding.pending = pending;
        let done: Vec<Pending<B>> = done;
        let last = done.iter().map(|pending| pending.sequence).max();
        holding.answered = holding.answered.max(last.unwrap_or_default());
        for Pending {
            ask, grant, asker, ..
        } in done
        {
            self.tell(ask, Outcome::Granted(grant), asker);
        }
    }

    pub(super) fn join(&mut self, from: &ReplicaId, term: u64, now: Duration) {
        let to = from.clone();
        let message = match &mut self.role {
            Role::Holding(holding) if holding.record.term == term => {
                holding.followers.insert(from.clone(), None);
                Message::Welcome {
                    sequence: holding.sequence,
                    holds: self
                        .holds
                        .iter()
                        .filter(|(_, hold)| hold.stands && hold.until > now)
                        .map(|(ask, hold)| (ask.clone(), hold.grant.clone()))
                        .collect(),
                }
            }
            Role::Holding(_) | Role::Looking(_) | Role::Following(_) | Role::Claiming(_) | Role::Left => {
                Message::NotHolder
            }
        };
        self.actions.push(Action::Send { to, message });
    }

    pub(super) fn ask_of(&mut self, from: &ReplicaId, ask: AskId, wish: B::Wish, now: Duration) {
        if self.is_holder() {
            return self.wanted(ask, wish, Some(from.clone()), now);
        }
        self.actions.push(Action::Send {
            to: from.clone(),
            message: Message::NotHolder,
        });
    }

    pub(super) fn acknowledged(&mut self, from: &ReplicaId, sequence: u64, now: Duration) {
        let Role::Holding(holding) = &mut self.role else {
            return;
        };
        let Some(acknowledged) = holding.followers.get_mut(from) else {
            return;
        };
        *acknowledged = (*acknowledged).max(Some(sequence));
        for pending in &mut holding.pending {
            if pending.sequence <= sequence {
                pending.missing.remove(from);
            }
        }
        self.release();
        self.hold_on(now);
    }

    /// A follower's connection is over.
    pub(super) fn left(&mut self, peer: &ReplicaId, now: Duration) {
        if let Role::Holding(holding) = &mut self.role {
            holding.followers.remove(peer);
            self.hold_on(now);
        }
    }

    /// Renews the Lease and lets followers know, where it is time; has the Lease name who is in sync.
    pub(super) fn hold_on(&mut self, now: Duration) {
        let Role::Holding(holding) = &mut self.role else {
            return;
        };
        if now >= holding.heartbeat {
            holding.heartbeat = now + HEARTBEAT;
            for to in holding.followers.keys() {
                self.actions.push(Action::Send {
                    to: to.clone(),
                    message: Message::Heartbeat,
                });
            }
        }
        if holding.list_at.is_some_and(|at| now >= at) {
            holding.list_at = None;
            self.refresh();
        }
        let Role::Holding(holding) = &mut self.role else {
            return;
        };
        if let Some((_, begun)) = holding.writing {
            if now >= begun + RENEW_DEADLINE {
                self.step_down(now);
            }
            return;
        }
        let own = std::iter::once(&self.id);
        let in_sync: BTreeSet<ReplicaId> = holding.deserving(now).chain(own).cloned().collect();
        if in_sync == holding.record.in_sync && now < holding.renewed + RENEW_PERIOD {
            return;
        }
        let record = Record {
            in_sync: in_sync.clone(),
            ..holding.record.clone()
        };
        // Whoever is named may take over as soon as the write arrives: what is under way waits for it, too.
        for id in in_sync.difference(&holding.record.in_sync) {
            let acknowledged = holding.followers.get(id).copied().flatten();
            for pending in &mut holding.pending {
                if Some(pending.sequence) > acknowledged {
                    pending.missing.insert(id.clone());
                }
            }
        }
        holding.writing = Some((in_sync, now));
        self.actions.push(Action::Write(record));
    }

    /// The answer to a write of the Lease.
    pub(super) fn renewed(&mut self, written: Result<Record, WriteFault>, now: Duration) {
        match written {
            Ok(record) => self.stands(record, now),
            Err(WriteFault::Conflict) => self.step_down(now),
            Err(WriteFault::Unknown) => self.actions.push(Action::Read),
        }
    }

    /// What became of a write without an answer.
    pub(super) fn read_again(&mut self, record: Option<Record>, now: Duration) {
        let Role::Holding(holding) = &mut self.role else {
            return;
        };
        match record {
            // It has not arrived, and may still: the same again, so that one of the two fails if both do.
            Some(record) if record.version == holding.record.version => {
                if let Some((in_sync, _)) = &holding.writing {
                    let in_sync = in_sync.clone();
                    self.actions.push(Action::Write(Record { in_sync, ..record }));
                }
            }
            Some(record)
                if record.holder.as_ref() == Some(&self.id) && record.term == holding.record.term =>
            {
                self.stands(record, now);
            }
            Some(_) => self.step_down(now),
            None => self.actions.push(Action::Read),
        }
    }

    fn stands(&mut self, record: Record, now: Duration) {
        let Role::Holding(holding) = &mut self.role else {
            return;
        };
        // Nobody can have seen this version before the write of it began.
        if let Some((_, begun)) = holding.writing.take() {
            holding.renewed = begun;
        }
        self.seen = Some((record.clone(), now));
        let dropped: Vec<ReplicaId> = holding
            .record
            .in_sync
            .difference(&record.in_sync)
            .cloned()
            .collect();
        holding.record = record;
        for id in dropped {
            // It missed holds, and joins anew.
            if holding.followers.remove(&id).is_some() {
                self.actions.push(Action::Disconnect { peer: id });
            }
        }
        let needed: BTreeSet<ReplicaId> = holding.in_sync().cloned().collect();
        for pending in &mut holding.pending {
            pending.missing.retain(|id| needed.contains(id));
        }
        self.release();
        self.work_off(now);
        self.hold_on(now);
    }

    /// Another holds, or may hold.
    fn step_down(&mut self, now: Duration) {
        self.part();
        self.lost(now);
    }

    fn part(&mut self) {
        let Role::Holding(holding) = &self.role else {
            return;
        };
        for id in holding.followers.keys() {
            self.actions.push(Action::Send {
                to: id.clone(),
                message: Message::NotHolder,
            });
            self.actions.push(Action::Disconnect { peer: id.clone() });
        }
    }

    /// Gives the Lease back: whoever is in sync may take over at once.
    pub(super) fn leave(&mut self) {
        if let Role::Holding(holding) = &self.role {
            let record = Record {
                holder: None,
                ..holding.record.clone()
            };
            // Behind a write that is under way it would fail; then the connections that close tell the same.
            if holding.writing.is_none() {
                self.actions.push(Action::Write(record));
            }
            self.part();
        }
        self.role = Role::Left;
    }
}
