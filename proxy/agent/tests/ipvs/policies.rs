// SPDX-License-Identifier: Apache-2.0
//! Traffic policies and source ranges, as real packets meet them.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use berth_model::{
    Endpoint, IpMode, LoadBalancerIngress, Service, ServiceKind, SessionAffinity, TrafficPolicy,
};
use berth_testkit::netns::Netns;

use crate::cluster::{Cluster, block_on, mk_syncer, on};
use crate::world::{
    HOST, PORT, TRANSPORTS, Transport, VIPS, ask, cluster_ips, expect_silent, ips, mk_node, mk_pod,
    mk_stranger, node_port, pod_ips, spread, stranger_ips,
};

fn local(service: &mut Service) {
    service.external_policy = TrafficPolicy::Local;
}

/// Pod 1 is here, Pod 2 elsewhere, as far as anybody can tell.
fn here_and_there() -> Vec<Endpoint> {
    [on("node-1", &[1]), on("node-2", &[2])].concat()
}

/// The external address and the node port, by family.
fn external(index: usize) -> [SocketAddr; 2] {
    [
        (ips(VIPS)[index], PORT).into(),
        (ips(HOST)[index], node_port(1)).into(),
    ]
}

fn mk_world() -> anyhow::Result<(Netns, Netns, Netns)> {
    let node = mk_node()?;
    let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
    for n in 1..=2 {
        mk_pod(n)?;
    }
    Ok((node, client, stranger))
}

fn expect_local(node: &Netns, client: &Netns, stranger: &Netns) -> anyhow::Result<()> {
    for index in 0..2 {
        for to in external(index) {
            for transport in TRANSPORTS {
                let wanted = format!("1 {}", stranger_ips(5)[index]);
                for _ in 0..3 {
                    let answer = ask(stranger, transport, to)??;
                    ensure!(answer == wanted, "stranger, {transport:?} to {to}: {answer}");
                }
                for from in [client, node] {
                    let pods = spread(from, transport, to, 6)?;
                    ensure!(
                        pods.len() == 2,
                        "{}, {transport:?} to {to}: {pods:?}",
                        from.name()
                    );
                }
                // A Pod keeps its address on its way to either endpoint.
                for _ in 0..2 {
                    let answer = ask(client, transport, to)??;
                    let source = answer.split(' ').nth(1).context("a source")?;
                    ensure!(
                        source == pod_ips(100)[index].to_string(),
                        "{transport:?} to {to}: {answer}"
                    );
                }
            }
        }
    }
    Ok(())
}

pub(crate) fn policy_local_keeps_the_source_address_from_outside_and_is_short_cut_inside()
-> anyhow::Result<()> {
    block_on(async {
        let (node, client, stranger) = mk_world()?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        cluster.put(1, here_and_there(), local).sync(&mut syncer).await?;
        expect_local(&node, &client, &stranger)?;
        // With affinity a Pod stays by its address; the port is translated all the same.
        let stays = |service: &mut Service| {
            local(service);
            service.affinity = SessionAffinity::ClientIp { timeout_seconds: 600 };
        };
        cluster.put(1, here_and_there(), stays).sync(&mut syncer).await?;
        for index in 0..2 {
            for to in external(index) {
                let pods = spread(&client, Transport::Tcp, to, 6)?;
                ensure!(pods.len() == 1, "{to}: {pods:?}");
                let answer = ask(&stranger, Transport::Tcp, to)??;
                ensure!(answer == format!("1 {}", stranger_ips(5)[index]), "{answer}");
            }
        }
        Ok(())
    })
}

fn expect_silence(client: &Netns, stranger: &Netns) -> anyhow::Result<()> {
    let mut tries = Vec::new();
    for index in 0..2 {
        let internal = SocketAddr::from((cluster_ips(1)[index], PORT));
        let [vip, at_node] = external(index);
        for transport in TRANSPORTS {
            for (from, to) in [(stranger, vip), (stranger, at_node), (client, internal)] {
                tries.push((from, transport, to));
            }
            let answer = ask(client, transport, vip)??;
            ensure!(answer.starts_with("2 "), "{answer}");
        }
    }
    expect_silent(&tries)
}

pub(crate) fn policy_local_without_a_local_endpoint_is_silent_outside_and_serves_pods() -> anyhow::Result<()>
{
    block_on(async {
        let (_, client, stranger) = mk_world()?;
        let all_local = |service: &mut Service| {
            local(service);
            service.internal_policy = TrafficPolicy::Local;
        };
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        cluster
            .put(1, on("node-2", &[2]), all_local)
            .sync(&mut syncer)
            .await?;
        expect_silence(&client, &stranger).context("from the beginning")?;
        cluster
            .put(1, here_and_there(), all_local)
            .sync(&mut syncer)
            .await?;
        let answer = ask(&stranger, Transport::Tcp, external(0)[0])??;
        ensure!(answer.starts_with("1 "), "{answer}");
        cluster
            .put(1, on("node-2", &[2]), all_local)
            .sync(&mut syncer)
            .await?;
        expect_silence(&client, &stranger).context("after the endpoint left")?;
        Ok(())
    })
}

pub(crate) fn source_ranges_bind_the_load_balancer_address_alone() -> anyhow::Result<()> {
    block_on(async {
        let (node, client, stranger) = mk_world()?;
        let other = mk_stranger(200)?;
        let balanced = |ranges: &[&str]| {
            let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
            move |service: &mut Service| {
                service.kind = ServiceKind::LoadBalancer;
                service.external_ips = vec![];
                service.load_balancer = ips(VIPS)
                    .map(|ip| LoadBalancerIngress {
                        ip,
                        mode: IpMode::Vip,
                    })
                    .into();
                service.source_ranges = Some(ranges);
            }
        };
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        let some = [
            "203.0.113.0/25",
            "2001:db8:203::/121",
            "10.77.0.0/16",
            "fd00:77::/64",
        ];
        cluster
            .put(1, on("node-1", &[1]), balanced(&some))
            .sync(&mut syncer)
            .await?;
        for index in 0..2 {
            let [vip, at_node] = external(index);
            for transport in TRANSPORTS {
                // This host comes from the address itself, which the ranges let in where they let the node in.
                for from in [&stranger, &node] {
                    ensure!(
                        ask(from, transport, vip)?.is_ok(),
                        "{} {transport:?}",
                        from.name()
                    );
                }
                expect_silent(&[(&other, transport, vip), (&client, transport, vip)])?;
                ensure!(
                    ask(&other, transport, at_node)?.is_ok(),
                    "node port {transport:?}"
                );
            }
        }
        let none_of_them = ["198.51.100.0/24", "2001:db8:51::/64"];
        cluster
            .put(1, on("node-1", &[1]), balanced(&none_of_them))
            .sync(&mut syncer)
            .await?;
        expect_silent(&[
            (&stranger, Transport::Tcp, external(0)[0]),
            (&node, Transport::Tcp, external(1)[0]),
        ])
    })
}

pub(crate) fn a_policy_that_changes_is_followed_in_place() -> anyhow::Result<()> {
    block_on(async {
        let (node, client, stranger) = mk_world()?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        for pass in 0..2 {
            cluster.put(1, here_and_there(), |_| {}).sync(&mut syncer).await?;
            let pods = spread(&stranger, Transport::Tcp, external(0)[0], 6)?;
            ensure!(pods.len() == 2, "pass {pass}: {pods:?}");
            cluster.put(1, here_and_there(), local).sync(&mut syncer).await?;
            expect_local(&node, &client, &stranger).with_context(|| format!("pass {pass}"))?;
        }
        Ok(())
    })
}
