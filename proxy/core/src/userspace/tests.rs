// SPDX-License-Identifier: Apache-2.0
use berth_model::{Port, Protocol, View};
use proptest::prelude::*;

use super::*;
use crate::nft::{Installed, table_text};
use crate::sample::{Sample, key, mk_view, packet, sample, samples, settings};
use crate::walk::{Packet, Verdict};
use crate::{Settings, Touched};

mod world;

use world::{DELAY, World, addresses, expected, keys};

fn changes() -> impl Strategy<Value = Vec<Option<(u8, Option<Sample>)>>> {
    let one = (0u8..3).prop_flat_map(|n| (Just(n), proptest::option::weighted(0.8, sample(n))));
    proptest::collection::vec(proptest::option::weighted(0.7, one), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]
    #[test]
    fn steering_and_relays_do_what_the_oracle_says(
        samples in samples(),
        settings in settings(),
        packets in proptest::collection::vec(packet(), 12),
    ) {
        let view = mk_view(&samples);
        let mut world = World::new(settings.clone());
        world.sync(&view, &keys(&view));
        for packet in packets {
            prop_assert_eq!(
                world.verdicts(&packet),
                expected(&packet, &view, &settings),
                "{:?}\n{}", packet, world.intent
            );
        }
    }

    #[test]
    fn partial_syncs_come_to_what_one_full_sync_does_and_everything_can_go(
        changes in changes(),
        settings in settings(),
        packets in proptest::collection::vec(packet(), 6),
        failing in proptest::option::of(2u16..4),
        moves in any::<bool>(),
    ) {
        let mut view = View::default();
        let mut world = World::new(settings.clone());
        world.failing = failing;
        for (index, change) in changes.into_iter().enumerate() {
            match change {
                Some((n, Some(sample))) => {
                    sample.put(&mut view);
                    world.sync(&view, &[key(n)].into());
                }
                Some((n, None)) => {
                    view.services.remove(&key(n));
                    view.endpoints.remove(&key(n));
                    world.sync(&view, &[key(n)].into());
                }
                None => world.now += DELAY / 2,
            }
            if moves && index == 3 {
                world.board.set_addresses(addresses(1));
                world.turn(&Touched::default());
            }
        }
        world.failing = None;
        world.settle();
        let mut full = World::new(settings.clone());
        full.board.set_addresses(world.board.addresses().clone());
        full.sync(&view, &keys(&view));
        full.settle();
        prop_assert_eq!(world.shape(), full.shape());
        for packet in packets {
            prop_assert_eq!(world.verdicts(&packet), expected(&packet, &view, &settings), "{:?}", packet);
        }
        // Twice is as good as once.
        let everything = keys(&view);
        prop_assert_eq!(world.sync(&view, &everything), 0);
        // And all can go.
        world.sync(&View::default(), &everything);
        world.settle();
        prop_assert!(world.installed.iter().all(Installed::is_empty), "{:?}", world.shape().0);
        prop_assert!(world.board.listening().is_empty() && world.board.demand().is_empty());
        prop_assert!(world.board.steering() == &Steering::default());
    }
}

fn mk_world(samples: &[Sample]) -> (World, View) {
    let view = mk_view(samples);
    let mut world = World::new(Settings::default());
    world.sync(&view, &keys(&view));
    (world, view)
}

/// One Service with a TCP and a UDP port, an external IP, a node port and one endpoint for each.
fn mk_sample() -> Sample {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let full = sample(1).prop_filter("with everything", |sample| {
        sample.service.external_ips.len() == 2
            && sample.service.cluster_ips.len() == 2
            && sample.service.ports.len() == 2
            && sample
                .endpoints
                .values()
                .all(|list| list.iter().any(|endpoint| endpoint.conditions.ready))
            && sample.service.internal_policy == sample.service.external_policy
            && sample.service.internal_policy == berth_model::TrafficPolicy::Cluster
            && sample.service.load_balancer.is_empty()
    });
    full.new_tree(&mut TestRunner::deterministic()).unwrap().current()
}

#[test]
fn the_frontends_of_a_service_port_share_one_relay_per_family() {
    let (world, _) = mk_world(&[mk_sample()]);
    let demand = world.board.demand();
    assert_eq!(demand.relays().count(), 4, "{demand}");
    for (relay, _) in demand.relays() {
        assert!(demand.frontends(relay).count() >= 3, "{demand}");
    }
}

#[test]
fn relays_are_out_of_reach_but_by_steering() {
    let (world, _) = mk_world(&[mk_sample()]);
    for (relay, _) in world.board.demand().relays() {
        let at = world.board.listening().socket(relay).unwrap().at;
        for (source, from_this_node) in [
            ("203.0.113.5", false),
            ("10.244.0.1", false),
            ("10.77.0.11", true),
        ] {
            let direct = Packet {
                source: source.parse().unwrap(),
                destination: at.ip,
                protocol: relay.protocol(),
                port: at.port,
                to_this_node: true,
                from_this_node,
                link: None,
            };
            assert_eq!(
                world.verdicts(&direct),
                [Verdict::Dropped].into(),
                "{relay} from {source}"
            );
        }
    }
}

#[test]
fn a_node_port_of_a_relays_number_is_served() {
    let mut sample = mk_sample();
    let (mut world, mut view) = mk_world(std::slice::from_ref(&sample));
    let taken = Port::new(40_000).unwrap();
    for port in &mut sample.service.ports {
        port.node_port = Some(taken);
    }
    sample.put(&mut view);
    world.sync(&view, &keys(&view));
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let packet = Packet {
            source: [203, 0, 113, 5].into(),
            destination: [10, 77, 0, 11].into(),
            protocol,
            port: taken,
            to_this_node: true,
            from_this_node: false,
            link: None,
        };
        let settings = world.intent.settings().clone();
        assert_eq!(
            world.verdicts(&packet),
            expected(&packet, &view, &settings),
            "{protocol}"
        );
    }
}

#[test]
fn a_relay_that_moves_keeps_its_old_socket_until_nothing_leads_there() {
    let (mut world, _) = mk_world(&[mk_sample()]);
    let relay = world.board.demand().relays().next().unwrap().0.clone();
    let old = world.board.listening().socket(&relay).unwrap();
    world.board.set_addresses(addresses(1));
    world.turn(&Touched::default());
    let new = world.board.listening().socket(&relay).unwrap();
    assert_ne!(old.at.ip, new.at.ip);
    assert_eq!(world.board.listening().relay(&old), Some(&relay));
    world.settle();
    assert_eq!(world.board.listening().relay(&old), None);
    assert_eq!(world.board.listening().relay(&new), Some(&relay));
}

#[test]
fn a_relay_that_is_wanted_again_at_once_keeps_its_socket() {
    let (mut world, view) = mk_world(&[mk_sample()]);
    let relay = world.board.demand().relays().next().unwrap().0.clone();
    let socket = world.board.listening().socket(&relay);
    world.sync(&View::default(), &keys(&view));
    assert_eq!(world.board.listening().socket(&relay), None);
    world.sync(&view, &keys(&view));
    assert_eq!(world.board.listening().socket(&relay), socket);
    world.settle();
    assert_eq!(world.board.listening().socket(&relay), socket);
}

#[test]
fn a_service_refuses_while_its_relays_cannot_be_opened() {
    let mut sample = mk_sample();
    sample.service.external_policy = berth_model::TrafficPolicy::Local;
    let view = mk_view(std::slice::from_ref(&sample));
    let mut world = World::new(Settings::default());
    world.failing = Some(1);
    world.sync(&view, &keys(&view));
    let to = |destination| Packet {
        source: [203, 0, 113, 5].into(),
        destination,
        protocol: Protocol::Tcp,
        port: Port::new(80).unwrap(),
        to_this_node: false,
        from_this_node: false,
        link: None,
    };
    let both = [sample.service.cluster_ips[0], sample.service.external_ips[0]].map(to);
    for packet in &both {
        assert_eq!(world.verdicts(packet), [Verdict::Rejected].into(), "{packet:?}");
    }
    assert!(world.board.lacks());
    // The next turn tries again, whatever it is about.
    world.failing = None;
    world.turn(&Touched::default());
    let settings = world.intent.settings().clone();
    for packet in &both {
        assert_eq!(
            world.verdicts(packet),
            expected(packet, &view, &settings),
            "{packet:?}"
        );
    }
    assert!(!world.board.lacks());
}

#[test]
fn sctp_is_refused() {
    let mut sample = mk_sample();
    let endpoints = std::mem::take(&mut sample.endpoints);
    for port in &mut sample.service.ports {
        port.protocol = Protocol::Sctp;
    }
    let with_sctp = endpoints.into_iter().map(|(mut join, list)| {
        join.protocol = Protocol::Sctp;
        (join, list)
    });
    sample.endpoints = with_sctp.collect();
    let (world, _) = mk_world(std::slice::from_ref(&sample));
    assert!(world.board.demand().is_empty());
    let packet = Packet {
        source: [10, 244, 0, 1].into(),
        destination: sample.service.cluster_ips[0],
        protocol: Protocol::Sctp,
        port: Port::new(80).unwrap(),
        to_this_node: false,
        from_this_node: false,
        link: None,
    };
    assert_eq!(world.verdicts(&packet), [Verdict::Rejected].into());
}

#[test]
fn plans_can_be_read() {
    let view = mk_view(&[mk_sample()]);
    let mut world = World::new(Settings::default());
    let touched = world.intent.update(&view, &keys(&view));
    let plan = world.board.plan(&world.intent, &touched);
    assert!(!plan.is_empty());
    insta::assert_snapshot!(format!("{plan}---\n{}", world.board.demand()));
}

#[test]
fn the_table_is_small_and_its_size_does_not_depend_on_services() {
    let (world, _) = mk_world(&[mk_sample()]);
    let layout = &world.layouts[0];
    let rules: usize = layout.chains().iter().map(|chain| chain.rules.len()).sum();
    assert_eq!((layout.chains().len(), rules, layout.sets().len()), (17, 34, 20));
    insta::assert_snapshot!(table_text(layout, &[]));
}
