// SPDX-License-Identifier: Apache-2.0
//! The conditions of pools and claims, and their reasons.

/// The conditions of a pool. The text form is the condition's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PoolCondition {
    /// It gives what it has.
    Ready,
    /// Part of it belongs to an older pool.
    Overlapping,
    /// It has nothing left to give.
    Exhausted,
    /// Part of it lies where the API server takes nothing from.
    OutOfRange,
    /// It gives nothing new, by wish.
    Draining,
}

impl PoolCondition {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Overlapping => "Overlapping",
            Self::Exhausted => "Exhausted",
            Self::OutOfRange => "OutOfRange",
            Self::Draining => "Draining",
        }
    }
}

/// Why a condition of a pool is as it is. The text form is the condition's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PoolReason {
    /// It gives what it has.
    InUse,
    /// Its spec has faults: it gives nothing new.
    Malformed,
    /// It shares addresses or ports with an older pool: it gives nothing new.
    Overlapping,
    /// It shares none.
    NoOverlap,
    /// Everything has a holder.
    NoneLeft,
    /// Some addresses have none.
    AddressesLeft,
    /// Some ports have none.
    PortsLeft,
    /// It is to be emptied, and is not yet.
    Draining,
    /// It is to be emptied, and is.
    Drained,
    /// It is not to be emptied.
    NotDraining,
    /// All of it lies where the API server takes it from.
    InRange,
    /// Addresses are in no ServiceCIDR.
    NoServiceCidr,
    /// The ServiceCIDR of addresses is being deleted, or not ready.
    ServiceCidrNotReady,
    /// Ports are outside the API server's range.
    OutsideNodePortRange,
}

impl PoolReason {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InUse => "InUse",
            Self::Malformed => "Malformed",
            Self::Overlapping => "Overlapping",
            Self::NoOverlap => "NoOverlap",
            Self::NoneLeft => "NoneLeft",
            Self::AddressesLeft => "AddressesLeft",
            Self::PortsLeft => "PortsLeft",
            Self::Draining => "Draining",
            Self::Drained => "Drained",
            Self::NotDraining => "NotDraining",
            Self::InRange => "InRange",
            Self::NoServiceCidr => "NoServiceCIDR",
            Self::ServiceCidrNotReady => "ServiceCIDRNotReady",
            Self::OutsideNodePortRange => "OutsideNodePortRange",
        }
    }
}

/// The conditions of a claim. The text form is the condition's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClaimCondition {
    /// It has what it asks for.
    Ready,
    /// The Service has it.
    Bound,
}

impl ClaimCondition {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Bound => "Bound",
        }
    }
}

/// Why a condition of a claim is as it is. The text form is the condition's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClaimReason {
    /// The addresses are kept.
    Kept,
    /// The Service has them.
    ServiceHasThem,
    /// There is no such Service, or it has others.
    ServiceHasNot,
    /// The spec has faults.
    Malformed,
    /// Another claim, an older one, is for the same Service and use.
    ClaimedTwice,
    /// There is no pool of that name.
    PoolMissing,
    /// No pool serves the Service, or the one named does not.
    NoPool,
    /// The pool gives nothing new.
    PoolNotReady,
    /// The pool has nothing left of a family.
    NoneLeft,
    /// The namespace holds as much of the pool as it may.
    QuotaUsedUp,
    /// Somebody has the address that is wished for.
    AddressTaken,
    /// The address that is wished for is not in the pool.
    AddressNotInPool,
    /// There was no Service for as long as the addresses were kept.
    Expired,
    /// Addresses of load balancers are not kept for claims yet.
    UseNotServed,
}

impl ClaimReason {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "Kept",
            Self::ServiceHasThem => "ServiceHasThem",
            Self::ServiceHasNot => "ServiceHasNot",
            Self::Malformed => "Malformed",
            Self::ClaimedTwice => "ClaimedTwice",
            Self::PoolMissing => "PoolMissing",
            Self::NoPool => "NoPool",
            Self::PoolNotReady => "PoolNotReady",
            Self::NoneLeft => "NoneLeft",
            Self::QuotaUsedUp => "QuotaUsedUp",
            Self::AddressTaken => "AddressTaken",
            Self::AddressNotInPool => "AddressNotInPool",
            Self::Expired => "Expired",
            Self::UseNotServed => "UseNotServed",
        }
    }
}
