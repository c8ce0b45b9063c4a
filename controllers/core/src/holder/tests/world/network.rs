// SPDX-License-Identifier: Apache-2.0
//! Connections between the replicas of that world, which open, break, and carry messages in order.

use std::time::Duration;

use super::{Msg, Then, World};
use crate::holder::{Event, ReplicaId};

/// A connection: who follows over it, and whether it carries anything.
pub(super) struct Connection {
    follower: usize,
    holder: usize,
    dead: bool,
    /// Messages do not overtake each other.
    busy: [Duration; 2],
}

impl Connection {
    pub(super) fn carries(&self) -> bool {
        !self.dead
    }

    fn is_of(&self, slot: usize) -> bool {
        self.follower == slot || self.holder == slot
    }

    fn is_between(&self, one: usize, other: usize) -> bool {
        (self.follower, self.holder) == (one, other) || (self.holder, self.follower) == (one, other)
    }
}

impl World {
    /// From now on, until then, nothing passes between two slots; what was open stays without a word.
    pub(super) fn cut_off(&mut self, one: usize, other: usize, until: Duration) {
        self.cut.insert((one.min(other), one.max(other)), until);
        self.note(format!("cut {one} {other} until {until:?}"));
        for open in self.connections.values_mut() {
            open.dead |= open.is_between(one, other);
        }
    }

    pub(super) fn connection_between(&self, one: usize, other: usize) -> Option<u64> {
        let mut open = self.connections.iter();
        open.find(|(_, open)| open.is_between(one, other))
            .map(|(number, _)| *number)
    }

    pub(super) fn close_all(&mut self, slot: usize, peer: &ReplicaId) {
        let ends: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, open)| open.is_of(slot))
            .map(|(number, _)| *number)
            .collect();
        for number in ends {
            self.close(number, slot, peer.clone());
        }
    }

    /// One end closes; the other hears of it, if anything passes between them.
    pub(super) fn close(&mut self, number: u64, by: usize, peer: ReplicaId) {
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

    pub(super) fn connects(&mut self, slot: usize, peer: ReplicaId) {
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

    pub(super) fn send(&mut self, slot: usize, to: &ReplicaId, message: Msg) {
        let Some(other) = self.slot_of(to) else {
            return;
        };
        let way = Duration::from_micros(100 + self.draw(3_000));
        let now = self.now;
        let mut open = self.connections.iter_mut();
        let Some((number, open)) = open.find(|(_, open)| open.is_between(slot, other)) else {
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

    pub(super) fn slot_of(&self, id: &ReplicaId) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| slot.as_ref().is_some_and(|live| live.id == *id))
    }

    pub(super) fn is_cut(&self, one: usize, other: usize) -> bool {
        let cut = self.cut.get(&(one.min(other), one.max(other)));
        cut.is_some_and(|until| self.now < *until)
    }
}
