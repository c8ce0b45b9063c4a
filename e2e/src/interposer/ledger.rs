// SPDX-License-Identifier: Apache-2.0
//! What went through.

use std::collections::BTreeMap;
use std::fmt;

use super::request::{Call, Verb};

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    /// What was asked for.
    pub verb: Verb,
    /// Of which resource.
    pub resource: String,
    /// What the client was told; `None` where it got no answer.
    pub told: Option<u16>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What it was.
    pub call: Call,
    /// What the API server answered; `None` where it was not asked, or gave no answer.
    pub answered: Option<u16>,
    /// What the client was told; `None` where it got no answer.
    pub told: Option<u16>,
    /// Whether what it was told was made up.
    pub failed_on_purpose: bool,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = |code: Option<u16>| code.map_or_else(|| "nothing".to_owned(), |code| code.to_string());
        write!(f, "{}: answered {}", self.call, code(self.answered))?;
        if self.failed_on_purpose {
            write!(f, ", told {}", code(self.told))?;
        }
        Ok(())
    }
}

/// What went through, in the order in which it ended.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    counts: BTreeMap<Counted, usize>,
    writes: Vec<Write>,
}

impl Ledger {
    pub(super) fn enter(&mut self, call: Call, answered: Option<u16>, told: Option<u16>, on_purpose: bool) {
        let counted = Counted {
            verb: call.verb,
            resource: call.resource.clone(),
            told,
        };
        *self.counts.entry(counted).or_default() += 1;
        if call.verb.is_write() {
            self.writes.push(Write {
                call,
                answered,
                told,
                failed_on_purpose: on_purpose,
            });
        }
    }

    /// How often what was asked for and told. A watch counts when it begins.
    pub fn counts(&self) -> &BTreeMap<Counted, usize> {
        &self.counts
    }

    /// How many requests of a verb for a resource there were, whatever was told.
    pub fn count(&self, verb: Verb, resource: &str) -> usize {
        self.counts
            .iter()
            .filter(|(counted, _)| counted.verb == verb && counted.resource == resource)
            .map(|(_, count)| count)
            .sum()
    }

    /// Every write.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }
}
