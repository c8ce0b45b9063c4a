// SPDX-License-Identifier: Apache-2.0
//! A node in user-space mode, without sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_model::{IpFamily, ServiceKey, View};

use super::super::*;
use crate::nft::{Element, Installed, Key, Layout, Scope, diff};
use crate::oracle::{self, State};
use crate::sample::{in_family, node_ips};
use crate::walk::{Packet, Verdict};
use crate::{Frontend, Intent, Settings, Target, Touched};

pub(super) const DELAY: Duration = Duration::from_secs(1);

/// A node in user-space mode, without sockets: relays get ports one after the other.
pub(super) struct World {
    pub(super) intent: Intent,
    pub(super) board: Switchboard,
    pub(super) layouts: [Layout; 2],
    pub(super) installed: [Installed; 2],
    balancers: BTreeMap<Relay, Balancer>,
    next_port: u16,
    pub(super) now: Duration,
    /// Relays that cannot be opened: the one in so many, if any.
    pub(super) failing: Option<u16>,
    tries: u16,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
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
    pub(super) fn sync(&mut self, view: &View, keys: &BTreeSet<ServiceKey>) -> usize {
        let touched = self.intent.update(view, keys);
        self.turn(&touched)
    }

    pub(super) fn turn(&mut self, touched: &Touched) -> usize {
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
    pub(super) fn settle(&mut self) {
        for _ in 0..4 {
            self.now += DELAY;
            self.turn(&Touched::default());
        }
    }

    pub(super) fn verdicts(&self, packet: &Packet) -> BTreeSet<Verdict> {
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
    pub(super) fn shape(&self) -> (Vec<String>, Demand, BTreeSet<Relay>) {
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

pub(super) fn addresses(n: u8) -> BTreeMap<IpFamily, IpAddr> {
    let both = IpFamily::ALL.map(|family| (family, in_family(node_ips(n), family)));
    both.into()
}

pub(super) fn keys(view: &View) -> BTreeSet<ServiceKey> {
    view.services.keys().cloned().collect()
}

/// What the oracle says, with the one deviation: whoever is served is masqueraded.
pub(super) fn expected(packet: &Packet, view: &View, settings: &Settings) -> BTreeSet<Verdict> {
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
