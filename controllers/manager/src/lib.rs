// SPDX-License-Identifier: Apache-2.0
//! `berth controllers`: watches, leader lease, and the writes that `berth-controllers-core` decided on.
//!
//! In: flags, the API server's watches. Out: Endpoints, EndpointSlices, Service and AddressPool statuses,
//! events. Touches: the API server and its own admin port; decides nothing.
//!
//! ```text
//!  watches --> Cache --> dirty keys --> queues --> workers:  snapshot --> plan (core) --> Writer
//!                ^                                                                          |
//!                +------------------- trackers of own writes <------------------------------+
//!
//!  a controller's workers start once all of its kinds are listed and the Lease is ours
//! ```

pub mod admission;
mod allocation;
mod args;
mod audit;
mod cache;
mod context;
pub mod enforcement;
mod events;
mod feed;
pub mod handout;
mod metrics;
mod node_port_range;
mod reconcile;
mod run;
mod task;
mod upkeep;
mod work;
mod write;

pub use allocation::AllocationArgs;
pub use args::{Controller, ControllersArgs, Part};
pub use run::run;

/// The Leases by which replicas of the controllers agree who leads, and who hands out values; the shipped RBAC names them.
pub const LEASES: [&str; 2] = [run::LEASE, allocation::LEASE];
