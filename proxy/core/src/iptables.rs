// SPDX-License-Identifier: Apache-2.0
//! The iptables backend: kube-proxy's chains as values, what to write when they change, and a reader of what
//! `iptables-save` lists.
//!
//! ```text
//!  Intent --port--> rules of a Service port --wanted--> Plan (text for iptables-restore)
//!                                                ^
//!  iptables-save text --parse--> Installed ------+        \--walk--> verdicts of a packet
//! ```

pub mod installed;
pub mod names;
pub mod parse;
pub mod plan;
pub mod port;
pub mod rule;
pub mod skeleton;
pub mod walk;
pub mod wanted;

use berth_model::IpFamily;

use crate::Intent;

pub use installed::Installed;
pub use plan::{Block, Command, Plan};
pub use skeleton::Choices;
pub use wanted::Wanted;

/// The complete tables of one family as text for `iptables-restore --noflush`: what a node that starts from nothing
/// comes to have. For people: `berth proxy --dry-run`.
pub fn full_script(family: IpFamily, intent: &Intent, choices: Choices) -> String {
    let (_, plan) = Wanted::full(family, intent, choices, &Installed::default());
    plan.to_string()
}

#[cfg(test)]
mod tests;
