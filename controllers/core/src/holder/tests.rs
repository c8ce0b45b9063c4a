// SPDX-License-Identifier: Apache-2.0
//! Replicas in a simulated cluster: messages, the Lease and watches take their time, processes are killed, connections break,
//! and whatever is answered goes on to an API server that has the last word.

mod steps;
mod world;

use std::time::Duration;

use world::{Faults, World};

/// 2,000 in `make test`, 100,000 in `make soak`.
fn schedules() -> u64 {
    // Read when it is built: the tests of a pure crate read no environment either.
    match option_env!("BERTH_TEST_SCALE") {
        Some("full") => 100_000,
        Some(_) | None => 2_000,
    }
}

/// Until replicas that start where there is no Lease have a holder that grants.
fn settled() -> Duration {
    super::RENEW_DEADLINE + seconds(1)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn three_replicas_that_live_grant_every_value_once_and_say_when_none_is_left() {
    let mut world = World::new(1, 3, 40, Faults::NONE);
    world.run(settled());
    world.ask_each(100);
    world.run(settled());
    assert_eq!(
        (world.created(), world.refused(), world.unavailable()),
        (40, 60, 0)
    );
    assert_eq!(world.duplicates(), 0);
    world.delete_one();
    world.run(seconds(1));
    world.ask_each(2);
    world.run(seconds(1));
    assert_eq!(
        (world.created(), world.refused()),
        (41, 61),
        "one deletion makes one more succeed"
    );
}

#[test]
fn when_the_holder_is_killed_another_grants_long_before_the_lease_expires() {
    let mut world = World::new(2, 3, 100, Faults::NONE);
    world.run(settled());
    world.ask_each(10);
    world.run(seconds(1));
    let killed = world.kill_holder();
    world.ask_each(20);
    world.run(seconds(1));
    assert_ne!(world.holder(), Some(killed));
    assert_eq!(
        (world.created(), world.unavailable(), world.duplicates()),
        (30, 0, 0)
    );
}

#[test]
fn a_holder_that_leaves_is_followed_at_once() {
    let mut world = World::new(3, 2, 100, Faults::NONE);
    world.run(settled());
    let left = world.leave();
    world.ask_each(10);
    world.run(seconds(1));
    assert_ne!(world.holder(), Some(left));
    assert_eq!((world.created(), world.duplicates()), (10, 0));
}

#[test]
fn the_last_of_all_that_is_killed_and_comes_back_goes_on_with_what_there_is() {
    let mut world = World::new(4, 1, 30, Faults::NONE);
    world.run(settled());
    world.ask_each(20);
    world.run(seconds(1));
    world.kill_holder();
    world.start_all();
    world.run(seconds(4));
    world.ask_each(20);
    world.run(seconds(2));
    assert_eq!(
        (world.created(), world.refused(), world.duplicates()),
        (30, 10, 0)
    );
}

#[test]
fn whatever_breaks_no_value_is_given_twice_and_in_the_end_all_are_given() {
    for seed in 0..schedules() {
        let mut world = World::new(seed, 3, 60, Faults::ALL);
        world.run(seconds(20));
        assert_eq!(world.duplicates(), 0, "seed {seed}: {}", world.story());
        world.heal();
        // A hold of a create that failed lapses.
        world.run(super::HOLD + seconds(20));
        let free = world.free();
        world.ask_each(70);
        let before = world.created();
        world.run(seconds(5));
        assert_eq!(world.duplicates(), 0, "seed {seed}: {}", world.story());
        assert_eq!(world.created() - before, free, "seed {seed}: {}", world.story());
    }
}
