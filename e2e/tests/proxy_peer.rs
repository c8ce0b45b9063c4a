// SPDX-License-Identifier: Apache-2.0
//! Berth and kube-proxy, each the proxy of a node of its own, do the same with the same packets.
//!
//! `BERTH_PROXY_PEER_SEED` and `BERTH_PROXY_PEER_PACKETS` choose others, and more.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use berth_e2e::controlplane::Binaries;
use berth_e2e::peers::Peers;
use berth_e2e::proxy_peer::answer::{Outcome, Source};
use berth_e2e::proxy_peer::compare::{Seen, findings, survey};
use berth_e2e::proxy_peer::differences::Difference;
use berth_e2e::proxy_peer::ground::Ground;
use berth_e2e::proxy_peer::launch::{Proxy, Variant};
use berth_e2e::proxy_peer::scenario::Scenario;
use berth_testkit::{in_sandbox_async, sandbox};

const PEERS: [Proxy; 2] = [Proxy::KubeProxyNftables, Proxy::KubeProxyIptables(Variant::Nft)];
const SERVICES: u8 = 24;
/// One whose packets show every known difference; those of another may lack one.
const SEED: u64 = 1;
const PACKETS: u64 = 300;
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
        let proxies: Vec<Proxy> = [Proxy::Berth].into_iter().chain(PEERS).collect();
        let mut ground = Ground::start("proxy-peer", &proxies).await?;
        ground.create(&scenario.services).await?;
        let seen = survey(ground.worlds(), &scenario.packets).await?;
        ground.check()?;
        every_kind_of_outcome_came_up(&seen)?;
        let found = findings(&seen);
        let faults: Vec<String> = found
            .iter()
            .filter(|finding| finding.known.is_none())
            .map(ToString::to_string)
            .collect();
        ensure!(
            faults.is_empty(),
            "seed {seed}: {} of {} packets:\n{}",
            faults.len(),
            scenario.packets.len(),
            faults.join("\n")
        );
        for peer in PEERS {
            let shown = found.iter().filter(|finding| finding.peer == peer);
            let shown: BTreeSet<Difference> = shown.filter_map(|finding| finding.known).collect();
            for difference in Difference::ALL {
                // One that is gone has to go from the list.
                ensure!(
                    seed != SEED || shown.contains(&difference) == difference.concerns(peer),
                    "seed {seed}: {peer} does not show {difference}"
                );
            }
        }
        anyhow::Ok(())
    });
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
