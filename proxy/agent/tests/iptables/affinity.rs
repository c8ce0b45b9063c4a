// SPDX-License-Identifier: Apache-2.0
//! How long session affinity lasts, by real packets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use berth_model::SessionAffinity;
use berth_testkit::in_sandbox_async;
use berth_testkit::netns::Netns;

use crate::cluster::{Cluster, PORT, cluster_ips, settings};
use crate::ground::{VARIANTS, mk_syncer};
use crate::traffic::{Transport, ask_from, mk_pod, serve};

const TIMEOUT: Duration = Duration::from_secs(1);
/// More turns than that without an end: something is wrong, not slow.
const TURNS: usize = 25;

/// Which endpoint each client meets, by TCP in one family and UDP in the other.
fn homes(clients: &[Netns]) -> anyhow::Result<Vec<String>> {
    let [v4, v6] = cluster_ips(1).map(|ip| SocketAddr::from((ip, PORT)));
    let mut homes = Vec::new();
    for client in clients {
        for (transport, to) in [(Transport::Tcp, v4), (Transport::Udp, v6)] {
            let answer = ask_from(client, transport, to)??;
            homes.push(answer.split(' ').next().unwrap_or_default().to_owned());
        }
    }
    Ok(homes)
}

/// Clients that connect again and again stay for twice the timeout. Where this machine stood still for so long that they
/// may well have been forgotten, it begins again.
fn stay(clients: &[Netns]) -> anyhow::Result<Vec<String>> {
    'turns: for _ in 0..TURNS {
        let started = Instant::now();
        let at_first = homes(clients)?;
        let mut before = started;
        while started.elapsed() < 2 * TIMEOUT {
            let now = Instant::now();
            let found = homes(clients)?;
            if before.elapsed() >= TIMEOUT {
                continue 'turns;
            }
            ensure!(
                found == at_first,
                "{found:?}, {at_first:?} before, after {:?}",
                started.elapsed()
            );
            before = now;
        }
        return Ok(at_first);
    }
    bail!("each time {TIMEOUT:?} passed between two connections of a client")
}

#[test]
fn a_client_is_forgotten_so_long_after_its_last_connection() {
    in_sandbox_async!(async {
        // All of them meet the same of three endpoints once more by chance once in 700 turns.
        let clients = [mk_pod(100)?, mk_pod(101)?, mk_pod(102)?];
        for n in 1..=3 {
            serve(&mk_pod(n)?, n)?;
        }
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = mk_syncer(variant, &settings())?;
            cluster.set(1, Some(&[1, 2, 3])).edit(1, |service, _| {
                service.affinity = SessionAffinity::ClientIp { timeout_seconds: 1 };
            });
            cluster.sync(&mut syncer).await?;
            let at_first = stay(&clients)?;
            let mut turns = 0;
            loop {
                // A client is forgotten by the clock, and nothing tells when: there is nothing else to wait for.
                tokio::time::sleep(TIMEOUT + TIMEOUT / 20).await;
                if homes(&clients)? != at_first {
                    break;
                }
                turns += 1;
                ensure!(turns < TURNS, "{variant}: always at {at_first:?}");
            }
            cluster.set(1, None).sync(&mut syncer).await?;
        }
        anyhow::Ok(())
    });
}
