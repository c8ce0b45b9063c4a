// SPDX-License-Identifier: Apache-2.0
//! Traffic policies, source ranges and node-port addresses, as real packets meet them.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, ensure};
use berth_model::{Conditions, Endpoint, IpFamily, IpMode, LoadBalancerIngress, ServiceKind, TrafficPolicy};
use berth_proxy_agent::apply::nft::Nft;
use berth_proxy_agent::backend::Backend;
use berth_proxy_agent::nftables::Nftables;
use berth_proxy_agent::sync::Syncer;
use berth_proxy_core::{NodePortAddresses, Settings};
use berth_testkit::in_sandbox_async;
use berth_testkit::netns::Netns;

use crate::cluster::{Cluster, PORT, cluster_ips, node_port, pod_ips, retire, settings};
use crate::packets::{SOON, untranslated};
use crate::structure::{list, nft};
use crate::traffic::{
    DRAINING, HOST, NODE, OTHER_VIPS, PATIENCE, Transport, VIPS, ask_from, endpoints_on, ips, is_silent,
    mk_host, mk_pod, mk_stranger, serve, spread, stranger_ips,
};

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];
fn all_settings() -> Settings {
    Settings {
        node_ips: ips(HOST).into(),
        ..settings()
    }
}

fn mk_syncer(settings: &Settings) -> anyhow::Result<Syncer<Nftables>> {
    Ok(Syncer::new(
        Nftables::new(Nft::open()?, settings, SOON),
        settings.clone(),
    ))
}

#[test]
fn policy_local_keeps_the_source_address_from_outside_and_is_short_cut_inside() {
    in_sandbox_async!(async {
        let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
        for n in 1..=2 {
            serve(&mk_pod(n)?, n)?;
        }
        let host = mk_host()?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(&all_settings())?;
        cluster.set(1, Some(&[])).edit(1, |service, endpoints| {
            service.external_ips = ips(VIPS).into();
            service.external_policy = TrafficPolicy::Local;
            let here = endpoints_on(1, "node-1", Conditions::READY);
            let there = endpoints_on(2, "node-2", Conditions::READY);
            *endpoints = [here, there].concat();
        });
        cluster.sync(&mut syncer).await?;
        for (index, vip) in ips(VIPS).into_iter().enumerate() {
            let at_node: IpAddr = HOST[index].parse()?;
            for transport in TRANSPORTS {
                for to in [SocketAddr::from((vip, PORT)), (at_node, node_port(1)).into()] {
                    for _ in 0..8 {
                        let answer = ask_from(&stranger, transport, to)??;
                        let wanted = format!("1 {}", stranger_ips(5)[index]);
                        ensure!(answer == wanted, "stranger to {to}: {answer}");
                    }
                    let pods = spread(&client, transport, to, 40)?;
                    ensure!(pods.len() == 2, "Pod to {to}: {pods:?}");
                    let pods = spread(&host, transport, to, 40)?;
                    ensure!(pods.len() == 2, "host to {to}: {pods:?}");
                }
                // A Pod keeps its address, on its way to either endpoint.
                for _ in 0..8 {
                    let answer = ask_from(&client, transport, (vip, PORT).into())??;
                    let source = answer.split(' ').nth(1).context("a source")?;
                    ensure!(source == pod_ips(100)[index].to_string(), "{answer}");
                }
            }
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}

fn all_local(cluster: &mut Cluster, list: Vec<Endpoint>) {
    cluster.set(1, Some(&[])).edit(1, |service, endpoints| {
        service.external_ips = ips(VIPS).into();
        service.external_policy = TrafficPolicy::Local;
        service.internal_policy = TrafficPolicy::Local;
        *endpoints = list;
    });
}

/// The only endpoint is Pod 2, elsewhere: from outside and under the internal policy there is nothing, for Pods
/// there is.
fn expect_silence(client: &Netns, stranger: &Netns) -> anyhow::Result<()> {
    for (index, vip) in ips(VIPS).into_iter().enumerate() {
        let external = SocketAddr::from((vip, PORT));
        let internal = SocketAddr::from((cluster_ips(1)[index], PORT));
        let at_node = SocketAddr::from((ips(HOST)[index], node_port(1)));
        for transport in TRANSPORTS {
            for (from, to) in [(stranger, external), (stranger, at_node), (client, internal)] {
                ensure!(is_silent(from, transport, to)?, "{} to {to}", from.name());
            }
            let answer = ask_from(client, transport, external)??;
            ensure!(answer.starts_with("2 "), "{answer}");
        }
    }
    Ok(())
}

#[test]
fn policy_local_without_a_local_endpoint_is_silent_outside_and_without_any_refuses() {
    in_sandbox_async!(async {
        let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
        for n in 1..=2 {
            serve(&mk_pod(n)?, n)?;
        }
        mk_host()?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(&all_settings())?;
        let here = endpoints_on(1, "node-1", Conditions::READY);
        let there = endpoints_on(2, "node-2", Conditions::READY);
        for with_local_before in [false, true] {
            if with_local_before {
                all_local(&mut cluster, [here.clone(), there.clone()].concat());
                cluster.sync(&mut syncer).await?;
            }
            all_local(&mut cluster, there.clone().into());
            cluster.sync(&mut syncer).await?;
            expect_silence(&client, &stranger).context("before left-overs go")?;
            retire(&mut syncer).await?;
            expect_silence(&client, &stranger).context("after left-overs went")?;
        }
        // From nothing to a local one.
        for (list, reached) in [(vec![], false), ([here, there].concat(), true)] {
            all_local(&mut cluster, list);
            cluster.sync(&mut syncer).await?;
            for (vip, internal) in ips(VIPS).into_iter().zip(cluster_ips(1)) {
                for (from, to) in [(&stranger, vip), (&client, internal)] {
                    match ask_from(from, Transport::Tcp, (to, PORT).into())? {
                        Ok(answer) => ensure!(reached && answer.starts_with("1 "), "{to}: {answer}"),
                        Err(error) => {
                            let refused = error.kind() == ErrorKind::ConnectionRefused;
                            ensure!(!reached && refused, "{to}: {error}");
                        }
                    }
                }
            }
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}

#[test]
fn a_draining_endpoint_serves_where_its_list_has_nothing_else() {
    in_sandbox_async!(async {
        let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
        for n in 1..=2 {
            serve(&mk_pod(n)?, n)?;
        }
        mk_host()?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(&all_settings())?;
        for (elsewhere, cluster_list) in [(Conditions::READY, "2 "), (DRAINING, "")] {
            cluster.set(1, Some(&[])).edit(1, |service, endpoints| {
                service.external_ips = ips(VIPS).into();
                service.external_policy = TrafficPolicy::Local;
                let here = endpoints_on(1, "node-1", DRAINING);
                *endpoints = [here, endpoints_on(2, "node-2", elsewhere)].concat();
            });
            cluster.sync(&mut syncer).await?;
            for (vip, internal) in ips(VIPS).into_iter().zip(cluster_ips(1)) {
                let answer = ask_from(&stranger, Transport::Tcp, (vip, PORT).into())??;
                ensure!(answer.starts_with("1 "), "{elsewhere:?}: {answer}");
                let answer = ask_from(&client, Transport::Tcp, (internal, PORT).into())??;
                ensure!(answer.starts_with(cluster_list), "{elsewhere:?}: {answer}");
            }
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}

/// A LoadBalancer that lets these in, with an external IP besides that lets everybody in.
fn balance(cluster: &mut Cluster, ranges: &[&str]) {
    let ranges = ranges.iter().map(|net| net.parse().unwrap()).collect();
    cluster.set(1, Some(&[1])).edit(1, |service, _| {
        service.kind = ServiceKind::LoadBalancer;
        service.load_balancer = ips(VIPS)
            .map(|ip| LoadBalancerIngress {
                ip,
                mode: IpMode::Vip,
            })
            .into();
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
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(&all_settings())?;
        let both = [
            (vec!["203.0.113.0/25", "2001:db8::/121"], [true, false]),
            (vec!["203.0.113.0/24", "2001:db8::/120"], [true, true]),
            (vec!["203.0.113.128/25", "2001:db8::80/121"], [false, true]),
            (
                vec!["203.0.113.200/32", "203.0.113.0/24", "2001:db8::/64"],
                [true, true],
            ),
            (vec!["198.51.100.0/24"], [false, false]),
            (vec!["198.51.100.0/24", "0.0.0.0/0"], [true, true]),
        ];
        for (ranges, let_in) in both {
            balance(&mut cluster, &ranges);
            cluster.sync(&mut syncer).await?;
            for ((n, stranger), let_in) in strangers.iter().zip(let_in) {
                for (index, vip) in ips(VIPS).into_iter().enumerate() {
                    let to = SocketAddr::from((vip, PORT));
                    if let_in {
                        let answer = ask_from(stranger, Transport::Tcp, to)?;
                        ensure!(
                            answer.is_ok_and(|answer| answer.starts_with("1 ")),
                            "{ranges:?}: {n} to {to}"
                        );
                    } else {
                        ensure!(
                            is_silent(stranger, Transport::Tcp, to)?,
                            "{ranges:?}: {n} to {to}"
                        );
                    }
                    let (other, at_node) = (ips(OTHER_VIPS)[index], ips(HOST)[index]);
                    for to in [SocketAddr::from((other, PORT)), (at_node, node_port(1)).into()] {
                        let answer = ask_from(stranger, Transport::Tcp, to)??;
                        ensure!(answer.starts_with("1 "), "{ranges:?}: {n} to {to}: {answer}");
                    }
                }
            }
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}

#[test]
fn a_udp_client_that_keeps_its_port_is_shut_out_with_its_network() {
    in_sandbox_async!(async {
        let stranger = mk_stranger(5)?;
        serve(&mk_pod(1)?, 1)?;
        mk_host()?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(&all_settings())?;
        for (any, vip) in ["0.0.0.0", "::"].into_iter().zip(ips(VIPS)) {
            let socket = stranger.run(|| UdpSocket::bind((any, 0)))??;
            socket.connect((vip, PORT))?;
            for (ranges, let_in) in [
                (["203.0.113.0/25", "2001:db8::/121"], true),
                (["203.0.113.128/25", "2001:db8::80/121"], false),
            ] {
                balance(&mut cluster, &ranges);
                cluster.sync(&mut syncer).await?;
                socket.set_read_timeout(Some(if let_in { PATIENCE } else { SOON }))?;
                socket.send(b"?")?;
                let answer = socket.recv(&mut [0; 64]);
                ensure!(answer.is_ok() == let_in, "{vip}, {ranges:?}: {answer:?}");
            }
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
        let mut cluster = Cluster::new();
        cluster.set(1, Some(&[1])).set(2, Some(&[]));
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
        let mut syncer = mk_syncer(&chosen(&[HOST]))?;
        cluster.sync(&mut syncer).await?;
        let cases = [
            (chosen(&[HOST]), [true, false]),
            (chosen(&[NODE]), [false, true]),
            (chosen(&[]), [false, false]),
            (chosen(&[NODE, HOST]), [true, true]),
            (all_settings(), [true, true]),
        ];
        for (settings, served) in cases {
            syncer.reconfigure(settings.clone(), &cluster.view);
            let done = syncer.turn().await?;
            ensure!(done.rebuilt == 0, "{done:?}");
            ensure!(syncer.turn().await?.is_nothing());
            for (addresses, served) in [HOST, NODE].into_iter().zip(served) {
                for ip in ips(addresses) {
                    let outcome = ask_from(&stranger, Transport::Tcp, (ip, node_port(1)).into())?;
                    ensure!(outcome.is_ok() == served, "{settings:?}: {ip}: {outcome:?}");
                    // Without a rule of ours the node itself refuses as well.
                    let outcome = ask_from(&stranger, Transport::Tcp, (ip, node_port(2)).into())?;
                    ensure!(outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused));
                }
            }
            let mut restarted = mk_syncer(&settings)?;
            restarted.take(&cluster.view, &cluster.view.services.keys().cloned().collect());
            ensure!(restarted.turn().await?.is_nothing(), "{settings:?}");
        }
        anyhow::Ok(())
    });
}

fn everything(cluster: &mut Cluster) -> Settings {
    balance(
        cluster,
        &[
            "203.0.113.0/25",
            "203.0.113.200/32",
            "10.77.0.0/16",
            "2001:db8::/64",
        ],
    );
    for (n, node) in [(2, "node-1"), (3, "node-2")] {
        cluster.set(n, Some(&[])).edit(n, |service, endpoints| {
            service.internal_policy = TrafficPolicy::Local;
            service.external_policy = TrafficPolicy::Local;
            *endpoints = endpoints_on(11, node, Conditions::READY).into();
        });
    }
    let on_host = |all: NodePortAddresses, family| all.only(family, ips(HOST));
    Settings {
        node_port_addresses: IpFamily::ALL.into_iter().fold(NodePortAddresses::all(), on_host),
        ..all_settings()
    }
}

#[test]
fn everything_lists_and_loads_and_reads_back_and_goes() {
    in_sandbox_async!(async {
        let mut cluster = Cluster::new();
        let settings = everything(&mut cluster);
        let mut syncer = mk_syncer(&settings)?;
        cluster.sync(&mut syncer).await?;
        for word in ["ip", "ip6"] {
            let listed = list(word)?;
            for set in [
                "allowed-sources",
                "ranged-vips",
                "drop-vips",
                "drop-local-nodeports",
                "nodeport-local-slots",
            ] {
                let block = listed.split(&format!(" {set} {{")).nth(1).context(set)?;
                let block = block.split("\n\t}").next().context(set)?;
                ensure!(block.contains("elements = {"), "{set} is empty:\n{listed}");
            }
            let bound = listed.contains("192.0.2.7 . tcp . 80 . 192.0.2.7,");
            ensure!(word == "ip6" || bound, "{listed}");
            nft(&["delete", "table", word, "berth-proxy"], "")?;
            nft(&["-f", "-"], &listed)?;
            ensure!(list(word)? == listed, "list and load changed the table");
        }
        let mut restarted = mk_syncer(&settings)?;
        restarted.take(&cluster.view, &cluster.view.services.keys().cloned().collect());
        ensure!(restarted.turn().await?.is_nothing());
        for n in 1..=3 {
            cluster.set(n, None);
        }
        cluster.sync(&mut restarted).await?;
        retire(&mut restarted).await?;
        ensure!(
            restarted
                .backend()
                .elements()
                .iter()
                .all(|(_, elements)| *elements == 0)
        );
        // The networks stay.
        for word in ["ip", "ip6"] {
            let listed = list(word)?;
            ensure!(listed.matches("elements = {").count() == 2, "{listed}");
        }
        anyhow::Ok(())
    });
}
