// SPDX-License-Identifier: Apache-2.0
//! A hub that loses and delays, with announcers around it, in simulated time.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use berth_announcer_core::engine::WithdrawReason;
use berth_announcer_core::link::{Flags, Link, Selection};
use berth_announcer_core::membership::{Identity, Timing};
use berth_announcer_core::wire::arp::Arp;
use berth_announcer_core::wire::ethernet::MacAddr;
use berth_announcer_core::{Engine, Moment, Options, Output};
use berth_model::NodeName;

/// Where heartbeats go.
pub(crate) const PORT: u16 = 7947;
/// The only link.
pub(crate) const LAN: u32 = 2;

pub(crate) fn at(millis: u64) -> Moment {
    Moment::after_origin(Duration::from_millis(millis))
}

/// A generator with a fixed seed (xorshift64*).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// A datagram under way; the heap gives the earliest first.
#[derive(PartialEq, Eq)]
struct Mail {
    arrives: Moment,
    order: u64,
    to: IpAddr,
    from: SocketAddr,
    datagram: Vec<u8>,
}

impl Ord for Mail {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.arrives, other.order).cmp(&(self.arrives, self.order))
    }
}

impl PartialOrd for Mail {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

pub(crate) struct Node {
    address: IpAddr,
    pub(crate) side: u8,
    pub(crate) engine: Option<Engine>,
}

/// A hub with announcers around it.
pub(crate) struct Net {
    pub(crate) now: Moment,
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    mail: BinaryHeap<Mail>,
    pub(crate) sent: u64,
    pub(crate) loss_percent: u64,
    pub(crate) dice: Dice,
    pub(crate) wanted: BTreeSet<IpAddr>,
    /// Take-overs and withdrawals in favour of another node since the last look.
    pub(crate) moves: Vec<(Moment, NodeName, IpAddr, bool)>,
    /// Who has announced what unasked.
    pub(crate) spoken: Vec<(NodeName, IpAddr)>,
}

pub(crate) fn lan_link(n: u8, carrier: bool) -> Link {
    Link {
        index: LAN,
        name: "eth0".to_owned(),
        mac: Some(MacAddr([2, 0, 0, 0, 0, n])),
        flags: Flags {
            up: true,
            carrier,
            broadcast: true,
            multicast: true,
            no_arp: false,
            loopback: false,
        },
        controller: None,
        addresses: [format!("10.77.0.{}/24", 10 + n).parse().unwrap()].into(),
    }
}

pub(crate) fn name(n: u8) -> NodeName {
    NodeName::new(format!("node-{n}"))
}

impl Net {
    pub(crate) fn new(count: u8, seed: u64) -> Self {
        let addresses = (200..240).map(|n| IpAddr::from([10, 77, 0, n])).collect();
        let mut net = Self {
            now: Moment::ZERO,
            nodes: BTreeMap::new(),
            mail: BinaryHeap::new(),
            sent: 0,
            loss_percent: 0,
            dice: Dice(seed),
            wanted: addresses,
            moves: Vec::new(),
            spoken: Vec::new(),
        };
        for n in 1..=count {
            let address = IpAddr::from([10, 77, 0, 10 + n]);
            net.nodes.insert(
                name(n),
                Node {
                    address,
                    side: 0,
                    engine: None,
                },
            );
        }
        for n in 1..=count {
            net.start(n);
        }
        net
    }

    pub(crate) fn start(&mut self, n: u8) {
        let micros = u64::try_from(self.now.since_origin().as_micros()).unwrap();
        let options = Options {
            identity: Identity {
                node: name(n),
                instance: self.dice.roll(u64::MAX) << 8 | u64::from(n),
                incarnation: micros,
            },
            timing: Timing::default(),
            selection: Selection::default(),
            key: None,
            port: PORT,
        };
        let mut engine = Engine::new(options, self.now);
        let nodes = self
            .nodes
            .iter()
            .map(|(name, node)| (name.clone(), vec![node.address]));
        engine.set_nodes(nodes.collect());
        engine.set_links([lan_link(n, true)], self.now);
        engine.set_addresses(self.wanted.clone());
        self.node(n).engine = Some(engine);
    }

    pub(crate) fn node(&mut self, n: u8) -> &mut Node {
        self.nodes.get_mut(&name(n)).unwrap()
    }

    pub(crate) fn engine(&mut self, n: u8) -> &mut Engine {
        self.node(n).engine.as_mut().unwrap()
    }

    pub(crate) fn kill(&mut self, n: u8) {
        self.node(n).engine = None;
    }

    pub(crate) fn run(&mut self, length: Duration) {
        let end = self.now + length;
        loop {
            let deadlines = self
                .nodes
                .values()
                .filter_map(|node| node.engine.as_ref()?.next_deadline());
            let mail = self.mail.peek().map(|mail| mail.arrives);
            let Some(next) = deadlines.chain(mail).min().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.deliver();
            let names: Vec<NodeName> = self.nodes.keys().cloned().collect();
            for name in names {
                self.turn(&name);
            }
        }
        self.now = end;
    }

    fn deliver(&mut self) {
        while self.mail.peek().is_some_and(|mail| mail.arrives <= self.now) {
            let mail = self.mail.pop().unwrap();
            let receiver = self.nodes.values_mut().find(|node| node.address == mail.to);
            if let Some(engine) = receiver.and_then(|node| node.engine.as_mut()) {
                let _ = engine.receive_datagram(self.now, mail.from, &mail.datagram);
            }
        }
    }

    fn turn(&mut self, name: &NodeName) {
        let node = self.nodes.get_mut(name).unwrap();
        let Some(engine) = &mut node.engine else { return };
        engine.poll(self.now);
        let (side, address) = (node.side, node.address);
        let mut gone = false;
        for output in engine.take_outputs() {
            match output {
                Output::SendHeartbeat { to, datagram } => {
                    let reachable = self
                        .nodes
                        .values()
                        .any(|node| node.address == to.ip() && node.side == side);
                    if reachable && self.dice.roll(100) >= self.loss_percent {
                        self.sent += 1;
                        let delay = Duration::from_micros(100 + self.dice.roll(5_000));
                        self.mail.push(Mail {
                            arrives: self.now + delay,
                            order: self.sent,
                            to: to.ip(),
                            from: SocketAddr::new(address, PORT),
                            datagram,
                        });
                    }
                }
                Output::Announce { address, .. } => self.moves.push((self.now, name.clone(), address, true)),
                Output::Withdraw { address, reason, .. } => {
                    if reason == WithdrawReason::OwnedElsewhere {
                        self.moves.push((self.now, name.clone(), address, false));
                    }
                }
                Output::SendFrame { frame, .. } => {
                    let arp = Arp::parse(&frame[14..]).unwrap();
                    self.spoken.push((name.clone(), arp.sender_ip.into()));
                }
                Output::Membership(_) => {}
                Output::NameTaken(_) | Output::Gone => gone = true,
            }
        }
        if gone {
            self.nodes.get_mut(name).unwrap().engine = None;
        }
    }

    /// Who answers an ARP request for an address on a side of the network.
    pub(crate) fn answering(&mut self, address: IpAddr, side: u8) -> Vec<NodeName> {
        let IpAddr::V4(target) = address else {
            panic!("the simulation asks for IPv4")
        };
        let asker = MacAddr([2, 0, 0, 0, 1, 0]);
        let question =
            Arp::request(asker, Ipv4Addr::new(10, 77, 0, 100), target).to_frame(MacAddr::BROADCAST);
        let mut answering = Vec::new();
        for (name, node) in &mut self.nodes {
            let Some(engine) = node.engine.as_mut().filter(|_| node.side == side) else {
                continue;
            };
            if engine.receive_frame(LAN, &question).is_ok() {
                assert_eq!(engine.take_outputs().len(), 1);
                answering.push(name.clone());
            }
        }
        answering
    }

    /// The one owner of each address, or a failure that names the first with none or several.
    pub(crate) fn owners(&mut self, side: u8) -> BTreeMap<IpAddr, NodeName> {
        let mut owners = BTreeMap::new();
        for address in self.wanted.clone() {
            let answering = self.answering(address, side);
            assert_eq!(
                answering.len(),
                1,
                "{address} at {} on side {side}: {answering:?}",
                self.now
            );
            owners.insert(address, answering[0].clone());
        }
        owners
    }
}
