// SPDX-License-Identifier: Apache-2.0
//! The queue's state against naive models.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::super::core::{Core, Next};
use super::BACKOFF;

/// What may happen to a queue.
#[derive(Clone, Debug)]
enum Op {
    Add(u8),
    AddAfter(u8, u64),
    Take,
    Done(usize),
    Fail(usize),
    Hold(usize, u64),
    Cancel(usize),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..6u8).prop_map(Op::Add),
        2 => (0..6u8, 1..20u64).prop_map(|(key, delay)| Op::AddAfter(key, delay)),
        4 => Just(Op::Take),
        3 => any::<usize>().prop_map(Op::Done),
        1 => any::<usize>().prop_map(Op::Fail),
        1 => (any::<usize>(), 1..20u64).prop_map(|(key, delay)| Op::Hold(key, delay)),
        1 => any::<usize>().prop_map(Op::Cancel),
        2 => (1..10u64).prop_map(Op::Wait),
    ]
}

/// The naive model: from when on work on each key is owed, and until when it is held.
#[derive(Default)]
struct Owed {
    from: BTreeMap<u8, Instant>,
    held: BTreeMap<u8, Instant>,
}

impl Owed {
    fn owe(&mut self, key: u8, from: Instant) {
        let from = self.held.get(&key).map_or(from, |held| from.max(*held));
        let at = self.from.entry(key).or_insert(from);
        *at = (*at).min(from);
    }

    fn hold(&mut self, key: u8, until: Instant) {
        self.held.insert(key, until);
        self.from.insert(key, until);
    }
}

fn take(core: &mut Core<u8>, now: Instant) -> Next<u8> {
    core.ripen(now);
    core.next(None, now)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_key_is_lost_and_none_is_worked_on_twice_at_once_or_while_held(ops in prop::collection::vec(op(), 1..120)) {
        let mut core = Core::default();
        let mut now = Instant::now();
        let mut owed = Owed::default();
        let mut in_flight: Vec<u8> = Vec::new();
        for op in ops {
            match op {
                Op::Add(key) => { core.add(key, now); owed.owe(key, now); }
                Op::AddAfter(key, delay) => {
                    let at = now + Duration::from_secs(delay);
                    core.add_at(key, at);
                    owed.owe(key, at);
                }
                Op::Take => match take(&mut core, now) {
                    Next::Take { key, .. } => {
                        prop_assert!(!in_flight.contains(&key), "{key} is worked on twice at once");
                        let due = owed.from.get(&key).is_some_and(|at| *at <= now);
                        prop_assert!(due, "{key} came though nothing was owed");
                        owed.from.remove(&key);
                        in_flight.push(key);
                    }
                    Next::At(at) => {
                        prop_assert!(at > now);
                        let first = owed.from.iter().filter(|(key, _)| !in_flight.contains(key)).map(|(_, at)| *at).min();
                        prop_assert!(first.is_none_or(|first| first >= at), "sleeps past what is owed");
                    }
                    Next::Wait => {
                        let forgotten = owed.from.keys().find(|key| !in_flight.contains(key));
                        prop_assert!(forgotten.is_none(), "{forgotten:?} is lost");
                    }
                    Next::Closed => prop_assert!(false, "nobody closed it"),
                },
                Op::Done(n) if !in_flight.is_empty() => {
                    let key = in_flight.remove(n % in_flight.len());
                    core.done(&key, now);
                }
                Op::Fail(n) if !in_flight.is_empty() => {
                    let key = in_flight.remove(n % in_flight.len());
                    let at = now + BACKOFF.delay(core.failed(&key));
                    core.release(&key, now);
                    core.add_at(key, at);
                    owed.owe(key, at);
                }
                Op::Hold(n, delay) if !in_flight.is_empty() => {
                    let key = in_flight.remove(n % in_flight.len());
                    let at = now + Duration::from_secs(delay);
                    core.hold(&key, at);
                    core.release(&key, now);
                    core.add_at(key, at);
                    owed.hold(key, at);
                }
                Op::Cancel(n) if !in_flight.is_empty() => {
                    let key = in_flight.remove(n % in_flight.len());
                    core.release(&key, now);
                    core.add(key, now);
                    owed.owe(key, now);
                }
                Op::Done(_) | Op::Fail(_) | Op::Hold(..) | Op::Cancel(_) => {}
                Op::Wait(seconds) => now += Duration::from_secs(seconds),
            }
        }
        // Everything owed can be drained in the end.
        for key in in_flight.drain(..) { core.done(&key, now); }
        now += Duration::from_secs(60);
        let mut drained = BTreeSet::new();
        while let Next::Take { key, .. } = take(&mut core, now) {
            core.done(&key, now);
            drained.insert(key);
        }
        let owed: BTreeSet<u8> = owed.from.into_keys().collect();
        prop_assert_eq!(drained, owed);
        prop_assert!(core.is_idle());
    }

    /// One Service that changes all the time, one namespace with many of them: whoever waits is served
    /// before anybody is served twice.
    #[test]
    fn nobody_is_served_twice_while_another_waits(
        adds in prop::collection::vec(prop::collection::vec(0..12u8, 0..6), 1..200),
        workers in 1..5usize,
    ) {
        let mut core = Core::default();
        let now = Instant::now();
        // The naive model: for each key that waits, who was served since it began to wait.
        let mut since: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
        let mut in_flight: Vec<u8> = Vec::new();
        for burst in adds {
            for key in burst {
                core.add(key, now);
                if !in_flight.contains(&key) {
                    since.entry(key).or_default();
                }
            }
            if in_flight.len() == workers {
                let key = in_flight.remove(0);
                core.done(&key, now);
                if core.is_waiting(&key) {
                    since.entry(key).or_default();
                }
            }
            let Next::Take { key: served, .. } = take(&mut core, now) else { continue };
            since.remove(&served);
            in_flight.push(served);
            for (waiting, seen) in &mut since {
                prop_assert!(seen.insert(served), "{served} came twice while {waiting} waited");
            }
        }
    }
}
