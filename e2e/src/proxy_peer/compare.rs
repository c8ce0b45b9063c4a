// SPDX-License-Identifier: Apache-2.0
//! Sends the same packets under several proxies and compares what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::answer::{Outcome, Outcomes, clients};
use super::differences::Difference;
use super::launch::Proxy;
use super::scenario::Packet;
use super::world::{Origin, World};

/// Of each packet, before anything is compared: enough to see that equal packets may end differently.
const FIRST: usize = 4;
/// More of a packet of which some proxy lacks an endpoint that another showed.
const MORE: usize = 16;
/// Rounds of [`MORE`]: the chance that one of four endpoints never comes up is below 1 in 10^9.
const ROUNDS: usize = 6;
/// Rounds in which it also counts that a far Pod hears nothing of itself: whoever waits in vain, waits for long.
const ROUNDS_OF_SILENCE: usize = 2;
/// Packets under way at once: each is a socket.
const AT_ONCE: usize = 256;

/// What became of each packet under each proxy.
pub type Seen = BTreeMap<(Proxy, Packet), Outcomes>;

/// Sends all packets under all proxies, those with several endpoints until each proxy has shown what the others have.
///
/// # Errors
/// A socket cannot be opened.
pub async fn survey(worlds: &BTreeMap<Proxy, World>, packets: &[Packet]) -> Result<Seen> {
    let all = |packet: &Packet| {
        worlds
            .keys()
            .map(|proxy| (*proxy, packet.clone()))
            .collect::<Vec<_>>()
    };
    let mut seen = Seen::new();
    let wanted: Vec<(Proxy, Packet)> = packets.iter().flat_map(all).collect();
    send(worlds, &wanted, FIRST, &mut seen).await?;
    for round in 0..ROUNDS {
        let wanted = lacking(&seen, round < ROUNDS_OF_SILENCE);
        if wanted.is_empty() {
            break;
        }
        send(worlds, &wanted, MORE, &mut seen).await?;
    }
    Ok(seen)
}

/// Whom to ask once more: proxies under which an endpoint has not come up that has under another. A client that sticks
/// to one endpoint sees one, whichever.
fn lacking(seen: &Seen, silence: bool) -> Vec<(Proxy, Packet)> {
    let mut union: BTreeMap<&Packet, BTreeSet<&Outcome>> = BTreeMap::new();
    for ((_, packet), outcomes) in seen {
        union.entry(packet).or_default().extend(outcomes);
    }
    let lacks = |((_, packet), outcomes): &(&(Proxy, Packet), &Outcomes)| {
        // A Pod of another node may come to itself, and hear nothing of it.
        let by_chance = |outcome: &Outcome| {
            let silent = silence && packet.origin == Origin::FarPod && *outcome == Outcome::Dropped;
            outcome.is_answer() || silent
        };
        // One that answers nobody picks nothing at random.
        !packet.sticks
            && outcomes.iter().any(by_chance)
            && union[packet]
                .iter()
                .any(|outcome| by_chance(outcome) && !outcomes.contains(outcome))
    };
    seen.iter().filter(lacks).map(|(key, _)| key.clone()).collect()
}

/// Whether two proxies treat a packet alike. Which endpoint a client sticks to is chance, and where it comes from may
/// follow from that: what counts is that it is one, and that the same one sees the same source. A Pod of another node
/// that sticks to itself, or to another Pod of its host, hears nothing; that is chance as well.
fn alike(packet: &Packet, ours: &Outcomes, theirs: &Outcomes) -> bool {
    let silent = |outcomes: &Outcomes| *outcomes == Outcomes::from([Outcome::Dropped]);
    let answered = |outcomes: &Outcomes| outcomes.len() == 1 && outcomes.iter().all(Outcome::is_answer);
    let one_silent = silent(ours) && answered(theirs) || silent(theirs) && answered(ours);
    if packet.sticks && packet.origin == Origin::FarPod && one_silent {
        return true;
    }
    let only = |outcomes: &Outcomes| match outcomes.iter().collect::<Vec<_>>().as_slice() {
        [Outcome::Answered(endpoint, source)] => Some((endpoint.clone(), *source)),
        _ => None,
    };
    match (only(ours), only(theirs)) {
        (Some((our_endpoint, _)), Some((their_endpoint, _)))
            if packet.sticks && our_endpoint != their_endpoint =>
        {
            true
        }
        _ => ours == theirs,
    }
}

async fn send(
    worlds: &BTreeMap<Proxy, World>,
    wanted: &[(Proxy, Packet)],
    count: usize,
    seen: &mut Seen,
) -> Result<()> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut answers = JoinSet::new();
    for (proxy, packet) in wanted {
        let permits = Arc::clone(&room)
            .acquire_many_owned(u32::try_from(count)?)
            .await?;
        let ipv6 = packet.to.is_ipv6();
        let from = packet.origin.bound(ipv6);
        let netns = worlds[proxy].origin(packet.origin);
        let clients = clients(netns, packet.protocol, from, ipv6, count)?;
        let (proxy, packet) = (*proxy, packet.clone());
        answers.spawn(async move {
            let mut outcomes = Outcomes::new();
            if packet.sticks {
                // The first packet makes the others' choice, and has to be through for that.
                for client in clients {
                    outcomes.insert(client.ask(packet.to).await);
                }
            } else {
                let asked = clients.into_iter().map(|client| client.ask(packet.to));
                outcomes.extend(futures::future::join_all(asked).await);
            }
            drop(permits);
            ((proxy, packet), outcomes)
        });
    }
    while let Some(answer) = answers.join_next().await {
        let (key, outcomes) = answer?;
        seen.entry(key).or_default().extend(outcomes);
    }
    Ok(())
}

/// Two proxies that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Berth in one of its modes.
    pub ours: Proxy,
    /// kube-proxy, or Berth in another mode.
    pub peer: Proxy,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} beside {}", self.ours, self.peer)
    }
}

/// One packet that two proxies treat differently.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Who treats it differently.
    pub pair: Pair,
    /// Which packet.
    pub packet: Packet,
    /// Under the first of them.
    pub ours: Outcomes,
    /// Under the other.
    pub theirs: Outcomes,
    /// The known difference that this is; `None` for a fault.
    pub known: Option<Difference>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |outcomes: &Outcomes| {
            let outcomes: Vec<String> = outcomes.iter().map(Outcome::to_string).collect();
            outcomes.join(", ")
        };
        let Self {
            pair,
            packet,
            ours,
            theirs,
            ..
        } = self;
        write!(
            f,
            "{packet}: {} [{}], {} [{}]",
            pair.ours,
            listed(ours),
            pair.peer,
            listed(theirs)
        )
    }
}

/// Everything in which two proxies differ. Pure.
pub fn findings(seen: &Seen, pair: Pair) -> Vec<Finding> {
    let mut found = Vec::new();
    for ((proxy, packet), theirs) in seen {
        if *proxy != pair.peer {
            continue;
        }
        let Some(ours) = seen.get(&(pair.ours, packet.clone())) else {
            continue;
        };
        if alike(packet, ours, theirs) {
            continue;
        }
        let known = Difference::ALL
            .into_iter()
            .find(|difference| difference.explains(packet, pair, ours, theirs));
        found.push(Finding {
            pair,
            packet: packet.clone(),
            ours: ours.clone(),
            theirs: theirs.clone(),
            known,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Protocol, Source};
    use super::super::scenario::Aim;
    use super::*;

    fn packet(aim: Aim, sticks: bool) -> Packet {
        Packet {
            aim,
            origin: Origin::Host,
            protocol: Protocol::Tcp,
            to: "127.0.0.1:80".parse().unwrap(),
            service: None,
            sticks,
        }
    }

    fn answered(name: &str) -> Outcome {
        Outcome::Answered(name.to_owned(), Source::Kept)
    }

    fn seen(packet: &Packet, peer: Proxy, ours: &[Outcome], theirs: &[Outcome]) -> Seen {
        let set = |outcomes: &[Outcome]| outcomes.iter().cloned().collect();
        Seen::from([
            ((Proxy::Berth, packet.clone()), set(ours)),
            ((peer, packet.clone()), set(theirs)),
        ])
    }

    #[test]
    fn a_proxy_is_asked_again_while_it_lacks_an_endpoint_and_not_where_it_answers_nobody() {
        let packet = packet(Aim::ClusterIp, false);
        let peer = Proxy::KubeProxyNftables;
        let lacking = |ours: &[Outcome], theirs: &[Outcome]| -> Vec<Proxy> {
            let asked = lacking(&seen(&packet, peer, ours, theirs), true);
            asked.into_iter().map(|(proxy, _)| proxy).collect()
        };
        let (a, b) = (answered("a"), answered("b"));
        assert_eq!(lacking(&[a.clone(), b.clone()], std::slice::from_ref(&a)), [peer]);
        assert_eq!(lacking(std::slice::from_ref(&a), &[b]), [Proxy::Berth, peer]);
        assert_eq!(lacking(std::slice::from_ref(&a), &[Outcome::Dropped]), []);
        assert_eq!(lacking(std::slice::from_ref(&a), std::slice::from_ref(&a)), []);
    }

    #[test]
    fn what_differs_is_a_fault_unless_both_sides_are_as_a_known_difference_has_it() {
        let iptables = Proxy::KubeProxyIptables(super::super::launch::Variant::Nft);
        let known = |aim, peer, ours: Outcome, theirs: Outcome| {
            let pair = Pair {
                ours: Proxy::Berth,
                peer,
            };
            let found = findings(&seen(&packet(aim, false), peer, &[ours], &[theirs]), pair);
            assert_eq!(found.len(), 1);
            found[0].known
        };
        use Outcome::{Dropped, Refused, Untouched};
        for (aim, peer, ours, theirs, expected) in [
            (
                Aim::ClusterIpOtherPort,
                iptables,
                Refused,
                Untouched,
                Some(Difference::OtherPortOfClusterIp),
            ),
            (Aim::ClusterIpOtherPort, iptables, Dropped, Untouched, None),
            (
                Aim::ClusterIpOtherPort,
                Proxy::KubeProxyNftables,
                Refused,
                Untouched,
                None,
            ),
            (Aim::ClusterIp, iptables, Refused, Untouched, None),
            (
                Aim::UnallocatedClusterIp,
                iptables,
                Dropped,
                Untouched,
                Some(Difference::UnallocatedClusterIp),
            ),
            (
                Aim::UnallocatedClusterIp,
                Proxy::KubeProxyNftables,
                Untouched,
                Dropped,
                None,
            ),
            (
                Aim::NodePortOnLoopback,
                iptables,
                Refused,
                answered("a"),
                Some(Difference::LoopbackNodePort),
            ),
            (Aim::NodePortOnLoopback, iptables, answered("a"), Refused, None),
        ] {
            assert_eq!(
                known(aim, peer, ours.clone(), theirs.clone()),
                expected,
                "{aim:?} {ours} {theirs}"
            );
        }
    }

    #[test]
    fn a_client_that_sticks_may_stick_to_any_one_but_not_to_two() {
        let (free, sticks) = (packet(Aim::ClusterIp, false), packet(Aim::ClusterIp, true));
        let one = |name: &str| Outcomes::from([answered(name)]);
        let two = Outcomes::from([answered("a"), answered("b")]);
        let half = Outcomes::from([answered("a"), Outcome::Refused]);
        let elsewhere = Outcomes::from([Outcome::Answered(
            "a".to_owned(),
            Source::Rewritten([10, 77, 0, 11].into()),
        )]);
        for (row, packet, theirs, expected) in [
            ("the same", &sticks, one("a"), true),
            ("another", &sticks, one("b"), true),
            ("another where nobody sticks", &free, one("b"), false),
            ("two", &sticks, two, false),
            ("refused now and then", &sticks, half, false),
            ("the same, from elsewhere", &sticks, elsewhere, false),
            ("silence", &sticks, Outcomes::from([Outcome::Dropped]), false),
        ] {
            assert_eq!(alike(packet, &one("a"), &theirs), expected, "{row}");
        }
        let far = Packet {
            origin: Origin::FarPod,
            ..sticks
        };
        assert!(alike(&far, &one("a"), &Outcomes::from([Outcome::Dropped])));
        assert!(!alike(&far, &one("a"), &Outcomes::from([Outcome::Refused])));
    }
}
