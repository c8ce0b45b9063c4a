// SPDX-License-Identifier: Apache-2.0
//! What the leader writes for pools: their statuses, what comes of AddressClaims, and the ServiceCIDRs that pools want.
//!
//! In: the book of values, with the objects as the watches showed them last; ServiceCIDRs; the time. Out: statuses to
//! write, questions to ask whoever hands out values, ServiceCIDRs to create and to delete. Touches: nothing.
//!
//! ```text
//!   Values --> pools:  figures, findings                 --> status of AddressPool, NodePortPool
//!          \-> claims: what is kept, expired, missing    --> status of AddressClaim | Wish --> (holder) --> status
//!   pools, ServiceCIDRs --> service_cidrs                --> create | delete
//! ```
//!
//! Each of these says what is to be, from what is: whatever was written, lost or refused before, the next round puts it
//! right, and where all is as it should be there is nothing to write.

pub mod claims;
pub mod merge;
pub mod pools;
pub mod service_cidrs;

#[cfg(test)]
mod tests;
