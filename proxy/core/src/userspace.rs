// SPDX-License-Identifier: Apache-2.0
//! The user-space backend: connections end at relays of this process, which choose the endpoint, try another one where
//! it refuses, and pass the bytes on. The kernel only steers.
//!
//! In: the intent, where relays listen, time. Out: which relays are wanted and where packets are steered, as plans;
//! which endpoint a connection gets. Touches: nothing.
//!
//! ```text
//!  Intent --Demand--> Relay -> wishes --plan--> open, update, retire --> Listening (where each relay listens)
//!     |                                                                     |
//!     +-------------------------- Steering <--------------------------------+
//!                                    |  the intent with every list replaced by its one relay
//!                                    +--nft::diff--> elements of the table `berth-relay` (Layout::of_relays)
//!  a connection at a relay --Balancer--> endpoint
//! ```
//!
//! **Deviations from the oracle**, all of them: the source address is always lost ([`walk::SOURCE_LOST`]), SCTP is
//! refused ([`RejectReason::NoRelay`](crate::RejectReason)), and the relays' own sockets take one port each of the
//! address they listen on, where nobody but steered connections gets an answer ([`DropReason::RelayPort`](crate::DropReason)).

mod address;
mod balancer;
mod demand;
mod listening;
mod ports;
mod recent;
mod steering;
mod switchboard;
pub mod walk;

pub use address::relay_address;
pub use balancer::{Balancer, Limits};
pub use demand::{Demand, Relay, RelayIntent};
pub use listening::{Listening, Moved, RelayChange, RelayPlan, Socket};
pub use ports::{PortRange, PortRangeError};
pub use recent::Recent;
pub use steering::Steering;
pub use switchboard::Switchboard;

#[cfg(test)]
mod tests;
