// SPDX-License-Identifier: Apache-2.0
//! Pools of addresses: who holds which, and which one is next.
//!
//! In: ranges, owners and the time, all as arguments. Out: one address, or a refusal that carries
//! the data to explain itself. Touches: nothing; the whole state can be rebuilt from a list.
//!
//! ```text
//!  AddressSet     disjoint intervals, both families; never enumerates a range, so a /64 is fine
//!     |
//!  Pool           one set of addresses: free intervals, holders, addresses that cool down
//!     |
//!  Pools          several by name, oldest first; contested ranges; addresses that lost their pool
//! ```
//!
//! Every address of a range is handed out, an IPv4 network or broadcast address of a CIDR included:
//! a LoadBalancer address is a /32 of its own and no host on that subnet, and MetalLB does the same
//! by default. Whoever wants them spared writes the range that leaves them out.
#![forbid(unsafe_code)]

#[cfg(test)]
mod dice;
mod items;
mod pool;
mod pools;
mod refusal;
mod set;

pub use items::{Band, ItemSet};
pub use pool::{AllocateError, Conflict, Counts, Granted, Pool, ReleaseError};
pub use pools::{Allocation, PoolDefinition, Pools, PoolsEdit};
pub use refusal::{Overlap, PoolName, Refusal, Standing};
pub use set::AddressSet;
