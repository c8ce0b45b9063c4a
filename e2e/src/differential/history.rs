// SPDX-License-Identifier: Apache-2.0
//! A history: steps in one namespace, with barriers between them at which both sides settle.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::step::{NodeEvent, Step};
use super::world::{Pace, World};

/// Consecutive seeds that share what happens to the nodes, which are cluster-wide.
pub(crate) const TRACK: u64 = 64;

/// What a history is about; each theme needs processes with flags of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Theme {
    /// Everything but what the others are for, with default flags.
    Plain,
    /// Few endpoints to a slice, so that packing matters.
    Packing,
    /// Services in topology mode, whose hints depend on all nodes.
    Topology,
}

impl Theme {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Packing, Self::Topology];

    /// Of sixteen seeds in a row eleven are plain, three pack, two are about topology.
    pub(crate) fn of(seed: u64) -> Self {
        match seed % 16 {
            3 | 8 | 13 => Self::Packing,
            5 | 11 => Self::Topology,
            _ => Self::Plain,
        }
    }

    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Plain => 0,
            Self::Packing => 1,
            Self::Topology => 2,
        }
    }

    pub(crate) fn pace(self) -> Pace {
        match self {
            Self::Plain => Pace::Free,
            Self::Packing | Self::Topology => Pace::OneChangeEach,
        }
    }

    /// Endpoints that a slice holds at most; 100 is the default.
    pub(crate) fn slice_size(self) -> usize {
        match self {
            Self::Plain | Self::Topology => 100,
            Self::Packing => 3,
        }
    }

    /// Flags of both contenders.
    pub(crate) fn flags(self) -> Vec<String> {
        match self {
            Self::Plain | Self::Topology => Vec::new(),
            Self::Packing => vec![format!("--max-endpoints-per-slice={}", self.slice_size())],
        }
    }
}

impl fmt::Display for Theme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Packing => "packing",
            Self::Topology => "topology",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    pub(crate) seed: u64,
    pub(crate) theme: Theme,
    /// What happens between two barriers.
    pub(crate) segments: Vec<Vec<Step>>,
}

impl History {
    pub(crate) fn len(&self) -> usize {
        self.segments.iter().map(Vec::len).sum()
    }

    /// The same with some steps only, and without those that then make no sense any more.
    pub(crate) fn keep(&self, keep: &dyn Fn(usize) -> bool) -> Self {
        let mut world = World::new();
        let mut number = 0;
        let mut segments = Vec::new();
        for segment in &self.segments {
            let mut steps = Vec::new();
            for step in segment {
                if keep(number) && world.allows(step, self.theme.pace()) {
                    world.apply(step);
                    steps.push(step.clone());
                }
                number += 1;
            }
            world.settle();
            segments.push(steps);
        }
        Self {
            segments,
            ..self.clone()
        }
    }
}

/// A history with what happens to the nodes, as people read it.
pub(crate) fn print(history: &History, nodes: &[Vec<NodeEvent>]) -> String {
    let mut text = String::new();
    for (number, segment) in history.segments.iter().enumerate() {
        for event in nodes.get(number).into_iter().flatten() {
            text.push_str(&format!("  {event}\n"));
        }
        for step in segment {
            text.push_str(&format!("  {step}\n"));
        }
        text.push_str("  -- both settle\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::generate;
    use super::*;

    #[test]
    fn a_history_without_some_steps_is_still_one_that_makes_sense() {
        for seed in 0..30 {
            let whole = generate::history(seed);
            assert_eq!(whole.keep(&|_| true), whole, "seed {seed}");
            let half = whole.keep(&|number| number % 2 == 0);
            assert!(half.len() <= whole.len() / 2 + 1);
            assert_eq!(half.keep(&|_| true), half, "seed {seed}");
            assert!(whole.keep(&|_| false).len() == 0);
        }
    }

    #[test]
    fn a_history_survives_being_written_down() {
        let history = generate::history(4);
        let text = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
        assert_eq!(
            print(&history, &[]).lines().count(),
            history.len() + history.segments.len()
        );
    }
}
