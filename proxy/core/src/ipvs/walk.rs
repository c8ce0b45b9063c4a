// SPDX-License-Identifier: Apache-2.0
//! Walks a packet through rules, sets and servers: what the kernel would do, without a kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use berth_model::IpFamily;

use super::names::{ChainName, SetName};
use super::objects::{Member, ServerKey, Socket};
use super::rules::{Action, Chain, HOOKS, Hook, Match, Table, chains};
use super::state::{Installed, Server};
use crate::walk::{Packet, Verdict};
use crate::{Settings, Target};

/// The rules of a node, made once for many walks.
#[derive(Clone, Debug)]
pub struct Ruleset(Vec<Chain>);

impl Ruleset {
    /// The rules under these settings.
    pub fn of(settings: &Settings) -> Self {
        Self(chains(settings))
    }
}

/// Every verdict on the first packet of a connection that the scheduler allows.
pub fn verdicts(rules: &Ruleset, installed: &Installed, packet: &Packet) -> BTreeSet<Verdict> {
    let mut walker = Walker {
        rules,
        installed,
        packet,
        destination: packet.destination,
        mark: 0,
        sent_on: false,
        masqueraded: false,
    };
    let way_in: &[(Table, Hook)] = if packet.from_this_node {
        &[(Table::Mangle, Hook::Output)]
    } else {
        &[(Table::Mangle, Hook::Prerouting), (Table::Filter, Hook::Input)]
    };
    let is_local = packet.to_this_node || installed.is_bound(packet.destination);
    for (table, hook) in way_in {
        if *hook == Hook::Input && !is_local {
            break;
        }
        if let Some(verdict) = walker.hook(*table, *hook) {
            return [verdict].into();
        }
    }
    // IPVS sees what is for this host, and all that this host sends.
    let server = if packet.from_this_node || is_local {
        walker.server()
    } else {
        None
    };
    let Some(server) = server else {
        // On its way from this host the packet meets the filter table only now.
        let refused = packet
            .from_this_node
            .then(|| walker.hook(Table::Filter, Hook::Output));
        return [refused.flatten().unwrap_or(Verdict::Untouched)].into();
    };
    let sent: BTreeSet<Verdict> = server.open().map(|target| walker.clone().send(target)).collect();
    if sent.is_empty() {
        [Verdict::Rejected].into()
    } else {
        sent
    }
}

#[derive(Clone)]
struct Walker<'a> {
    rules: &'a Ruleset,
    installed: &'a Installed,
    packet: &'a Packet,
    destination: IpAddr,
    mark: u32,
    sent_on: bool,
    masqueraded: bool,
}

enum Step {
    /// Go on with the next rule.
    Next,
    /// Go on where this chain was led to from.
    Back,
    /// This table has nothing more to say.
    Done,
    /// The packet's way ends here.
    Stop(Verdict),
}

impl<'a> Walker<'a> {
    fn hook(&mut self, table: Table, hook: Hook) -> Option<Verdict> {
        let led = HOOKS
            .into_iter()
            .filter(|(of, at, _)| (*of, *at) == (table, hook));
        for (_, _, chain) in led {
            match self.run(chain) {
                Step::Next | Step::Back => {}
                Step::Done => return None,
                Step::Stop(verdict) => return Some(verdict),
            }
        }
        None
    }

    fn run(&mut self, name: ChainName) -> Step {
        let rules = self.rules;
        let chain = rules.0.iter().find(|chain| chain.name == name);
        for rule in chain.into_iter().flat_map(|chain| &chain.rules) {
            if !rule.matches.iter().all(|condition| self.holds(*condition)) {
                continue;
            }
            match self.act(rule.action) {
                Step::Next => {}
                Step::Back => return Step::Next,
                end @ (Step::Done | Step::Stop(_)) => return end,
            }
        }
        Step::Next
    }

    fn act(&mut self, action: Action) -> Step {
        match action {
            Action::Return => return Step::Back,
            Action::Jump(chain) => return self.run(chain),
            Action::Drop => return Step::Stop(Verdict::Dropped),
            Action::Reject => return Step::Stop(Verdict::Rejected),
            Action::Mark(value, mask) => self.mark = (self.mark & !mask) ^ value,
            Action::Flip(bits) => self.mark ^= bits,
            Action::MarkFrom(SetName::Inside) => {
                if let Some(mark) = self.state().and_then(|state| state.mark) {
                    self.mark = mark;
                }
            }
            Action::MarkFrom(_) => {}
            Action::Masquerade => {
                self.masqueraded = true;
                return Step::Done;
            }
        }
        Step::Next
    }

    fn holds(&self, condition: Match) -> bool {
        match condition {
            Match::SentOn(holds) => self.sent_on == holds,
            Match::New(holds) => holds,
            Match::In(set, holds) => self.is_in(set) == holds,
            Match::FromHere(holds) => self.packet.from_this_node == holds,
            Match::By(links, holds) => {
                let came = self.packet.link.is_some_and(|link| links.has(&link));
                came == holds
            }
            Match::Protocol(protocol) => self.packet.protocol == protocol,
            Match::Marked(value, mask) => self.mark & mask == value,
        }
    }

    fn state(&self) -> Option<&'a super::SocketState> {
        self.installed.socket(&Socket {
            ip: self.destination,
            protocol: self.packet.protocol,
            port: self.packet.port,
        })
    }

    fn is_in(&self, set: SetName) -> bool {
        let source = self.packet.source;
        match set {
            SetName::Sockets
            | SetName::Masquerade
            | SetName::MasqueradeForeign
            | SetName::Drop
            | SetName::DropOutside
            | SetName::Ranged => self.state().is_some_and(|state| state.sets.contains(&set)),
            SetName::Inside => self.state().is_some_and(|state| state.mark.is_some()),
            SetName::Sources => self
                .state()
                .is_some_and(|state| state.sources.iter().any(|net| net.contains(&source))),
            SetName::Addresses => self.installed.has(set, Member::Address(self.destination)),
            SetName::Pods => self.installed.pods().any(|net| net.contains(&source)),
            SetName::Hairpin => source == self.destination && self.installed.has(set, Member::Pair(source)),
        }
    }

    /// The server that the kernel finds: by mark first.
    fn server(&self) -> Option<&'a Server> {
        let by_mark = ServerKey::Mark {
            family: IpFamily::of(self.destination),
            mark: self.mark,
        };
        let found = self.installed.server(&by_mark);
        found.or_else(|| self.state()?.server.as_ref())
    }

    /// Through the hooks of what IPVS sends on.
    fn send(mut self, target: Target) -> Verdict {
        self.sent_on = true;
        self.destination = target.ip;
        for (table, hook) in [
            (Table::Mangle, Hook::Output),
            (Table::Filter, Hook::Output),
            (Table::Mangle, Hook::Postrouting),
            (Table::Nat, Hook::Postrouting),
        ] {
            if let Some(verdict) = self.hook(table, hook) {
                return verdict;
            }
        }
        Verdict::Translated {
            target,
            masqueraded: self.masqueraded,
        }
    }
}
