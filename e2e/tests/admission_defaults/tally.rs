// SPDX-License-Identifier: Apache-2.0
//! What came of the writes, so that it can be seen that they are worth making.

use std::collections::BTreeMap;
use std::fmt;

use berth_controllers_core::admission::Invalid;

/// How many writes came to what.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) writes: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) left_alone: u64,
    /// Refused by a panic of the API server.
    pub(crate) given_up: u64,
    pub(crate) patched: u64,
    /// Of the left alone: why.
    pub(crate) by_reason: BTreeMap<Invalid, u64>,
    /// Histories that ended early, and addresses that were not free at once: see `history::DISTURBED`.
    pub(crate) disturbed: u64,
    pub(crate) freed: u64,
    /// Of the refused that were not left alone: why.
    by_message: BTreeMap<String, u64>,
    /// What was not as foreseen.
    pub(crate) failures: Vec<String>,
}

impl Tally {
    /// A write that was refused and not left alone.
    pub(crate) fn refused_with(&mut self, message: String) {
        *self.by_message.entry(message).or_default() += 1;
    }

    /// A history that ends here.
    pub(crate) fn failed(&mut self, error: &anyhow::Error) {
        self.failures
            .push(error.chain().map(|part| format!("{part}\n")).collect());
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.writes += other.writes;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.left_alone += other.left_alone;
        self.given_up += other.given_up;
        self.patched += other.patched;
        self.disturbed += other.disturbed;
        self.freed += other.freed;
        self.failures.extend(other.failures);
        for (reason, count) in other.by_reason {
            *self.by_reason.entry(reason).or_default() += count;
        }
        for (message, count) in other.by_message {
            *self.by_message.entry(message).or_default() += count;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} writes: {} accepted, {} refused, {} left alone, {} patched, {} addresses freed, {} disturbed",
            self.writes,
            self.accepted,
            self.refused,
            self.left_alone,
            self.patched,
            self.freed,
            self.disturbed
        )?;
        for (reason, count) in &self.by_reason {
            writeln!(f, "  {count} left alone: {reason}")?;
        }
        for (message, count) in &self.by_message {
            writeln!(f, "  {count} refused without being left alone: {message}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        Ok(())
    }
}
