// SPDX-License-Identifier: Apache-2.0
//! What the kernel holds of ours, as far as a plan has to know.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::IpFamily;

use super::names::{Builtin, ChainName, Fixed, Purpose, Table};
use super::parse::{Jump, Read, read};
use super::plan::{Block, Command, Plan};
use super::rule::{Action, Rule, fingerprint};
use super::skeleton::Skeleton;
use crate::Frontend;

/// What is in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Rules with this fingerprint.
    Rules(u64),
    /// Rules of frontends, whose order does not matter, and those that stand last.
    Lines(BTreeSet<Rule>, Vec<Rule>),
    /// Something that we did not write.
    Unknown,
}

/// One family's tables, as read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    family: Option<IpFamily>,
    pub(super) chains: BTreeMap<(Table, ChainName), Content>,
    pub(super) jumps: BTreeMap<(Table, Builtin), Vec<Jump>>,
    referred: BTreeSet<(Table, ChainName)>,
    short: bool,
}

/// Where a rule stands in a chain that Service ports share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Added at the top.
    First,
    /// Node ports after addresses: added at the end.
    After,
    /// Static, behind all others.
    Last,
}

pub(super) fn place(table: Table, rule: &Rule) -> Place {
    match (table, rule.action) {
        (Table::Nat, Action::Jump(ChainName::Fixed(Fixed::NodePorts))) => Place::Last,
        (Table::Filter, _) if rule.to_here => Place::After,
        (Table::Nat | Table::Filter | Table::Mangle, _) => Place::First,
    }
}

impl Installed {
    /// From what `iptables-save` listed.
    pub fn read(family: IpFamily, listed: &str) -> Self {
        let mut installed = Self {
            family: Some(family),
            ..Self::default()
        };
        for (table, read) in read(family, listed) {
            installed.table(table, read);
        }
        installed
    }

    fn table(&mut self, table: Table, read: Read) {
        for (chain, rules) in read.chains {
            self.short |= picks_inline(chain, &rules);
            self.chains.insert((table, chain), content(table, chain, rules));
        }
        for (builtin, jumps) in read.jumps {
            self.jumps.insert((table, builtin), jumps);
        }
        let referred = read.referred.into_iter().map(|chain| (table, chain));
        self.referred.extend(referred);
    }

    /// Whether there is nothing of the kind, be it ours or kube-proxy's.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }

    /// Whether the chains are ours, and not kube-proxy's of the same names.
    pub fn is_ours(&self) -> bool {
        Table::ALL
            .into_iter()
            .any(|table| self.chains.contains_key(&(table, Fixed::Owner.into())))
    }

    /// Whether there are rules as in a large cluster.
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// How many chains there are.
    pub fn len(&self) -> usize {
        self.chains.len()
    }

    /// Frontends that are served.
    pub fn frontends(&self) -> Vec<Frontend> {
        let served = |chain: Fixed| match self.chains.get(&(Table::Nat, chain.into())) {
            Some(Content::Lines(lines, _)) => Some(lines),
            Some(Content::Rules(_) | Content::Unknown) | None => None,
        };
        let vip = |rule: &Rule| {
            Some(Frontend::Vip {
                ip: rule.destination?.net.addr(),
                protocol: rule.protocol?,
                port: rule.port?,
            })
        };
        let node_port = |rule: &Rule| {
            Some(Frontend::NodePort {
                family: self.family?,
                protocol: rule.protocol?,
                port: rule.port?,
            })
        };
        let vips = served(Fixed::Services).into_iter().flatten().filter_map(vip);
        let node_ports = served(Fixed::NodePorts).into_iter().flatten();
        vips.chain(node_ports.filter_map(node_port)).collect()
    }

    /// Chains that stay, empty, when everything is removed: somebody else's rules refer to them.
    pub fn referred(&self) -> impl Iterator<Item = (Table, ChainName)> {
        self.referred.iter().copied()
    }

    pub(super) fn is_referred(&self, table: Table, chain: ChainName) -> bool {
        self.referred.contains(&(table, chain))
    }

    /// Removes everything.
    pub fn removal(&self, family: IpFamily) -> Plan {
        let blocks = Table::ALL.map(|table| {
            let mut block = Block::new(table);
            for ((_, builtin), jumps) in self.jumps.iter().filter(|((of, _), _)| *of == table) {
                let delete = |jump: &Jump| Command::DeleteText((*builtin).into(), jump.text.clone());
                block.commands.extend(jumps.iter().map(delete));
            }
            let ours = self.chains.keys().filter(|(of, _)| *of == table);
            for (_, chain) in ours {
                block.resets.push(*chain);
            }
            let removed = block.resets.iter().copied();
            let removed = removed.filter(|chain| !self.is_referred(table, *chain));
            let removed: Vec<Command> = removed.map(Command::Remove).collect();
            block.commands.extend(removed);
            block
        });
        Plan::new(family, blocks)
    }
}

fn picks_inline(chain: ChainName, rules: &[Option<Rule>]) -> bool {
    let picks = matches!(chain, ChainName::Port(Purpose::Cluster | Purpose::Local, _));
    let translates = |rule: &Rule| matches!(rule.action, Action::Translate(_));
    picks && rules.iter().flatten().any(translates)
}

fn content(table: Table, chain: ChainName, rules: Vec<Option<Rule>>) -> Content {
    let Some(rules) = rules.into_iter().collect::<Option<Vec<Rule>>>() else {
        return Content::Unknown;
    };
    if !Skeleton::is_dispatch(table, chain) {
        return Content::Rules(fingerprint(&rules));
    }
    let count = rules.len();
    let in_order = rules.is_sorted_by_key(|rule| place(table, rule));
    let (last, lines): (Vec<Rule>, Vec<Rule>) = rules
        .into_iter()
        .partition(|rule| place(table, rule) == Place::Last);
    let lines: BTreeSet<Rule> = lines.into_iter().collect();
    // Two rules alike would leave one behind when one is deleted.
    if !in_order || lines.len() + last.len() != count {
        return Content::Unknown;
    }
    Content::Lines(lines, last)
}
