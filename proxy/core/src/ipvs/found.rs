// SPDX-License-Identifier: Apache-2.0
//! The rules that are there, as iptables-save prints them, and how they go.

use std::fmt::Write as _;

use berth_model::IpFamily;

use super::names::ChainName;
use super::rules::{Chain, HOOKS, Hook, Table, chains, hook_line, lines};
use crate::Settings;

/// What `iptables-restore --noflush` is told to take our chains away.
pub fn removal_text(found: &Found) -> String {
    let mut text = String::new();
    for table in Table::ALL {
        let ours: Vec<ChainName> = found.chains_of(table).collect();
        let hooks = || found.hooks.iter().filter(|(of, ..)| *of == table);
        if ours.is_empty() && hooks().next().is_none() {
            continue;
        }
        let _ = writeln!(text, "*{table}");
        for chain in &ours {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for (_, hook, chain) in hooks() {
            let _ = writeln!(text, "-D {hook} -j {chain}");
        }
        for chain in &ours {
            let _ = writeln!(text, "-X {chain}");
        }
        let _ = writeln!(text, "COMMIT");
    }
    text
}

/// What iptables-save says of our chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Our chains, with their rules.
    pub chains: Vec<(Table, ChainName, Vec<String>)>,
    /// The hooks that lead to them.
    pub hooks: Vec<(Table, Hook, ChainName)>,
}

impl Found {
    /// Reads iptables-save's output.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL.into_iter().find(|table| table.to_string() == name);
                continue;
            }
            let Some(table) = table else {
                continue;
            };
            let words: Vec<&str> = line.split_whitespace().collect();
            if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().and_then(known);
                found.chains.extend(name.map(|name| (table, name, Vec::new())));
            } else if let ["-A", chain, ..] = words.as_slice() {
                match known(chain) {
                    Some(name) => found.add_rule(table, name, line),
                    None => found.hooks.extend(
                        HOOKS
                            .into_iter()
                            .filter(|(of, hook, chain)| *of == table && hook_line(*hook, *chain) == line),
                    ),
                }
            }
        }
        found
    }

    fn add_rule(&mut self, table: Table, name: ChainName, line: &str) {
        let chain = self
            .chains
            .iter_mut()
            .find(|(of, chain, _)| (*of, *chain) == (table, name));
        if let Some((_, _, rules)) = chain {
            rules.push(line.to_owned());
        }
    }

    fn chains_of(&self, table: Table) -> impl Iterator<Item = ChainName> {
        let ours = self.chains.iter().filter(move |(of, ..)| *of == table);
        ours.map(|(_, name, _)| *name)
    }

    /// Whether nothing of ours is there.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.hooks.is_empty()
    }

    /// The hooks that do not lead to us.
    pub fn missing_hooks(&self) -> Vec<(Table, Hook, ChainName)> {
        let missing = HOOKS.into_iter().filter(|hook| !self.hooks.contains(hook));
        missing.collect()
    }

    /// Whether all is as it should be.
    pub fn is(&self, family: IpFamily, settings: &Settings) -> bool {
        let wanted = chains(settings);
        let as_wanted = |chain: &Chain| {
            let found = self
                .chains
                .iter()
                .find(|(of, name, _)| (*of, *name) == (chain.table, chain.name));
            found.is_some_and(|(_, _, rules)| *rules == lines(family, chain))
        };
        self.chains.len() == wanted.len() && wanted.iter().all(as_wanted) && self.missing_hooks().is_empty()
    }
}

fn known(text: &str) -> Option<ChainName> {
    ChainName::ALL.into_iter().find(|chain| chain.to_string() == text)
}
