// SPDX-License-Identifier: Apache-2.0
//! What the tables of one family should hold, kept up to date Service port by Service port, and what to write when
//! that changes.
//!
//! A change writes the chains of the Service ports that changed, and in the chains that all share only the rules that
//! come or go: at any number of Services it is as large as what changed. (kube-proxy writes all shared chains every
//! time.) Rules of frontends exclude each other, so that it does not matter where among them one is added.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{IpFamily, Protocol, ServicePortName};

use super::installed::{Content, Installed, Place, place};
use super::names::{Builtin, ChainName, Fixed, Table};
use super::plan::{Block, Command, Plan};
use super::port::{Line, PortRules, render};
use super::rule::{Action, Rule, fingerprint};
use super::skeleton::{Choices, DISPATCH, Skeleton};
use crate::{Frontend, Intent, Outcome, Touched};

/// From how many endpoints on their rules go without comments, which makes them a third smaller. kube-proxy's number.
const LARGE: usize = 1_000;
/// Up to how many rules are deleted from a shared chain one by one. For each the whole chain is compared; with more it is
/// cheaper to write it anew.
const FEW: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Port {
    frontends: BTreeSet<Frontend>,
    chains: BTreeMap<ChainName, u64>,
    lines: BTreeSet<Line>,
}

/// One family's tables as they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    family: IpFamily,
    skeleton: Skeleton,
    commented: bool,
    owners: BTreeMap<Frontend, ServicePortName>,
    ports: BTreeMap<ServicePortName, Port>,
    health: BTreeSet<Line>,
}

/// What changed in the shared chains.
#[derive(Debug, Default)]
struct Lines {
    gone: BTreeSet<Line>,
    new: BTreeSet<Line>,
}

impl Wanted {
    /// What this intent wants, and what to write where `installed` is.
    pub fn full(family: IpFamily, intent: &Intent, choices: Choices, installed: &Installed) -> (Self, Plan) {
        let mut wanted = Self {
            family,
            skeleton: Skeleton::new(family, intent.settings(), choices),
            commented: true,
            owners: BTreeMap::new(),
            ports: BTreeMap::new(),
            health: health(intent, family),
        };
        let mut endpoints = 0;
        for (frontend, found) in intent
            .frontends()
            .filter(|(frontend, _)| frontend.family() == family)
        {
            let port = wanted.ports.entry(found.owner.clone()).or_default();
            if port.frontends.is_empty() {
                endpoints += count(&found.outcome);
            }
            port.frontends.insert(*frontend);
            wanted.owners.insert(*frontend, found.owner.clone());
        }
        wanted.commented = endpoints <= LARGE;
        let plan = wanted.write_all(intent, installed);
        (wanted, plan)
    }

    /// The family.
    pub fn family(&self) -> IpFamily {
        self.family
    }

    /// Chains of Service ports, and rules in shared chains.
    pub fn len(&self) -> usize {
        self.ports
            .values()
            .map(|port| port.chains.len() + port.lines.len())
            .sum()
    }

    /// Whether there is no Service.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    fn write_all(&mut self, intent: &Intent, installed: &Installed) -> Plan {
        let mut nat = Block::new(Table::Nat);
        let mut chains: BTreeSet<ChainName> = BTreeSet::new();
        let (family, commented) = (self.family, self.commented);
        for (owner, port) in &mut self.ports {
            let rules = render(intent, family, owner, &port.frontends, commented);
            chains.extend(rules.chains.keys());
            let as_it_is = |chain: ChainName, print| {
                installed.chains.get(&(Table::Nat, chain)) == Some(&Content::Rules(print))
            };
            port.take(rules, as_it_is, &mut nat, &mut Lines::default());
        }
        let mut blocks = Vec::new();
        for table in Table::ALL {
            let mut block = if table == Table::Nat {
                std::mem::replace(&mut nat, Block::new(Table::Nat))
            } else {
                Block::new(table)
            };
            let late = self.write_fixed(table, installed, &mut block);
            self.write_jumps(table, installed, &mut block);
            self.remove_stale(table, &chains, installed, &mut block);
            blocks.push((block, late));
        }
        let (blocks, late): (Vec<Block>, Vec<Block>) = blocks.into_iter().unzip();
        Plan::new(family, blocks.into_iter().chain(late))
    }

    /// The chains that exist once. Returns what has to wait until the other tables are written.
    fn write_fixed(&self, table: Table, installed: &Installed, block: &mut Block) -> Block {
        let mut late = Block::new(table);
        let chains = self.skeleton.chains.iter().filter(|((of, _), _)| *of == table);
        for ((_, chain), rules) in chains {
            let there = installed.chains.get(&(table, *chain));
            if !Skeleton::is_dispatch(table, *chain) {
                if there != Some(&Content::Rules(fingerprint(rules))) {
                    block.write(*chain, rules.iter().cloned());
                }
                continue;
            }
            let wanted = self.lines(table, *chain);
            if let Some(Content::Lines(lines, last)) = there
                && last == rules
            {
                let gone = lines.difference(&wanted).cloned().collect();
                let new = wanted.difference(lines).cloned().collect();
                if self.edit(table, *chain, gone, new, block, &mut late) {
                    continue;
                }
            }
            self.rewrite(table, *chain, block);
        }
        late
    }

    /// Adds and deletes rules one by one, unless there are too many. Rules that refuse are deleted late.
    fn edit(
        &self,
        table: Table,
        chain: ChainName,
        gone: Vec<Rule>,
        new: Vec<Rule>,
        block: &mut Block,
        late: &mut Block,
    ) -> bool {
        if gone.len() > FEW {
            return false;
        }
        block
            .commands
            .extend(new.into_iter().map(|rule| match place(table, &rule) {
                Place::First => Command::Insert(chain, rule),
                Place::After | Place::Last => Command::Append(chain, rule),
            }));
        let late = if table == Table::Filter { late } else { block };
        late.commands
            .extend(gone.into_iter().map(|rule| Command::Delete(chain, rule)));
        true
    }

    fn rewrite(&self, table: Table, chain: ChainName, block: &mut Block) {
        let mut rules: Vec<Rule> = self.lines(table, chain).into_iter().collect();
        rules.sort_by_key(|rule| place(table, rule));
        let last = self.skeleton.chains.get(&(table, chain));
        block.write(
            chain,
            rules.into_iter().chain(last.into_iter().flatten().cloned()),
        );
    }

    fn lines(&self, table: Table, chain: ChainName) -> BTreeSet<Rule> {
        let of_ports = self.ports.values().flat_map(|port| &port.lines);
        of_ports
            .chain(&self.health)
            .filter(|line| (line.table, ChainName::Fixed(line.chain)) == (table, chain))
            .map(|line| line.rule.clone())
            .collect()
    }

    /// Our jumps stand at the top of a chain when they are written. Later others may come before them, as long as ours
    /// are all there, in their order, and no more of them.
    fn write_jumps(&self, table: Table, installed: &Installed, block: &mut Block) {
        for builtin in Builtin::ALL {
            let wanted = self.skeleton.jumps.get(&(table, builtin));
            let wanted = wanted.map(Vec::as_slice).unwrap_or_default();
            let there = installed.jumps.get(&(table, builtin));
            let there = there.map(Vec::as_slice).unwrap_or_default();
            let same = |(wanted, there): (&Rule, &super::parse::Jump)| there.rule.as_ref() == Some(wanted);
            if wanted.len() == there.len() && wanted.iter().zip(there).all(same) {
                continue;
            }
            let chain = ChainName::from(builtin);
            let gone = there
                .iter()
                .map(|jump| Command::DeleteText(chain, jump.text.clone()));
            let new = wanted
                .iter()
                .rev()
                .map(|rule| Command::Insert(chain, rule.clone()));
            block.commands.extend(gone.chain(new));
        }
    }

    fn remove_stale(
        &self,
        table: Table,
        of_ports: &BTreeSet<ChainName>,
        installed: &Installed,
        block: &mut Block,
    ) {
        let there = installed.chains.keys().filter(|(of, _)| *of == table);
        let wanted = |chain: &ChainName| {
            let of_port = table == Table::Nat && of_ports.contains(chain);
            of_port || self.skeleton.chains.contains_key(&(table, *chain))
        };
        let stale: Vec<ChainName> = there
            .map(|(_, chain)| *chain)
            .filter(|chain| !wanted(chain) && !installed.is_referred(table, *chain))
            .collect();
        block.resets.extend(&stale);
        block.commands.extend(stale.into_iter().map(Command::Remove));
    }

    /// Takes in what the intent's update touched; `self` is what the kernel holds. What a plan is not carried out of,
    /// has to be read again.
    pub fn update(&mut self, intent: &Intent, touched: &Touched) -> Plan {
        let mut nat = Block::new(Table::Nat);
        let mut lines = Lines::default();
        let mut gone = BTreeSet::new();
        for owner in self.claim(intent, touched) {
            let Some(port) = self.ports.get_mut(&owner) else {
                continue;
            };
            let rules = render(intent, self.family, &owner, &port.frontends, self.commented);
            let before = port.chains.clone();
            let stale = before.keys().filter(|chain| !rules.chains.contains_key(chain));
            gone.extend(stale.copied());
            let as_it_is = |chain: ChainName, print| before.get(&chain) == Some(&print);
            port.take(rules, as_it_is, &mut nat, &mut lines);
            if port.frontends.is_empty() {
                self.ports.remove(&owner);
            }
        }
        let health = health(intent, self.family);
        lines.gone.extend(self.health.difference(&health).cloned());
        lines.new.extend(health.difference(&self.health).cloned());
        self.health = health;
        let mut filter = Block::new(Table::Filter);
        let mut late = Block::new(Table::Filter);
        for (table, fixed) in DISPATCH {
            let of_chain = |lines: &BTreeSet<Line>| -> Vec<Rule> {
                let lines = lines
                    .iter()
                    .filter(|line| (line.table, line.chain) == (table, fixed));
                lines.map(|line| line.rule.clone()).collect()
            };
            let (gone, new) = (of_chain(&lines.gone), of_chain(&lines.new));
            let block = if table == Table::Nat {
                &mut nat
            } else {
                &mut filter
            };
            if !self.edit(table, fixed.into(), gone, new, block, &mut late) {
                self.rewrite(table, fixed.into(), block);
            }
        }
        nat.resets.extend(&gone);
        nat.commands.extend(gone.into_iter().map(Command::Remove));
        Plan::new(self.family, [filter, nat, late])
    }

    /// Notes which Service port answers on each touched frontend, and returns all that answered or do.
    fn claim(&mut self, intent: &Intent, touched: &Touched) -> BTreeSet<ServicePortName> {
        let mut dirty = BTreeSet::new();
        let ours = touched.frontends.iter();
        for frontend in ours.filter(|frontend| frontend.family() == self.family) {
            let owner = intent.get(frontend).map(|found| found.owner.clone());
            let before = match &owner {
                Some(owner) => self.owners.insert(*frontend, owner.clone()),
                None => self.owners.remove(frontend),
            };
            if let Some(before) = before {
                if let Some(port) = self.ports.get_mut(&before) {
                    port.frontends.remove(frontend);
                }
                dirty.insert(before);
            }
            if let Some(owner) = owner {
                self.ports
                    .entry(owner.clone())
                    .or_default()
                    .frontends
                    .insert(*frontend);
                dirty.insert(owner);
            }
        }
        dirty
    }
}

impl Port {
    /// Becomes what was rendered; writes the chains that are not as they should be.
    fn take(
        &mut self,
        rules: PortRules,
        as_it_is: impl Fn(ChainName, u64) -> bool,
        nat: &mut Block,
        lines: &mut Lines,
    ) {
        self.chains.clear();
        for (chain, rules) in rules.chains {
            let print = fingerprint(&rules);
            self.chains.insert(chain, print);
            if !as_it_is(chain, print) {
                nat.write(chain, rules);
            }
        }
        let before = std::mem::replace(&mut self.lines, rules.lines);
        lines.gone.extend(before.difference(&self.lines).cloned());
        lines.new.extend(self.lines.difference(&before).cloned());
    }
}

fn count(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Endpoints(targets) => targets.len(),
        Outcome::Reject(_) | Outcome::Drop(_) => 0,
    }
}

/// Health checks are let in under a policy of INPUT that drops.
fn health(intent: &Intent, family: IpFamily) -> BTreeSet<Line> {
    let lines = intent.health_ports(family).map(|(service, port)| Line {
        table: Table::Filter,
        chain: Fixed::NodePorts,
        rule: Rule {
            protocol: Some(Protocol::Tcp),
            port: Some(port),
            ..Rule::new(Action::Accept).about(&format!("{service} health check node port"))
        },
    });
    lines.collect()
}
