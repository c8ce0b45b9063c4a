// SPDX-License-Identifier: Apache-2.0
//! A book of numbers, and the store in which whoever was given one writes it down: what Services are to the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_controllers_core::holder::{AskId, Book, HOLD, Hold, Replica};
use berth_controllers_manager::handout::Change;

/// The lowest free number first: two holders at once would give the same one.
#[derive(Debug)]
pub(crate) struct Numbers {
    size: u32,
    in_use: BTreeSet<u32>,
    held: BTreeMap<AskId, Hold<u32>>,
}

impl Numbers {
    pub(crate) fn of(size: u32) -> Self {
        Self {
            size,
            in_use: BTreeSet::new(),
            held: BTreeMap::new(),
        }
    }
}

impl Book for Numbers {
    type Wish = ();
    type Grant = u32;
    type Refusal = String;

    fn grant(&mut self, ask: &AskId, (): &(), now: Duration) -> Result<u32, String> {
        self.held.retain(|_, hold| hold.until > now);
        let held: BTreeSet<u32> = self.held.values().map(|hold| hold.grant).collect();
        let free = (0..self.size).find(|number| !self.in_use.contains(number) && !held.contains(number));
        let grant = free.ok_or_else(|| format!("none of {} is left", self.size))?;
        let (until, stands) = (now + HOLD, true);
        self.held.insert(ask.clone(), Hold { grant, until, stands });
        Ok(grant)
    }

    fn adopt(&mut self, holds: &BTreeMap<AskId, Hold<u32>>) {
        self.held = holds.clone();
    }
}

/// Who has which number in the end, and how often one was given to two.
#[derive(Clone, Default)]
pub(crate) struct Store(Arc<Mutex<Written>>);

#[derive(Default)]
struct Written {
    numbers: BTreeSet<u32>,
    twice: Vec<u32>,
}

impl Store {
    fn written(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self, number: u32) {
        let mut written = self.written();
        if !written.numbers.insert(number) {
            written.twice.push(number);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.written().numbers.len()
    }

    pub(crate) fn twice(&self) -> Vec<u32> {
        self.written().twice.clone()
    }

    /// What a complete list of it makes of a replica.
    pub(crate) fn list(&self) -> Change<Numbers> {
        let numbers = self.written().numbers.clone();
        Box::new(move |replica, _| {
            for number in numbers {
                show(replica, number);
            }
        })
    }
}

/// What a watch makes of a replica when it shows that a number is in use.
pub(crate) fn show(replica: &mut Replica<Numbers>, number: u32) {
    let holds = replica.holds().iter();
    let settled: Vec<AskId> = holds
        .filter(|(_, hold)| hold.grant == number)
        .map(|(ask, _)| ask.clone())
        .collect();
    let book = replica.book_mut();
    book.in_use.insert(number);
    book.held.retain(|_, hold| hold.grant != number);
    for ask in settled {
        replica.settle(&ask);
    }
}
