// SPDX-License-Identifier: Apache-2.0
//! Announcers on a simulated network with loss, delay, partitions and deaths: who answers for what.
//!
//! Nothing here is random beyond the seed: a failing run can be repeated.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's own tools may fail the test"
)]

mod net;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use berth_announcer_core::Output;
use berth_announcer_core::wire::heartbeat::Phase;
use berth_model::NodeName;

use net::{Net, at, lan_link, name};

/// Silence, the largest delay, a stall's grace and the first burst: far above, to be judged by the clock.
const DETECTION: Duration = Duration::from_millis(1_100);
const SIZES: [u8; 2] = [3, 7];
const SETTLE: Duration = Duration::from_secs(2);

#[test]
fn every_address_has_exactly_one_owner_and_every_node_some() {
    for count in SIZES {
        let mut net = Net::new(count, 1);
        net.run(SETTLE);
        let owners = net.owners(0);
        let busy: BTreeSet<&NodeName> = owners.values().collect();
        assert_eq!(busy.len(), usize::from(count));
    }
}

#[test]
fn nobody_answers_before_it_has_listened() {
    let mut net = Net::new(3, 2);
    net.run(Duration::from_millis(450));
    for address in net.wanted.clone() {
        assert_eq!(net.answering(address, 0), []);
    }
}

#[test]
fn the_addresses_of_a_dead_node_move_within_the_detection_time_and_no_others() {
    for count in SIZES {
        for seed in 1..=20 {
            let mut net = Net::new(count, seed);
            net.run(SETTLE);
            let before = net.owners(0);
            net.moves.clear();
            net.kill(1);
            net.run(DETECTION);
            let after = net.owners(0);
            for (address, owner) in &before {
                assert!(
                    *owner == name(1) || owner == &after[address],
                    "{address} moved needlessly"
                );
            }
            let moved = before.values().filter(|owner| **owner == name(1)).count();
            assert_eq!(net.moves.len(), moved);
        }
    }
}

#[test]
fn a_node_that_comes_back_takes_its_own_addresses_and_no_others() {
    let mut net = Net::new(3, 3);
    net.run(SETTLE);
    let before = net.owners(0);
    net.kill(2);
    net.run(SETTLE);
    net.start(2);
    net.run(SETTLE);
    assert_eq!(net.owners(0), before);
}

#[test]
fn a_quick_restart_moves_nothing_to_other_nodes() {
    let mut net = Net::new(3, 4);
    net.run(SETTLE);
    let before = net.owners(0);
    net.moves.clear();
    net.kill(2);
    net.run(Duration::from_millis(200));
    net.start(2);
    net.run(SETTLE);
    assert_eq!(net.owners(0), before);
    assert!(
        net.moves.iter().all(|(_, node, _, _)| *node == name(2)),
        "{:?}",
        net.moves
    );
}

#[test]
fn a_farewell_moves_addresses_at_once_and_without_a_gap() {
    let mut net = Net::new(3, 5);
    net.run(SETTLE);
    let now = net.now;
    net.engine(3).leave(now);
    net.run(Duration::from_millis(20));
    for address in net.wanted.clone() {
        assert!(!net.answering(address, 0).is_empty(), "{address} has a gap");
    }
    let heirs: BTreeSet<NodeName> = net
        .moves
        .iter()
        .filter(|(when, ..)| *when >= now)
        .map(|(_, node, ..)| node.clone())
        .collect();
    assert_eq!(heirs, [name(1), name(2)].into());
    net.run(Duration::from_millis(400));
    assert!(net.node(3).engine.is_none(), "it has stopped");
    net.owners(0);
}

#[test]
fn a_fifth_of_the_heartbeats_lost_makes_no_flap_in_ten_minutes() {
    for count in SIZES {
        let mut net = Net::new(count, 6);
        net.run(SETTLE);
        let before = net.owners(0);
        net.moves.clear();
        net.loss_percent = 20;
        net.run(Duration::from_secs(600));
        assert_eq!(net.moves, [], "{count} nodes");
        assert_eq!(net.owners(0), before);
    }
}

#[test]
fn a_partition_has_one_owner_on_each_side_and_one_in_all_after_healing() {
    for count in SIZES {
        for seed in 1..=10 {
            let mut net = Net::new(count, 100 + seed);
            net.run(SETTLE);
            let before = net.owners(0);
            for n in 1..=count / 2 {
                net.node(n).side = 1;
            }
            net.run(DETECTION);
            net.owners(0);
            net.owners(1);
            for n in 1..=count / 2 {
                net.node(n).side = 0;
            }
            net.run(Duration::from_millis(250));
            assert_eq!(net.owners(0), before);
            net.moves.clear();
            net.run(Duration::from_secs(30));
            assert_eq!(net.moves, [], "no oscillation");
        }
    }
}

#[test]
fn a_node_without_carrier_hands_over_without_waiting_for_a_timeout() {
    // Heartbeats still flow: the node has another link.
    let mut net = Net::new(3, 8);
    net.run(SETTLE);
    let now = net.now;
    net.engine(1).set_links([lan_link(1, false)], now);
    net.run(Duration::from_millis(20));
    let owners = net.owners(0);
    assert!(owners.values().all(|owner| *owner != name(1)));
    let now = net.now;
    net.engine(1).set_links([lan_link(1, true)], now);
    net.run(Duration::from_millis(20));
    assert!(net.owners(0).values().any(|owner| *owner == name(1)));
}

#[test]
fn a_node_that_is_plugged_in_again_does_not_take_what_others_own() {
    let mut net = Net::new(3, 10);
    net.run(SETTLE);
    let before = net.owners(0);
    net.node(1).side = 1;
    let now = net.now;
    net.engine(1).set_links([lan_link(1, false)], now);
    net.run(SETTLE);
    net.moves.clear();
    net.node(1).side = 0;
    let now = net.now;
    net.engine(1).set_links([lan_link(1, true)], now);
    net.run(SETTLE);
    assert_eq!(net.owners(0), before);
    let taken: BTreeSet<IpAddr> = net
        .moves
        .iter()
        .filter(|(_, node, _, taken)| *taken && *node == name(1))
        .map(|(_, _, address, _)| *address)
        .collect();
    assert!(
        taken.iter().all(|address| before[address] == name(1)),
        "{taken:?}"
    );
    assert!(
        net.moves
            .iter()
            .all(|(when, ..)| when.since(now) >= Duration::from_millis(450))
    );
}

#[test]
fn an_announcer_of_a_node_that_the_cluster_does_not_have_owns_nothing() {
    let mut net = Net::new(1, 11);
    net.run(SETTLE);
    net.owners(0);
    net.engine(1).set_nodes([(name(9), vec![])].into());
    net.run(Duration::from_millis(200));
    assert_eq!(net.answering([10, 77, 0, 200].into(), 0), []);
}

#[test]
fn after_a_partition_the_owner_says_again_that_it_is_the_owner() {
    let mut net = Net::new(2, 12);
    net.run(Duration::from_secs(10));
    let target = IpAddr::from([10, 77, 0, 200]);
    let owner = net.owners(0)[&target].clone();
    net.node(1).side = 1;
    net.run(Duration::from_secs(10));
    net.node(1).side = 0;
    net.spoken.clear();
    net.run(Duration::from_millis(400));
    let voices: BTreeSet<&NodeName> = net
        .spoken
        .iter()
        .filter(|(_, address)| *address == target)
        .map(|(node, _)| node)
        .collect();
    assert_eq!(voices, [&owner].into());
}

#[test]
fn after_a_partition_in_which_a_peer_was_started_the_owner_says_again_that_it_is_the_owner() {
    // Longer and shorter than the dead time: the predecessor is dead, or counts as alive when the cut heals.
    for cut in [Duration::from_secs(10), Duration::from_millis(800)] {
        let mut net = Net::new(2, 13);
        net.run(Duration::from_secs(10));
        let before = net.owners(0);
        net.node(2).side = 1;
        net.kill(2);
        // What is under way still arrives.
        net.run(Duration::from_millis(10));
        net.start(2);
        net.run(cut);
        net.owners(1);
        net.node(2).side = 0;
        net.spoken.clear();
        net.run(Duration::from_millis(400));
        for (address, _) in before.iter().filter(|(_, owner)| **owner == name(1)) {
            let frames = net
                .spoken
                .iter()
                .filter(|(node, said)| *node == name(1) && said == address);
            assert_eq!(frames.count(), 6, "{address}: three rounds of two after {cut:?}");
        }
        assert_eq!(net.owners(0), before);
    }
}

#[test]
fn a_peer_that_is_heard_joining_makes_nobody_say_again_what_it_owns() {
    for down in [Duration::from_secs(5), Duration::from_millis(200)] {
        let mut net = Net::new(2, 14);
        net.run(Duration::from_secs(10));
        let before = net.owners(0);
        net.kill(2);
        net.run(down);
        net.start(2);
        net.run(Duration::from_millis(400));
        net.spoken.clear();
        net.run(Duration::from_millis(400));
        let needless: Vec<_> = net
            .spoken
            .iter()
            .filter(|(node, address)| *node == name(1) && before[address] == name(1))
            .collect();
        assert!(needless.is_empty(), "down for {down:?}: {needless:?}");
    }
}

#[test]
fn random_deaths_restarts_and_loss_end_with_one_owner() {
    for seed in 1..=60 {
        let count = if seed % 2 == 0 { 3 } else { 7 };
        let mut net = Net::new(count, 1_000 + seed);
        for _ in 0..12 {
            let n = u8::try_from(1 + net.dice.roll(u64::from(count))).unwrap();
            match net.dice.roll(5) {
                0 => net.kill(n),
                1 => net.start(n),
                2 => net.loss_percent = net.dice.roll(50),
                3 => net.node(n).side ^= 1,
                _ => {
                    let now = net.now;
                    if let Some(engine) = net.node(n).engine.as_mut() {
                        engine.leave(now);
                    }
                }
            }
            let pause = net.dice.roll(1_500);
            net.run(Duration::from_millis(pause));
        }
        net.loss_percent = 0;
        for n in 1..=count {
            net.node(n).side = 0;
            let running = net
                .node(n)
                .engine
                .as_ref()
                .is_some_and(|engine| engine.phase() != Phase::Leaving);
            if n == 1 && !running {
                net.start(1);
            }
        }
        net.run(SETTLE);
        let living = net.nodes.values().filter(|node| node.engine.is_some()).count();
        assert!(living > 0);
        net.owners(0);
    }
}

#[test]
fn an_owner_speaks_up_on_the_burst_schedule_and_then_slowly() {
    let mut net = Net::new(1, 9);
    net.wanted = [IpAddr::from([10, 77, 0, 200])].into();
    net.start(1);
    let mut rounds = Vec::new();
    let mut engine = net.node(1).engine.take().unwrap();
    let mut taken_over = None;
    while let Some(now) = engine.next_deadline().filter(|now| *now < at(70_000)) {
        engine.poll(now);
        let outputs = engine.take_outputs();
        let announces = outputs
            .iter()
            .any(|output| matches!(output, Output::Announce { .. }));
        taken_over = taken_over.or(announces.then_some(now));
        let frames = outputs
            .iter()
            .filter(|output| matches!(output, Output::SendFrame { .. }))
            .count();
        if frames > 0 {
            assert_eq!(frames, 2, "a request and a reply");
            rounds.push(now.since(taken_over.unwrap()).as_millis());
        }
    }
    assert_eq!(rounds, [0, 50, 200, 1_100, 2_200, 4_400, 64_400]);
}
