// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::*;

mod random;

const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(8),
};
const POLICY: Policy = Policy {
    failed: BACKOFF,
    behind: Backoff {
        first: Duration::from_secs(60),
        cap: Duration::from_secs(60),
    },
    budget: None,
};

async fn nothing_comes(queue: &Queue<&'static str>) -> bool {
    timeout(Duration::from_millis(1), queue.next()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_key_added_twice_comes_once() {
    let queue = Queue::new(POLICY);
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
    let queue = Queue::new(POLICY);
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
    let queue = Queue::new(POLICY);
    queue.add("a");
    for (failures, delay) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8)] {
        let taken = queue.next().await.unwrap();
        if failures > 1 {
            assert_eq!(taken.failures(), failures - 1);
        }
        assert_eq!(taken.retry(Again::Refused), failures);
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
    let queue = Queue::new(POLICY);
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
    let queue = Queue::new(POLICY);
    queue.add("a");
    drop(queue.next().await.unwrap());
    assert_eq!(*queue.next().await.unwrap().key(), "a");
}

#[tokio::test(start_paused = true)]
async fn every_waiting_worker_ends_when_the_queue_closes() {
    let queue = Queue::<&str>::new(POLICY);
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
    let queue = Queue::new(POLICY);
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

#[tokio::test(start_paused = true)]
async fn an_add_brings_refused_and_postponed_work_back_at_once() {
    for again in [Again::Refused, Again::Behind] {
        let queue = Queue::new(POLICY);
        queue.add("a");
        queue.next().await.unwrap().retry(again);
        let start = Instant::now();
        queue.add("a");
        queue.next().await.unwrap().done();
        assert_eq!(start.elapsed(), Duration::ZERO, "{again:?}");
        assert!(
            timeout(Duration::from_secs(120), queue.next()).await.is_err(),
            "{again:?}: its turn was taken"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn postponed_work_comes_back_even_without_news() {
    let queue = Queue::new(POLICY);
    queue.add("a");
    queue.next().await.unwrap().retry(Again::Behind);
    let start = Instant::now();
    queue.next().await.unwrap().done();
    assert_eq!(start.elapsed(), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_of_the_server_nothing_brings_a_key_back_early() {
    for (least, expected) in [(0, 1), (5, 5)] {
        let queue = Queue::new(POLICY);
        queue.add("a");
        let taken = queue.next().await.unwrap();
        queue.add("a");
        taken.retry(Again::Failed(Duration::from_secs(least)));
        let start = Instant::now();
        queue.add("a");
        queue.add_after("a", Duration::from_millis(10));
        queue.next().await.unwrap().done();
        assert_eq!(start.elapsed(), Duration::from_secs(expected));
        assert!(timeout(Duration::from_secs(120), queue.next()).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_gets_somewhere_before_it_fails_comes_back_after_the_first_delay() {
    let queue = Queue::new(POLICY);
    queue.add("a");
    for _ in 0..5 {
        let taken = queue.next().await.unwrap();
        taken.progressed();
        assert_eq!(taken.retry(Again::Failed(Duration::ZERO)), 1);
        let failed_at = Instant::now();
        drop(queue.next().await.unwrap());
        assert_eq!(failed_at.elapsed(), BACKOFF.first);
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_server_fails_turns_keep_to_the_budget_and_one_success_lifts_it() {
    let budget = Budget {
        every: Duration::from_millis(100),
        burst: 5,
    };
    let queue = Queue::new(Policy {
        budget: Some(budget),
        ..POLICY
    });
    (0..1000).for_each(|key| queue.add(key));
    let start = Instant::now();
    let failing = Duration::from_secs(2);
    let mut turns = 0;
    while start.elapsed() < failing {
        queue.next().await.unwrap().retry(Again::Failed(Duration::ZERO));
        turns += 1;
    }
    // The first one shows the failure, five are the burst, twenty are two seconds' worth.
    assert!((20..=27).contains(&turns), "{turns}");
    queue.next().await.unwrap().done();
    let well = Instant::now();
    for _ in 0..900 {
        queue.next().await.unwrap().done();
    }
    assert_eq!(well.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_queue_reports_depth_adds_retries_and_durations() {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = QueueMetrics::register(&mut registry);
    let queue = Queue::reporting(POLICY, "test", &metrics);
    for key in ["a", "b", "c", "a"] {
        queue.add(key);
    }
    queue.add_after("d", Duration::from_secs(5));
    let taken = queue.next().await.unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    taken.retry(Again::Refused);
    queue.next().await.unwrap().done();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "workqueue_depth{name=\"test\"} 1",
        "workqueue_adds_total{name=\"test\"} 3",
        "workqueue_retries_total{name=\"test\"} 1",
        "workqueue_work_duration_seconds_sum{name=\"test\"} 2.0",
        "workqueue_queue_duration_seconds_sum{name=\"test\"} 2.0",
        "workqueue_queue_duration_seconds_count{name=\"test\"} 2",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in:\n{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_turn_is_one_add_though_the_key_came_again_while_it_was_worked_on() {
    for fails in [false, true] {
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = QueueMetrics::register(&mut registry);
        let queue = Queue::reporting(POLICY, "test", &metrics);
        queue.add("a");
        let taken = queue.next().await.unwrap();
        queue.add("a");
        if fails {
            taken.retry(Again::Failed(Duration::from_secs(1)));
        } else {
            taken.done();
        }
        queue.next().await.unwrap().done();
        assert!(queue.is_idle());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "workqueue_adds_total{name=\"test\"} 2",
            "workqueue_work_duration_seconds_count{name=\"test\"} 2",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in:\n{text}"
            );
        }
    }
}
