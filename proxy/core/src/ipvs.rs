// SPDX-License-Identifier: Apache-2.0
//! The IPVS backend: virtual servers, the addresses they need, ipset sets, and a few static iptables rules.
//!
//! In: the intent, the node's addresses, what the kernel holds, the time. Out: ordered changes, the text of the
//! rules, verdicts of packets. Touches: nothing.
//!
//! ```text
//!  Intent + own addresses --desired--> Wanted per socket --diff--> Plan (Admit ... Forget)
//!                                                 ^                  |
//!                                             Installed <--applied---+
//!                         rules (static) + Installed --walk--> verdicts of a packet
//! ```
//!
//! * A *socket* is an address, protocol and port; each has one virtual server. A node port is one socket on each of the
//!   node's addresses.
//! * A virtual server without destinations refuses by itself (the kernel answers with ICMP port unreachable), so a
//!   Service without endpoints needs no rule.
//! * Under external traffic policy Local the socket's server has the local list, for those from outside. Pods and this
//!   host are steered to a second server, which the kernel finds by the packet's mark; the mark is in the set that knows
//!   the socket.
//! * What must be dropped is dropped by rules on sets, before IPVS sees it.

mod desired;
pub mod deviation;
pub mod diff;
pub mod found;
pub mod names;
pub mod objects;
pub mod plan;
pub mod rules;
pub mod state;
pub mod walk;

use std::time::Duration;

use berth_model::IpFamily;

use crate::Intent;

pub use deviation::Deviation;
pub use diff::{Choice, diff, wants};
pub use found::Found;
pub use objects::{MarkSpace, Member, Scheduler, ServerConfig, ServerKey, Socket, UnknownScheduler};
pub use plan::{Change, Plan, Stage, StageKind};
pub use state::{Destination, Installed, Server, SocketState};

/// What a node that starts from nothing comes to have: the rules of both families as iptables-restore takes them, then
/// sets, servers and addresses as commands. For people: `berth proxy --dry-run`.
pub fn full_script(intent: &Intent, choice: &Choice<'_>) -> String {
    let rules = IpFamily::ALL.map(|family| {
        let text = rules::restore_text(family, intent.settings(), &rules::HOOKS);
        format!("# {family}, iptables-restore --noflush\n{text}")
    });
    let plan = diff(&Installed::default(), intent, choice, None, Duration::ZERO);
    format!("{}{plan}", rules.concat())
}

#[cfg(test)]
mod tests;
