// SPDX-License-Identifier: Apache-2.0
//! Pools of addresses and ports: who has which, for whom others are kept, and which one is next.
//!
//! In: definitions, owners, the time and random numbers, all as arguments. Out: one item, or a refusal that carries
//! the data to explain itself. Touches: nothing; the whole state can be rebuilt from a list.
//!
//! ```text
//!  RangeSet   what an administrator wrote, as disjoint intervals; a /64 is one of them
//!     |
//!  ItemSet    which of so many items are taken: a bitmap with summary levels, or a sparse form of it
//!     |
//!  Shelf      one family of a pool: its ranges in one row, bands, strategy, items that rest
//!     |
//!  Pool       holders, holds with a deadline, reservations, quotas, exact counts
//!     |
//!  Pools      several by name, oldest first; contested ranges; items that lost their pool
//! ```
//!
//! What is written here for addresses holds for ports: [`Item`] is all that the arithmetic knows of either.
//!
//! Every address of a range is handed out, an IPv4 network or broadcast address of a CIDR included, unless the
//! definition excludes it: a LoadBalancer address is a /32 of its own and no host on that subnet, and MetalLB does
//! the same by default. For ClusterIPs [`network_and_broadcast`] names those to exclude.
#![forbid(unsafe_code)]

mod band;
mod definition;
#[cfg(test)]
mod dice;
mod intervals;
mod item;
mod items;
mod pool;
mod pools;
mod ranges;
mod refusal;
mod request;
mod shelf;

pub use band::{StaticBand, network_and_broadcast};
pub use definition::{PoolDefinition, PoolName, Quota, Strategy, VoidReservation};
pub use item::{Item, NodePorts, Owner};
pub use items::{Band, ItemSet};
pub use pool::Pool;
pub use pools::{Allocation, Pools, PoolsEdit};
pub use ranges::{AddressSet, PortSet, RangeSet};
pub use refusal::{Overlap, Refusal, ReleaseError, Standing};
pub use request::{Adopted, Conflict, Counts, Granted, Request, State};
pub use shelf::MOST_RESTING;
