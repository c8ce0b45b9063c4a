// SPDX-License-Identifier: Apache-2.0
//! Walks a packet through rules as they were read: what the kernel would do, without a kernel.
//!
//! The deviations from [`crate::oracle`] are [`Deviation`]. Beyond what packets of the oracle show, iptables mode
//! differs from nftables mode in what `proxy/README.md` lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use berth_model::{IpFamily, Port};

use super::names::{Builtin, ChainName, Table};
use super::parse::read;
use super::rule::{Action, Marked, Recent, Rule, States, Within};
use crate::Target;
use crate::walk::{Packet, Verdict};

/// How iptables mode differs from what [`crate::oracle`] wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deviation {
    /// A ClusterIP refuses nothing on ports that are no Service port's: the packet goes where routing sends it. kube-proxy
    /// has the same; a rule for it would have to know all ports of the address.
    UnknownPort,
    /// An address among the ServiceCIDRs that no Service has drops nothing: the packet goes where routing sends it.
    /// kube-proxy has the same.
    Unallocated,
}

impl Deviation {
    /// All of them.
    pub const ALL: [Deviation; 2] = [Self::UnknownPort, Self::Unallocated];

    /// Stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownPort => "UnknownPort",
            Self::Unallocated => "Unallocated",
        }
    }

    /// Which deviation makes this of what was wanted, if one does.
    pub fn between(wanted: &BTreeSet<Verdict>, walked: &BTreeSet<Verdict>) -> Option<Self> {
        let only = |verdicts: &BTreeSet<Verdict>, verdict| verdicts.len() == 1 && verdicts.contains(&verdict);
        if !only(walked, Verdict::Untouched) {
            return None;
        }
        let of = [
            (Verdict::Rejected, Self::UnknownPort),
            (Verdict::Dropped, Self::Unallocated),
        ];
        let found = of.into_iter().find(|(verdict, _)| only(wanted, *verdict));
        found.map(|(_, deviation)| deviation)
    }
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A chain of ours has a rule that is not of our making.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table {table}, chain {chain}, rule {number}: not of Berth's making, so that nothing can be said")]
pub struct UnknownRule {
    /// In this table.
    pub table: Table,
    /// In this chain.
    pub chain: ChainName,
    /// Counted from 1.
    pub number: usize,
}

/// The rules of one family.
#[derive(Clone, Debug, Default)]
pub struct Ruleset(BTreeMap<(Table, ChainName), Vec<Rule>>);

impl Ruleset {
    /// From what `iptables-save` lists. Of the chains of everybody only our jumps count.
    ///
    /// # Errors
    /// A rule of our chains is not of our making.
    pub fn read(family: IpFamily, listed: &str) -> Result<Self, UnknownRule> {
        let mut ruleset = BTreeMap::new();
        for (table, read) in read(family, listed) {
            let jumps = read.jumps.into_iter().map(|(builtin, jumps)| {
                let rules = jumps.into_iter().map(|jump| jump.rule);
                (ChainName::from(builtin), rules.collect::<Vec<_>>())
            });
            for (chain, rules) in read.chains.into_iter().chain(jumps) {
                let numbered = rules.into_iter().zip(1..);
                let known = numbered.map(|(rule, number)| rule.ok_or(UnknownRule { table, chain, number }));
                ruleset.insert((table, chain), known.collect::<Result<_, _>>()?);
            }
        }
        Ok(Self(ruleset))
    }

    fn chain(&self, table: Table, chain: ChainName) -> &[Rule] {
        self.0.get(&(table, chain)).map_or(&[], Vec::as_slice)
    }
}

/// Every verdict that chance and the memory of clients allow.
pub fn verdicts(rules: &Ruleset, packet: &Packet) -> BTreeSet<Verdict> {
    let mut found = BTreeSet::new();
    let mut choices: Vec<bool> = Vec::new();
    loop {
        let mut walker = Walker {
            rules,
            packet,
            choices,
            taken: 0,
            translated: None,
            mark: 0,
            masqueraded: false,
        };
        found.insert(walker.packet());
        choices = walker.choices;
        // The last rule that was taken is passed by the next time; all ways are gone when none was.
        while choices.last() == Some(&false) {
            choices.pop();
        }
        match choices.last_mut() {
            Some(last) => *last = false,
            None => return found,
        }
    }
}

struct Walker<'a> {
    rules: &'a Ruleset,
    packet: &'a Packet,
    /// Whether each rule that chance decides on is taken, in the order in which the packet meets them.
    choices: Vec<bool>,
    taken: usize,
    translated: Option<Target>,
    mark: u32,
    masqueraded: bool,
}

enum Step {
    /// Go on with the next rule.
    Next,
    /// This chain is finished with the packet.
    Back,
    /// This hook is finished with the packet.
    Done,
    /// The packet's way ends here.
    Stop(Verdict),
}

impl Walker<'_> {
    fn packet(&mut self) -> Verdict {
        let first = if self.packet.from_this_node {
            Builtin::Output
        } else {
            Builtin::Prerouting
        };
        let mut step = self.chain(Table::Nat, first.into());
        // What is addressed to this host and not translated ends there.
        let stays = self.translated.is_none() && self.packet.to_this_node;
        let filters = [
            self.packet.from_this_node.then_some(Builtin::Output),
            stays.then_some(Builtin::Input),
            (!stays && !self.packet.from_this_node).then_some(Builtin::Forward),
        ];
        let rest = filters
            .into_iter()
            .flatten()
            .map(|filter| (Table::Filter, filter));
        for (table, builtin) in rest.chain([(Table::Nat, Builtin::Postrouting)]) {
            if let Step::Stop(verdict) = step {
                return verdict;
            }
            step = self.chain(table, builtin.into());
        }
        match self.translated {
            Some(target) => Verdict::Translated {
                target,
                masqueraded: self.masqueraded,
            },
            None => Verdict::Untouched,
        }
    }

    fn chain(&mut self, table: Table, chain: ChainName) -> Step {
        let rules = self.rules;
        for rule in rules.chain(table, chain) {
            match self.rule(table, rule) {
                Step::Next => {}
                Step::Back => return Step::Next,
                end @ (Step::Done | Step::Stop(_)) => return end,
            }
        }
        Step::Next
    }

    fn rule(&mut self, table: Table, rule: &Rule) -> Step {
        if !self.matches(rule) {
            return Step::Next;
        }
        match rule.action {
            Action::Nothing => Step::Next,
            Action::Jump(chain) => self.chain(table, chain),
            Action::Return => Step::Back,
            Action::Accept => Step::Done,
            Action::Drop => Step::Stop(Verdict::Dropped),
            Action::Reject => Step::Stop(Verdict::Rejected),
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
            Action::Translate(target) => {
                self.translated = Some(target);
                Step::Done
            }
        }
    }

    fn destination(&self) -> (IpAddr, Port) {
        match self.translated {
            Some(target) => (target.ip, target.port),
            None => (self.packet.destination, self.packet.port),
        }
    }

    /// Chance comes last, so that it is asked about rules only that match otherwise.
    fn matches(&mut self, rule: &Rule) -> bool {
        let (destination, port) = self.destination();
        let within = |wanted: &Option<Within>, ip: &IpAddr| {
            wanted.is_none_or(|within| within.net.contains(ip) != within.not)
        };
        let to_this_node = self.translated.is_none() && self.packet.to_this_node;
        within(&rule.source, &self.packet.source)
            && within(&rule.destination, &destination)
            && rule.by.is_none_or(|by| by.matches(self.packet.link.as_ref()))
            && rule.protocol.is_none_or(|wanted| wanted == self.packet.protocol)
            && rule.port.is_none_or(|wanted| wanted == port)
            && (!rule.from_here || self.packet.from_this_node)
            && (!rule.to_here || to_this_node)
            && match rule.states {
                None | Some(States::New) => true,
                Some(States::Invalid | States::RelatedOrEstablished) => false,
            }
            && match rule.marked {
                None => true,
                Some(Marked::With(bit)) => self.mark & bit == bit,
                Some(Marked::Without(bit)) => self.mark & bit != bit,
            }
            && match (rule.recent, rule.one_in) {
                (None | Some(Recent::Note(_)), None) => true,
                (Some(Recent::Came(..)), _) | (_, Some(_)) => self.choose(),
            }
    }

    fn choose(&mut self) -> bool {
        if self.taken == self.choices.len() {
            self.choices.push(true);
        }
        let choice = self.choices.get(self.taken).copied().unwrap_or(true);
        self.taken += 1;
        choice
    }
}
