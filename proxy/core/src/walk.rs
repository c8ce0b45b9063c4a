// SPDX-License-Identifier: Apache-2.0
//! Walks a packet through the typed rules: what the kernel would do, without a kernel. Tests use it
//! to judge plans; `explain` uses it to tell people.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_model::{IpFamily, Port, Protocol};

use crate::names::{ChainName, MapName, NumberMap, SetName};
use crate::nft::bindings::Binding;
use crate::nft::objects::{Action, Entry, Field, Match, Rule};
use crate::nft::{Installed, Layout};
use crate::{AffinityNumber, Frontend, LinkName, Target};

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// What it is addressed to, same family.
    pub destination: IpAddr,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// The port it is addressed to.
    pub port: Port,
    /// Whether the destination is an address of this node.
    pub to_this_node: bool,
    /// Whether the source is an address of this node.
    pub from_this_node: bool,
    /// The interface that it comes in by; `None` for one that this node sends.
    pub link: Option<LinkName>,
}

impl Packet {
    /// The frontend on a Service address that it is addressed to.
    pub fn vip(&self) -> Frontend {
        Frontend::Vip {
            ip: self.destination,
            protocol: self.protocol,
            port: self.port,
        }
    }

    /// The node port that it is addressed to.
    pub fn node_port(&self) -> Frontend {
        Frontend::NodePort {
            family: IpFamily::of(self.destination),
            protocol: self.protocol,
            port: self.port,
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Goes on with its own destination.
    Untouched,
    /// Goes to an endpoint.
    Translated {
        /// The endpoint.
        target: Target,
        /// Whether it leaves with the node's address as source.
        masqueraded: bool,
    },
    /// Answered with ICMP port unreachable.
    Rejected,
    /// Left unanswered, as the Service wants it.
    Dropped,
    /// Counted as untranslated and dropped: never, if Berth is right.
    Untranslated,
}

/// The kernel's sets and maps as a packet sees them. `&mut`, so that a test can change the contents
/// between two lookups of one packet.
pub trait Lookups {
    /// Whether the frontend is in the set.
    fn has_frontend(&mut self, set: SetName, frontend: &Frontend) -> bool;
    /// Whether the address is in the set.
    fn has_address(&mut self, set: SetName, ip: IpAddr) -> bool;
    /// Whether the frontend's list of sources has this one.
    fn has_source(&mut self, frontend: &Frontend, source: IpAddr) -> bool;
    /// The endpoint in a slot.
    fn slot(&mut self, map: MapName, frontend: &Frontend, slot: u32) -> Option<Target>;
    /// The number of the frontend's list, if it remembers its clients.
    fn number(&mut self, map: NumberMap, frontend: &Frontend) -> Option<AffinityNumber>;
    /// Whether that list remembers them for so long.
    fn has_timeout(&mut self, number: AffinityNumber, seconds: u32) -> bool;

    /// The endpoint that a client is bound to. Nothing is remembered, unless the implementation does.
    fn bound(&mut self, _number: AffinityNumber, _source: IpAddr, _protocol: Protocol) -> Option<Target> {
        None
    }

    /// Binds a client.
    fn bind(&mut self, _binding: Binding, _seconds: u32) {}
}

/// Elements as installed, networks from the layout.
impl Lookups for (&Layout, &Installed) {
    fn has_frontend(&mut self, set: SetName, frontend: &Frontend) -> bool {
        let entry = Entry {
            frontend: *frontend,
            list: set.list(),
        };
        let Some(state) = self.1.get(&entry) else {
            return false;
        };
        match set {
            SetName::Frontends(_) | SetName::Local(_) => state.listed,
            SetName::NoEndpoint(_) => state.refused,
            SetName::Drop(_) => state.dropped,
            SetName::Masquerade(_) => state.masqueraded,
            SetName::RangedVips => state.ranged,
            SetName::Count(_, count) => state.counts.contains(&count),
            SetName::AllowedSources
            | SetName::ClusterIps
            | SetName::ServiceCidrs
            | SetName::PodCidrs
            | SetName::NodePortIps
            | SetName::Hairpin
            | SetName::AffinityTimeout(_) => false,
        }
    }

    fn has_address(&mut self, set: SetName, ip: IpAddr) -> bool {
        match set {
            SetName::ClusterIps => self.1.has_cluster_ip(ip),
            SetName::Hairpin => self.1.has_hairpin(ip),
            SetName::ServiceCidrs | SetName::PodCidrs | SetName::NodePortIps => self
                .0
                .networks()
                .into_iter()
                .any(|(name, nets)| name == set && nets.iter().any(|net| net.contains(&ip))),
            SetName::Frontends(_)
            | SetName::Local(_)
            | SetName::NoEndpoint(_)
            | SetName::Drop(_)
            | SetName::Masquerade(_)
            | SetName::RangedVips
            | SetName::AllowedSources
            | SetName::AffinityTimeout(_)
            | SetName::Count(..) => false,
        }
    }

    fn has_source(&mut self, frontend: &Frontend, source: IpAddr) -> bool {
        let state = self.1.get(&Entry::main(*frontend));
        state.is_some_and(|state| state.sources.iter().any(|net| net.contains(&source)))
    }

    fn slot(&mut self, map: MapName, frontend: &Frontend, slot: u32) -> Option<Target> {
        let entry = Entry {
            frontend: *frontend,
            list: map.0.list,
        };
        self.1.get(&entry)?.slots.get(&slot).copied()
    }

    fn number(&mut self, map: NumberMap, frontend: &Frontend) -> Option<AffinityNumber> {
        let entry = Entry {
            frontend: *frontend,
            list: map.0.list,
        };
        self.1.get(&entry)?.number
    }

    fn has_timeout(&mut self, number: AffinityNumber, seconds: u32) -> bool {
        self.1.has_timeout(number, seconds)
    }
}

/// The rules of a layout, made once for many walks.
#[derive(Clone, Debug)]
pub struct Ruleset(BTreeMap<ChainName, Vec<Rule>>);

impl Ruleset {
    /// The rules of this layout.
    pub fn of(layout: &Layout) -> Self {
        let chains = layout.chains().into_iter();
        Self(chains.map(|chain| (chain.name, chain.rules)).collect())
    }

    fn chain(&self, name: ChainName) -> &[Rule] {
        self.0.get(&name).map_or(&[], Vec::as_slice)
    }
}

/// Every verdict that the random pick allows on a client that is not bound.
pub fn verdicts(
    rules: &Ruleset,
    layout: &Layout,
    installed: &Installed,
    packet: &Packet,
) -> BTreeSet<Verdict> {
    let mut found = BTreeSet::new();
    let mut pick = 0;
    loop {
        let mut modulus = 1;
        let mut lookups = (layout, installed);
        found.insert(walk(rules, &mut lookups, packet, |of| {
            modulus = of;
            pick
        }));
        pick += 1;
        if pick >= modulus {
            return found;
        }
    }
}

/// Walks one packet that arrives: prerouting before, at and after translation, postrouting. One of this host
/// meets the same rules in output. `pick` is the kernel's random number below its argument.
pub fn walk(
    rules: &Ruleset,
    lookups: &mut impl Lookups,
    packet: &Packet,
    pick: impl FnMut(u32) -> u32,
) -> Verdict {
    let mut walker = Walker {
        rules,
        lookups,
        packet,
        pick,
        destination: packet.destination,
        translated: None,
        mark: 0,
        number: None,
        masqueraded: false,
    };
    for chain in [
        ChainName::RefusePrerouting,
        ChainName::NatPrerouting,
        ChainName::LearnPrerouting,
        ChainName::Unallocated,
        ChainName::NatPostrouting,
    ] {
        // What is for this host does not leave.
        if chain == ChainName::Unallocated && walker.is_for_this_node() {
            continue;
        }
        match walker.run(chain) {
            Step::Next | Step::Done => {}
            Step::Stop(verdict) => return verdict,
        }
    }
    match walker.translated {
        Some(target) => Verdict::Translated {
            target,
            masqueraded: walker.masqueraded,
        },
        None => Verdict::Untouched,
    }
}

struct Walker<'a, L, P> {
    rules: &'a Ruleset,
    lookups: &'a mut L,
    packet: &'a Packet,
    pick: P,
    destination: IpAddr,
    translated: Option<Target>,
    mark: u32,
    number: Option<AffinityNumber>,
    masqueraded: bool,
}

enum Step {
    /// Go on with the next rule.
    Next,
    /// This hook is finished with the packet.
    Done,
    /// The packet's way ends here.
    Stop(Verdict),
}

impl<L: Lookups, P: FnMut(u32) -> u32> Walker<'_, L, P> {
    fn run(&mut self, chain: ChainName) -> Step {
        let rules = self.rules;
        for rule in rules.chain(chain) {
            match self.rule(rule) {
                Step::Next => {}
                end @ (Step::Done | Step::Stop(_)) => return end,
            }
        }
        Step::Next
    }

    fn rule(&mut self, rule: &Rule) -> Step {
        if !rule.matches.iter().all(|condition| self.holds(condition)) {
            return Step::Next;
        }
        match rule.action {
            Action::Jump(chain) => self.run(chain),
            Action::Goto(chain) => match self.run(chain) {
                Step::Next | Step::Done => Step::Done,
                stop @ Step::Stop(_) => stop,
            },
            Action::Reject => Step::Stop(Verdict::Rejected),
            Action::Drop => Step::Stop(Verdict::Dropped),
            Action::Accept => Step::Done,
            Action::CountAndDrop => Step::Stop(Verdict::Untranslated),
            Action::Mark(bit) => {
                self.mark |= bit;
                Step::Next
            }
            Action::Unmark(bit) => {
                self.mark ^= bit;
                Step::Next
            }
            Action::Masquerade => {
                self.masqueraded = true;
                Step::Done
            }
            Action::Translate(map, count) => self.translate(map, count),
            Action::Recall(map) => {
                let frontend = self.frontend(map.0.kind.fields());
                let Some(number) = self.lookups.number(map, &frontend) else {
                    return Step::Next;
                };
                self.number = Some(number);
                self.run(ChainName::Recall)
            }
            Action::TranslateBound => {
                let (source, protocol) = (self.packet.source, self.packet.protocol);
                let bound = self.number;
                let bound = bound.and_then(|number| self.lookups.bound(number, source, protocol));
                bound.map_or(Step::Next, |target| self.translated(target))
            }
            Action::Remember(seconds) => {
                self.remember(seconds);
                Step::Done
            }
            Action::CountUnremembered => Step::Next,
        }
    }

    fn remember(&mut self, seconds: u32) {
        if let (Some(number), Some(target)) = (self.number.take(), self.translated) {
            let binding = Binding {
                source: self.packet.source,
                protocol: self.packet.protocol,
                number,
                target,
            };
            self.lookups.bind(binding, seconds);
        }
    }

    /// A slot that is not there ends the rule without a verdict, as in the kernel.
    fn translate(&mut self, map: MapName, count: u32) -> Step {
        let slot = (self.pick)(count);
        let frontend = self.frontend(map.fields());
        let Some(target) = self.lookups.slot(map, &frontend, slot) else {
            return Step::Next;
        };
        self.translated(target)
    }

    fn is_for_this_node(&self) -> bool {
        self.translated.is_none() && self.packet.to_this_node
    }

    fn translated(&mut self, target: Target) -> Step {
        self.translated = Some(target);
        self.destination = target.ip;
        Step::Done
    }

    fn frontend(&self, fields: &[Field]) -> Frontend {
        if fields.contains(&Field::DestinationIp) {
            self.packet.vip()
        } else {
            self.packet.node_port()
        }
    }

    fn holds(&mut self, condition: &Match) -> bool {
        match condition {
            Match::NewConnection => true,
            Match::Translated => self.translated.is_some(),
            Match::Untranslated => self.translated.is_none(),
            Match::Marked(bit) => self.mark & bit == *bit,
            Match::Unmarked(bit) => self.mark & bit == 0,
            Match::LocalDestination => self.packet.to_this_node,
            Match::ForeignSource => !self.packet.from_this_node,
            Match::ForeignDestination => !self.is_for_this_node(),
            Match::NotLoopback => !self.destination.is_loopback(),
            Match::Numbered => self.number.is_some(),
            Match::NotBy(links) => !self.packet.link.is_some_and(|link| links.has(&link)),
            Match::In(set) => self.is_in(*set),
            Match::NotIn(set) => !self.is_in(*set),
        }
    }

    fn is_in(&mut self, set: SetName) -> bool {
        match set {
            SetName::ClusterIps | SetName::ServiceCidrs | SetName::NodePortIps => {
                self.lookups.has_address(set, self.destination)
            }
            SetName::PodCidrs => self.lookups.has_address(set, self.packet.source),
            SetName::Hairpin => {
                self.packet.source == self.destination && self.lookups.has_address(set, self.destination)
            }
            SetName::AffinityTimeout(seconds) => {
                let number = self.number;
                number.is_some_and(|number| self.lookups.has_timeout(number, seconds))
            }
            SetName::AllowedSources => {
                let frontend = self.frontend(set.fields());
                self.lookups.has_source(&frontend, self.packet.source)
            }
            SetName::Frontends(_)
            | SetName::Local(_)
            | SetName::NoEndpoint(_)
            | SetName::Drop(_)
            | SetName::Masquerade(_)
            | SetName::RangedVips
            | SetName::Count(..) => {
                let frontend = self.frontend(set.fields());
                self.lookups.has_frontend(set, &frontend)
            }
        }
    }
}
