// SPDX-License-Identifier: Apache-2.0
//! Walks a packet through the steering and the relay behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Balancer, Listening, Relay, Socket};
use crate::nft::{Installed, Layout};
use crate::walk::{Packet, Ruleset, Verdict};

/// Why every connection that is served counts as masqueraded: the relay makes one of its own to the endpoint, which sees
/// an address of the node, under policy Local as well.
pub const SOURCE_LOST: &str = "SourceLost";

/// Everything that a verdict depends on.
#[derive(Clone, Copy, Debug)]
pub struct Relays<'a> {
    /// The table's layout.
    pub layout: &'a Layout,
    /// Its elements.
    pub installed: &'a Installed,
    /// Where relays listen.
    pub listening: &'a Listening,
    /// How they choose.
    pub balancers: &'a BTreeMap<Relay, Balancer>,
}

/// Every verdict on the first packet of a connection that the balancer's turn allows. A connection that is steered
/// to where no relay listens is refused, as the kernel does.
pub fn verdicts(relays: Relays<'_>, packet: &Packet, now: Duration) -> BTreeSet<Verdict> {
    let rules = Ruleset::of(relays.layout);
    let steered = crate::walk::verdicts(&rules, relays.layout, relays.installed, packet);
    let behind = |verdict| match verdict {
        Verdict::Translated { target: at, .. } => {
            let protocol = packet.protocol;
            chosen(relays, packet, &Socket { protocol, at }, now)
        }
        other @ (Verdict::Untouched | Verdict::Rejected | Verdict::Dropped | Verdict::Untranslated) => {
            [other].into()
        }
    };
    steered.into_iter().flat_map(behind).collect()
}

fn chosen(relays: Relays<'_>, packet: &Packet, socket: &Socket, now: Duration) -> BTreeSet<Verdict> {
    let relay = relays.listening.relay(socket);
    let balancer = relay.and_then(|relay| relays.balancers.get(relay));
    let targets = balancer.map(|balancer| balancer.choices(packet.source, now));
    match targets {
        Some(targets) if !targets.is_empty() => targets
            .into_iter()
            .map(|target| Verdict::Translated {
                target,
                masqueraded: true,
            })
            .collect(),
        Some(_) | None => [Verdict::Rejected].into(),
    }
}
