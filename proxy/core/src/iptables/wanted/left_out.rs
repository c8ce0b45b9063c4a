// SPDX-License-Identifier: Apache-2.0
//! Services whose rules are refused: who they are, and what stays of them while the others are written.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{IpFamily, ServiceKey, ServicePortName};

use super::Wanted;
use crate::Intent;
use crate::iptables::installed::{Content, Installed};
use crate::iptables::names::{ChainName, Fixed, Purpose, Table, port_name};
use crate::iptables::plan::{Command, Plan};
use crate::iptables::port::Line;
use crate::iptables::rule::{Action, Rule};
use crate::iptables::skeleton::DISPATCH;

/// What is left as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    chains: BTreeSet<ChainName>,
    /// Their rules in chains that all share.
    pub(super) lines: BTreeSet<Line>,
}

impl LeftOut {
    pub(super) fn find(
        family: IpFamily,
        intent: &Intent,
        installed: &Installed,
        out: &BTreeSet<ServiceKey>,
    ) -> Self {
        let ours = intent
            .frontends()
            .filter(|(frontend, found)| frontend.family() == family && out.contains(&found.owner.service));
        let ports: BTreeSet<&ServicePortName> = ours.map(|(_, found)| &found.owner).collect();
        let names: Vec<String> = ports.iter().map(|port| port_name(port)).collect();
        let mut lines = BTreeSet::new();
        for (table, chain) in DISPATCH {
            if let Some(Content::Lines(found, _)) = installed.chains.get(&(table, chain.into())) {
                let about = found.iter().filter(|rule| is_about(rule, &names));
                lines.extend(about.map(|rule| Line {
                    table,
                    chain,
                    rule: rule.clone(),
                }));
            }
        }
        let of_port = |port: &&ServicePortName| Purpose::ALL.map(|purpose| ChainName::of_port(purpose, port));
        Self {
            chains: ports.iter().flat_map(of_port).collect(),
            lines,
        }
    }

    /// Whether a chain stays although nobody wants it. Which endpoints' chains are theirs is not known: all stay.
    pub(super) fn holds(&self, chain: ChainName) -> bool {
        let of_endpoint = matches!(chain, ChainName::Port(Purpose::Endpoint, _));
        self.chains.contains(&chain) || (of_endpoint && !self.chains.is_empty())
    }

    pub(super) fn lines(&self, table: Table, chain: ChainName) -> impl Iterator<Item = &Rule> {
        let of_chain = move |line: &&Line| (line.table, ChainName::Fixed(line.chain)) == (table, chain);
        self.lines.iter().filter(of_chain).map(|line| &line.rule)
    }
}

/// Comments begin with the Service port's name.
fn is_about(rule: &Rule, names: &[String]) -> bool {
    let Some(comment) = &rule.comment else {
        return false;
    };
    let mut rests = names
        .iter()
        .filter_map(|name| comment.strip_prefix(name.as_str()));
    rests.any(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// What rules of some Services need of the kernel, and those of others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Recent,
    Statistic,
    Addrtype,
    Reject,
}

impl Need {
    fn of(rule: &Rule) -> impl Iterator<Item = Self> {
        let needed = [
            (rule.recent.is_some(), Self::Recent),
            (rule.one_in.is_some(), Self::Statistic),
            (rule.from_here || rule.to_here, Self::Addrtype),
            (rule.action == Action::Reject, Self::Reject),
        ];
        needed.into_iter().filter_map(|(is, need)| is.then_some(need))
    }
}

impl Wanted {
    /// Whether there is any Service but these.
    pub fn has_others(&self, but: &BTreeSet<ServiceKey>) -> bool {
        self.ports.keys().any(|port| !but.contains(&port.service))
    }

    /// Services of which a plan writes anything. Those whose rules need the same of the kernel stand beside each other: what
    /// it lacks, it lacks for all of these.
    pub fn written(&self, plan: &Plan) -> Vec<ServiceKey> {
        let (mut chains, mut lines) = (BTreeMap::new(), BTreeMap::new());
        for (owner, port) in &self.ports {
            chains.extend(port.chains.keys().map(|chain| (*chain, &owner.service)));
            let of_port = port.lines.iter();
            lines.extend(of_port.map(|line| ((ChainName::Fixed(line.chain), &line.rule), &owner.service)));
        }
        let mut needs: BTreeMap<&ServiceKey, BTreeSet<Need>> = BTreeMap::new();
        for command in plan.blocks.iter().flat_map(|block| &block.commands) {
            let (chain, rule) = match command {
                Command::Append(chain, rule) | Command::Insert(chain, rule) => (*chain, rule),
                Command::Delete(..) | Command::DeleteText(..) | Command::Remove(_) => continue,
            };
            if let Some(service) = chains.get(&chain).or_else(|| lines.get(&(chain, rule))) {
                needs.entry(*service).or_default().extend(Need::of(rule));
            }
        }
        let mut found: Vec<_> = needs
            .into_iter()
            .map(|(service, needs)| (needs, service))
            .collect();
        found.sort();
        found.into_iter().map(|(_, service)| service.clone()).collect()
    }

    /// The Service that a line of a plan's text is about; `None` if it is about all of them, or about what goes.
    pub fn owner_of(&self, line: &str) -> Option<&ServiceKey> {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        let chain = first.strip_prefix(':').or_else(|| words.next())?;
        let chain: ChainName = chain.parse().ok()?;
        let said = |rule: &Rule| line.ends_with(&rule.to_string());
        let about = |shared: Fixed, line: &Line| line.chain == shared && said(&line.rule);
        let mut ports = self.ports.iter();
        let found = ports.find(|(_, port)| match chain {
            ChainName::Port(..) => port.chains.contains_key(&chain),
            ChainName::Fixed(fixed) => port.lines.iter().any(|line| about(fixed, line)),
            ChainName::Builtin(_) => false,
        });
        found.map(|(owner, _)| &owner.service)
    }
}
