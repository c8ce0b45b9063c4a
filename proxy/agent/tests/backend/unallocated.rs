// SPDX-License-Identifier: Apache-2.0
//! What becomes of packets to addresses that ClusterIPs are given from and that no Service has.

use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;
use berth_proxy_agent::apply::nft::Nft;
use berth_proxy_agent::nftables::Nftables;
use berth_proxy_agent::sync::Syncer;
use berth_proxy_core::Settings;
use berth_testkit::in_sandbox_async;
use berth_testkit::netns::Netns;

use crate::cluster::{Cluster, PORT, TARGET_PORT, cluster_ips, settings};
use crate::packets::{SOON, untranslated};
use crate::structure::{list, nft};
use crate::traffic::{Transport, ask_from, is_refusal, is_silent, mk_host, mk_pod, mk_stranger, serve};

/// Of ClusterIPs that no Service has.
const NOBODYS: u16 = 9;

/// The default ServiceCIDR of this cluster; `None` as long as it is not known.
fn given(cidrs: Option<&[&str]>) -> Settings {
    Settings {
        service_cidrs: cidrs.map(|cidrs| cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect()),
        ..settings()
    }
}

const CIDRS: Option<&[&str]> = Some(&["10.96.0.0/16", "fd00:10:96::/112"]);

fn mk_syncer(settings: &Settings) -> anyhow::Result<Syncer<Nftables>> {
    let backend = Nftables::new(Nft::open()?, settings, SOON);
    Ok(Syncer::new(backend, settings.clone()))
}

/// Pod 1 serves and has nobody's addresses, too, and all ClusterIPs are routed there: without a rule of ours it would answer.
fn mk_server() -> anyhow::Result<()> {
    let [v4, v6] = cluster_ips(NOBODYS);
    let pod = mk_pod(1)?;
    serve(&pod, 1)?;
    pod.ip(&format!(
        "addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n"
    ))?;
    Netns::current("node")?.ip("route add 10.96.0.0/16 dev v1\nroute add fd00:10:96::/112 dev v1\n")?;
    Ok(())
}

fn expect(clients: &[Netns], ip: impl Fn(usize) -> IpAddr, port: u16, silent: bool) -> anyhow::Result<()> {
    // Asked by that address itself, a Pod's datagram would come back from another.
    let transports = if port == TARGET_PORT {
        &[Transport::Tcp][..]
    } else {
        &[Transport::Tcp, Transport::Udp]
    };
    for client in clients {
        for index in 0..2 {
            for transport in transports.iter().copied() {
                let to = SocketAddr::from((ip(index), port));
                let who = format!("{} to {to} by {transport:?}", client.name());
                if silent {
                    ensure!(is_silent(client, transport, to)?, "{who} is not dropped");
                } else {
                    let answer = ask_from(client, transport, to)?;
                    ensure!(
                        answer.as_ref().is_ok_and(|answer| answer.starts_with("1 ")),
                        "{who}: {answer:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn addresses_of_a_service_cidr_that_no_service_has_are_silent_and_others_are_as_before() {
    in_sandbox_async!(async {
        mk_server()?;
        let clients = [mk_pod(100)?, mk_stranger(5)?, mk_host()?];
        let nobodys = |index: usize| cluster_ips(NOBODYS)[index];
        let mut cluster = Cluster::new();
        cluster.set(1, Some(&[1]));
        let mut syncer = mk_syncer(&given(None))?;
        cluster.sync(&mut syncer).await?;
        expect(&clients, nobodys, TARGET_PORT, false)?;
        for (cidrs, silent) in [
            (CIDRS, true),
            (Some(&["10.97.0.0/16", "fd00:10:97::/112"][..]), false),
            (CIDRS, true),
        ] {
            syncer.reconfigure(given(cidrs), &cluster.view);
            let done = syncer.turn().await?;
            ensure!(done.rebuilt == 0 && done.networks > 0, "{done:?}");
            expect(&clients, nobodys, TARGET_PORT, silent)?;
        }
        expect(&clients, |index| cluster_ips(1)[index], PORT, false)?;
        for client in &clients {
            let to = (cluster_ips(1)[0], PORT + 1).into();
            let unknown_port = ask_from(client, Transport::Tcp, to)?;
            ensure!(
                is_refusal(client, Transport::Tcp, &unknown_port),
                "{unknown_port:?}"
            );
        }
        // Who comes to have it is served at once, and nobody once it is gone.
        for (pods, silent) in [(Some(&[1][..]), false), (None, true)] {
            cluster.set(NOBODYS, pods).sync(&mut syncer).await?;
            expect(
                &clients[..1],
                nobodys,
                if silent { TARGET_PORT } else { PORT },
                silent,
            )?;
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}

#[test]
fn a_cluster_ip_that_another_proxy_serves_is_left_to_it() {
    in_sandbox_async!(async {
        mk_server()?;
        let client = [mk_pod(100)?];
        let mut cluster = Cluster::new();
        cluster.set(1, Some(&[1]));
        let mut syncer = mk_syncer(&given(CIDRS))?;
        cluster.sync(&mut syncer).await?;
        let theirs = |index: usize| cluster_ips(NOBODYS)[index];
        expect(&client, theirs, PORT, true)?;
        let table = |word: &str, index: usize, to: &str| {
            format!(
                "table {word} another {{\n chain pre {{\n type nat hook prerouting priority -100\n \
                 {word} daddr {} tcp dport 80 dnat to {to}\n }}\n}}\n",
                theirs(index)
            )
        };
        nft(&["-f", "-"], &table("ip", 0, "10.244.0.1:8080"))?;
        nft(&["-f", "-"], &table("ip6", 1, "[fd00:10:244::1]:8080"))?;
        for index in 0..2 {
            let answer = ask_from(&client[0], Transport::Tcp, (theirs(index), PORT).into())?;
            ensure!(
                answer.as_ref().is_ok_and(|answer| answer.starts_with("1 ")),
                "{answer:?}"
            );
        }
        anyhow::Ok(())
    });
}

#[test]
fn the_rule_lists_and_loads_and_a_restart_that_knows_no_cidrs_yet_leaves_it() {
    in_sandbox_async!(async {
        let mut cluster = Cluster::new();
        cluster.set(1, Some(&[]));
        let mut syncer = mk_syncer(&given(CIDRS))?;
        cluster.sync(&mut syncer).await?;
        for (word, cidr) in [("ip", "10.96.0.0/16"), ("ip6", "fd00:10:96::/112")] {
            let listed = list(word)?;
            ensure!(listed.contains(&format!("elements = {{ {cidr} }}")), "{listed}");
            nft(&["delete", "table", word, "berth-proxy"], "")?;
            nft(&["-f", "-"], &listed)?;
            ensure!(list(word)? == listed, "list and load changed the table");
        }
        let before = ["ip", "ip6"].map(list);
        let mut restarted = mk_syncer(&given(None))?;
        restarted.take(&cluster.view, &cluster.view.services.keys().cloned().collect());
        ensure!(restarted.turn().await?.is_nothing());
        restarted.reconfigure(given(CIDRS), &cluster.view);
        ensure!(restarted.turn().await?.is_nothing());
        for (word, before) in ["ip", "ip6"].into_iter().zip(before) {
            ensure!(list(word)? == before?);
        }
        restarted.reconfigure(given(Some(&[])), &cluster.view);
        ensure!(restarted.turn().await?.networks > 0);
        ensure!(!list("ip")?.contains("10.96.0.0/16"));
        anyhow::Ok(())
    });
}
