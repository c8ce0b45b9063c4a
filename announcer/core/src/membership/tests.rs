// SPDX-License-Identifier: Apache-2.0
//! Two or three memberships on a fake clock, with the datagrams carried by hand.

use std::collections::VecDeque;

use super::*;

const INTERVAL: Duration = Duration::from_millis(100);

fn at(millis: u64) -> Moment {
    Moment::after_origin(Duration::from_millis(millis))
}

fn name(n: u8) -> NodeName {
    NodeName::new(format!("node-{n}"))
}

fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 77, 0, 10 + n])
}

/// A membership for node `n` in a cluster of three.
fn member(n: u8, instance: u64, now: Moment) -> Membership {
    let identity = Identity {
        node: name(n),
        instance,
        incarnation: instance,
    };
    let mut member = Membership::new(identity, Timing::default(), now);
    member.set_nodes((1..=3).map(|n| (name(n), vec![ip(n)])).collect());
    member
}

/// Lets members talk without loss until `until`; each has an address, which need not be its node's.
fn run(members: &mut [(IpAddr, Membership)], from: Moment, until: Moment) -> Moment {
    let mut now = from;
    loop {
        let mut mail: VecDeque<(SocketAddr, IpAddr, Heartbeat)> = VecDeque::new();
        for (address, member) in members.iter_mut() {
            member.poll(now);
            collect(*address, member, &mut mail);
        }
        while let Some((source, to, heartbeat)) = mail.pop_front() {
            for (address, member) in members.iter_mut().filter(|(address, _)| *address == to) {
                let _ = member.receive(now, source, heartbeat.clone());
                collect(*address, member, &mut mail);
            }
        }
        let next = members
            .iter()
            .filter_map(|(_, member)| member.next_deadline())
            .min();
        match next {
            Some(next) if next <= until => now = next.max(now),
            _ => return until,
        }
    }
}

fn collect(address: IpAddr, member: &mut Membership, mail: &mut VecDeque<(SocketAddr, IpAddr, Heartbeat)>) {
    for outgoing in member.take_outgoing() {
        for to in outgoing.to {
            let to = match to {
                Destination::Node(ip) => ip,
                Destination::Sender(socket) => socket.ip(),
            };
            mail.push_back((SocketAddr::new(address, 7947), to, outgoing.heartbeat.clone()));
        }
    }
}

fn candidates(member: &Membership) -> Vec<String> {
    member.candidates().map(|(name, _)| name.to_string()).collect()
}

#[test]
fn members_find_each_other_and_then_are_established() {
    let mut all = [(ip(1), member(1, 1, at(0))), (ip(2), member(2, 2, at(0)))];
    run(&mut all, at(0), at(400));
    assert_eq!(all[0].1.phase(), Phase::Joining);
    assert!(candidates(&all[0].1).is_empty(), "a joining peer owns nothing");
    run(&mut all, at(400), at(700));
    assert_eq!(all[0].1.phase(), Phase::Established);
    assert_eq!(candidates(&all[0].1), ["node-2"]);
    assert_eq!(candidates(&all[1].1), ["node-1"]);
}

#[test]
fn a_silent_peer_is_dead_after_the_time_set_and_not_before() {
    let mut all = [(ip(1), member(1, 1, at(0))), (ip(2), member(2, 2, at(0)))];
    run(&mut all, at(0), at(1_000));
    let [(_, mut alone), _] = all;
    alone.take_changes();
    for millis in (1_100..2_000).step_by(100) {
        alone.poll(at(millis));
        assert_eq!(candidates(&alone), ["node-2"], "after {millis} ms");
    }
    alone.poll(at(2_000));
    assert_eq!(alone.take_changes(), [Change::Died(name(2))]);
    assert!(candidates(&alone).is_empty());
}

#[test]
fn a_peer_that_leaves_is_gone_at_once() {
    let mut all = [(ip(1), member(1, 1, at(0))), (ip(2), member(2, 2, at(0)))];
    run(&mut all, at(0), at(1_000));
    all[1].1.leave(at(1_001));
    run(&mut all, at(1_001), at(1_001));
    assert!(candidates(&all[0].1).is_empty());
    run(&mut all, at(1_001), at(1_400));
    assert!(all[1].1.is_gone());
}

#[test]
fn a_second_announcer_of_a_name_gives_up_and_takes_nothing_from_the_first() {
    // The newcomer is not at its node's address: a container on another host, say.
    let stranger: IpAddr = "10.77.0.99".parse().unwrap();
    let mut all = [
        (ip(1), member(1, 1, at(0))),
        (ip(2), member(2, 2, at(0))),
        (stranger, member(1, 3, at(0))),
    ];
    run(&mut all[..2], at(0), at(1_000));
    all[2].1 = member(1, 3, at(1_000));
    all[1].1.take_changes();
    run(&mut all, at(1_000), at(1_000) + INTERVAL);
    let taken = all[2].1.taken().cloned().unwrap();
    assert_eq!((taken.instance, taken.from.ip()), (1, ip(1)));
    assert!(taken.to_string().contains("node-1"), "{taken}");
    assert_eq!(all[2].1.next_deadline(), None);
    assert!(all[0].1.taken().is_none());
    assert_eq!(candidates(&all[1].1), ["node-1"]);
    assert_eq!(all[1].1.take_changes(), []);
}

#[test]
fn of_two_that_start_at_once_under_one_name_the_older_stays() {
    let mut all = [(ip(1), member(1, 1, at(0))), (ip(2), member(1, 9, at(0)))];
    run(&mut all, at(0), at(1_000));
    assert!(all[0].1.taken().is_none());
    assert_eq!(all[1].1.taken().map(|taken| taken.instance), Some(1));
    assert_eq!(all[0].1.phase(), Phase::Established);
}

#[test]
fn a_restart_after_a_kill_goes_on_without_a_change_for_its_peers() {
    let mut all = [(ip(1), member(1, 1, at(0))), (ip(2), member(2, 2, at(0)))];
    run(&mut all, at(0), at(1_000));
    all[0].1.take_changes();
    all[1].1 = member(2, 5, at(1_050));
    run(&mut all, at(1_050), at(2_500));
    assert_eq!(all[0].1.take_changes(), []);
    assert_eq!(candidates(&all[0].1), ["node-2"]);
    assert_eq!(all[1].1.phase(), Phase::Established);
}

#[test]
fn a_successor_that_starts_while_its_predecessor_leaves_is_not_held_up() {
    let mut all = [(ip(1), member(1, 1, at(0))), (ip(1), member(1, 2, at(0)))];
    run(&mut all[..1], at(0), at(1_000));
    all[1].1 = member(1, 2, at(1_000));
    all[0].1.leave(at(1_000));
    run(&mut all, at(1_000), at(2_000));
    assert!(all[1].1.taken().is_none());
    assert_eq!(all[1].1.phase(), Phase::Established);
}

#[test]
fn a_process_that_was_stopped_joins_anew_and_does_not_take_its_peers_for_dead() {
    let mut all = [(ip(1), member(1, 1, at(0))), (ip(2), member(2, 2, at(0)))];
    run(&mut all, at(0), at(1_000));
    all[0].1.take_changes();
    all[0].1.poll(at(5_000));
    let stalled = Duration::from_secs(4);
    assert_eq!(all[0].1.take_changes(), [Change::Stalled(stalled)]);
    assert_eq!(all[0].1.phase(), Phase::Joining);
    assert_eq!(candidates(&all[0].1), ["node-2"], "it may have spoken unheard");
    all[0].1.poll(at(5_200));
    all[0].1.poll(at(5_300));
    assert_eq!(all[0].1.take_changes(), [Change::Died(name(2))]);
}

#[test]
fn a_short_stall_kills_nobody_before_three_more_intervals() {
    let mut all = [(ip(1), member(1, 1, at(0))), (ip(2), member(2, 2, at(0)))];
    run(&mut all, at(0), at(1_000));
    all[0].1.take_changes();
    all[0].1.poll(at(1_990));
    assert_eq!(all[0].1.phase(), Phase::Established);
    all[0].1.poll(at(2_200));
    assert_eq!(all[0].1.take_changes(), []);
    all[0].1.poll(at(2_300));
    assert_eq!(all[0].1.take_changes(), [Change::Died(name(2))]);
}

#[test]
fn heartbeats_that_change_nothing_say_why() {
    let mut one = member(1, 10, at(0));
    let from = SocketAddr::new(ip(2), 7947);
    let beat = |node: NodeName, instance: u64, sequence: u64, phase: Phase| Heartbeat {
        node,
        instance,
        incarnation: instance,
        sequence,
        phase,
        reach: Reach::default(),
    };
    let two = |instance, sequence, phase| beat(name(2), instance, sequence, phase);
    let rows = [
        (
            "an unknown node",
            beat(name(9), 1, 1, Phase::Established),
            Err(Ignored::UnknownNode),
        ),
        ("our own", beat(name(1), 10, 1, Phase::Joining), Err(Ignored::Own)),
        ("a peer", two(20, 5, Phase::Established), Ok(())),
        ("its copy", two(20, 5, Phase::Established), Err(Ignored::Repeated)),
        ("a late one", two(20, 4, Phase::Leaving), Err(Ignored::Repeated)),
        (
            "an older instance",
            two(19, 9, Phase::Established),
            Err(Ignored::OtherInstance),
        ),
        (
            "a joining namesake",
            two(21, 1, Phase::Joining),
            Err(Ignored::OtherInstance),
        ),
        ("its successor", two(21, 2, Phase::Established), Ok(())),
        ("the successor's farewell", two(21, 3, Phase::Leaving), Ok(())),
        (
            "an older instance when the younger is gone",
            two(20, 6, Phase::Established),
            Ok(()),
        ),
    ];
    for (row, heartbeat, expected) in rows {
        assert_eq!(one.receive(at(1), from, heartbeat), expected, "{row}");
    }
}

#[test]
fn a_change_of_reach_is_told_at_once() {
    let mut all = [(ip(1), member(1, 1, at(0))), (ip(2), member(2, 2, at(0)))];
    run(&mut all, at(0), at(1_000));
    all[1].1.take_changes();
    let reach = Reach {
        families: [berth_model::IpFamily::V4].into(),
        prefixes: ["10.77.0.0/24".parse().unwrap()].into(),
    };
    all[0].1.set_reach(reach, at(1_001));
    assert_eq!(all[0].1.next_deadline(), Some(at(1_001)));
    run(&mut all, at(1_001), at(1_001));
    assert_eq!(all[1].1.take_changes(), [Change::ReachChanged(name(1))]);
}

#[test]
fn a_peer_heard_again_has_returned_and_a_new_instance_of_it_has_appeared() {
    let mut all = [(ip(1), member(1, 1, at(0))), (ip(2), member(2, 2, at(0)))];
    run(&mut all, at(0), at(1_000));
    for millis in (1_100..=2_100).step_by(100) {
        all[0].1.poll(at(millis));
    }
    all[0].1.take_changes();
    run(&mut all[1..], at(1_000), at(2_100));
    run(&mut all, at(2_100), at(2_300));
    assert_eq!(all[0].1.take_changes(), [Change::Returned(name(2))]);
    for millis in (2_400..=3_400).step_by(100) {
        all[0].1.poll(at(millis));
    }
    all[0].1.take_changes();
    all[1].1 = member(2, 5, at(3_400));
    run(&mut all, at(3_400), at(4_200));
    assert_eq!(all[0].1.take_changes(), [Change::Appeared(name(2))]);
}

#[test]
fn a_node_that_is_plugged_in_again_listens_before_it_owns() {
    let reach = Reach {
        families: [berth_model::IpFamily::V4].into(),
        ..Reach::default()
    };
    let mut cut = member(1, 1, at(0));
    cut.set_reach(reach.clone(), at(0));
    for millis in (0..=1_000).step_by(100) {
        cut.poll(at(millis));
    }
    assert_eq!(cut.phase(), Phase::Established);
    cut.set_reach(Reach::default(), at(1_000));
    cut.take_changes();
    cut.set_reach(reach, at(1_100));
    assert_eq!(cut.take_changes(), [Change::Reconnected]);
    assert_eq!(cut.phase(), Phase::Joining);
}

#[test]
fn a_node_that_is_deleted_is_no_candidate() {
    let mut all = [(ip(1), member(1, 1, at(0))), (ip(2), member(2, 2, at(0)))];
    run(&mut all, at(0), at(1_000));
    all[0].1.take_changes();
    all[0].1.set_nodes([(name(1), vec![ip(1)])].into());
    assert_eq!(all[0].1.take_changes(), [Change::Left(name(2))]);
}

#[test]
fn timing_that_cannot_work_is_refused() {
    let timing = |interval, dead_after| Timing {
        interval: Duration::from_millis(interval),
        dead_after: Duration::from_millis(dead_after),
    };
    assert_eq!(timing(100, 300).validate(), Ok(()));
    assert!(matches!(
        timing(0, 300).validate(),
        Err(TimingError::IntervalTooShort(_))
    ));
    let said = timing(100, 299).validate().unwrap_err().to_string();
    assert!(said.contains("299ms") && said.contains("100ms"), "{said}");
}
