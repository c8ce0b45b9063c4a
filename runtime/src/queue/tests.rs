// SPDX-License-Identifier: Apache-2.0

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::{Instant, timeout};

use super::core::{Core, Next};
use super::*;

const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(8),
};

async fn nothing_comes(queue: &Queue<&'static str>) -> bool {
    timeout(Duration::from_millis(1), queue.next()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_key_added_twice_comes_once() {
    let queue = Queue::new(BACKOFF);
    queue.add("a");
    queue.add("b");
    queue.add("a");
    assert_eq!(queue.len(), 2);
    assert_eq!(*queue.next().await.unwrap().key(), "a");
    let second = queue.next().await.unwrap();
    assert_ne!(*second.key(), "");
    second.done();
}

#[tokio::test(start_paused = true)]
async fn a_key_added_during_its_work_comes_again_after_it() {
    let queue = Queue::new(BACKOFF);
    queue.add("a");
    let taken = queue.next().await.unwrap();
    queue.add("a");
    assert!(nothing_comes(&queue).await, "one worker per key");
    taken.done();
    queue.next().await.unwrap().done();
    assert!(nothing_comes(&queue).await);
    assert!(queue.is_idle());
}

#[tokio::test(start_paused = true)]
async fn failures_double_the_delay_and_success_forgets_them() {
    let queue = Queue::new(BACKOFF);
    queue.add("a");
    for (failures, delay) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8)] {
        let taken = queue.next().await.unwrap();
        if failures > 1 {
            assert_eq!(taken.failures(), failures - 1);
        }
        assert_eq!(taken.retry(), failures);
        let failed_at = Instant::now();
        let again = queue.next().await.unwrap();
        assert_eq!(failed_at.elapsed(), Duration::from_secs(delay));
        drop(again);
    }
    queue.next().await.unwrap().done();
    queue.add("a");
    assert_eq!(queue.next().await.unwrap().failures(), 0);
}

#[tokio::test(start_paused = true)]
async fn of_two_delays_the_earlier_counts() {
    let queue = Queue::new(BACKOFF);
    let start = Instant::now();
    queue.add_after("a", Duration::from_secs(9));
    queue.add_after("a", Duration::from_secs(3));
    queue.add_after("a", Duration::from_secs(5));
    queue.next().await.unwrap().done();
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    assert!(timeout(Duration::from_secs(60), queue.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn work_that_is_cancelled_puts_its_key_back() {
    let queue = Queue::new(BACKOFF);
    queue.add("a");
    drop(queue.next().await.unwrap());
    assert_eq!(*queue.next().await.unwrap().key(), "a");
}

#[tokio::test(start_paused = true)]
async fn every_waiting_worker_ends_when_the_queue_closes() {
    let queue = Queue::<&str>::new(BACKOFF);
    let workers: Vec<_> = (0..5)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.next().await.is_none() })
        })
        .collect();
    tokio::task::yield_now().await;
    queue.close();
    for worker in workers {
        assert!(worker.await.unwrap());
    }
    queue.add("late");
    assert!(queue.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn waiting_workers_share_keys_added_at_once() {
    let queue = Queue::new(BACKOFF);
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let taken = queue.next().await.unwrap();
                // Holds its key until all four have one.
                tokio::time::sleep(Duration::from_secs(1)).await;
                let key = *taken.key();
                taken.done();
                key
            })
        })
        .collect();
    tokio::task::yield_now().await;
    let start = Instant::now();
    for key in ["a", "b", "c", "d"] {
        queue.add(key);
    }
    let mut seen = BTreeSet::new();
    for worker in workers {
        seen.insert(worker.await.unwrap());
    }
    assert_eq!(seen.len(), 4);
    assert_eq!(start.elapsed(), Duration::from_secs(1), "in parallel");
}

/// What may happen to a queue.
#[derive(Clone, Debug)]
enum Op {
    Add(u8),
    AddAfter(u8, u64),
    Take,
    Done(usize),
    Fail(usize),
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
        1 => any::<usize>().prop_map(Op::Cancel),
        2 => (1..10u64).prop_map(Op::Wait),
    ]
}

/// The naive model: when work on each key is owed from.
#[derive(Default)]
struct Owed(BTreeMap<u8, Instant>);

impl Owed {
    fn owe(&mut self, key: u8, from: Instant) {
        let at = self.0.entry(key).or_insert(from);
        *at = (*at).min(from);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_key_is_lost_and_none_is_worked_on_twice_at_once(ops in prop::collection::vec(op(), 1..120)) {
        let mut core = Core::default();
        let mut now = Instant::now();
        let mut owed = Owed::default();
        let mut in_flight: Vec<u8> = Vec::new();
        for op in ops {
            match op {
                Op::Add(key) => { core.add(key); owed.owe(key, now); }
                Op::AddAfter(key, delay) => {
                    let at = now + Duration::from_secs(delay);
                    core.add_at(key, at);
                    owed.owe(key, at);
                }
                Op::Take => match core.next(now) {
                    Next::Take(key, _) => {
                        prop_assert!(!in_flight.contains(&key), "{key} is worked on twice at once");
                        let due = owed.0.get(&key).is_some_and(|at| *at <= now);
                        prop_assert!(due, "{key} came though nothing was owed");
                        // A later delayed add of the same key stays owed: the core may bring it again.
                        let later = core.delayed_until(&key);
                        owed.0.remove(&key);
                        if let Some(at) = later { owed.owe(key, at); }
                        in_flight.push(key);
                    }
                    Next::At(at) => {
                        prop_assert!(at > now);
                        let first = owed.0.iter().filter(|(key, _)| !in_flight.contains(key)).map(|(_, at)| *at).min();
                        prop_assert!(first.is_none_or(|first| first >= at), "sleeps past what is owed");
                    }
                    Next::Wait => {
                        let forgotten = owed.0.keys().find(|key| !in_flight.contains(key));
                        prop_assert!(forgotten.is_none(), "{forgotten:?} is lost");
                    }
                    Next::Closed => prop_assert!(false, "nobody closed it"),
                },
                Op::Done(n) if !in_flight.is_empty() => {
                    let key = in_flight.remove(n % in_flight.len());
                    core.done(&key);
                }
                Op::Fail(n) if !in_flight.is_empty() => {
                    let key = in_flight.remove(n % in_flight.len());
                    let at = now + BACKOFF.delay(core.failed(&key));
                    core.add_at(key, at);
                    owed.owe(key, at);
                }
                Op::Cancel(n) if !in_flight.is_empty() => {
                    let key = in_flight.remove(n % in_flight.len());
                    core.release(&key);
                    core.add(key);
                    owed.owe(key, now);
                }
                Op::Done(_) | Op::Fail(_) | Op::Cancel(_) => {}
                Op::Wait(seconds) => now += Duration::from_secs(seconds),
            }
        }
        // Everything owed can be drained in the end.
        for key in in_flight.drain(..) { core.done(&key); }
        now += Duration::from_secs(60);
        let mut drained = BTreeSet::new();
        while let Next::Take(key, _) = core.next(now) {
            core.done(&key);
            drained.insert(key);
        }
        let owed: BTreeSet<u8> = owed.0.into_keys().collect();
        prop_assert_eq!(drained, owed);
        prop_assert!(core.is_idle());
    }
}
