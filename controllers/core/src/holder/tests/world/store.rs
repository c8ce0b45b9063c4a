// SPDX-License-Identifier: Apache-2.0
//! The API server of that world: the Lease, what is stored, and what lists and watches show of it, late.

use std::time::Duration;

use super::{Then, Value, World};
use crate::holder::{AskId, Event, Record, WriteFault};

impl World {
    pub(super) fn written(&mut self, slot: usize, record: Record, answered: bool) {
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

    pub(super) fn send_write(&mut self, slot: usize, record: Record) {
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

    pub(super) fn create(&mut self) {
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

    pub(super) fn stored(&mut self, ask: &AskId, value: Value) {
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

    pub(super) fn delete(&mut self, value: Value) {
        self.note(format!("{value} deleted"));
        self.in_use.remove(&value);
        self.show(value, None);
    }

    /// Whether this is news to a replica.
    pub(super) fn learns_of(&mut self, slot: usize, change: u64) -> bool {
        let Some(live) = &mut self.slots[slot] else {
            return false;
        };
        let news = change > live.change;
        live.change = live.change.max(change);
        news
    }

    /// The store answers a list, if the replica reaches it; or else the replica asks again.
    pub(super) fn listed(&mut self, slot: usize, number: u64) {
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

    pub(super) fn show(&mut self, value: Value, owner: Option<&String>) {
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

    pub(super) fn shown(&mut self, slot: usize, value: Value, owner: Option<String>) {
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
}
