// SPDX-License-Identifier: Apache-2.0
//! What stays, what comes back, and what goes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use berth_proxy_agent::backend::Done;
use berth_proxy_agent::ipvs::{Ipvs, IpvsOptions, remove};
use berth_proxy_agent::sync::Syncer;
use berth_proxy_core::ipvs::Scheduler;
use berth_testkit::netns::Netns;

use crate::cluster::{Cluster, block_on, mk_syncer, mk_syncer_with, on, settings};
use crate::world::{
    PORT, Transport, VIPS, ask, cluster_ips, connect, expect_silent, ips, mk_node, mk_pod, mk_stranger,
    reset, spread, talk,
};

fn text(node: &Netns, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    Ok(node.output(program, arguments)?)
}

/// How many destinations of TCP and UDP the servers have.
fn destinations(syncer: &Syncer<Ipvs>) -> usize {
    let installed = syncer.backend().installed();
    installed.map_or(0, |installed| {
        installed
            .servers()
            .map(|(_, server)| server.destinations.len())
            .sum()
    })
}

async fn settle(syncer: &mut Syncer<Ipvs>) -> anyhow::Result<()> {
    while let Some(wait) = syncer.next_wake() {
        tokio::time::sleep(wait).await;
        syncer.turn().await?;
    }
    Ok(())
}

pub(crate) fn an_endpoint_that_left_keeps_its_connections_until_they_end() -> anyhow::Result<()> {
    block_on(async {
        let node = mk_node()?;
        let client = mk_pod(100)?;
        for n in 1..=2 {
            mk_pod(n)?;
        }
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        cluster.set(1, &[2]).sync(&mut syncer).await?;
        let mut open = Vec::new();
        for ip in cluster_ips(1) {
            let (stream, first) = connect(&client, (ip, PORT).into())?;
            ensure!(first.starts_with("2 "), "{first}");
            open.push(stream);
        }
        cluster.set(1, &[1]).sync(&mut syncer).await?;
        let draining = destinations(&syncer);
        for _ in 0..3 {
            tokio::time::sleep(syncer.next_wake().context("it drains")?).await;
            syncer.turn().await?;
            open.iter_mut().try_for_each(talk)?;
        }
        for ip in cluster_ips(1) {
            let (stream, first) = connect(&client, (ip, PORT).into())?;
            ensure!(first.starts_with("1 "), "{first}");
            reset(&stream)?;
        }
        // The Service goes, too: the connection stays, new ones are refused.
        cluster.remove(1).sync(&mut syncer).await?;
        open.iter_mut()
            .try_for_each(talk)
            .context("after the Service went")?;
        let refused = ask(&client, Transport::Tcp, (cluster_ips(1)[0], PORT).into())?;
        ensure!(refused.is_err(), "{refused:?}");
        ensure!(destinations(&syncer) > 0 && draining > destinations(&syncer));
        open.iter().try_for_each(reset)?;
        drop(open);
        tokio::time::timeout(Duration::from_secs(60), settle(&mut syncer)).await??;
        ensure!(text(&node, "ipvsadm", &["-Sn"])?.is_empty());
        let left = text(&node, "ip", &["-o", "addr", "show", "dev", "kube-ipvs0"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

pub(crate) fn a_restart_writes_nothing_and_gives_weights_back() -> anyhow::Result<()> {
    block_on(async {
        let node = mk_node()?;
        let client = mk_pod(100)?;
        mk_pod(1)?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        let local = |service: &mut berth_model::Service| {
            service.external_policy = berth_model::TrafficPolicy::Local;
        };
        cluster
            .put(1, [on("node-1", &[1]), on("node-2", &[2])].concat(), local)
            .put(2, vec![], |service| service.external_ips = vec![])
            .put(3, on("node-1", &[1]), |service| {
                service.external_ips = vec![];
                service.affinity = berth_model::SessionAffinity::ClientIp { timeout_seconds: 30 };
            });
        let first = cluster.sync(&mut syncer).await?;
        ensure!(first.changes > 20 && first.rebuilt == 2, "{first:?}");
        let installed = syncer.backend().installed().cloned();
        drop(syncer);
        let mut restarted = cluster.restarted().await?;
        let again = cluster.sync(&mut restarted).await?;
        ensure!(
            (again.changes, again.rebuilt, again.networks) == (0, 0, 0),
            "{again:?}"
        );
        ensure!(restarted.backend().installed() == installed.as_ref());
        // Whoever left weights at 0, they come back.
        let vip = format!("{}:{PORT}", cluster_ips(1)[0]);
        text(
            &node,
            "ipvsadm",
            &["-e", "-t", &vip, "-r", "10.244.0.1:8080", "-m", "-w", "0"],
        )?;
        let mut restarted = cluster.restarted().await?;
        let again = cluster.sync(&mut restarted).await?;
        ensure!(again.changes == 1, "{again:?}");
        let counts = spread(&client, Transport::Tcp, (cluster_ips(3)[0], PORT).into(), 2)?;
        ensure!(counts.keys().eq(["1"]), "{counts:?}");
        Ok(())
    })
}

/// Whether one of some glances sees it: each looks at other destinations.
async fn is_seen(syncer: &mut Syncer<Ipvs>) -> anyhow::Result<bool> {
    for _ in 0..4 {
        if syncer.glance().await? {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(crate) fn what_somebody_else_takes_away_comes_back() -> anyhow::Result<()> {
    block_on(async {
        let node = mk_node()?;
        let client = mk_pod(100)?;
        mk_pod(1)?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        cluster.set(1, &[1]).sync(&mut syncer).await?;
        syncer.audit().await?;
        ensure!(
            syncer.turn().await?.is_nothing(),
            "an audit of what is right has nothing written"
        );
        for _ in 0..3 {
            ensure!(!syncer.glance().await?, "nobody changed anything");
        }
        let vip = cluster_ips(1)[0];
        let on_link = format!("{vip}/32");
        let server = format!("{vip}:{PORT}");
        let endpoint = "10.244.0.1:8080";
        for (program, arguments) in [
            ("ip", vec!["addr", "del", &on_link, "dev", "kube-ipvs0"]),
            ("ipvsadm", vec!["-d", "-t", &server, "-r", endpoint]),
            (
                "ipvsadm",
                vec!["-e", "-t", &server, "-r", endpoint, "-m", "-w", "0"],
            ),
            ("ip", vec!["link", "del", "kube-ipvs0"]),
            ("ipvsadm", vec!["-D", "-t", &server]),
            ("ipvsadm", vec!["-C"]),
            ("iptables-legacy", vec!["-t", "mangle", "-F"]),
            ("ip6tables-legacy", vec!["-t", "nat", "-F", "BERTH-POSTROUTING"]),
            ("ipset", vec!["flush", "BERTH-MASQUERADE-FOREIGN"]),
        ] {
            text(&node, program, &arguments)?;
            if program == "ipset" {
                syncer.audit().await?;
            } else {
                ensure!(is_seen(&mut syncer).await?, "{program} {arguments:?}: not seen");
            }
            let done = syncer.turn().await?;
            ensure!(done != Done::default(), "{program} {arguments:?} was not seen");
            let answer = ask(&client, Transport::Tcp, (vip, PORT).into())??;
            ensure!(
                answer == "1 10.244.0.100",
                "after {program} {arguments:?}: {answer}"
            );
            syncer.audit().await?;
            ensure!(syncer.turn().await?.is_nothing(), "after {program} {arguments:?}");
        }
        Ok(())
    })
}

pub(crate) fn clean_up_leaves_nothing_of_ours_and_all_of_others() -> anyhow::Result<()> {
    block_on(async {
        let node = mk_node()?;
        let stranger = mk_stranger(5)?;
        mk_pod(1)?;
        ensure!(!remove().await?, "nothing is there yet");
        text(&node, "ipset", &["create", "KUBE-CLUSTER-IP", "hash:ip,port"])?;
        text(&node, "iptables-legacy", &["-t", "nat", "-N", "KUBE-SERVICES"])?;
        text(&node, "ipvsadm", &["-A", "-t", "10.77.0.11:443", "-s", "wrr"])?;
        text(&node, "ipvsadm", &["-A", "-f", "7", "-s", "rr"])?;
        let all = || -> anyhow::Result<Vec<String>> {
            let rules = |program: &str| -> anyhow::Result<String> {
                let saved = text(&node, program, &[])?;
                // Tables and built-in chains stay once they were used.
                let ours = saved
                    .lines()
                    .filter(|line| line.contains("KUBE-") || line.contains("BERTH-"));
                Ok(ours.collect::<Vec<_>>().join("\n"))
            };
            Ok(vec![
                text(&node, "ipset", &["list", "-name"])?,
                text(&node, "ipvsadm", &["-Sn"])?,
                rules("iptables-legacy-save")?,
                rules("ip6tables-legacy-save")?,
            ])
        };
        let before = all()?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        cluster
            .put(1, on("node-1", &[1]), |service| {
                service.external_policy = berth_model::TrafficPolicy::Local;
            })
            .sync(&mut syncer)
            .await?;
        ensure!(all()? != before);
        let vip = SocketAddr::from((ips(VIPS)[0], PORT));
        ensure!(ask(&stranger, Transport::Tcp, vip)??.starts_with("1 "));
        ensure!(
            text(&node, "ipvsadm", &["-Sn"])?.contains("-A -f 7 -s rr"),
            "a server of somebody else's"
        );
        ensure!(remove().await?);
        ensure!(all()? == before, "{:#?} is not {before:#?}", all()?);
        ensure!(node.output("ip", &["link", "show", "kube-ipvs0"]).is_err());
        ensure!(!remove().await?);
        Ok(())
    })
}

pub(crate) fn a_scheduler_that_the_kernel_lacks_is_named_and_another_takes_its_servers_over()
-> anyhow::Result<()> {
    block_on(async {
        let node = mk_node()?;
        let client = mk_pod(100)?;
        mk_pod(1)?;
        let mut cluster = Cluster::new();
        // Linux 5.15 has it; Debian's user-mode-linux is built without.
        let mut syncer = mk_syncer_with(Scheduler::Twos).await?;
        let error = cluster
            .set(1, &[1])
            .sync(&mut syncer)
            .await
            .err()
            .context("no such scheduler")?;
        let said = error.to_string();
        for part in ["-s twos", "ip_vs_twos", "--ipvs-scheduler"] {
            ensure!(said.contains(part), "{said}");
        }
        for scheduler in [Scheduler::Lc, Scheduler::Mh] {
            let mut syncer = mk_syncer_with(scheduler).await?;
            cluster.set(1, &[1]).sync(&mut syncer).await?;
            let servers = text(&node, "ipvsadm", &["-Sn"])?;
            let wanted = format!("-A -t {}:{PORT} -s {scheduler}", cluster_ips(1)[0]);
            ensure!(servers.contains(&wanted), "{servers}");
            let answer = ask(&client, Transport::Tcp, (cluster_ips(1)[0], PORT).into())??;
            ensure!(answer == "1 10.244.0.100", "{answer}");
        }
        Ok(())
    })
}

/// `arp_ignore` and `arp_announce` of all links.
fn arp() -> anyhow::Result<[String; 2]> {
    let [ignore, announce] = ["arp_ignore", "arp_announce"].map(|name| {
        let file = format!("/proc/sys/net/ipv4/conf/all/{name}");
        std::fs::read_to_string(file).map(|text| text.trim().to_owned())
    });
    Ok([ignore?, announce?])
}

pub(crate) fn with_strict_arp_this_host_does_not_answer_for_service_addresses_and_without_it_is_left_alone()
-> anyhow::Result<()> {
    block_on(async {
        let node = mk_node()?;
        mk_pod(1)?;
        // They take the external address for one of their own link, and ask for it there.
        let strangers = [mk_stranger(5)?, mk_stranger(6)?];
        for stranger in &strangers {
            stranger.ip(&format!("route add {} dev eth0\n", VIPS[0]))?;
        }
        let to = SocketAddr::from((ips(VIPS)[0], PORT));
        let mut cluster = Cluster::new();
        for (strict_arp, from, found, left) in [
            (false, &strangers[0], ["0", "1"], ["0", "1"]),
            (true, &strangers[1], ["0", "0"], ["1", "2"]),
        ] {
            let [ignore, announce] = found;
            node.sysctl(&[
                ("net/ipv4/conf/all/arp_ignore", ignore),
                ("net/ipv4/conf/all/arp_announce", announce),
            ])?;
            let options = IpvsOptions {
                strict_arp,
                ..IpvsOptions::default()
            };
            let mut syncer = Syncer::new(Ipvs::open(&settings(), options).await?, settings());
            cluster.set(1, &[1]).sync(&mut syncer).await?;
            ensure!(arp()? == left, "strict: {strict_arp}: {:?}", arp()?);
            if strict_arp {
                expect_silent(&[(from, Transport::Udp, to)])?;
            } else {
                let answer = ask(from, Transport::Udp, to)??;
                ensure!(answer.starts_with("1 "), "{answer}");
            }
        }
        Ok(())
    })
}
