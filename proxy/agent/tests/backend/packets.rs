// SPDX-License-Identifier: Apache-2.0
//! What real packets meet.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use berth_model::IpFamily;
use berth_proxy_agent::nftables::Nftables;
use berth_proxy_agent::sync::Syncer;
use berth_testkit::in_sandbox_async;
use berth_testkit::netns::Netns;

use crate::cluster::{Cluster, PORT, cluster_ips, mk_syncer, node_port, pod_ips, retire};
use crate::strays::{BE_LIBERAL, Connection};
use crate::structure::nft;
use crate::traffic::{NODE, PATIENCE, Transport, ask_from, is_even, is_refusal, mk_pod, serve, spread};

pub(crate) const SOON: Duration = Duration::from_millis(100);

pub(crate) fn untranslated() -> anyhow::Result<u64> {
    let mut packets = 0;
    for family in ["ip", "ip6"] {
        let text = nft(&["list", "counter", family, "berth-proxy", "untranslated"], "")?;
        let count = text
            .split_whitespace()
            .skip_while(|word| *word != "packets")
            .nth(1);
        packets += count.context("a counter")?.parse::<u64>()?;
    }
    Ok(packets)
}

#[test]
fn connections_are_spread_evenly_over_one_three_and_two_endpoints() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        for n in 1..=3 {
            serve(&mk_pod(n)?, n)?;
        }
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(SOON)?;
        for pods in [&[1][..], &[1, 2, 3], &[1, 3]] {
            cluster.set(7, Some(pods)).sync(&mut syncer).await?;
            for ip in cluster_ips(7) {
                for transport in [Transport::Tcp, Transport::Udp] {
                    let counts = spread(&client, transport, (ip, PORT).into(), 300)?;
                    ensure!(
                        is_even(&counts, pods.len(), 300),
                        "{transport:?} {ip}: {counts:?}"
                    );
                    let named = pods.iter().all(|pod| counts.contains_key(&pod.to_string()));
                    ensure!(named, "{counts:?} instead of {pods:?}");
                }
            }
            retire(&mut syncer).await?;
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}

#[test]
fn a_service_without_endpoints_and_an_unknown_port_refuse() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        // The node's own packets to a ClusterIP need a route as anybody's do; where it leads does not matter.
        Netns::current("node")?.ip("route add 10.96.0.0/16 dev v1\nroute add fd00:10:96::/112 dev v1\n")?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(SOON)?;
        cluster
            .set(1, Some(&[1]))
            .set(2, Some(&[]))
            .sync(&mut syncer)
            .await?;
        let node = Netns::current("node")?;
        for from in [&client, &node] {
            for (ip, empty) in cluster_ips(1).into_iter().zip(cluster_ips(2)) {
                let answer = ask_from(from, Transport::Tcp, (ip, PORT).into())??;
                ensure!(answer.starts_with("1 "), "{answer}");
                for transport in [Transport::Tcp, Transport::Udp] {
                    for refused in [(empty, PORT), (ip, PORT + 1)] {
                        let outcome = ask_from(from, transport, refused.into())?;
                        ensure!(
                            is_refusal(from, transport, &outcome),
                            "{transport:?} {refused:?} from {}: {outcome:?}",
                            from.name()
                        );
                    }
                }
            }
            for ip in NODE {
                let ip: IpAddr = ip.parse()?;
                let outcome = ask_from(from, Transport::Tcp, (ip, node_port(2)).into())?;
                ensure!(outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused));
            }
        }
        // It comes to life, and goes again.
        cluster.set(2, Some(&[1])).sync(&mut syncer).await?;
        for ip in cluster_ips(2) {
            ensure!(ask_from(&client, Transport::Tcp, (ip, PORT).into())??.starts_with("1 "));
        }
        cluster.set(2, Some(&[])).sync(&mut syncer).await?;
        for pass in 0..2 {
            for ip in cluster_ips(2) {
                let outcome = ask_from(&client, Transport::Tcp, (ip, PORT).into())?;
                ensure!(
                    outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused),
                    "pass {pass}"
                );
            }
            retire(&mut syncer).await?;
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}

#[test]
fn node_ports_and_hairpin_and_strangers_are_masqueraded_and_pods_are_not() {
    in_sandbox_async!(async {
        let (pod, client) = (mk_pod(1)?, mk_pod(100)?);
        serve(&pod, 1)?;
        let stranger = mk_pod(200)?;
        stranger.ip(
            "addr add 203.0.113.5/32 dev eth0\naddr add 2001:db8::5/128 dev eth0 nodad\n\
             route replace default via 10.244.255.254 dev eth0 src 203.0.113.5\n\
             route replace default via fd00:10:244:ffff::1 dev eth0 src 2001:db8::5\n",
        )?;
        Netns::current("node")?.ip("route add 203.0.113.5 dev v200\nroute add 2001:db8::5 dev v200\n")?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(SOON)?;
        cluster.set(1, Some(&[1])).sync(&mut syncer).await?;
        for (index, ip) in cluster_ips(1).into_iter().enumerate() {
            let node: IpAddr = NODE[index].parse()?;
            let client_ip = pod_ips(100)[index];
            for transport in [Transport::Tcp, Transport::Udp] {
                let vip = SocketAddr::from((ip, PORT));
                let at_node = SocketAddr::from((node, node_port(1)));
                for (what, from, to, seen) in [
                    ("Pod to ClusterIP", &client, vip, client_ip),
                    ("Pod to itself by ClusterIP", &pod, vip, node),
                    ("stranger to ClusterIP", &stranger, vip, node),
                    ("Pod to node port", &client, at_node, node),
                    ("stranger to node port", &stranger, at_node, node),
                ] {
                    let answer = ask_from(from, transport, to)?.with_context(|| what)?;
                    ensure!(
                        answer == format!("1 {seen}"),
                        "{what}, {transport:?} {to}: {answer}"
                    );
                }
            }
        }
        anyhow::Ok(())
    });
}

#[test]
fn udp_clients_that_keep_their_port_leave_an_endpoint_that_left() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        for n in 1..=2 {
            serve(&mk_pod(n)?, n)?;
        }
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(SOON)?;
        cluster.set(1, Some(&[1])).sync(&mut syncer).await?;
        for (any, ip) in ["0.0.0.0", "::"].into_iter().zip(cluster_ips(1)) {
            let socket = client.run(|| UdpSocket::bind((any, 0)))??;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect((ip, PORT))?;
            let again = || -> anyhow::Result<String> {
                let mut buffer = [0; 64];
                socket.send(b"?")?;
                let length = socket.recv(&mut buffer)?;
                Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
            };
            cluster.set(1, Some(&[1])).sync(&mut syncer).await?;
            ensure!(again()?.starts_with("1 "));
            cluster.set(1, Some(&[1, 2])).sync(&mut syncer).await?;
            ensure!(
                again()?.starts_with("1 "),
                "a flow stays where it is while its endpoint is there"
            );
            cluster.set(1, Some(&[2])).sync(&mut syncer).await?;
            ensure!(again()?.starts_with("2 "), "the endpoint left, the flow did not");
        }
        anyhow::Ok(())
    });
}

#[test]
fn udp_flows_to_a_service_that_went_while_the_proxy_was_down_are_forgotten() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(SOON)?;
        cluster
            .set(1, Some(&[1]))
            .set(2, Some(&[1]))
            .sync(&mut syncer)
            .await?;
        let mut gone = Vec::new();
        for (any, ip) in ["0.0.0.0", "::"].into_iter().zip(cluster_ips(1)) {
            let socket = client.run(|| UdpSocket::bind((any, 0)))??;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect((ip, PORT))?;
            socket.send(b"?")?;
            let mut buffer = [0; 64];
            socket.recv(&mut buffer)?;
            gone.push(socket);
        }
        drop(syncer);
        cluster.set(1, None);
        let mut restarted = cluster.restarted(SOON)?;
        restarted.take(&cluster.view, &cluster.view.services.keys().cloned().collect());
        ensure!(restarted.turn().await?.forgotten == 2);
        for socket in gone {
            // Nobody has the address any more: unanswered, or refused by whoever gets it.
            socket.set_read_timeout(Some(SOON))?;
            ensure!(socket.send(b"?").is_err() || socket.recv(&mut [0; 64]).is_err());
        }
        anyhow::Ok(())
    });
}

/// Sends the first packet of ever new flows to every Service until told to stop.
fn stream(
    client: Netns,
    services: u16,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let outcome = client.run(|| {
            let targets: Vec<SocketAddr> = (0..services)
                .flat_map(|n| {
                    let node: Vec<IpAddr> = NODE.iter().filter_map(|ip| ip.parse().ok()).collect();
                    cluster_ips(n)
                        .map(|ip| SocketAddr::from((ip, PORT)))
                        .into_iter()
                        .chain(
                            node.into_iter()
                                .map(move |ip| SocketAddr::from((ip, node_port(n)))),
                        )
                })
                .collect();
            while !stop.load(Ordering::Relaxed) {
                let sockets =
                    UdpSocket::bind("0.0.0.0:0").and_then(|v4| Ok((v4, UdpSocket::bind("[::]:0")?)));
                let Ok((v4, v6)) = sockets else {
                    continue;
                };
                for target in &targets {
                    let socket = if target.is_ipv4() { &v4 } else { &v6 };
                    if socket.send_to(b"?", target).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        assert!(outcome.is_ok());
    })
}

async fn churn(
    cluster: &mut Cluster,
    syncer: &mut Syncer<Nftables>,
    services: u16,
    rounds: u16,
) -> anyhow::Result<()> {
    for round in 0..rounds {
        for n in 0..services {
            // A different number of other Pods each time, never none.
            let first = (round * 7 + n * 3) % 40;
            let count = 1 + (round * 5 + n) % 9;
            let pods: Vec<u16> = (first..first + count).map(|pod| 0x700 + pod).collect();
            cluster.set(n, Some(&pods));
        }
        cluster.sync(syncer).await?;
        tokio::time::sleep(Duration::from_millis(30)).await;
        // Whatever is due by now goes while packets pass.
        syncer.turn().await?;
    }
    Ok(())
}

#[test]
fn a_thousand_endpoint_changes_at_once_lose_no_packet() {
    const SERVICES: u16 = 50;
    const ROUNDS: u16 = 20;
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        // The endpoints' addresses lead nowhere: packets end after translation and fill no conntrack table.
        Netns::current("node")?
            .ip("route add blackhole 10.244.7.0/24\nroute add blackhole fd00:10:244::700/120\n")?;
        let mut cluster = Cluster::new();
        // Longer than a busy machine keeps a packet between two of its lookups.
        let mut syncer = mk_syncer(Duration::from_millis(500))?;
        for n in 0..SERVICES {
            cluster.set(n, Some(&[0x701]));
        }
        cluster.sync(&mut syncer).await?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let streaming = stream(client, SERVICES, Arc::clone(&stop), Arc::clone(&sent));
        churn(&mut cluster, &mut syncer, SERVICES, ROUNDS).await?;
        retire(&mut syncer).await?;
        let (lost, packets) = (untranslated()?, sent.load(Ordering::Relaxed));
        ensure!(packets > 10_000, "only {packets} packets");
        ensure!(lost == 0, "{lost} of {packets} packets untranslated");
        println!("{packets} packets, {lost} untranslated");
        ensure!(syncer.backend().nft().counters(IpFamily::V4).await?.untranslated == 0);
        // The counter does count: without slots every packet of the stream is untranslated.
        nft(&["flush", "map", "ip", "berth-proxy", "vip-slots"], "")?;
        berth_testkit::wait::eventually("a count", PATIENCE, || async {
            match syncer.backend().nft().counters(IpFamily::V4).await {
                Ok(counters) if counters.untranslated == 0 => Err("still 0".to_owned()),
                Ok(counters) => Ok(counters.untranslated),
                Err(error) => Err(error.to_string()),
            }
        })
        .await?;
        stop.store(true, Ordering::Relaxed);
        ensure!(streaming.join().is_ok());
        anyhow::Ok(())
    });
}

/// As in kube-proxy's nftables mode, whose rules drop nothing of the kind: conntrack has to be told to be liberal.
#[test]
fn a_packet_that_conntrack_cannot_make_sense_of_ends_no_connection_where_conntrack_is_liberal() {
    in_sandbox_async!(async {
        let (client, pod) = (mk_pod(100)?, mk_pod(1)?);
        let node = Netns::current("node")?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(SOON)?;
        cluster.set(1, Some(&[1])).sync(&mut syncer).await?;
        for (liberal, survives) in [("1", true), ("0", false)] {
            node.sysctl(&[(BE_LIBERAL, liberal)])?;
            for ip in cluster_ips(1) {
                let mut connection = Connection::open(&client, &pod, (ip, PORT).into())?;
                connection.stray()?;
                ensure!(connection.goes_on()? == survives, "{ip}, liberal: {liberal}");
            }
        }
        anyhow::Ok(())
    });
}
