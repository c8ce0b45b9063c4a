// SPDX-License-Identifier: Apache-2.0
//! What the tables of one family should hold, kept up to date Service port by Service port, and what to write when
//! that changes.
//!
//! A change writes the chains of the Service ports that changed, and in the chains that all share only the rules that
//! come or go: at any number of Services it is as large as what changed. (kube-proxy writes all shared chains every
//! time.) Rules of frontends exclude each other, so that it does not matter where among them one is added.

mod counts;
mod left_out;

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{IpFamily, Protocol, ServiceKey, ServicePortName};

use super::installed::{Content, Installed, Place, place};
use super::names::{Builtin, ChainName, Fixed, Table};
use super::plan::{Block, Command, Plan};
use super::port::{Line, PortRules, render};
use super::rule::{Action, Rule, fingerprint};
use super::skeleton::{Choices, DISPATCH, Skeleton};
use crate::{Frontend, Intent, Outcome, Touched};
use left_out::LeftOut;

/// Up to how many rules are deleted from a shared chain one by one. For each the whole chain is compared; with more it is
/// cheaper to write it anew.
const FEW: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Port {
    frontends: BTreeSet<Frontend>,
    chains: BTreeMap<ChainName, u64>,
    lines: BTreeSet<Line>,
    /// In its own chains.
    rules: usize,
    endpoints: usize,
}

/// One family's tables as they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    family: IpFamily,
    skeleton: Skeleton,
    short_from: usize,
    short: bool,
    endpoints: usize,
    owners: BTreeMap<Frontend, ServicePortName>,
    ports: BTreeMap<ServicePortName, Port>,
    health: BTreeSet<Line>,
    left_out: LeftOut,
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
        Self::without(family, intent, choices, installed, &BTreeSet::new())
    }

    /// The same but for some Services, of which stays what is there. Updates must not touch them: to take them in again
    /// takes a look at what is installed.
    pub fn without(
        family: IpFamily,
        intent: &Intent,
        choices: Choices,
        installed: &Installed,
        out: &BTreeSet<ServiceKey>,
    ) -> (Self, Plan) {
        let mut wanted = Self {
            family,
            skeleton: Skeleton::new(family, intent.settings(), choices),
            short_from: choices.short_from,
            short: false,
            endpoints: 0,
            owners: BTreeMap::new(),
            ports: BTreeMap::new(),
            health: health(intent, family),
            left_out: LeftOut::find(family, intent, installed, out),
        };
        for (frontend, found) in intent.frontends() {
            if frontend.family() == family && !out.contains(&found.owner.service) {
                let port = wanted.ports.entry(found.owner.clone()).or_default();
                port.frontends.insert(*frontend);
                wanted.owners.insert(*frontend, found.owner.clone());
            }
        }
        for port in wanted.ports.values_mut() {
            port.endpoints = port.count(intent);
            wanted.endpoints += port.endpoints;
        }
        wanted.short = is_short(installed.is_short(), wanted.endpoints, choices.short_from);
        let plan = wanted.write_all(intent, installed);
        (wanted, plan)
    }

    /// The family.
    pub fn family(&self) -> IpFamily {
        self.family
    }

    fn write_all(&mut self, intent: &Intent, installed: &Installed) -> Plan {
        let mut nat = Block::new(Table::Nat);
        let mut chains: BTreeSet<ChainName> = BTreeSet::new();
        let (family, short) = (self.family, self.short);
        for (owner, port) in &mut self.ports {
            let rules = render(intent, family, owner, &port.frontends, short);
            chains.extend(rules.chains.keys());
            let as_it_is = |chain: ChainName, print| {
                installed.chains.get(&(Table::Nat, chain)) == Some(&Content::Rules(print))
            };
            port.take(rules, as_it_is, &mut nat, &mut Lines::default());
        }
        let (mut blocks, mut lates) = (Vec::new(), Vec::new());
        for table in Table::ALL {
            let mut block = if table == Table::Nat {
                std::mem::replace(&mut nat, Block::new(Table::Nat))
            } else {
                Block::new(table)
            };
            let late = self.write_fixed(table, installed, &mut block);
            let stale = self.stale(table, &chains, installed);
            let mut early = Block::new(table);
            // Before removals: a jump may hold a chain that goes.
            if block.is_large_with(2 * stale.len()) {
                self.write_jumps(table, installed, &mut early);
                self.make_targets(table, installed, &mut early);
            } else {
                self.write_jumps(table, installed, &mut block);
            }
            block.remove(stale);
            blocks.extend([early, block]);
            lates.push(late);
        }
        Plan::new(family, blocks.into_iter().chain(lates))
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
            .map(|line| &line.rule)
            .chain(self.left_out.lines(table, chain))
            .cloned()
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

    /// What jumps need to lead to, where it is not there yet.
    fn make_targets(&self, table: Table, installed: &Installed, block: &mut Block) {
        if block.is_empty() {
            return;
        }
        let chains = self.skeleton.chains.keys().filter(|(of, _)| *of == table);
        let missing = chains.filter(|key| !installed.chains.contains_key(key));
        block.resets.extend(missing.map(|(_, chain)| *chain));
    }

    fn stale(&self, table: Table, of_ports: &BTreeSet<ChainName>, installed: &Installed) -> Vec<ChainName> {
        let there = installed.chains.keys().filter(|(of, _)| *of == table);
        let wanted = |chain: &ChainName| {
            let of_port = table == Table::Nat && of_ports.contains(chain);
            of_port || self.skeleton.chains.contains_key(&(table, *chain)) || self.left_out.holds(*chain)
        };
        there
            .map(|(_, chain)| *chain)
            .filter(|chain| !wanted(chain) && !installed.is_referred(table, *chain))
            .collect()
    }

    /// Takes in what the intent's update touched; `self` is what the kernel holds. What a plan is not carried out of,
    /// has to be read again.
    pub fn update(&mut self, intent: &Intent, touched: &Touched) -> Plan {
        let mut nat = Block::new(Table::Nat);
        let mut lines = Lines::default();
        let mut gone = BTreeSet::new();
        let mut dirty = self.claim(intent, touched);
        if self.changes_length(intent, &dirty) {
            self.short = !self.short;
            dirty.extend(self.ports.keys().cloned());
        }
        for owner in dirty {
            let Some(port) = self.ports.get_mut(&owner) else {
                continue;
            };
            let rules = render(intent, self.family, &owner, &port.frontends, self.short);
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
        nat.remove(gone);
        Plan::new(self.family, [filter, nat, late])
    }

    /// Notes how many endpoints the Service ports have, and whether the rules are to be of another length from now on.
    fn changes_length(&mut self, intent: &Intent, dirty: &BTreeSet<ServicePortName>) -> bool {
        for owner in dirty {
            let Some(port) = self.ports.get_mut(owner) else {
                continue;
            };
            let endpoints = port.count(intent);
            self.endpoints += endpoints;
            self.endpoints -= std::mem::replace(&mut port.endpoints, endpoints);
        }
        is_short(self.short, self.endpoints, self.short_from) != self.short
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
    /// Under policy Local this is not all, but enough to tell a large cluster.
    fn count(&self, intent: &Intent) -> usize {
        let first = self.frontends.first().and_then(|frontend| intent.get(frontend));
        match first.map(|found| &found.outcome) {
            Some(Outcome::Endpoints(targets)) => targets.len(),
            Some(Outcome::Reject(_) | Outcome::Drop(_)) | None => 0,
        }
    }

    /// Becomes what was rendered; writes the chains that are not as they should be.
    fn take(
        &mut self,
        rules: PortRules,
        as_it_is: impl Fn(ChainName, u64) -> bool,
        nat: &mut Block,
        lines: &mut Lines,
    ) {
        self.chains.clear();
        self.rules = rules.chains.values().map(Vec::len).sum();
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

/// What is short stays so down to three quarters, so that nothing goes to and fro.
fn is_short(short: bool, endpoints: usize, from: usize) -> bool {
    endpoints > if short { from / 4 * 3 } else { from }
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
