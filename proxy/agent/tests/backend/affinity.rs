// SPDX-License-Identifier: Apache-2.0
//! Session affinity, by real packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;
use berth_model::{IpFamily, SessionAffinity};
use berth_proxy_agent::nftables::Nftables;
use berth_proxy_agent::sync::Syncer;
use berth_testkit::in_sandbox_async;
use berth_testkit::netns::Netns;

use crate::cluster::{Cluster, PORT, cluster_ips, mk_syncer, node_port, retire};
use crate::packets::{SOON, untranslated};
use crate::structure::nft;
use crate::traffic::{NODE, Transport, mk_pod, serve, spread};

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];
/// Enough that all of them meet the same of three endpoints by chance once in 700 runs; the test asks for it in
/// four independent cases at once.
const CLIENTS: u16 = 7;

fn sticky(cluster: &mut Cluster, n: u16, pods: &[u16], timeout_seconds: u32) {
    cluster.set(n, Some(pods)).edit(n, |service, _| {
        service.affinity = SessionAffinity::ClientIp { timeout_seconds };
    });
}

/// The one endpoint that answers all of some connections.
fn endpoint_of(client: &Netns, transport: Transport, to: SocketAddr) -> anyhow::Result<String> {
    let counts = spread(client, transport, to, 12)?;
    ensure!(counts.len() == 1, "{} to {to}: {counts:?}", client.name());
    Ok(counts.into_keys().next().unwrap_or_default())
}

type Homes = BTreeMap<(String, String), String>;

/// Where each client is at home, by family and transport; the same at the ClusterIP and at the node port.
fn homes(clients: &[Netns]) -> anyhow::Result<Homes> {
    let mut homes = Homes::new();
    for client in clients {
        for (ip, node) in cluster_ips(1).into_iter().zip(NODE) {
            let node: IpAddr = node.parse()?;
            for transport in TRANSPORTS {
                let home = endpoint_of(client, transport, (ip, PORT).into())?;
                let by_node_port = endpoint_of(client, transport, (node, node_port(1)).into())?;
                ensure!(home == by_node_port, "{} has two homes", client.name());
                let case = format!("{transport:?} {}", IpFamily::of(ip));
                homes.insert((case, client.name().to_owned()), home);
            }
        }
    }
    Ok(homes)
}

/// The endpoints in use, by case.
fn used(homes: &Homes) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for ((case, _), home) in homes {
        used.entry(case).or_default().insert(home);
    }
    used
}

#[test]
fn a_client_stays_with_its_endpoint_by_any_frontend_and_moves_when_it_goes() {
    in_sandbox_async!(async {
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            clients.push(mk_pod(100 + n)?);
        }
        for n in 1..=3 {
            serve(&mk_pod(n)?, n)?;
        }
        // The node's own connections go by the output hook, once they have a route.
        let node = Netns::current("node")?;
        let [v4, v6] = NODE;
        node.ip(&format!(
            "link set lo up\nroute add 10.96.0.0/16 dev v1 src {v4}\nroute add fd00:10:96::/48 dev v1 src {v6}\n"
        ))?;
        clients.push(node);
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(SOON)?;
        sticky(&mut cluster, 1, &[1, 2, 3], 10_800);
        cluster.sync(&mut syncer).await?;

        let at_first = homes(&clients)?;
        for (case, used) in used(&at_first) {
            ensure!(used.len() > 1, "{case}: everybody is at {used:?}");
        }

        let mut syncer = cluster.restarted(SOON)?;
        cluster.sync(&mut syncer).await?;
        ensure!(homes(&clients)? == at_first, "a restart moved somebody");

        sticky(&mut cluster, 1, &[1, 3], 10_800);
        cluster.sync(&mut syncer).await?;
        let without = homes(&clients)?;
        for (client, home) in &at_first {
            let now = &without[client];
            ensure!(
                now != "2" && (now == home || home == "2"),
                "{client:?}: {home}, then {now}"
            );
        }
        retire(&mut syncer).await?;

        sticky(&mut cluster, 1, &[1, 2, 3], 10_800);
        cluster.sync(&mut syncer).await?;
        ensure!(
            homes(&clients)? == without,
            "somebody moved although nothing went"
        );

        cluster.set(1, Some(&[1, 2, 3]));
        cluster.sync(&mut syncer).await?;
        let all = spread(&clients[0], Transport::Tcp, (cluster_ips(1)[0], PORT).into(), 60)?;
        ensure!(all.len() == 3, "without affinity: {all:?}");
        retire(&mut syncer).await?;
        for family in IpFamily::ALL {
            let bindings = syncer.backend().nft().bindings(family).await?;
            ensure!(bindings.is_empty(), "left over: {bindings:?}");
            ensure!(syncer.backend().nft().counters(family).await?.unremembered == 0);
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}

/// Whether the kernel still holds any binding.
async fn is_bound(syncer: &Syncer<Nftables>) -> anyhow::Result<bool> {
    Ok(!syncer.backend().nft().bindings(IpFamily::V4).await?.is_empty())
}

#[test]
fn a_binding_ends_so_long_after_the_last_connection() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        for n in 1..=3 {
            serve(&mk_pod(n)?, n)?;
        }
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(SOON)?;
        sticky(&mut cluster, 1, &[1, 2, 3], 1);
        cluster.sync(&mut syncer).await?;
        let to = SocketAddr::from((cluster_ips(1)[0], PORT));
        let mut seen = BTreeSet::new();
        // The same endpoint 24 times in a row has a chance of one in 90 thousand million.
        for _ in 0..25 {
            seen.insert(endpoint_of(&client, Transport::Tcp, to)?);
            if seen.len() > 1 {
                break;
            }
            while is_bound(&syncer).await? {
                tokio::time::sleep(SOON).await;
            }
        }
        ensure!(seen.len() > 1, "always {seen:?}");
        anyhow::Ok(())
    });
}

#[test]
fn a_client_that_finds_no_room_is_served_and_counted() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(SOON)?;
        sticky(&mut cluster, 1, &[1], 10_800);
        cluster.sync(&mut syncer).await?;
        // As if every place were taken: nobody is remembered without a timeout of its list.
        for (number, affinity) in syncer.intent().affinities() {
            let element = format!("{{ {number} }}");
            let table = match affinity.family {
                IpFamily::V4 => "ip",
                IpFamily::V6 => "ip6",
            };
            nft(
                &[
                    "delete",
                    "element",
                    table,
                    "berth-proxy",
                    "affinity-timeout-10800",
                    &element,
                ],
                "",
            )?;
        }
        let to = SocketAddr::from((cluster_ips(1)[0], PORT));
        let answers = spread(&client, Transport::Tcp, to, 5)?;
        ensure!(answers.get("1") == Some(&5), "{answers:?}");
        let counters = syncer.backend().nft().counters(IpFamily::V4).await?;
        ensure!(
            counters.unremembered == 5 && counters.untranslated == 0,
            "{counters:?}"
        );
        anyhow::Ok(())
    });
}
