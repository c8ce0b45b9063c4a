// SPDX-License-Identifier: Apache-2.0
//! What to write, as a value. Its `Display` is what `iptables-restore --noflush` reads.

use std::fmt;
use std::sync::Arc;

use berth_model::IpFamily;

use super::names::{ChainName, Table};
use super::rule::Rule;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// At the end of the chain.
    Append(ChainName, Rule),
    /// At the top of the chain.
    Insert(ChainName, Rule),
    /// The rule goes.
    Delete(ChainName, Rule),
    /// The rule of this text goes.
    DeleteText(ChainName, Arc<str>),
    /// The chain goes, empty as it is by now.
    Remove(ChainName),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append(chain, rule) => write!(f, "-A {chain}{rule}"),
            Self::Insert(chain, rule) => write!(f, "-I {chain}{rule}"),
            Self::Delete(chain, rule) => write!(f, "-D {chain}{rule}"),
            Self::DeleteText(chain, text) => write!(f, "-D {chain} {text}"),
            Self::Remove(chain) => write!(f, "-X {chain}"),
        }
    }
}

/// From how many lines on a block begins with a listing of the table. iptables-nft otherwise keeps a sorted list of all
/// chains that were named, and walks it for every line (`nft_cache_level_set` of iptables 1.8): 300 s for 2,000 Services
/// of 2 ports and 10 endpoints, against 2 s (debug build). A listing makes it look at all chains once. It also makes it believe that the
/// chains of everybody are there, so that these must not be made in such a block.
const MANY: usize = 4_000;

/// Commands for one table, which take effect at once and together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The table.
    pub table: Table,
    /// Chains that are made, or emptied if they are there.
    pub resets: Vec<ChainName>,
    /// What follows, in this order.
    pub commands: Vec<Command>,
}

impl Block {
    /// For this table, nothing yet.
    pub fn new(table: Table) -> Self {
        Self {
            table,
            resets: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.resets.is_empty() && self.commands.is_empty()
    }

    /// Whether it begins with a listing, when so many more lines have come.
    pub fn is_large_with(&self, more: usize) -> bool {
        self.resets.len() + self.commands.len() + more > MANY
    }

    /// Empties and removes the chains.
    pub fn remove(&mut self, chains: impl IntoIterator<Item = ChainName>) {
        for chain in chains {
            self.resets.push(chain);
            self.commands.push(Command::Remove(chain));
        }
    }

    /// Makes or empties the chain and fills it.
    pub fn write(&mut self, chain: ChainName, rules: impl IntoIterator<Item = Rule>) {
        self.resets.push(chain);
        let rules = rules.into_iter().map(|rule| Command::Append(chain, rule));
        self.commands.extend(rules);
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.table)?;
        if self.is_large_with(0) {
            writeln!(f, "-S")?;
        }
        for chain in &self.resets {
            writeln!(f, ":{chain} - [0:0]")?;
        }
        for command in &self.commands {
            writeln!(f, "{command}")?;
        }
        writeln!(f, "COMMIT")
    }
}

/// Everything to write for one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The family.
    pub family: IpFamily,
    /// None of them empty. A table may come twice: what is to be refused before others are translated differently, or
    /// only afterwards no more, has a block of its own.
    pub blocks: Vec<Block>,
}

impl Plan {
    /// Without the blocks that are empty.
    pub fn new(family: IpFamily, blocks: impl IntoIterator<Item = Block>) -> Self {
        let blocks = blocks.into_iter().filter(|block| !block.is_empty());
        Self {
            family,
            blocks: blocks.collect(),
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// How many rules it writes to a table, the jumps in everybody's chains left out.
    pub fn rules(&self, table: Table) -> usize {
        let blocks = self.blocks.iter().filter(|block| block.table == table);
        let commands = blocks.flat_map(|block| &block.commands);
        let written = commands.filter(|command| match command {
            Command::Append(chain, _) | Command::Insert(chain, _) => chain.is_ours(),
            Command::Delete(..) | Command::DeleteText(..) | Command::Remove(_) => false,
        });
        written.count()
    }

    /// How many lines it has, those that frame tables left out.
    pub fn lines(&self) -> usize {
        let lines = |block: &Block| block.resets.len() + block.commands.len();
        self.blocks.iter().map(lines).sum()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.blocks.iter().try_for_each(|block| block.fmt(f))
    }
}
