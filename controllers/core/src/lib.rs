// SPDX-License-Identifier: Apache-2.0
//! Decides what the controllers write to the API.
//!
//! In: API objects as last seen (Services, trimmed Pods, Nodes, Endpoints, slices, pools), and time
//! where it matters. Out: plans, which are ordered and print themselves, with everything that was
//! left out and why. Touches: nothing (no IO, no clock, no client).
//!
//! ```text
//!            selector index                       tracker: own writes not seen yet -> retry, plan nothing
//!                 |                                  |
//!  Service --> Pods --> plan_endpoints, plan_slices --> Plan --> (manager applies it)
//!  Endpoints without a selector --> plan_mirror -----/
//!
//!  a write of a Service --> admission: needs --> values, by way of the holder --> Patch
//!  pools --> enforcement: policies by which API servers hold themselves what was decided
//!  what is there --> audit: what is told of it
//! ```
#![forbid(unsafe_code)]

mod address;
#[cfg(test)]
mod fixtures;
mod pods;
mod pool_status;
mod service;

pub mod admission;
pub mod audit;
pub mod certificates;
pub mod endpoints;
pub mod enforcement;
pub mod figures;
pub mod holder;
pub mod load_balancer;
pub mod mirror;
pub mod names;
pub mod node_port_range;
pub mod plan;
pub mod pools;
pub mod selector;
pub mod skips;
pub mod slices;
pub mod tracker;
pub mod trigger;
pub mod upkeep;
pub mod values;

pub use pods::PodChange;
pub use service::{Labels, key_of, matches, selector_of};
