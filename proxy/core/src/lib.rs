// SPDX-License-Identifier: Apache-2.0
//! From the model to kernel rules.
//!
//! In: a [`View`](berth_model::View), settings, what the kernel holds, the time. Out: intent, typed
//! nftables objects, their text, staged plans, conntrack clean-ups; the same for IPVS ([`ipvs`]). Touches: nothing.
//!
//! ```text
//!  View --intent--> Frontend -> Outcome --state--> Desired --diff--> Plan (Fill, Switch, Retire)
//!                        |                            ^                     |
//!                        |                      Installed <----- applied ---+
//!                        +--conntrack--> StaleFlows        layout --render--> nft text
//!                                                             \--walk-------> verdicts of a packet
//! ```
#![forbid(unsafe_code)]

mod categorize;
pub mod conntrack;
pub mod counting;
mod frontend;
mod hash;
pub mod health_check;
mod intent;
pub mod iptables;
pub mod ipvs;
mod link;
pub mod names;
pub mod nft;
pub mod oracle;
mod outcome;
#[cfg(test)]
mod sample;
mod settings;
pub mod userspace;
pub mod walk;

pub use categorize::{Usable, categorize};
pub use frontend::{Frontend, Target};
pub use intent::{Affinity, AffinityNumber, Intent, Touched};
pub use link::{LinkError, LinkName, Links};
pub use outcome::{
    Conflict, DropReason, FrontendIntent, Masquerade, Outcome, RejectReason, Role, SourceClass,
};
pub use settings::{NodePortAddresses, PodSource, Settings, SettingsError};
