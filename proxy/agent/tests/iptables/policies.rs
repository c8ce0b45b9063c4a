// SPDX-License-Identifier: Apache-2.0
//! Traffic policies, source ranges and node-port addresses, as real packets meet them.

use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;
use berth_model::{Conditions, IpFamily, IpMode, LoadBalancerIngress, ServiceKind, TrafficPolicy};
use berth_proxy_core::{NodePortAddresses, Settings};
use berth_testkit::in_sandbox_async;

use crate::cluster::{Cluster, PORT, cluster_ips, node_port, pod_ips, settings};
use crate::ground::{VARIANTS, mk_syncer};
use crate::traffic::{
    DRAINING, HOST, NODE, OTHER_VIPS, Transport, VIPS, ask_from, endpoints_on, ips, is_refusal, is_silent,
    mk_host, mk_pod, mk_stranger, serve, spread, stranger_ips,
};

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

fn all_settings() -> Settings {
    Settings {
        node_ips: ips(HOST).into(),
        ..settings()
    }
}

fn local(cluster: &mut Cluster, endpoints: Vec<berth_model::Endpoint>) {
    cluster.set(1, Some(&[])).edit(1, |service, list| {
        service.external_ips = ips(VIPS).into();
        service.internal_policy = TrafficPolicy::Local;
        service.external_policy = TrafficPolicy::Local;
        *list = endpoints;
    });
}

#[test]
fn policy_local_keeps_the_source_address_from_outside_and_is_short_cut_inside() {
    in_sandbox_async!(async {
        let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
        for n in 1..=2 {
            serve(&mk_pod(n)?, n)?;
        }
        let host = mk_host()?;
        let there = endpoints_on(2, "node-2", Conditions::READY);
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = mk_syncer(variant, &all_settings())?;
            for conditions in [Conditions::READY, DRAINING] {
                let here = endpoints_on(1, "node-1", conditions);
                local(&mut cluster, [here, there.clone()].concat());
                cluster.sync(&mut syncer).await?;
                // A client that takes a port again would stay where the flow from that port was: its endpoint still serves.
                host.output("conntrack", &["-F"])?;
                for (index, vip) in ips(VIPS).into_iter().enumerate() {
                    let at_node = ips(HOST)[index];
                    for transport in TRANSPORTS {
                        for to in [SocketAddr::from((vip, PORT)), (at_node, node_port(1)).into()] {
                            let answer = ask_from(&stranger, transport, to)??;
                            let wanted = format!("1 {}", stranger_ips(5)[index]);
                            ensure!(answer == wanted, "{variant} stranger to {to}: {answer}");
                            // While the local one drains, it is in no list but the local one.
                            let pods = if conditions == DRAINING { 1 } else { 2 };
                            for from in [&client, &host] {
                                let met = spread(from, transport, to, 40)?;
                                ensure!(met.len() == pods, "{variant} {} to {to}: {met:?}", from.name());
                            }
                        }
                        let answer = ask_from(&client, transport, (vip, PORT).into())??;
                        ensure!(answer.ends_with(&format!(" {}", pod_ips(100)[index])), "{answer}");
                        let internal = ask_from(&client, transport, (cluster_ips(1)[index], PORT).into())??;
                        ensure!(internal.starts_with("1 "), "{variant}: {internal}");
                    }
                }
            }
            cluster.set(1, None).sync(&mut syncer).await?;
        }
        anyhow::Ok(())
    });
}

#[test]
fn policy_local_without_a_local_endpoint_is_silent_outside_and_without_any_refuses() {
    in_sandbox_async!(async {
        let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
        for n in 1..=2 {
            serve(&mk_pod(n)?, n)?;
        }
        // Rules of the filter table act on what is forwarded, which takes a route; where it leads does not matter.
        mk_host()?.ip("route add 10.96.0.0/16 dev v1\nroute add fd00:10:96::/112 dev v1\n")?;
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = mk_syncer(variant, &all_settings())?;
            for endpoints in [endpoints_on(2, "node-2", Conditions::READY).to_vec(), vec![]] {
                local(&mut cluster, endpoints.clone());
                cluster.sync(&mut syncer).await?;
                for (index, vip) in ips(VIPS).into_iter().enumerate() {
                    let external = SocketAddr::from((vip, PORT));
                    let internal = SocketAddr::from((cluster_ips(1)[index], PORT));
                    let at_node = SocketAddr::from((ips(HOST)[index], node_port(1)));
                    for transport in TRANSPORTS {
                        for (from, to) in [(&stranger, external), (&stranger, at_node), (&client, internal)] {
                            let right = if endpoints.is_empty() {
                                is_refusal(from, transport, &ask_from(from, transport, to)?)
                            } else {
                                is_silent(from, transport, to)?
                            };
                            ensure!(right, "{variant} {} to {to}, {endpoints:?}", from.name());
                        }
                        if !endpoints.is_empty() {
                            let answer = ask_from(&client, transport, external)??;
                            ensure!(answer.starts_with("2 "), "{variant}: {answer}");
                        }
                    }
                }
            }
            cluster.set(1, None).sync(&mut syncer).await?;
        }
        anyhow::Ok(())
    });
}

fn balance(cluster: &mut Cluster, ranges: &[&str], pods: &[u16]) {
    let ranges = ranges.iter().map(|net| net.parse().unwrap()).collect();
    cluster.set(1, Some(pods)).edit(1, |service, _| {
        service.kind = ServiceKind::LoadBalancer;
        let ingress = |ip| LoadBalancerIngress {
            ip,
            mode: IpMode::Vip,
        };
        service.load_balancer = ips(VIPS).map(ingress).into();
        service.external_ips = ips(OTHER_VIPS).into();
        service.source_ranges = Some(ranges);
    });
}

#[test]
fn source_ranges_decide_who_reaches_the_load_balancer_address_and_nothing_else() {
    in_sandbox_async!(async {
        let strangers = [(5, mk_stranger(5)?), (200, mk_stranger(200)?)];
        serve(&mk_pod(1)?, 1)?;
        mk_host()?;
        let cases = [
            (vec!["203.0.113.0/25", "2001:db8::/121"], [true, false]),
            (vec!["203.0.113.128/25", "2001:db8::80/121"], [false, true]),
            (vec!["198.51.100.0/24"], [false, false]),
            (vec!["198.51.100.0/24", "0.0.0.0/0"], [true, true]),
        ];
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = mk_syncer(variant, &all_settings())?;
            for (number, (ranges, let_in)) in cases.iter().enumerate() {
                // Refusals take a second each in IPv6: the first list stands for all.
                let pods = if number == 0 {
                    &[&[1][..], &[]][..]
                } else {
                    &[&[1][..]]
                };
                for pods in pods {
                    balance(&mut cluster, ranges, pods);
                    cluster.sync(&mut syncer).await?;
                    for ((n, stranger), let_in) in strangers.iter().zip(let_in) {
                        for (index, vip) in ips(VIPS).into_iter().enumerate() {
                            let (other, at_node) = (ips(OTHER_VIPS)[index], ips(HOST)[index]);
                            let tos = [
                                (vip, PORT, *let_in),
                                (other, PORT, true),
                                (at_node, node_port(1), true),
                            ];
                            for (ip, port, let_in) in tos {
                                let to = SocketAddr::from((ip, port));
                                let right = match (let_in, pods.is_empty()) {
                                    (false, _) => is_silent(stranger, Transport::Tcp, to)?,
                                    (true, false) => ask_from(stranger, Transport::Tcp, to)?.is_ok(),
                                    (true, true) => {
                                        let outcome = ask_from(stranger, Transport::Tcp, to)?;
                                        is_refusal(stranger, Transport::Tcp, &outcome)
                                    }
                                };
                                ensure!(right, "{variant} {ranges:?} {pods:?}: {n} to {to}");
                            }
                        }
                    }
                }
            }
            cluster.set(1, None).sync(&mut syncer).await?;
        }
        anyhow::Ok(())
    });
}

#[test]
fn node_ports_are_served_on_the_chosen_addresses_and_the_choice_changes_in_place() {
    in_sandbox_async!(async {
        let stranger = mk_stranger(5)?;
        serve(&mk_pod(1)?, 1)?;
        mk_host()?;
        let chosen = |chosen: &[[&str; 2]]| {
            let all = chosen.iter().flat_map(|pair| ips(*pair));
            let addresses = IpFamily::ALL
                .into_iter()
                .fold(NodePortAddresses::all(), |addresses, family| {
                    addresses.only(family, all.clone())
                });
            Settings {
                node_port_addresses: addresses,
                ..all_settings()
            }
        };
        let cases = [
            (chosen(&[HOST]), [true, false]),
            (chosen(&[NODE]), [false, true]),
            (chosen(&[]), [false, false]),
            (all_settings(), [true, true]),
        ];
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            cluster.set(1, Some(&[1])).set(2, Some(&[]));
            let mut syncer = mk_syncer(variant, &all_settings())?;
            cluster.sync(&mut syncer).await?;
            for (settings, served) in &cases {
                syncer.reconfigure(settings.clone(), &cluster.view);
                syncer.turn().await?;
                ensure!(syncer.turn().await?.is_nothing());
                for (addresses, served) in [HOST, NODE].into_iter().zip(served) {
                    for ip in ips(addresses) {
                        let to: (IpAddr, u16) = (ip, node_port(1));
                        let outcome = ask_from(&stranger, Transport::Tcp, to.into())?;
                        ensure!(
                            outcome.is_ok() == *served,
                            "{variant} {settings:?}: {ip}: {outcome:?}"
                        );
                        // Without a rule of ours the node itself refuses as well.
                        let outcome = ask_from(&stranger, Transport::Tcp, (ip, node_port(2)).into())?;
                        ensure!(is_refusal(&stranger, Transport::Tcp, &outcome), "{outcome:?}");
                    }
                }
            }
            cluster.set(1, None).set(2, None).sync(&mut syncer).await?;
        }
        anyhow::Ok(())
    });
}
