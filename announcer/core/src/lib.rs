// SPDX-License-Identifier: Apache-2.0
//! What an announcer decides: who owns a LoadBalancer address, what it answers, and when it speaks up.
//!
//! In: frames, heartbeats, links, nodes, addresses and the time, all as arguments. Out: frames and
//! heartbeats to send, addresses to announce or withdraw, all as values. Touches: nothing.
//!
//! ```text
//!  heartbeat -> membership -> election --+
//!  addresses, links ---------------------+--> engine --> announce / withdraw, status
//!  frame -----> responder <- announced --+       |
//!  time ------> schedule  <--------------+       +----> frames, heartbeats
//! ```
#![forbid(unsafe_code)]

pub mod election;
pub mod engine;
pub mod filter;
pub mod link;
pub mod membership;
pub mod moment;
pub mod responder;
pub mod schedule;
pub mod wire;

pub use engine::{Engine, Options, Output};
pub use moment::Moment;
