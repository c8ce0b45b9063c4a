// SPDX-License-Identifier: Apache-2.0
//! When Berth's own certificate authority is made, replaced and dropped, and who signs with which.
//!
//! In: what the Secret holds, what this replica remembers of it, the time, the rules. Out: a [`Plan`] for the Secret, the
//! authority that signs, the time limits of a leaf. Touches: nothing (no keys, no certificates, no clock).
//!
//! ```text
//!   authority 1   |== signs ==============================|-- trusted --|
//!   authority 2                          |- published ----|== signs ==========================|-- trusted --|
//!                                        ^ renewal begins ^ signs_from  ^ 1 is dropped
//! ```
//!
//! The Secret is the one record, written by compare-and-swap, so all replicas know one row of authorities. Who signs
//! follows from the row and the time: nothing is written to switch. All authorities of the row are trusted.
//!
//! **The arithmetic.** Clocks differ from the true time by at most `skew`. A replica reads the Secret, and publishes
//! what it read, at intervals of at most `publication / 2 - skew`: so a bundle that lacks a new authority is gone
//! `publication - 2 * skew` after that was written, and nobody signs with it before, whichever clock wrote
//! `signs_from` and whichever reads it. A leaf of the old one was signed before `signs_from`, by the clock of whoever signed
//! it, and has expired `leaf_life` after that: the old one is dropped `leaf_life + 2 * skew` after `signs_from`.
//! Renewal begins when a third of an authority's life is left, which has to cover all of that ([`Rules::check`]).

mod fault;
mod rules;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

pub use fault::Fault;
pub use rules::{Rules, RulesFault};

/// A certificate authority of the Secret. Times are since 1970, as certificates have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its name in the Secret.
    pub number: u32,
    /// Not valid before.
    pub not_before: Duration,
    /// Not valid after.
    pub not_after: Duration,
    /// When replicas begin to sign with it.
    pub signs_from: Duration,
    /// Without its key it is trusted, and signs nothing.
    pub has_key: bool,
}

impl Authority {
    fn can_sign(&self, now: Duration, rules: &Rules) -> bool {
        self.has_key && now < self.not_after && self.not_before <= now + rules.skew
    }

    fn age(&self) -> (Duration, u32) {
        (self.signs_from, self.number)
    }
}

/// What the Secret holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// What is usable, at least to be trusted.
    pub authorities: Vec<Authority>,
    /// What is wrong with the rest, by the entry of the Secret.
    pub faults: Vec<(String, Fault)>,
}

/// An authority to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct New {
    /// Its name in the Secret.
    pub number: u32,
    /// Not valid before: the past, for clocks that are behind.
    pub not_before: Duration,
    /// Not valid after.
    pub not_after: Duration,
    /// When replicas begin to sign with it.
    pub signs_from: Duration,
}

/// Why the Secret is written. The text form is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing could sign: there is a new authority, which signs at once.
    Created,
    /// A new authority is published, which signs later.
    RotationBegun,
    /// An authority is dropped whose leaves have all expired.
    OldDropped,
    /// An authority is dropped that has expired itself.
    ExpiredDropped,
    /// What this replica remembers was put back, because nothing in the Secret could sign.
    Restored,
    /// Entries were put right.
    Repaired,
}

impl Change {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::RotationBegun => "RotationBegun",
            Self::OldDropped => "OldDropped",
            Self::ExpiredDropped => "ExpiredDropped",
            Self::Restored => "Restored",
            Self::Repaired => "Repaired",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the Secret shall hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Of those that are stored, by number.
    pub keep: BTreeSet<u32>,
    /// Of those that are remembered, by number.
    pub restore: BTreeSet<u32>,
    /// One to be made.
    pub new: Option<New>,
    /// Why; empty where the Secret stays as it is.
    pub changes: BTreeSet<Change>,
    /// When something becomes due that is not due now.
    pub again: Option<Duration>,
}

impl Plan {
    /// Whether the Secret stays as it is.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Says what the Secret shall hold. `stored` is none where there is no Secret: whoever deletes it wants a new authority,
/// so that nothing remembered is put back then.
pub fn plan(stored: Option<&Stored>, remembered: &[Authority], now: Duration, rules: &Rules) -> Plan {
    let mut plan = Plan::default();
    let mut row: Vec<Authority> = Vec::new();
    if let Some(stored) = stored {
        if !stored.faults.is_empty() {
            plan.changes.insert(Change::Repaired);
        }
        row.clone_from(&stored.authorities);
        plan.keep = row.iter().map(|authority| authority.number).collect();
        if signer(&row, now, rules).is_none() {
            restore(&mut plan, &mut row, remembered, now, rules);
        }
    }
    drop_old(&mut plan, &mut row, now, rules);
    plan.new = new(&row, now, rules);
    if let Some(new) = plan.new {
        plan.changes.insert(if new.signs_from == now {
            Change::Created
        } else {
            Change::RotationBegun
        });
    }
    plan.again = again(&row, now, rules);
    plan
}

/// Puts back what is remembered, if one of those can sign.
fn restore(
    plan: &mut Plan,
    row: &mut Vec<Authority>,
    remembered: &[Authority],
    now: Duration,
    rules: &Rules,
) {
    let missing = |authority: &&Authority| {
        let stored = row.iter().find(|stored| stored.number == authority.number);
        now < authority.not_after && stored.is_none_or(|stored| !stored.has_key && authority.has_key)
    };
    let missing: Vec<Authority> = remembered.iter().filter(missing).copied().collect();
    if signer(&missing, now, rules).is_none() {
        return;
    }
    plan.restore = missing.iter().map(|authority| authority.number).collect();
    plan.keep.retain(|number| !plan.restore.contains(number));
    row.retain(|authority| !plan.restore.contains(&authority.number));
    row.extend(missing);
    plan.changes.insert(Change::Restored);
}

/// Drops what has expired, and what has been replaced for so long that its leaves have expired.
fn drop_old(plan: &mut Plan, row: &mut Vec<Authority>, now: Duration, rules: &Rules) {
    let all = row.clone();
    row.retain(|authority| {
        let change = if authority.not_after <= now {
            Change::ExpiredDropped
        } else if gone_at(authority, &all, rules).is_some_and(|at| at <= now) {
            Change::OldDropped
        } else {
            return true;
        };
        plan.changes.insert(change);
        plan.keep.remove(&authority.number);
        plan.restore.remove(&authority.number);
        false
    });
}

/// When an authority may be dropped: when the leaves of it have expired because a younger one signs, which lasts longer.
fn gone_at(authority: &Authority, row: &[Authority], rules: &Rules) -> Option<Duration> {
    row.iter()
        .filter(|other| {
            other.has_key && other.age() > authority.age() && other.not_after >= authority.not_after
        })
        .map(|successor| {
            let overlap = rules.leaf_life + rules.skew * 2;
            successor.signs_from.saturating_add(overlap)
        })
        .min()
}

/// The authority that has to be made now.
fn new(row: &[Authority], now: Duration, rules: &Rules) -> Option<New> {
    let lasts =
        |authority: &Authority| authority.can_sign(now, rules) && now < rules.renewal_of(authority.not_after);
    let signs_from = if signer(row, now, rules).is_none() {
        now
    } else if row.iter().any(lasts) {
        return None;
    } else {
        now + rules.publication
    };
    Some(New {
        number: unused_number(row),
        not_before: now.saturating_sub(rules.skew),
        not_after: now + rules.authority_life,
        signs_from,
    })
}

/// The next number, so that the names in the Secret tell their order; any that is free where there is no next.
fn unused_number(row: &[Authority]) -> u32 {
    let used: BTreeSet<u32> = row.iter().map(|authority| authority.number).collect();
    let next = used.last().map_or(Some(1), |last| last.checked_add(1));
    next.or_else(|| (1..).find(|number| !used.contains(number)))
        .unwrap_or(1)
}

fn again(row: &[Authority], now: Duration, rules: &Rules) -> Option<Duration> {
    let renewals = row.iter().filter(|authority| authority.has_key);
    let renewals = renewals.map(|authority| rules.renewal_of(authority.not_after));
    let dropped = row.iter().filter_map(|authority| gone_at(authority, row, rules));
    let ends = row.iter().map(|authority| authority.not_after);
    let begins = row.iter().map(|authority| authority.signs_from);
    let all = renewals.chain(dropped).chain(ends).chain(begins);
    all.filter(|at| *at > now).min()
}

/// The authority that signs now: the last one whose time has come. Where there is none, the one whose time comes first: a
/// leaf that some do not trust yet is better than none.
pub fn signer(row: &[Authority], now: Duration, rules: &Rules) -> Option<Authority> {
    let able = || row.iter().filter(|authority| authority.can_sign(now, rules));
    able()
        .filter(|authority| authority.signs_from <= now)
        .max_by_key(|authority| authority.age())
        .or_else(|| able().min_by_key(|authority| authority.age()))
        .copied()
}

/// The time limits of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Not valid before: the past, for clocks that are behind.
    pub not_before: Duration,
    /// Not valid after: no later than its authority.
    pub not_after: Duration,
    /// When it is replaced.
    pub renew_at: Duration,
}

/// The leaf that `authority` signs now.
pub fn leaf(authority: &Authority, now: Duration, rules: &Rules) -> Leaf {
    let not_after = (now + rules.leaf_life).min(authority.not_after);
    let life = not_after.saturating_sub(now);
    Leaf {
        not_before: now.saturating_sub(rules.skew),
        not_after,
        renew_at: now + life * 2 / 3,
    }
}
