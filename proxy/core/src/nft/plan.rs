// SPDX-License-Identifier: Apache-2.0
//! Changes as values: stages, in order, that can be printed, counted and carried out.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use berth_model::IpFamily;

use super::objects::{Element, Entry};
use super::render::change_text;
use super::slots::EXACT;
use crate::names::{SetName, TABLE};
use crate::{Frontend, Target};

/// What a stage is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StageKind {
    /// Slots added or replaced, and what has to be there before packets come.
    Fill,
    /// Packets take the new way.
    Switch,
    /// Left-overs go.
    Retire,
}

impl fmt::Display for StageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fill => "fill",
            Self::Switch => "switch",
            Self::Retire => "retire",
        })
    }
}

/// One change, never split over two transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The element is added; it is not there.
    Add(Element),
    /// The element is removed; it is there.
    Remove(Element),
    /// A slot gets another endpoint.
    Replace {
        /// Whose slot.
        entry: Entry,
        /// Which slot.
        slot: u32,
        /// What it held.
        old: Target,
        /// What it will hold.
        new: Target,
    },
}

impl Change {
    /// The list it is about, if it is about one.
    pub fn entry(&self) -> Option<Entry> {
        match self {
            Self::Add(element) | Self::Remove(element) => element.entry(),
            Self::Replace { entry, .. } => Some(*entry),
        }
    }
}

/// Changes that are committed in one transaction, or in several in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What it is for.
    pub kind: StageKind,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

/// The stages for one family's table, in order. Each must be committed before the next is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The family of the table.
    pub family: IpFamily,
    /// Stages that have changes.
    pub stages: Vec<Stage>,
}

impl Plan {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Every change, in order.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.stages.iter().flat_map(|stage| &stage.changes)
    }

    /// The largest slot count up to [`EXACT`] that a frontend will have: what [`Layout::with_limit_for`]
    /// needs. 0 if counts do not change.
    ///
    /// [`Layout::with_limit_for`]: super::Layout::with_limit_for
    pub fn largest_count(&self) -> u32 {
        self.changes()
            .filter_map(|change| match change {
                Change::Add(Element::Member(SetName::Count(_, n), _)) => Some(*n),
                Change::Add(_) | Change::Remove(_) | Change::Replace { .. } => None,
            })
            .filter(|count| *count <= EXACT)
            .max()
            .unwrap_or(0)
    }
}

impl Plan {
    /// The frontends that it changes something of.
    pub fn frontends(&self) -> BTreeSet<Frontend> {
        self.changes()
            .filter_map(|change| Some(change.entry()?.frontend))
            .collect()
    }

    /// The same but for what is about these frontends.
    #[must_use]
    pub fn without(self, frontends: &BTreeSet<Frontend>) -> Self {
        self.filtered(|change| {
            let entry = change.entry();
            entry.is_none_or(|entry| !frontends.contains(&entry.frontend))
        })
    }

    /// Only what is about these frontends.
    #[must_use]
    pub fn only(self, frontends: &BTreeSet<Frontend>) -> Self {
        self.filtered(|change| {
            let entry = change.entry();
            entry.is_some_and(|entry| frontends.contains(&entry.frontend))
        })
    }

    fn filtered(mut self, keep: impl Fn(&Change) -> bool) -> Self {
        for stage in &mut self.stages {
            stage.changes.retain(&keep);
        }
        self.stages.retain(|stage| !stage.changes.is_empty());
        self
    }

    /// The timeouts of session affinity, in seconds, that lists will have which are new or have others: what
    /// [`Layout::with_affinity_timeouts`] needs.
    ///
    /// [`Layout::with_affinity_timeouts`]: super::Layout::with_affinity_timeouts
    pub fn affinity_timeouts(&self) -> impl Iterator<Item = u32> {
        self.changes().filter_map(|change| match change {
            Change::Add(Element::Member(SetName::AffinityTimeout(seconds), _)) => Some(*seconds),
            Change::Add(_) | Change::Remove(_) | Change::Replace { .. } => None,
        })
    }

    /// The plan as nft commands on this table.
    pub fn text(&self, table: &str) -> String {
        let mut text = String::new();
        for stage in &self.stages {
            let _ = writeln!(text, "# {}", stage.kind);
            let changes = stage.changes.iter();
            text.extend(changes.map(|change| change_text(table, self.family, change)));
        }
        text
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(TABLE))
    }
}
