// SPDX-License-Identifier: Apache-2.0
//! What real packets meet.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};

use anyhow::ensure;
use berth_model::{IpFamily, SessionAffinity};
use berth_proxy_agent::iptables::{Variant, Whose, remove};
use berth_testkit::in_sandbox_async;
use berth_testkit::netns::Netns;

use crate::cluster::{Cluster, PORT, cluster_ips, node_port, pod_ips, settings};
use crate::ground::{VARIANTS, mk_syncer, path, program, run};
use crate::strays::{BE_LIBERAL, Connection};
use crate::traffic::{
    NODE, PATIENCE, SILENCE, Transport, ask_from, is_even, is_refusal, mk_pod, mk_stranger, serve, spread,
    stranger_ips,
};

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

#[test]
fn connections_are_spread_evenly_over_one_three_and_two_endpoints() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        for n in 1..=3 {
            serve(&mk_pod(n)?, n)?;
        }
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = mk_syncer(variant, &settings())?;
            for pods in [&[1][..], &[1, 2, 3], &[1, 3]] {
                cluster.set(7, Some(pods)).sync(&mut syncer).await?;
                for ip in cluster_ips(7) {
                    for transport in TRANSPORTS {
                        let counts = spread(&client, transport, (ip, PORT).into(), 300)?;
                        ensure!(
                            is_even(&counts, pods.len(), 300),
                            "{variant} {transport:?} {ip}: {counts:?}"
                        );
                        let named = pods.iter().all(|pod| counts.contains_key(&pod.to_string()));
                        ensure!(named, "{variant}: {counts:?} instead of {pods:?}");
                    }
                }
            }
            cluster.set(7, None).sync(&mut syncer).await?;
        }
        anyhow::Ok(())
    });
}

#[test]
fn a_service_without_endpoints_refuses_and_comes_and_goes() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        // The node's own packets to a ClusterIP need a route as anybody's do; where it leads does not matter.
        let node = Netns::current("node")?;
        node.ip("route add 10.96.0.0/16 dev v1\nroute add fd00:10:96::/112 dev v1\n")?;
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = mk_syncer(variant, &settings())?;
            for pods in [&[][..], &[1], &[]] {
                cluster.set(2, Some(pods)).sync(&mut syncer).await?;
                let nodes = NODE.map(|ip| ip.parse::<IpAddr>());
                for from in [&client, &node] {
                    for (ip, at_node) in cluster_ips(2).into_iter().zip(nodes.clone()) {
                        for transport in TRANSPORTS {
                            for to in [(ip, PORT), (at_node.clone()?, node_port(2))] {
                                let outcome = ask_from(from, transport, to.into())?;
                                let right = if pods.is_empty() {
                                    is_refusal(from, transport, &outcome)
                                } else {
                                    outcome.as_ref().is_ok_and(|answer| answer.starts_with("1 "))
                                };
                                ensure!(right, "{variant} {pods:?} {transport:?} {to:?}: {outcome:?}");
                            }
                        }
                    }
                }
            }
            cluster.set(2, None).sync(&mut syncer).await?;
        }
        anyhow::Ok(())
    });
}

#[test]
fn node_ports_and_hairpin_and_strangers_are_masqueraded_and_pods_are_not() {
    in_sandbox_async!(async {
        let (pod, client, stranger) = (mk_pod(1)?, mk_pod(100)?, mk_stranger(5)?);
        serve(&pod, 1)?;
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = mk_syncer(variant, &settings())?;
            cluster.set(1, Some(&[1])).sync(&mut syncer).await?;
            for (index, ip) in cluster_ips(1).into_iter().enumerate() {
                let node: IpAddr = NODE[index].parse()?;
                let cases = [
                    (&client, (ip, PORT), pod_ips(100)[index]),
                    (&client, (node, node_port(1)), node),
                    (&pod, (ip, PORT), node),
                    (&stranger, (ip, PORT), node),
                    (&stranger, (node, node_port(1)), node),
                ];
                for transport in TRANSPORTS {
                    for (from, to, seen) in cases {
                        let answer = ask_from(from, transport, to.into())??;
                        ensure!(
                            answer == format!("1 {seen}"),
                            "{variant} {transport:?} {} to {to:?}: {answer}",
                            from.name()
                        );
                    }
                }
                ensure!(stranger_ips(5)[index] != node);
            }
            cluster.set(1, None).sync(&mut syncer).await?;
        }
        anyhow::Ok(())
    });
}

/// How many Pods each of so many clients of one machine met, in so many connections.
fn met(counts: &BTreeMap<String, usize>) -> Vec<&str> {
    counts.keys().map(String::as_str).collect()
}

#[test]
fn a_client_with_affinity_stays_on_every_frontend_until_its_endpoint_leaves() {
    in_sandbox_async!(async {
        let clients = [mk_pod(100)?, mk_pod(101)?, mk_pod(102)?];
        for n in 1..=3 {
            serve(&mk_pod(n)?, n)?;
        }
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = mk_syncer(variant, &settings())?;
            let stays = |cluster: &mut Cluster, pods: &[u16]| {
                cluster.set(1, Some(pods)).edit(1, |service, _| {
                    service.affinity = SessionAffinity::ClientIp { timeout_seconds: 600 };
                });
            };
            stays(&mut cluster, &[1, 2, 3]);
            cluster.sync(&mut syncer).await?;
            for client in &clients {
                for (index, ip) in cluster_ips(1).into_iter().enumerate() {
                    let node: IpAddr = NODE[index].parse()?;
                    for transport in TRANSPORTS {
                        let first = spread(client, transport, (ip, PORT).into(), 20)?;
                        let on_node = spread(client, transport, (node, node_port(1)).into(), 20)?;
                        ensure!(
                            first.len() == 1 && met(&first) == met(&on_node),
                            "{variant} {transport:?} {ip}: {first:?}, {on_node:?}"
                        );
                        let at: u16 = met(&first)[0].parse()?;
                        let left: Vec<u16> = (1..=3).filter(|pod| *pod != at).collect();
                        stays(&mut cluster, &left);
                        cluster.sync(&mut syncer).await?;
                        let second = spread(client, transport, (ip, PORT).into(), 20)?;
                        ensure!(second.len() == 1 && met(&second) != met(&first), "{second:?}");
                        // A newcomer is no reason to leave.
                        stays(&mut cluster, &[1, 2, 3]);
                        cluster.sync(&mut syncer).await?;
                        let third = spread(client, transport, (ip, PORT).into(), 20)?;
                        ensure!(third.len() == 1, "{variant} {transport:?}: {third:?}");
                    }
                }
            }
            cluster.set(1, None).sync(&mut syncer).await?;
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
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = mk_syncer(variant, &settings())?;
            cluster.set(1, Some(&[1])).sync(&mut syncer).await?;
            let sockets = cluster_ips(1).map(|ip| {
                let any: IpAddr = if ip.is_ipv4() {
                    [0; 4].into()
                } else {
                    [0; 16].into()
                };
                let made = client.run(|| {
                    let socket = UdpSocket::bind((any, 0))?;
                    socket.set_read_timeout(Some(PATIENCE))?;
                    socket.connect((ip, PORT))?;
                    std::io::Result::Ok(socket)
                });
                anyhow::Ok(made??)
            });
            let [v4, v6] = sockets;
            let sockets = [v4?, v6?];
            let ask = |socket: &UdpSocket| {
                let mut buffer = [0; 64];
                socket.send(b"?")?;
                let length = socket.recv(&mut buffer)?;
                std::io::Result::Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
            };
            for (pods, wanted) in [(&[1][..], "1 "), (&[2], "2 ")] {
                cluster.set(1, Some(pods)).sync(&mut syncer).await?;
                for socket in &sockets {
                    let answer = ask(socket)?;
                    ensure!(answer.starts_with(wanted), "{variant}: {answer}");
                }
            }
            // It goes while nobody watches, and the next process forgets its flows.
            cluster.set(1, None);
            let mut restarted = mk_syncer(variant, &settings())?;
            cluster.sync(&mut restarted).await?;
            let outcome = sockets[0].send(b"?").and_then(|_| {
                sockets[0].set_read_timeout(Some(SILENCE))?;
                sockets[0].recv(&mut [0; 64])
            });
            ensure!(outcome.is_err(), "{variant}: still answered");
        }
        anyhow::Ok(())
    });
}

/// How many packets met the rule that drops what conntrack cannot make sense of; `None` if there is no such rule.
fn dropped(variant: Variant, family: IpFamily) -> anyhow::Result<Option<u64>> {
    let listed = run(&program(variant, family, "-save"), &["-c"], "")?;
    // `[PACKETS:BYTES] -A CHAIN ...`
    let rule = listed
        .lines()
        .find(|line| line.contains("-A KUBE-FORWARD") && line.contains("--ctstate INVALID -j DROP"));
    let packets = rule.and_then(|rule| rule.strip_prefix('[')?.split(':').next());
    Ok(packets.map(str::parse).transpose()?)
}

#[test]
fn a_packet_that_conntrack_cannot_make_sense_of_ends_no_connection() {
    in_sandbox_async!(async {
        let (client, pod) = (mk_pod(100)?, mk_pod(1)?);
        let node = Netns::current("node")?;
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = mk_syncer(variant, &settings())?;
            cluster.set(1, Some(&[1])).sync(&mut syncer).await?;
            for liberal in [false, true] {
                node.sysctl(&[(BE_LIBERAL, if liberal { "1" } else { "0" })])?;
                // A process looks at it when it reads the tables first.
                let mut syncer = mk_syncer(variant, &settings())?;
                cluster.set(1, Some(&[1])).sync(&mut syncer).await?;
                for (ip, family) in cluster_ips(1).into_iter().zip(IpFamily::ALL) {
                    let mut connection = Connection::open(&client, &pod, (ip, PORT).into())?;
                    connection.stray()?;
                    ensure!(connection.goes_on()?, "{variant} {ip}, liberal: {liberal}: reset");
                    let dropped = dropped(variant, family)?;
                    let right = match dropped {
                        None => liberal,
                        Some(packets) => !liberal && packets > 0,
                    };
                    ensure!(right, "{variant} {ip}, liberal: {liberal}: {dropped:?}");
                }
            }
            cluster.set(1, None).sync(&mut syncer).await?;
            remove(&path(), Whose::Ours).await?;
        }
        anyhow::Ok(())
    });
}
