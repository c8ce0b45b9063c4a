// SPDX-License-Identifier: Apache-2.0
//! Classes of packets, and what is to become of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_testkit::wait::eventually;
use futures::StreamExt;

use super::Mode;
use super::life::{CLUSTER_IP, EXTERNAL_IP, NODE_PORT, PORT};
use crate::cluster::PATIENCE;
use crate::proxy_peer::answer::{self, Outcome, Outcomes, Protocol, Source, TARGETS, clients};
use crate::proxy_peer::world::{NODE, Origin, SECOND, Site, World};

/// Clients at once where an endpoint answers: what none of them met is asked for again.
const CLIENTS: usize = 12;

/// An answer that is due is waited for longer than one that is not: the emulated guest on a busy machine is slow.
const FOR_AN_ANSWER: Duration = Duration::from_secs(60);

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The ClusterIP.
    ClusterIp,
    /// The node port by the address that the Node object has.
    NodePort,
    /// The node port by another address of the node.
    NodePortOnSecond,
    /// The external address.
    ExternalIp,
}

impl To {
    /// As a socket has it.
    pub fn address(self, ipv6: bool) -> SocketAddr {
        let (ip, port) = match self {
            Self::ClusterIp => (CLUSTER_IP, PORT),
            Self::NodePort => (NODE, NODE_PORT),
            Self::NodePortOnSecond => (SECOND, NODE_PORT),
            Self::ExternalIp => (EXTERNAL_IP, PORT),
        };
        SocketAddr::new(ip.of(ipv6), port)
    }
}

/// Whose address an endpoint sees, where the mode keeps any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The client's.
    Kept,
    /// The node's.
    Rewritten,
    /// Either: which of its addresses a node's own client has, depends on the way.
    Any,
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// These endpoints answer, and no other.
    Answered(&'static [Site], Seen),
    /// One of these endpoints answers, always the same.
    AnsweredByOne(&'static [Site], Seen),
    /// An ICMP error or a reset.
    Refused,
    /// Nothing.
    Dropped,
    /// Sent on as it was.
    Untouched,
    /// As an address of the Service range that no Service has: dropped by modes that know the range, else sent on.
    Unallocated,
}

/// A class of packets, TCP and UDP in both families, and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// From where.
    pub from: Origin,
    /// Where to.
    pub to: To,
    /// What comes of it.
    pub what: What,
}

impl Expected {
    /// The same where no proxy runs, nor left anything.
    pub(super) fn without_proxy(self) -> Self {
        let what = match self.what {
            What::Unallocated => What::Untouched,
            What::Answered(..)
            | What::AnsweredByOne(..)
            | What::Refused
            | What::Dropped
            | What::Untouched => self.what,
        };
        Self { what, ..self }
    }
}

/// Flows that are looked at together: the guest has one CPU, and is one process among others.
const IN_GUEST: usize = 4;
const AT_ONCE: usize = 16;

/// Waits until packets meet what is expected, all of it, and then once more nothing else.
///
/// # Errors
/// At the deadline, or afterwards: what a packet met instead.
pub async fn check(world: &World, mode: Mode, expected: &[Expected]) -> Result<()> {
    let each = expected.iter().flat_map(|one| {
        let flows = Protocol::ALL.map(|protocol| [(protocol, false), (protocol, true)]);
        flows.into_iter().flatten().map(move |flow| (*one, flow))
    });
    let waited = each.map(|(one, flow)| async move {
        let what = format!("{mode}: {one:?} by {flow:?}");
        eventually(&what, PATIENCE, || async {
            let outcomes = ask(world, one, flow).await?;
            one.what.judge(mode, &outcomes, true)?;
            // Before the change, they may have met by chance what is expected after it.
            let outcomes = ask(world, one, flow).await?;
            one.what.judge(mode, &outcomes, false)
        })
        .await?;
        let outcomes = ask(world, one, flow).await?;
        let settled = one.what.judge(mode, &outcomes, false);
        settled.with_context(|| format!("{what}, once that was seen"))
    });
    let at_once = if mode == Mode::Ipvs { IN_GUEST } else { AT_ONCE };
    let ended: Vec<Result<()>> = futures::stream::iter(waited)
        .buffer_unordered(at_once)
        .collect()
        .await;
    all(ended)
}

/// What failed of some, all of it.
pub(super) fn all(ended: Vec<Result<()>>) -> Result<()> {
    let faults: Vec<String> = ended
        .into_iter()
        .filter_map(|one| Some(format!("{:#}", one.err()?)))
        .collect();
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

async fn ask(world: &World, one: Expected, (protocol, ipv6): (Protocol, bool)) -> Result<Outcomes> {
    let (count, patience) = match one.what {
        What::Answered(..) | What::AnsweredByOne(..) => (CLIENTS, FOR_AN_ANSWER),
        What::Refused | What::Dropped | What::Untouched | What::Unallocated => (2, answer::PATIENCE),
    };
    let bound: Option<IpAddr> = one.from.bound(ipv6);
    let clients = clients(world.origin(one.from), protocol, bound, ipv6, count)?;
    let asked = clients
        .into_iter()
        .map(|client| client.ask_for(patience, one.to.address(ipv6)));
    Ok(futures::future::join_all(asked).await.into_iter().collect())
}

impl What {
    /// Whether that is what was met; `whole` also asks for every endpoint.
    fn judge(self, mode: Mode, outcomes: &Outcomes, whole: bool) -> Result<()> {
        let met = || {
            let texts: Vec<String> = outcomes.iter().map(Outcome::to_string).collect();
            format!("met {}", texts.join(", "))
        };
        let only = |outcome: Outcome| *outcomes == Outcomes::from([outcome]);
        match self {
            Self::Refused => ensure!(only(Outcome::Refused), met()),
            Self::Dropped => ensure!(only(Outcome::Dropped), met()),
            Self::Untouched => {
                // What is gone in IPVS refuses until its last connection has been forgotten, which takes minutes.
                let draining = mode == Mode::Ipvs && only(Outcome::Refused);
                ensure!(draining || only(Outcome::Untouched), met());
            }
            Self::Unallocated if mode.knows_service_cidrs() => ensure!(only(Outcome::Dropped), met()),
            Self::Unallocated => Self::Untouched.judge(mode, outcomes, whole)?,
            Self::Answered(sites, source) => {
                let names = source.of_all(mode, outcomes).with_context(met)?;
                let wanted = names_of(sites);
                ensure!(names.is_subset(&wanted) && (!whole || names == wanted), met());
            }
            Self::AnsweredByOne(sites, source) => {
                let names = source.of_all(mode, outcomes).with_context(met)?;
                ensure!(names.is_subset(&names_of(sites)) && names.len() == 1, met());
            }
        }
        Ok(())
    }
}

fn names_of(sites: &[Site]) -> BTreeSet<String> {
    let name = |site: &Site| format!("{}:{}", site.name(), TARGETS[0]);
    sites.iter().map(name).collect()
}

impl Seen {
    /// Who answered, where all did, and saw such a source.
    fn of_all(self, mode: Mode, outcomes: &Outcomes) -> Result<BTreeSet<String>> {
        let name = |outcome: &Outcome| match outcome {
            Outcome::Answered(name, source) if self.is(mode, *source) => Some(name.clone()),
            Outcome::Answered(..)
            | Outcome::Refused
            | Outcome::Dropped
            | Outcome::Untouched
            | Outcome::Other(_) => None,
        };
        let names: Option<BTreeSet<String>> = outcomes.iter().map(name).collect();
        names.context("not answered, or from another address")
    }

    fn is(self, mode: Mode, source: Source) -> bool {
        let kept = source == Source::Kept;
        match self {
            Self::Any => true,
            Self::Kept => kept == mode.keeps_sources(),
            Self::Rewritten => !kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(name: &str, source: Source) -> Outcome {
        Outcome::Answered(name.to_owned(), source)
    }

    #[test]
    fn what_was_met_is_what_was_expected_or_not() {
        let (nft, relay) = (Mode::Nftables, Mode::Userspace);
        let b = || answered("b:8080", Source::Kept);
        let from_node = || answered("b:8080", Source::Rewritten([10, 77, 0, 11].into()));
        let far = || answered("far-a:8080", Source::Kept);
        let both = What::Answered(&[Site::B, Site::FarA], Seen::Kept);
        let one = What::Answered(&[Site::B], Seen::Kept);
        let (refused, dropped) = (What::Refused, What::Dropped);
        for (row, what, mode, outcomes, holds) in [
            ("both", both, nft, vec![b(), far()], true),
            ("one of two", both, nft, vec![b()], false),
            ("a stranger", one, nft, vec![b(), far()], false),
            ("kept in a relay", one, relay, vec![b()], false),
            ("rewritten by a relay", one, relay, vec![from_node()], true),
            ("rewritten", one, nft, vec![from_node()], false),
            ("refused", refused, nft, vec![Outcome::Refused], true),
            ("now and then", refused, nft, vec![Outcome::Refused, b()], false),
            ("refused for dropped", dropped, nft, vec![Outcome::Refused], false),
        ] {
            let outcomes: Outcomes = outcomes.into_iter().collect();
            assert_eq!(what.judge(mode, &outcomes, true).is_ok(), holds, "{row}");
        }
        let stays = What::AnsweredByOne(&[Site::B, Site::FarA], Seen::Kept);
        assert!(stays.judge(nft, &Outcomes::from([far()]), true).is_ok());
        assert!(stays.judge(nft, &Outcomes::from([far(), b()]), true).is_err());
        // Once both were seen, the next clients may meet one.
        assert!(both.judge(nft, &Outcomes::from([b()]), false).is_ok());
    }
}
