// SPDX-License-Identifier: Apache-2.0
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_model::{IpFamily, Port, Protocol, ServiceKey, View};
use proptest::prelude::*;

use super::*;
use crate::nft::{Element, Installed, Key, Layout, Scope, diff, table_text};
use crate::oracle::{self, State};
use crate::sample::{Sample, in_family, key, mk_view, node_ips, packet, sample, samples, settings};
use crate::walk::{Packet, Verdict};
use crate::{Frontend, Intent, Settings, Target, Touched};

const DELAY: Duration = Duration::from_secs(1);

/// A node in user-space mode, without sockets: relays get ports one after the other.
struct World {
    intent: Intent,
    board: Switchboard,
    layouts: [Layout; 2],
    installed: [Installed; 2],
    balancers: BTreeMap<Relay, Balancer>,
    next_port: u16,
    now: Duration,
    /// Relays that cannot be opened: the one in so many, if any.
    failing: Option<u16>,
    tries: u16,
}

impl World {
    fn new(settings: Settings) -> Self {
        let mut board = Switchboard::default();
        board.set_addresses(addresses(0));
        Self {
            layouts: IpFamily::ALL.map(|family| Layout::of_relays(family, &settings)),
            intent: Intent::empty(settings),
            board,
            installed: [Installed::default(), Installed::default()],
            balancers: BTreeMap::new(),
            next_port: 40_000,
            now: Duration::ZERO,
            failing: None,
            tries: 0,
        }
    }

    /// One turn after the view changed, and how many changes it made.
    fn sync(&mut self, view: &View, keys: &BTreeSet<ServiceKey>) -> usize {
        let touched = self.intent.update(view, keys);
        self.turn(&touched)
    }

    fn turn(&mut self, touched: &Touched) -> usize {
        let plan = self.board.plan(&self.intent, touched);
        let mut made = plan.changes.len();
        for change in plan.changes {
            self.carry_out(change);
        }
        let steered = self.board.steer(&self.intent, touched);
        for (family, installed) in IpFamily::ALL.into_iter().zip(&mut self.installed) {
            let scope = Scope::Touched(&steered);
            let plan = diff(family, installed, self.board.steering(), scope, self.now, DELAY);
            made += plan.stages.iter().map(|stage| stage.changes.len()).sum::<usize>();
            plan.stages
                .iter()
                .for_each(|stage| installed.apply(stage, self.now));
        }
        let closable = self.board.closable(&self.installed, self.now, DELAY);
        made += closable.changes.len();
        for change in closable.changes {
            self.board.apply(&change, self.now);
        }
        self.balancers
            .retain(|relay, _| self.board.listening().socket(relay).is_some());
        let led_to = self.installed.iter().flat_map(Installed::targets);
        for (frontend, at) in led_to {
            let protocol = frontend.protocol();
            let listens = self.board.listening().relay(&Socket { protocol, at }).is_some();
            assert!(listens, "{frontend} leads to {at}, where nobody listens");
        }
        made
    }

    fn carry_out(&mut self, change: RelayChange) {
        self.board.apply(&change, self.now);
        match change {
            RelayChange::Open { relay, ip, wish } => {
                self.tries += 1;
                if self
                    .failing
                    .is_some_and(|one_in| self.tries.is_multiple_of(one_in))
                {
                    return self.board.failed(relay);
                }
                let socket = Socket {
                    protocol: relay.protocol(),
                    at: Target {
                        ip,
                        port: self.next_port.try_into().unwrap(),
                    },
                };
                self.next_port += 1;
                self.update(&relay, &wish);
                self.board.opened(relay, socket, wish, self.now);
            }
            RelayChange::Resume { relay, wish, .. } | RelayChange::Update { relay, wish, .. } => {
                self.update(&relay, &wish);
            }
            RelayChange::Retire { .. } | RelayChange::Close { .. } => {}
        }
    }

    fn update(&mut self, relay: &Relay, wish: &RelayIntent) {
        let balancer = self.balancers.entry(relay.clone());
        balancer
            .or_insert_with(|| Balancer::new(Limits::default()))
            .update(wish, self.now);
    }

    /// Turns until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.now += DELAY;
            self.turn(&Touched::default());
        }
    }

    fn verdicts(&self, packet: &Packet) -> BTreeSet<Verdict> {
        let index = IpFamily::ALL
            .iter()
            .position(|family| *family == IpFamily::of(packet.destination));
        let index = index.unwrap();
        let relays = walk::Relays {
            layout: &self.layouts[index],
            installed: &self.installed[index],
            listening: self.board.listening(),
            balancers: &self.balancers,
        };
        walk::verdicts(relays, packet, self.now)
    }

    /// The same but for the numbers of ports.
    fn shape(&self) -> (Vec<String>, Demand, BTreeSet<Relay>) {
        let names: BTreeMap<Target, String> = self
            .board
            .demand()
            .relays()
            .filter_map(|(relay, _)| Some((self.board.listening().socket(relay)?.at, relay.to_string())))
            .collect();
        let shown = |element: Element| match element {
            Element::Slot(entry, slot, target) => format!("{entry:?} {slot} {:?}", names.get(&target)),
            Element::Member(set, Key::Frontend(frontend @ Frontend::Vip { ip, port, .. }))
                if names.contains_key(&Target { ip, port }) && self.intent.get(&frontend).is_none() =>
            {
                format!("{set} {:?}", names[&Target { ip, port }])
            }
            Element::Member(set, key) => format!("{set} {key:?}"),
            Element::Numbered(entry, number) => panic!("the kernel remembers {entry:?} by {number}"),
        };
        let mut elements: Vec<String> = self
            .installed
            .iter()
            .flat_map(Installed::elements)
            .map(shown)
            .collect();
        elements.sort();
        let open = self.board.demand().relays().map(|(relay, _)| relay.clone());
        let open = open.filter(|relay| self.board.listening().socket(relay).is_some());
        (elements, self.board.demand().clone(), open.collect())
    }
}

fn addresses(n: u8) -> BTreeMap<IpFamily, IpAddr> {
    let both = IpFamily::ALL.map(|family| (family, in_family(node_ips(n), family)));
    both.into()
}

fn keys(view: &View) -> BTreeSet<ServiceKey> {
    view.services.keys().cloned().collect()
}

/// What the oracle says, with the one deviation: whoever is served is masqueraded.
fn expected(packet: &Packet, view: &View, settings: &Settings) -> BTreeSet<Verdict> {
    let verdicts = oracle::verdict(packet, State { view, settings });
    let lost = |verdict| match verdict {
        Verdict::Translated { target, .. } => Verdict::Translated {
            target,
            masqueraded: true,
        },
        other @ (Verdict::Untouched | Verdict::Rejected | Verdict::Dropped | Verdict::Untranslated) => other,
    };
    verdicts.into_iter().map(lost).collect()
}

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
    assert_eq!((layout.chains().len(), rules, layout.sets().len()), (14, 30, 19));
    insta::assert_snapshot!(table_text(layout, &[]));
}
