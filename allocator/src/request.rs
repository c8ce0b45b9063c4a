// SPDX-License-Identifier: Apache-2.0
//! What an allocation is told, and what it answers.

use std::net::IpAddr;
use std::time::Duration;

use berth_model::ServiceKey;

use crate::{Item, Owner, Refusal};

/// Who asks, when, and for how long.
///
/// Times are durations since any one epoch of the caller's; they only ever get compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a, O: Owner = ServiceKey> {
    /// Who is to have the item.
    pub owner: &'a O,
    /// The time.
    pub now: Duration,
    /// For a hold, its deadline; `None`: for good.
    pub hold_until: Option<Duration>,
    /// Any number, each as likely as the other. Only [`Strategy::Random`](crate::Strategy::Random) looks at it.
    pub random: u64,
}

impl<'a, O: Owner> Request<'a, O> {
    /// For an item that is the owner's until it is given back.
    pub fn for_good(owner: &'a O, now: Duration) -> Self {
        Self {
            owner,
            now,
            hold_until: None,
            random: 0,
        }
    }

    /// For an item that is kept for the owner until the deadline, or until it is asked for for good.
    pub fn hold(owner: &'a O, now: Duration, until: Duration) -> Self {
        Self {
            hold_until: Some(until),
            ..Self::for_good(owner, now)
        }
    }

    /// With this random number.
    #[must_use]
    pub fn at_random(self, random: u64) -> Self {
        Self { random, ..self }
    }
}

/// What an allocation changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// The item is the owner's from now on.
    New,
    /// It was the owner's already; a hold has the later of the two deadlines.
    Already,
    /// The owner had a hold on it, and it is the owner's for good now.
    Bound,
}

/// What adopting an item did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted<O: Owner = ServiceKey> {
    /// As with an allocation.
    pub granted: Granted,
    /// Whose hold on the item has ended by it.
    pub displaced: Option<O>,
    /// For whom it is reserved, if for another.
    pub reserved_for: Option<O>,
}

/// An entry of a list that does not fit with the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict<I: Item = IpAddr, O: Owner = ServiceKey> {
    /// The item.
    pub item: I,
    /// Who claimed it.
    pub claimant: O,
    /// Whether the claimant has it all the same.
    pub restored: bool,
    /// What stands against it.
    pub refusal: Refusal<I, O>,
}

/// Where an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State<'a, O: Owner = ServiceKey> {
    /// It is not one of the pool's.
    Outside,
    /// It could be given.
    Free,
    /// It could be given, but until then others go before it.
    Resting(Duration),
    /// It can't be given at present.
    Withheld,
    /// It is kept for an owner who does not have it.
    Reserved(&'a O),
    /// It is on its way to an owner, until then.
    Held(&'a O, Duration),
    /// An owner has it.
    Allocated(&'a O),
}

/// What a pool has of one family. `capacity` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Items that it has to give, whatever became of them; all of IPv6 counts as `u128::MAX`.
    pub capacity: u128,
    /// Those that an owner has.
    pub allocated: u64,
    /// Those that are on their way to one.
    pub held: u64,
    /// Those that are kept for an owner who does not have them.
    pub reserved: u64,
    /// Those that nobody has and that can't be given at present.
    pub withheld: u128,
    /// All others, resting ones included.
    pub free: u128,
}
