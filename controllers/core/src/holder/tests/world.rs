// SPDX-License-Identifier: Apache-2.0
//! A cluster in a loop: an agenda of what happens when, and what each part knows.

mod book;
mod network;
mod store;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::holder::{Action, AskId, Event, Message, Outcome, Record, Replica, ReplicaId};
pub(super) use book::Values;
use network::Connection;

type Value = u32;
type Msg = Message<(), Value, ()>;

/// What may break.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    kills: bool,
    partitions: bool,
    outages: bool,
}

impl Faults {
    pub(super) const NONE: Self = Self {
        kills: false,
        partitions: false,
        outages: false,
    };
    pub(super) const ALL: Self = Self {
        kills: true,
        partitions: true,
        outages: true,
    };
}

#[derive(Debug)]
enum Then {
    Tick,
    Told(Event<Values>),
    /// A message, over this connection if it still is there.
    Arrives {
        connection: u64,
        from: usize,
        message: Msg,
    },
    Reads,
    /// A write of the Lease arrives; whether its answer does.
    Writes {
        record: Record,
        answered: bool,
    },
    Connects {
        peer: ReplicaId,
    },
    /// The API server's store takes a create.
    Creates {
        ask: AskId,
        value: Value,
    },
    /// A watch shows a value in use, or free.
    Shows {
        value: Value,
        owner: Option<String>,
        /// Which change of the store it tells of.
        change: u64,
    },
    /// The store is listed for a replica.
    Listed {
        number: u64,
    },
    /// What was listed arrives.
    Lists {
        number: u64,
        in_use: BTreeMap<Value, String>,
        /// The last change that is in it.
        change: u64,
    },
    Starts,
}

struct Live {
    id: ReplicaId,
    replica: Replica<Values>,
    /// When its watch is up to date with what happens now: events do not overtake each other.
    watch: Duration,
    /// The last change that it knows of: what a watch or a list says of earlier ones is passed over.
    change: u64,
}

pub(super) struct World {
    now: Duration,
    random: u64,
    size: Value,
    faults: Faults,
    slots: Vec<Option<Live>>,
    agenda: BTreeMap<(Duration, u64), (usize, Option<ReplicaId>, Then)>,
    count: u64,
    lease: Option<Record>,
    version: u64,
    connections: BTreeMap<u64, Connection>,
    /// Pairs of slots between which nothing passes, until when.
    cut: BTreeMap<(usize, usize), Duration>,
    /// Slots that do not reach the API server, until when.
    outage: BTreeMap<usize, Duration>,
    in_use: BTreeMap<Value, String>,
    /// How often that has changed.
    changes: u64,
    created: usize,
    refused: usize,
    unavailable: usize,
    duplicates: usize,
    story: VecDeque<String>,
}

impl World {
    pub(super) fn new(seed: u64, replicas: usize, size: Value, faults: Faults) -> Self {
        let mut world = Self {
            now: Duration::from_secs(100),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            size,
            faults,
            slots: (0..replicas).map(|_| None).collect(),
            agenda: BTreeMap::new(),
            count: 0,
            lease: None,
            version: 0,
            connections: BTreeMap::new(),
            cut: BTreeMap::new(),
            outage: BTreeMap::new(),
            in_use: BTreeMap::new(),
            changes: 0,
            created: 0,
            refused: 0,
            unavailable: 0,
            duplicates: 0,
            story: VecDeque::new(),
        };
        world.start_all();
        world
    }

    pub(super) fn created(&self) -> usize {
        self.created
    }

    pub(super) fn refused(&self) -> usize {
        self.refused
    }

    pub(super) fn unavailable(&self) -> usize {
        self.unavailable
    }

    pub(super) fn duplicates(&self) -> usize {
        self.duplicates
    }

    pub(super) fn free(&self) -> usize {
        self.size as usize - self.in_use.len()
    }

    pub(super) fn holder(&self) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| slot.as_ref().is_some_and(|live| live.replica.is_holder()))
    }

    /// The last things that happened.
    pub(super) fn story(&self) -> String {
        self.story.iter().map(|line| format!("\n  {line}")).collect()
    }

    pub(super) fn start_all(&mut self) {
        for slot in 0..self.slots.len() {
            self.start(slot);
        }
    }

    /// Nothing breaks any more.
    pub(super) fn heal(&mut self) {
        self.faults = Faults::NONE;
        self.cut.clear();
        self.outage.clear();
        self.start_all();
    }

    /// So many creates at once, spread over the replicas that live.
    pub(super) fn ask_each(&mut self, creates: u32) {
        for _ in 0..creates {
            self.create();
        }
    }

    pub(super) fn delete_one(&mut self) {
        if let Some(value) = self.in_use.keys().next().copied() {
            self.delete(value);
        }
    }

    pub(super) fn kill_holder(&mut self) -> usize {
        let slot = self.holder().unwrap();
        self.kill(slot);
        slot
    }

    pub(super) fn leave(&mut self) -> usize {
        let slot = self.holder().unwrap();
        self.tell(slot, Event::Leave);
        self.after(Duration::from_millis(100), slot, Then::Told(Event::Tick));
        self.run(Duration::from_millis(20));
        self.kill(slot);
        slot
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), (slot, id, then)) = entry.remove_entry();
            self.now = at;
            let lives = self.slots[slot].as_ref().map(|live| &live.id);
            // What was meant for a process that is over goes nowhere.
            if id.is_none() || id.as_ref() == lives {
                self.happens(slot, then);
            }
        }
        self.now = end;
    }

    fn happens(&mut self, slot: usize, then: Then) {
        match then {
            Then::Tick => {
                self.mischief(slot);
                self.after(Duration::from_millis(50), slot, Then::Tick);
                self.tell(slot, Event::Tick);
            }
            Then::Told(event) => self.tell(slot, event),
            Then::Arrives {
                connection,
                from,
                message,
            } => {
                let carries = self.connections.get(&connection).is_some_and(Connection::carries);
                if let Some(from) = self.slots[from].as_ref().map(|live| live.id.clone())
                    && carries
                {
                    self.tell(slot, Event::Received { from, message });
                }
            }
            Then::Reads => {
                let read = (!self.is_out(slot)).then(|| self.lease.clone());
                self.soon(slot, Then::Told(Event::Read(read)));
            }
            Then::Writes { record, answered } => self.written(slot, record, answered),
            Then::Connects { peer } => self.connects(slot, peer),
            Then::Creates { ask, value } => self.stored(&ask, value),
            Then::Shows { value, owner, change } => {
                if self.learns_of(slot, change) {
                    self.shown(slot, value, owner);
                }
            }
            Then::Listed { number } => self.listed(slot, number),
            Then::Lists {
                number,
                in_use,
                change,
            } => {
                if self.learns_of(slot, change)
                    && let Some(live) = &mut self.slots[slot]
                {
                    live.replica.book_mut().in_use.clear();
                    for (value, owner) in in_use {
                        self.shown(slot, value, Some(owner));
                    }
                }
                self.tell(slot, Event::Refreshed(number));
            }
            Then::Starts => self.start(slot),
        }
    }

    /// Something breaks, now and then; and creates and deletes go on.
    fn mischief(&mut self, slot: usize) {
        if !self.faults.kills {
            return;
        }
        match self.draw(400) {
            0 | 1 => self.kill(slot),
            2 | 3 if self.faults.partitions => {
                let other = self.draw_of(self.slots.len());
                let until = self.now + Duration::from_millis(self.draw(6_000));
                self.cut_off(slot, other, until);
            }
            4 if self.faults.outages => {
                let until = self.now + Duration::from_millis(self.draw(9_000));
                self.note(format!("outage of {slot} until {until:?}"));
                self.outage.insert(slot, until);
            }
            5 if self.faults.outages && self.draw(20) == 0 => {
                self.note("Lease deleted".to_owned());
                self.lease = None;
            }
            5..=60 => self.create(),
            61..=65 => self.delete_one(),
            _ => {}
        }
    }

    fn start(&mut self, slot: usize) {
        if self.slots[slot].is_some() {
            return;
        }
        self.count += 1;
        let id = ReplicaId(Arc::from(format!("r{slot}.{}", self.count)));
        self.note(format!("{id} starts"));
        let mut book = Values::of(self.size);
        book.in_use.clone_from(&self.in_use);
        let replica = Replica::new(id.clone(), slot.to_string(), book, self.now);
        self.slots[slot] = Some(Live {
            id,
            replica,
            watch: self.now,
            change: self.changes,
        });
        self.after(Duration::ZERO, slot, Then::Tick);
    }

    fn kill(&mut self, slot: usize) {
        if let Some(live) = self.slots[slot].take() {
            self.note(format!("{} killed", live.id));
            self.close_all(slot, &live.id);
            let back = Duration::from_millis(50 + self.draw(4_000));
            if self.faults.kills {
                let at = (self.now + back, self.next());
                self.agenda.insert(at, (slot, None, Then::Starts));
            }
        }
    }

    fn tell(&mut self, slot: usize, event: Event<Values>) {
        let now = self.now;
        let Some(live) = &mut self.slots[slot] else {
            return;
        };
        for action in live.replica.handle(event, now) {
            self.act(slot, action);
        }
    }

    fn act(&mut self, slot: usize, action: Action<(), Value, ()>) {
        let Some(id) = self.slots[slot].as_ref().map(|live| live.id.clone()) else {
            return;
        };
        match action {
            Action::Read => self.soon(slot, Then::Reads),
            Action::Write(record) => self.send_write(slot, record),
            Action::Refresh(number) => self.soon(slot, Then::Listed { number }),
            Action::Connect { peer, .. } => self.soon(slot, Then::Connects { peer }),
            Action::Disconnect { peer } => {
                let other = self.slot_of(&peer);
                if let Some(number) = other.and_then(|other| self.connection_between(slot, other)) {
                    self.close(number, slot, id);
                }
            }
            Action::Send { to, message } => self.send(slot, &to, message),
            Action::Answer { ask, outcome } => match outcome {
                Outcome::Granted(value) => {
                    let way = Duration::from_millis(1 + self.draw(400));
                    // The API server goes on whatever becomes of who answered.
                    let at = (self.now + way, self.next());
                    self.agenda.insert(at, (slot, None, Then::Creates { ask, value }));
                }
                Outcome::Refused(()) => self.refused += 1,
                Outcome::Unavailable => self.unavailable += 1,
            },
        }
    }

    fn is_out(&self, slot: usize) -> bool {
        self.outage.get(&slot).is_some_and(|until| self.now < *until)
    }

    fn soon(&mut self, slot: usize, then: Then) {
        let way = Duration::from_micros(200 + self.draw(5_000));
        self.after(way, slot, then);
    }

    fn after(&mut self, way: Duration, slot: usize, then: Then) {
        let id = self.slots[slot].as_ref().map(|live| live.id.clone());
        let at = (self.now + way, self.next());
        self.agenda.insert(at, (slot, id, then));
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Below `bound` (xorshift64*).
    fn draw(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }

    fn draw_of(&mut self, count: usize) -> usize {
        usize::try_from(self.draw(count as u64)).unwrap()
    }

    fn note(&mut self, line: String) {
        self.story
            .push_back(format!("{:.4?} {line}", self.now.as_secs_f64() - 100.0));
        if self.story.len() > 80 {
            self.story.pop_front();
        }
    }
}
