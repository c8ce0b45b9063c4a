// SPDX-License-Identifier: Apache-2.0
//! The simplest book: numbers, given lowest first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Value;
use crate::holder::{AskId, Book, HOLD, Hold};

/// The lowest value first: what makes two books that differ collide at once.
#[derive(Debug)]
pub(in super::super) struct Values {
    size: Value,
    pub(super) in_use: BTreeMap<Value, String>,
    pub(super) held: BTreeMap<AskId, Hold<Value>>,
}

impl Values {
    pub(in super::super) fn of(size: Value) -> Self {
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
