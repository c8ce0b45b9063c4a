// SPDX-License-Identifier: Apache-2.0
//! A cluster in a loop: an agenda of what happens when, and what each part knows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::holder::{
    Action, AskId, Book, Event, HOLD, Hold, Message, Outcome, Record, Replica, ReplicaId, WriteFault,
};

type Value = u32;
type Msg = Message<(), Value, ()>;

/// The lowest value first: what makes two books that differ collide at once.
#[derive(Debug)]
pub(super) struct Values {
    size: Value,
    in_use: BTreeMap<Value, String>,
    held: BTreeMap<AskId, Hold<Value>>,
}

impl Values {
    pub(super) fn of(size: Value) -> Self {
        Self {
            size,
            in_use: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }
}

impl Book for Values {
    type Wish = ();
    type Grant = Value;
    type Refusal = ();

    fn grant(&mut self, ask: &AskId, (): &(), now: Duration) -> Result<Value, ()> {
        self.held.retain(|_, hold| hold.until > now);
        let held: BTreeSet<Value> = self.held.values().map(|hold| hold.grant).collect();
        let free = (0..self.size).find(|value| !self.in_use.contains_key(value) && !held.contains(value));
        let grant = free.ok_or(())?;
        let until = now + HOLD;
        let stands = true;
        self.held.insert(ask.clone(), Hold { grant, until, stands });
        Ok(grant)
    }

    fn adopt(&mut self, holds: &BTreeMap<AskId, Hold<Value>>) {
        self.held = holds.clone();
    }
}

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

/// A connection: who follows over it, and whether it carries anything.
struct Connection {
    follower: usize,
    holder: usize,
    dead: bool,
    /// Messages do not overtake each other.
    busy: [Duration; 2],
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
                let carries = self.connections.get(&connection).is_some_and(|open| !open.dead);
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
                self.cut.insert((slot.min(other), slot.max(other)), until);
                self.note(format!("cut {slot} {other} until {until:?}"));
                for open in self.connections.values_mut() {
                    let ends = (open.follower.min(open.holder), open.follower.max(open.holder));
                    open.dead |= ends == (slot.min(other), slot.max(other));
                }
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
        let book = Values {
            in_use: self.in_use.clone(),
            ..Values::of(self.size)
        };
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

    fn close_all(&mut self, slot: usize, peer: &ReplicaId) {
        let ends: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, open)| open.follower == slot || open.holder == slot)
            .map(|(number, _)| *number)
            .collect();
        for number in ends {
            self.close(number, slot, peer.clone());
        }
    }

    /// One end closes; the other hears of it, if anything passes between them.
    fn close(&mut self, number: u64, by: usize, peer: ReplicaId) {
        if let Some(open) = self.connections.remove(&number) {
            let other = if open.follower == by {
                open.holder
            } else {
                open.follower
            };
            if !open.dead && !self.is_cut(by, other) {
                let refused = false;
                self.soon(other, Then::Told(Event::Closed { peer, refused }));
            }
        }
    }

    fn connects(&mut self, slot: usize, peer: ReplicaId) {
        let holder = self
            .slots
            .iter()
            .position(|other| other.as_ref().is_some_and(|live| live.id == peer));
        let Some(holder) = holder else {
            let refused = true;
            return self.soon(slot, Then::Told(Event::Closed { peer, refused }));
        };
        if self.is_cut(slot, holder) {
            // Nothing comes back: whoever waits gives up by itself.
            return;
        }
        let number = self.next();
        self.connections.insert(
            number,
            Connection {
                follower: slot,
                holder,
                dead: false,
                busy: [self.now; 2],
            },
        );
        self.soon(slot, Then::Told(Event::Connected));
    }

    fn written(&mut self, slot: usize, record: Record, answered: bool) {
        let current = self.lease.as_ref().map_or("", |lease| lease.version.as_str());
        let outcome = if record.version == current {
            self.version += 1;
            let record = Record {
                version: self.version.to_string(),
                ..record
            };
            self.note(format!(
                "Lease: {:?} term {} in sync {:?}",
                record.holder, record.term, record.in_sync
            ));
            self.lease = Some(record.clone());
            Ok(record)
        } else {
            Err(WriteFault::Conflict)
        };
        let outcome = if answered {
            outcome
        } else {
            Err(WriteFault::Unknown)
        };
        self.soon(slot, Then::Told(Event::Written(outcome)));
    }

    fn create(&mut self) {
        let live: Vec<usize> = (0..self.slots.len())
            .filter(|slot| self.slots[*slot].is_some())
            .collect();
        if live.is_empty() {
            return;
        }
        let slot = live[self.draw_of(live.len())];
        let Some(replica) = self.slots[slot].as_ref().map(|live| live.id.clone()) else {
            return;
        };
        let ask = AskId {
            replica,
            number: self.next(),
        };
        let until = self.now + Duration::from_secs(8);
        self.tell(slot, Event::Asked { ask, wish: (), until });
    }

    fn stored(&mut self, ask: &AskId, value: Value) {
        let owner = format!("{}/{}", ask.replica, ask.number);
        self.note(format!("{owner} has {value}"));
        if self.in_use.contains_key(&value) {
            self.duplicates += 1;
            self.note(format!("{value} is {}'s", self.in_use[&value]));
            return;
        }
        self.created += 1;
        self.in_use.insert(value, owner.clone());
        self.show(value, Some(&owner));
    }

    fn delete(&mut self, value: Value) {
        self.note(format!("{value} deleted"));
        self.in_use.remove(&value);
        self.show(value, None);
    }

    /// Whether this is news to a replica.
    fn learns_of(&mut self, slot: usize, change: u64) -> bool {
        let Some(live) = &mut self.slots[slot] else {
            return false;
        };
        let news = change > live.change;
        live.change = live.change.max(change);
        news
    }

    /// The store answers a list, if the replica reaches it; or else the replica asks again.
    fn listed(&mut self, slot: usize, number: u64) {
        if self.is_out(slot) {
            return self.after(Duration::from_millis(200), slot, Then::Listed { number });
        }
        let (in_use, change) = (self.in_use.clone(), self.changes);
        let way = Duration::from_millis(1 + self.draw(20));
        self.after(
            way,
            slot,
            Then::Lists {
                number,
                in_use,
                change,
            },
        );
    }

    fn show(&mut self, value: Value, owner: Option<&String>) {
        self.changes += 1;
        let change = self.changes;
        for slot in 0..self.slots.len() {
            let lag = Duration::from_millis(self.draw(if self.faults.kills { 400 } else { 20 }));
            let now = self.now;
            if let Some(live) = &mut self.slots[slot] {
                live.watch = live.watch.max(now + lag);
                let at = live.watch - now;
                let owner = owner.cloned();
                self.after(at, slot, Then::Shows { value, owner, change });
            }
        }
    }

    fn shown(&mut self, slot: usize, value: Value, owner: Option<String>) {
        let Some(live) = &mut self.slots[slot] else {
            return;
        };
        let book = live.replica.book_mut();
        match owner {
            None => {
                book.in_use.remove(&value);
            }
            Some(owner) => {
                let settled: Vec<AskId> = book
                    .held
                    .keys()
                    .filter(|ask| format!("{}/{}", ask.replica, ask.number) == owner)
                    .cloned()
                    .collect();
                book.in_use.insert(value, owner.clone());
                for ask in settled {
                    book.held.remove(&ask);
                }
                let known = live.replica.holds().keys();
                let settled: Vec<AskId> = known
                    .filter(|ask| format!("{}/{}", ask.replica, ask.number) == owner)
                    .cloned()
                    .collect();
                for ask in settled {
                    live.replica.settle(&ask);
                }
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
                let ends = self.connections.iter().find(|(_, open)| {
                    let ends = (Some(open.follower), Some(open.holder));
                    ends == (Some(slot), other) || ends == (other, Some(slot))
                });
                if let Some(number) = ends.map(|(number, _)| *number) {
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

    fn send_write(&mut self, slot: usize, record: Record) {
        if self.is_out(slot) {
            // It may arrive nevertheless.
            if self.draw(2) == 0 {
                let way = Duration::from_millis(self.draw(3_000));
                let answered = false;
                self.after(way, slot, Then::Writes { record, answered });
            } else {
                let unknown = Event::Written(Err(WriteFault::Unknown));
                self.after(Duration::from_millis(500), slot, Then::Told(unknown));
            }
            return;
        }
        let answered = true;
        self.soon(slot, Then::Writes { record, answered });
    }

    fn send(&mut self, slot: usize, to: &ReplicaId, message: Msg) {
        let Some(other) = self.slot_of(to) else {
            return;
        };
        let way = Duration::from_micros(100 + self.draw(3_000));
        let now = self.now;
        let found = self.connections.iter_mut().find(|(_, open)| {
            let ends = (open.follower, open.holder);
            ends == (slot, other) || ends == (other, slot)
        });
        let Some((number, open)) = found else {
            return;
        };
        let direction = usize::from(open.follower == slot);
        open.busy[direction] = open.busy[direction].max(now + way);
        let (connection, at) = (*number, open.busy[direction] - now);
        let from = slot;
        self.after(
            at,
            other,
            Then::Arrives {
                connection,
                from,
                message,
            },
        );
    }

    fn slot_of(&self, id: &ReplicaId) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| slot.as_ref().is_some_and(|live| live.id == *id))
    }

    fn is_cut(&self, one: usize, other: usize) -> bool {
        let cut = self.cut.get(&(one.min(other), one.max(other)));
        cut.is_some_and(|until| self.now < *until)
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
