// SPDX-License-Identifier: Apache-2.0
//! LoadBalancer addresses: which Service gets which, and what to write about it.
//!
//! ```text
//!  AddressPools --> Pools <--------- status of every Service (adopted at start: the only record)
//!                     |
//!  Service --> Wish --+--> verdict per family --> LbPlan { status to write, event, whom to wake }
//! ```
//!
//! - An address stays the Service's for as long as its wish or its status lists it, so none is handed on
//!   before the status that dropped it has been observed, and no working one is dropped for an attempt at
//!   another.
//! - Several Services have one address where they agree on it (`sharing.rs`). Of two that do no longer, the one that changed
//!   leaves as soon as it has another.
//! - What no pool covers any more, because a pool was edited or deleted, is kept and said.
//! - A status that Berth did not write is left alone; an address of a pool that it lists is given to
//!   nobody else.

mod adopt;
mod book;
mod definition;
mod ledger;
mod menu;
mod offers;
mod plan;
mod pool_status;
mod reason;
mod sharing;
mod verdict;
mod waiting;
mod wish;

pub use adopt::Adopted;
pub use book::{LoadBalancers, PoolsChange, Settings};
pub use plan::{LbEvent, LbPlan, Outcome, StatusWrite};
pub use reason::{Asked, NotOurs, Reason};
pub use sharing::Unlike;
pub use wish::{
    ADDRESS_POOL_ANNOTATIONS, CONDITION_ALLOCATED, DUAL_STACK_REQUIRED, LOAD_BALANCER_IPS_ANNOTATIONS,
    SHARING_KEY_ANNOTATIONS,
};
