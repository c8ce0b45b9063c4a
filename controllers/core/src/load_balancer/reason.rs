// SPDX-License-Identifier: Apache-2.0
//! Every way in which a Service does not simply get what it asks for.

use std::fmt;
use std::net::IpAddr;

use berth_allocator::Refusal;
use berth_model::{IpFamily, ServiceKey};

use super::sharing::Unlike;
use crate::pools::Considered;

/// Why a Service is none of ours to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOurs {
    /// Its type is not LoadBalancer.
    NotALoadBalancer,
    /// Its `spec.loadBalancerClass` names another provider.
    OtherClass(String),
    /// It has no class, and Berth is not the default provider.
    NoClass,
}

impl NotOurs {
    /// Stable text for log fields and metric labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NotALoadBalancer => "NotALoadBalancer",
            Self::OtherClass(_) => "OtherClass",
            Self::NoClass => "NoClass",
        }
    }
}

/// Where in a Service a value was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The field, as in `spec.loadBalancerIP`.
    pub field: String,
    /// What the user wrote there.
    pub value: String,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value.char_indices().nth(SHOWN) {
            None => write!(f, "{}: {:?}", self.field, self.value),
            Some((end, _)) => write!(f, "{}: {:?}...", self.field, &self.value[..end]),
        }
    }
}

/// How many characters of a value a message shows, and how many items of a list: it becomes the text of a
/// condition, which has a limit (32,768 bytes), while an annotation may be eight times as long.
const SHOWN: usize = 120;
const NAMED: usize = 4;

/// What there is to say about the addresses of a Service that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It prefers two families and has one.
    OneFamilyOnly {
        /// The family that it lacks.
        missing: IpFamily,
        /// Why.
        why: Box<Reason>,
    },
    /// It keeps an address that no pool covers any more.
    OutsidePools {
        /// The address.
        address: IpAddr,
    },
    /// It keeps an address of a pool that is for others by now.
    KeptOfOthers {
        /// The address.
        address: IpAddr,
        /// The pool, and why not.
        within: Considered,
    },
    /// What it asks for is of a pool that is for others.
    PoolForOthers {
        /// Where.
        asked: Asked,
        /// The pool, and why not.
        within: Considered,
    },
    /// What it asks for is another's, and the two do not share it.
    AddressNotShared {
        /// Where.
        asked: Asked,
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: ServiceKey,
        /// Why not.
        unlike: Box<Unlike>,
    },
    /// It keeps, until it has another, an address that others have on other terms.
    NoLongerShared {
        /// The address.
        address: IpAddr,
        /// One of the others.
        holder: ServiceKey,
        /// Why the two do not share it.
        unlike: Box<Unlike>,
    },
    /// There are pools, and none is for it.
    NoPoolForService {
        /// The family of the address.
        family: IpFamily,
        /// The pools, and why not.
        considered: Vec<Considered>,
    },
    /// A value that is no IP address.
    MalformedAddress {
        /// Where.
        asked: Asked,
    },
    /// Two addresses of one family are asked for; a Service has one of each.
    TwoOfOneFamily {
        /// Where.
        asked: Asked,
        /// The family.
        family: IpFamily,
    },
    /// An address of a family that the Service does not have.
    FamilyNotInService {
        /// Where.
        asked: Asked,
        /// The family of the address.
        family: IpFamily,
    },
    /// `spec.loadBalancerIP` and an annotation ask for different addresses.
    ConflictingRequests {
        /// The one.
        asked: Asked,
        /// The other.
        other: Asked,
    },
    /// The pools refused.
    NotGiven {
        /// The request, if it was for a certain address or pool.
        asked: Option<Asked>,
        /// Why.
        refusal: Refusal,
    },
    /// The status holds what Berth did not write.
    ForeignStatus {
        /// The entries, as written.
        entries: Vec<String>,
    },
}

impl Reason {
    /// Stable text: reason of the condition and the event, log field and metric label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::OneFamilyOnly { .. } => "OneFamilyOnly",
            Self::OutsidePools { .. } => "OutsidePools",
            Self::KeptOfOthers { .. } => "KeptOfOthers",
            Self::PoolForOthers { .. } => "PoolForOthers",
            Self::NoPoolForService { .. } => "NoPoolForService",
            Self::AddressNotShared { .. } => "AddressNotShared",
            Self::NoLongerShared { .. } => "NoLongerShared",
            Self::MalformedAddress { .. } => "MalformedAddress",
            Self::TwoOfOneFamily { .. } => "TwoOfOneFamily",
            Self::FamilyNotInService { .. } => "FamilyNotInService",
            Self::ConflictingRequests { .. } => "ConflictingRequests",
            Self::ForeignStatus { .. } => "ForeignStatus",
            Self::NotGiven { refusal, .. } => match refusal {
                Refusal::NoPool => "NoPool",
                Refusal::NoSuchPool { .. } => "NoSuchPool",
                Refusal::PoolAtRest { .. } => "PoolNotUsable",
                Refusal::NoSuchFamily { .. } => "FamilyNotAvailable",
                Refusal::Exhausted { .. } => "PoolExhausted",
                Refusal::NotInAnyPool { .. } => "AddressNotInAnyPool",
                Refusal::NotInPool { .. } => "AddressNotInPool",
                Refusal::AlreadyAllocated { .. } | Refusal::BeingGiven { .. } => "AddressInUse",
                Refusal::Reserved { .. } => "AddressReserved",
                Refusal::Withheld { .. } => "AddressWithheld",
                Refusal::Draining { .. } => "PoolDraining",
                Refusal::QuotaReached { .. } => "QuotaReached",
            },
        }
    }

    /// What it keeps, and others have on other terms.
    pub(super) fn leaves(&self) -> Option<IpAddr> {
        if let Self::NoLongerShared { address, .. } = self {
            Some(*address)
        } else {
            None
        }
    }

    /// Whether the Service has what it must have all the same.
    pub fn is_satisfied(&self) -> bool {
        match self {
            Self::OneFamilyOnly { .. } | Self::OutsidePools { .. } | Self::KeptOfOthers { .. } => true,
            Self::PoolForOthers { .. }
            | Self::NoPoolForService { .. }
            | Self::AddressNotShared { .. }
            | Self::NoLongerShared { .. }
            | Self::MalformedAddress { .. }
            | Self::TwoOfOneFamily { .. }
            | Self::FamilyNotInService { .. }
            | Self::ConflictingRequests { .. }
            | Self::NotGiven { .. }
            | Self::ForeignStatus { .. } => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneFamilyOnly { missing, why } => write!(f, "no {missing} address: {why}"),
            Self::OutsidePools { address } => write!(
                f,
                "{address} is kept although no AddressPool covers it any more; add it to a pool, or ask for a certain other one"
            ),
            Self::KeptOfOthers { address, within } => write!(
                f,
                "{address} is kept although {within}; have spec.selector of that pool select it, or create the Service anew"
            ),
            Self::PoolForOthers { asked, within } => write!(
                f,
                "{asked}: {within}; ask for what is of a pool for the Service, or have spec.selector of that one select it"
            ),
            Self::AddressNotShared {
                asked,
                address,
                holder,
                unlike,
            } => write!(
                f,
                "{asked}: {address} is held by {holder}, {unlike}; ask for another, or have the two agree"
            ),
            Self::NoLongerShared {
                address,
                holder,
                unlike,
            } => write!(
                f,
                "{address} is held by {holder}, too, {unlike}; the Service gets another as soon as there is one, or have the two agree"
            ),
            Self::NoPoolForService { family, considered } => write!(
                f,
                "no AddressPool with {family} addresses is for the Service ({}); have one select it (spec.selector), or add one",
                some_of(considered)
            ),
            Self::MalformedAddress { asked } => write!(f, "{asked} is not a list of IP addresses"),
            Self::TwoOfOneFamily { asked, family } => {
                write!(f, "{asked} asks for two {family} addresses; a Service has one")
            }
            Self::FamilyNotInService { asked, family } => write!(
                f,
                "{asked} asks for an {family} address, which spec.ipFamilies does not have"
            ),
            Self::ConflictingRequests { asked, other } => {
                write!(f, "{asked} contradicts {other}; keep one of them")
            }
            Self::NotGiven {
                asked: Some(asked),
                refusal,
            } => write!(f, "{asked}: {refusal}; {}", refusal.way_out()),
            Self::NotGiven { asked: None, refusal } => write!(f, "{refusal}; {}", refusal.way_out()),
            Self::ForeignStatus { entries } => write!(
                f,
                "status.loadBalancer.ingress holds {}, which Berth did not write and no AddressPool covers: left alone; \
                 give the Service to one provider (spec.loadBalancerClass), or add the address to a pool",
                some_of(entries)
            ),
        }
    }
}

fn some_of<T: fmt::Display>(entries: &[T]) -> String {
    let named: Vec<String> = entries.iter().take(NAMED).map(T::to_string).collect();
    match entries.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
