// SPDX-License-Identifier: Apache-2.0
//! Who answers, and whom it sees.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use berth_model::{IpFamily, SessionAffinity};
use berth_proxy_agent::ipvs::{Ipvs, IpvsOptions};
use berth_proxy_agent::sync::Syncer;
use berth_proxy_core::{NodePortAddresses, Settings};
use berth_testkit::netns::Netns;

use crate::cluster::{Cluster, block_on, mk_syncer, on, settings};
use crate::world::{
    GATE, HOST, PORT, TRANSPORTS, Transport, VIPS, again, ask, cluster_ips, expect_refused, ips, mk_node,
    mk_pod, mk_stranger, node_port, pod_ips, spread, udp_to,
};

/// Every way to Service `n`.
fn frontends(n: u8) -> Vec<SocketAddr> {
    let vips = cluster_ips(n).into_iter().chain(ips(VIPS));
    let at_node = ips(HOST).map(|ip| SocketAddr::from((ip, node_port(n))));
    vips.map(|ip| SocketAddr::from((ip, PORT)))
        .chain(at_node)
        .collect()
}

/// 40 connections over N endpoints by round robin: all have the same, but for one.
fn is_even(counts: &std::collections::BTreeMap<String, usize>, pods: &[u8], times: usize) -> bool {
    let share = times / pods.len();
    pods.iter().all(|pod| {
        counts
            .get(&pod.to_string())
            .is_some_and(|count| count.abs_diff(share) <= 1)
    })
}

pub(crate) fn connections_are_spread_over_the_endpoints_of_every_frontend() -> anyhow::Result<()> {
    block_on(async {
        let node = mk_node()?;
        let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
        for n in 1..=3 {
            mk_pod(n)?;
        }
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        for pods in [&[1][..], &[1, 2, 3], &[1, 3]] {
            cluster.set(7, pods).sync(&mut syncer).await?;
            for to in frontends(7) {
                for transport in TRANSPORTS {
                    for from in [&client, &stranger, &node] {
                        let counts = spread(from, transport, to, 3 * pods.len())?;
                        ensure!(
                            is_even(&counts, pods, 3 * pods.len()),
                            "{transport:?} {to} from {}: {counts:?}",
                            from.name()
                        );
                    }
                }
            }
        }
        Ok(())
    })
}

pub(crate) fn node_ports_hairpin_hosts_and_strangers_are_masqueraded_and_pods_are_not() -> anyhow::Result<()>
{
    block_on(async {
        let node = mk_node()?;
        let (pod, client, stranger) = (mk_pod(1)?, mk_pod(100)?, mk_stranger(5)?);
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        cluster.set(1, &[1]).sync(&mut syncer).await?;
        for (index, ip) in cluster_ips(1).into_iter().enumerate() {
            let (gate, host): (IpAddr, IpAddr) = (GATE[index].parse()?, HOST[index].parse()?);
            let vip = SocketAddr::from((ip, PORT));
            let external = SocketAddr::from((ips(VIPS)[index], PORT));
            let at_node = SocketAddr::from((host, node_port(1)));
            for transport in TRANSPORTS {
                for (what, from, to, seen) in [
                    ("Pod to ClusterIP", &client, vip, pod_ips(100)[index]),
                    ("Pod to itself by ClusterIP", &pod, vip, gate),
                    ("stranger to ClusterIP", &stranger, vip, gate),
                    ("host to ClusterIP", &node, vip, gate),
                    ("Pod to external address", &client, external, gate),
                    ("stranger to external address", &stranger, external, gate),
                    ("Pod to node port", &client, at_node, gate),
                    ("stranger to node port", &stranger, at_node, gate),
                    ("host to node port", &node, at_node, gate),
                ] {
                    let answer = ask(from, transport, to)?.with_context(|| what)?;
                    ensure!(
                        answer == format!("1 {seen}"),
                        "{what}, {transport:?} {to}: {answer}"
                    );
                }
            }
        }
        Ok(())
    })
}

/// At the same time: an ICMPv6 refusal of a SYN is noticed at the first retransmission, 1 s later.
fn expect_refusal(from: &[&Netns], to: &[SocketAddr]) -> anyhow::Result<()> {
    let ways = to
        .iter()
        .flat_map(|to| TRANSPORTS.map(|transport| (transport, *to)));
    let tries = ways.flat_map(|(transport, to)| from.iter().map(move |from| (*from, transport, to)));
    expect_refused(&tries.collect::<Vec<_>>())
}

pub(crate) fn a_service_without_endpoints_and_an_unknown_port_refuse() -> anyhow::Result<()> {
    block_on(async {
        let node = mk_node()?;
        let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
        mk_pod(1)?;
        // The node's own socket on every address: a Service address must not lead there.
        let _listener = TcpListener::bind(("::", PORT + 1))?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        cluster.set(1, &[1]).set(2, &[]).sync(&mut syncer).await?;
        let empty: Vec<SocketAddr> = cluster_ips(2).map(|ip| (ip, PORT).into()).into();
        let at_node: Vec<SocketAddr> = ips(HOST).map(|ip| (ip, node_port(2)).into()).into();
        let unknown = cluster_ips(1).into_iter().chain(ips(VIPS));
        let unknown: Vec<SocketAddr> = unknown.map(|ip| (ip, PORT + 1).into()).collect();
        let from = [&client, &stranger, &node];
        expect_refusal(&from, &empty).context("no endpoint")?;
        expect_refusal(&from, &at_node).context("node port without endpoint")?;
        expect_refusal(&from, &unknown).context("unknown port")?;
        // It comes to life, and goes again.
        cluster.set(2, &[1]).sync(&mut syncer).await?;
        for to in empty.iter().chain(&at_node) {
            ensure!(ask(&client, Transport::Tcp, *to)??.starts_with("1 "));
        }
        cluster.set(2, &[]).sync(&mut syncer).await?;
        expect_refusal(&[&client], &empty).context("endpoint gone")?;
        Ok(())
    })
}

pub(crate) fn a_client_stays_with_its_endpoint_as_long_as_that_is_there() -> anyhow::Result<()> {
    block_on(async {
        mk_node()?;
        let (client, other) = (mk_pod(100)?, mk_stranger(5)?);
        for n in 1..=2 {
            mk_pod(n)?;
        }
        let stays = |service: &mut berth_model::Service| {
            service.affinity = SessionAffinity::ClientIp { timeout_seconds: 600 };
        };
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        cluster
            .put(1, on("node-1", &[1, 2]), stays)
            .sync(&mut syncer)
            .await?;
        for to in frontends(1) {
            for transport in TRANSPORTS {
                for from in [&client, &other] {
                    let counts = spread(from, transport, to, 8)?;
                    ensure!(
                        counts.len() == 1,
                        "{transport:?} {to} from {}: {counts:?}",
                        from.name()
                    );
                }
            }
        }
        let to = SocketAddr::from((cluster_ips(1)[0], PORT));
        let chosen = spread(&client, Transport::Tcp, to, 1)?;
        let left = if chosen.contains_key("1") { 2 } else { 1 };
        cluster
            .put(1, on("node-1", &[left]), stays)
            .sync(&mut syncer)
            .await?;
        let counts = spread(&client, Transport::Tcp, to, 4)?;
        ensure!(
            counts.contains_key(&left.to_string()) && counts.len() == 1,
            "{counts:?}"
        );
        Ok(())
    })
}

/// Whether IPVS remembers where any client is at home: entries of connections without a client's port.
fn is_bound() -> anyhow::Result<bool> {
    let listed = std::fs::read_to_string("/proc/thread-self/net/ip_vs_conn")?;
    let mut ports = listed.lines().filter_map(|line| line.split_whitespace().nth(2));
    Ok(ports.any(|port| port == "0000"))
}

/// Who answers at the ClusterIPs.
fn answers(client: &Netns) -> anyhow::Result<Vec<String>> {
    let asked = cluster_ips(1).map(|ip| ask(client, Transport::Udp, (ip, PORT).into()));
    asked.into_iter().map(|answer| Ok(answer??)).collect()
}

/// Whom a client meets that connects again and again for twice the timeout. Where this machine stood still for so long
/// that the client may well have been forgotten, it begins again.
fn stay(client: &Netns, timeout: Duration) -> anyhow::Result<Vec<String>> {
    'turns: for _ in 0..20 {
        let started = Instant::now();
        let at_first = answers(client)?;
        let mut before = started;
        while started.elapsed() < 2 * timeout {
            let now = Instant::now();
            let found = answers(client)?;
            if before.elapsed() >= timeout {
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
    bail!("each time {timeout:?} passed between two connections")
}

pub(crate) fn a_client_is_forgotten_so_long_after_its_last_connection() -> anyhow::Result<()> {
    block_on(async {
        mk_node()?;
        let client = mk_pod(100)?;
        for n in 1..=2 {
            mk_pod(n)?;
        }
        let timeout = Duration::from_secs(2);
        let options = IpvsOptions {
            // A client is remembered as long as any connection of its own: these must end before. By UDP, as TCP's 2
            // minutes after the end (TIME_WAIT) cannot be set.
            udp_timeout: timeout / 2,
            ..IpvsOptions::default()
        };
        let mut syncer = Syncer::new(Ipvs::open(&settings(), options).await?, settings());
        let mut cluster = Cluster::new();
        cluster.put(1, on("node-1", &[1, 2]), |service| {
            service.affinity = SessionAffinity::ClientIp { timeout_seconds: 2 };
        });
        cluster.sync(&mut syncer).await?;
        let before = stay(&client, timeout)?;
        ensure!(is_bound()?, "nobody is remembered");
        while is_bound()? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Whoever is new comes to the endpoints in turn.
        for (before, after) in before.into_iter().zip(answers(&client)?) {
            ensure!(before != after, "{before} again");
        }
        Ok(())
    })
}

pub(crate) fn udp_clients_that_keep_their_port_leave_an_endpoint_that_left() -> anyhow::Result<()> {
    block_on(async {
        mk_node()?;
        let client = mk_pod(100)?;
        for n in 1..=2 {
            mk_pod(n)?;
        }
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        let vips = cluster_ips(1).map(|ip| SocketAddr::from((ip, PORT)));
        let at_node = ips(HOST).map(|ip| SocketAddr::from((ip, node_port(1))));
        for to in vips.into_iter().chain(at_node) {
            cluster.set(1, &[1]).sync(&mut syncer).await?;
            let socket = client.run(|| udp_to(to, Duration::from_secs(1)))??;
            ensure!(again(&socket)?.starts_with("1 "));
            cluster.set(1, &[1, 2]).sync(&mut syncer).await?;
            ensure!(
                again(&socket)?.starts_with("1 "),
                "it stays while its endpoint is there"
            );
            cluster.set(1, &[2]).sync(&mut syncer).await?;
            // IPVS may drop the one packet by which it finds that the endpoint is gone.
            let answer = again(&socket).or_else(|_| again(&socket))?;
            ensure!(
                answer.starts_with("2 "),
                "the endpoint left, the flow did not: {answer}"
            );
        }
        Ok(())
    })
}

pub(crate) fn node_ports_are_served_on_the_chosen_addresses_and_the_choice_changes_in_place()
-> anyhow::Result<()> {
    block_on(async {
        mk_node()?;
        let stranger = mk_stranger(5)?;
        mk_pod(1)?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        cluster.set(1, &[1]).sync(&mut syncer).await?;
        let chosen = |chosen: &[[&str; 2]]| {
            let all = chosen.iter().flat_map(|pair| ips(*pair));
            let only = |addresses: NodePortAddresses, family| addresses.only(family, all.clone());
            Settings {
                node_port_addresses: IpFamily::ALL.into_iter().fold(NodePortAddresses::all(), only),
                ..settings()
            }
        };
        for (settings, served) in [
            (chosen(&[HOST]), [true, false]),
            (chosen(&[GATE]), [false, true]),
            (chosen(&[]), [false, false]),
            (settings(), [true, true]),
        ] {
            syncer.reconfigure(settings.clone(), &cluster.view);
            syncer.turn().await?;
            ensure!(syncer.turn().await?.is_nothing());
            for (addresses, served) in [HOST, GATE].into_iter().zip(served) {
                for ip in ips(addresses) {
                    let to = (ip, node_port(1)).into();
                    if served {
                        ask(&stranger, Transport::Tcp, to)??;
                    } else {
                        expect_refused(&[(&stranger, Transport::Tcp, to)])?;
                    }
                }
            }
        }
        Ok(())
    })
}
