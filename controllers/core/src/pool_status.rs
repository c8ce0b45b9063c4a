// SPDX-License-Identifier: Apache-2.0
//! What the status of any pool says, whatever the pool has.
//!
//! In: how a pool stands, and its counts. Out: conditions, with their messages. Touches: nothing.

use berth_crds::{ConditionStatus, Fault, PoolCondition, PoolReason, set_condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// How many faults the message names: a condition's text has a limit (32,768 bytes).
const NAMED: usize = 8;

/// What a condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) condition: PoolCondition,
    pub(crate) status: ConditionStatus,
    pub(crate) reason: PoolReason,
    pub(crate) message: String,
}

/// What a pool has, in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noun {
    pub(crate) one: &'static str,
    pub(crate) many: &'static str,
    /// The field that lists them.
    pub(crate) field: &'static str,
    /// That some have no holder.
    pub(crate) left: PoolReason,
}

/// Of pools of addresses.
pub(crate) const ADDRESSES: Noun = Noun {
    one: "an address",
    many: "addresses",
    field: "spec.addresses",
    left: PoolReason::AddressesLeft,
};

/// Of pools of node ports.
pub(crate) const PORTS: Noun = Noun {
    one: "a port",
    many: "ports",
    field: "spec.ports",
    left: PoolReason::PortsLeft,
};

/// Whether a pool gives, and why not.
pub(crate) enum Stands {
    Gives,
    Draining,
    Malformed(Vec<Fault>),
    /// With which, in words.
    Overlapping(String),
}

/// Has conditions say what they are to.
pub(crate) fn say(
    conditions: &mut Vec<Condition>,
    said: impl IntoIterator<Item = Said>,
    generation: Option<i64>,
    now: &Time,
) {
    for said in said {
        set_condition(
            conditions,
            said.condition.as_str(),
            said.status,
            said.reason.as_str(),
            &said.message,
            generation,
            now,
        );
    }
}

fn is(condition: PoolCondition, holds: bool, reason: PoolReason, message: String) -> Said {
    let status = if holds {
        ConditionStatus::True
    } else {
        ConditionStatus::False
    };
    Said {
        condition,
        status,
        reason,
        message,
    }
}

/// Whether it gives what it has.
pub(crate) fn ready(stands: &Stands, noun: Noun) -> Said {
    let no = |reason, message| is(PoolCondition::Ready, false, reason, message);
    let many = noun.many;
    match stands {
        Stands::Gives => is(PoolCondition::Ready, true, PoolReason::InUse, String::new()),
        Stands::Draining => no(
            PoolReason::Draining,
            format!("gives no new {many} while spec.draining is true; those given stay"),
        ),
        Stands::Malformed(faults) => {
            let mut said: Vec<String> = faults.iter().take(NAMED).map(ToString::to_string).collect();
            if faults.len() > NAMED {
                said.push(format!("{} more faults", faults.len() - NAMED));
            }
            let message = format!(
                "gives no new {many} until spec is put right; those given stay. {}",
                said.join(". ")
            );
            no(PoolReason::Malformed, message)
        }
        Stands::Overlapping(other) => no(
            PoolReason::Overlapping,
            format!(
                "gives no new {many} until the overlap is removed; those given stay. {}: {other}",
                noun.field
            ),
        ),
    }
}

/// Whether part of it is an older pool's.
pub(crate) fn overlapping(stands: &Stands, noun: Noun) -> Said {
    match stands {
        Stands::Overlapping(other) => is(
            PoolCondition::Overlapping,
            true,
            PoolReason::Overlapping,
            format!("{}: {other}; remove what both list from one of them", noun.field),
        ),
        Stands::Gives | Stands::Draining | Stands::Malformed(_) => is(
            PoolCondition::Overlapping,
            false,
            PoolReason::NoOverlap,
            String::new(),
        ),
    }
}

/// Whether it is being emptied; `left` have a holder.
pub(crate) fn draining(is_draining: bool, left: u64, noun: Noun) -> Said {
    let (reason, message) = match (is_draining, left) {
        (false, _) => (PoolReason::NotDraining, String::new()),
        (true, 0) => (PoolReason::Drained, format!("nobody holds {} of it", noun.one)),
        (true, left) => (
            PoolReason::Draining,
            format!("{left} {} have a holder", noun.many),
        ),
    };
    is(PoolCondition::Draining, is_draining, reason, message)
}

/// Whether nothing is left; the message says of what, where something is.
pub(crate) fn exhausted(message: Option<String>, noun: Noun) -> Said {
    match message {
        Some(message) => is(PoolCondition::Exhausted, true, PoolReason::NoneLeft, message),
        None => is(PoolCondition::Exhausted, false, noun.left, String::new()),
    }
}

/// Whether the API server takes all of it; the reason and the message say of what it does not.
pub(crate) fn out_of_range(part: Option<(PoolReason, String)>) -> Said {
    match part {
        Some((reason, message)) => is(PoolCondition::OutOfRange, true, reason, message),
        None => is(
            PoolCondition::OutOfRange,
            false,
            PoolReason::InRange,
            String::new(),
        ),
    }
}

/// A count as the API has it.
pub(crate) fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
