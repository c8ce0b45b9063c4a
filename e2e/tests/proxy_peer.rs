// SPDX-License-Identifier: Apache-2.0
//! Berth and kube-proxy, each the proxy of a node of its own, do the same with the same packets.
//!
//! `BERTH_PROXY_PEER_SEED` and `BERTH_PROXY_PEER_PACKETS` choose others, and more.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, ensure};
use berth_e2e::controlplane::Binaries;
use berth_e2e::peers::Peers;
use berth_e2e::proxy_peer::answer::{Outcome, Source};
use berth_e2e::proxy_peer::compare::{Pair, Seen, findings, survey};
use berth_e2e::proxy_peer::differences::Difference;
use berth_e2e::proxy_peer::ground::Ground;
use berth_e2e::proxy_peer::launch::{Proxy, Variant};
use berth_e2e::proxy_peer::scenario::{Aim, Scenario};
use berth_e2e::proxy_peer::structure::{Structure, known};
use berth_e2e::proxy_peer::world::Origin;
use berth_testkit::{in_sandbox_async, sandbox};

const PROXIES: [Proxy; 4] = [
    Proxy::Berth,
    Proxy::BerthIptables(Variant::Nft),
    Proxy::KubeProxyNftables,
    Proxy::KubeProxyIptables(Variant::Nft),
];
/// Berth in nftables mode beside everybody, and in iptables mode beside its own kind.
const PAIRS: [Pair; 4] = [
    Pair {
        ours: Proxy::Berth,
        peer: Proxy::KubeProxyNftables,
    },
    Pair {
        ours: Proxy::Berth,
        peer: Proxy::KubeProxyIptables(Variant::Nft),
    },
    Pair {
        ours: Proxy::Berth,
        peer: Proxy::BerthIptables(Variant::Nft),
    },
    Pair {
        ours: Proxy::BerthIptables(Variant::Nft),
        peer: Proxy::KubeProxyIptables(Variant::Nft),
    },
];
const SERVICES: u8 = 24;
/// One whose packets show every known difference; those of another may lack one.
const SEED: u64 = 5;
const PACKETS: u64 = 1_000;

#[test]
fn random_packets_end_under_berth_as_under_kube_proxy() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().expect("control plane");
        Peers::find_or_build().expect("kube-proxy");
    }
    in_sandbox_async!(async {
        let seed = number("BERTH_PROXY_PEER_SEED", SEED)?;
        let packets = usize::try_from(number("BERTH_PROXY_PEER_PACKETS", PACKETS)?)?;
        let scenario = Scenario::random(seed, SERVICES, packets);
        let mut ground = Ground::start("proxy-peer", &PROXIES).await?;
        ground.create(&scenario.services).await?;
        let seen = survey(ground.worlds(), &scenario.packets).await?;
        ground.check()?;
        every_kind_of_outcome_came_up(&seen)?;
        the_chains_are_kube_proxys(&ground)?;
        for pair in PAIRS {
            let found = findings(&seen, pair);
            let faults: Vec<String> = found
                .iter()
                .filter(|finding| finding.known.is_none())
                .map(ToString::to_string)
                .collect();
            ensure!(
                faults.is_empty(),
                "seed {seed}: {pair}: {} of {} packets:\n{}",
                faults.len(),
                scenario.packets.len(),
                faults.join("\n")
            );
            let shown: BTreeSet<Difference> = found.iter().filter_map(|finding| finding.known).collect();
            for difference in Difference::ALL {
                // One that is gone has to go from the list.
                ensure!(
                    seed != SEED || shown.contains(&difference) == difference.concerns(pair),
                    "seed {seed}: {pair} do not show {difference}"
                );
            }
        }
        anyhow::Ok(())
    });
}

/// In iptables mode the same Services have the same chains, frontends lead to the same ones, and these to the same
/// endpoints.
fn the_chains_are_kube_proxys(ground: &Ground) -> anyhow::Result<()> {
    for program in ["iptables-nft-save", "ip6tables-nft-save"] {
        let listed = |proxy| {
            let world = ground.worlds().get(&proxy).context("a world")?;
            let output = world.node().run(|| Command::new(program).output())??;
            ensure!(output.status.success(), "{program}: {output:?}");
            anyhow::Ok(Structure::of(&String::from_utf8(output.stdout)?))
        };
        let ours = listed(Proxy::BerthIptables(Variant::Nft))?;
        let theirs = listed(Proxy::KubeProxyIptables(Variant::Nft))?;
        ensure!(theirs.chains.len() > 50, "{theirs:?}");
        let differences = ours.differences(&theirs).into_iter();
        let faults: Vec<String> = differences.filter(|line| known(line).is_none()).collect();
        ensure!(faults.is_empty(), "{program}:\n{}", faults.join("\n"));
    }
    Ok(())
}

/// A comparison of nothing with nothing would hold as well.
fn every_kind_of_outcome_came_up(seen: &Seen) -> anyhow::Result<()> {
    let outcomes: BTreeSet<&Outcome> = seen.values().flatten().collect();
    let answers = |kept| {
        outcomes.iter().any(
            |outcome| matches!(outcome, Outcome::Answered(_, source) if (*source == Source::Kept) == kept),
        )
    };
    ensure!(answers(true) && answers(false), "sources: {outcomes:?}");
    for outcome in [Outcome::Refused, Outcome::Dropped, Outcome::Untouched] {
        ensure!(outcomes.contains(&outcome), "no {outcome}");
    }
    // A way that leads past the proxy would make all alike.
    for aim in [Aim::ClusterIp, Aim::NodePort, Aim::ExternalIp, Aim::LoadBalancer] {
        for origin in Origin::ALL.into_iter().filter(|origin| origin.reaches(aim)) {
            let mut of_it = seen
                .iter()
                .filter(|((_, packet), _)| packet.aim == aim && packet.origin == origin);
            let answered = of_it.any(|(_, outcomes)| outcomes.iter().any(Outcome::is_answer));
            ensure!(answered, "{aim:?} is never answered from {origin:?}");
        }
    }
    // Whoever sticks to an endpoint sees one only.
    let free: Vec<_> = seen.iter().filter(|((_, packet), _)| !packet.sticks).collect();
    let several = free.iter().filter(|(_, outcomes)| outcomes.len() > 1).count();
    ensure!(
        several * 10 > free.len(),
        "only {several} of {} had several endpoints",
        free.len()
    );
    ensure!(free.len() < seen.len(), "nobody sticks to an endpoint");
    Ok(())
}

fn number(variable: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(default),
    }
}
