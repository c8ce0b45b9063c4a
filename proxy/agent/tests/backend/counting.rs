// SPDX-License-Identifier: Apache-2.0
//! Whether traffic reaches a Service: counts of real connections.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;
use berth_model::{IpFamily, Protocol, ServiceKey};
use berth_proxy_agent::apply::count::Counting;
use berth_proxy_core::Frontend;
use berth_proxy_core::counting::{Tally, counted};

use berth_testkit::in_sandbox_async;
use berth_testkit::netns::Netns;

use crate::cluster::{Cluster, PORT, cluster_ips, mk_syncer, node_port};
use crate::packets::SOON;
use crate::structure::nft;
use crate::traffic::{HOST, Transport, ask_from, ips, mk_host, mk_pod, serve};

fn vip(ip: IpAddr, protocol: Protocol) -> Frontend {
    Frontend::Vip {
        ip,
        protocol,
        port: PORT.try_into().unwrap(),
    }
}

fn ask_often(times: usize, from: &Netns, transport: Transport, to: SocketAddr) -> anyhow::Result<()> {
    for _ in 0..times {
        let answer = ask_from(from, transport, to)?;
        let refused = answer
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        ensure!(answer.is_ok() || refused, "{to}: {answer:?}");
    }
    Ok(())
}

fn tally(asked: u64, let_through: u64) -> Tally {
    Tally {
        asked,
        let_through: Some(let_through),
    }
}

#[test]
fn new_connections_are_counted_by_frontend_and_nothing_is_left_of_it() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        let host = mk_host()?;
        host.ip("route add 10.96.0.0/16 dev v1\n")?;
        let mut cluster = Cluster::new();
        cluster.set(1, Some(&[1])).set(2, Some(&[])).set(3, Some(&[1]));
        let mut syncer = mk_syncer(SOON)?;
        cluster.sync(&mut syncer).await?;
        let [served, empty, other] = [1, 2, 3].map(cluster_ips);
        ask_often(1, &client, Transport::Tcp, (served[0], PORT).into())?;
        let wanted = [1, 2].map(|n| ServiceKey::new("shop", format!("s{n}")));
        let counted = counted(syncer.intent(), &wanted.into());
        let frontends: BTreeSet<Frontend> = counted.iter().map(|counted| counted.frontend).collect();
        ensure!(frontends.len() == 16, "{frontends:?}");
        let counting = Counting::start(frontends.clone()).await?;
        for (times, from, transport, to) in [
            (3, &client, Transport::Tcp, (served[0], PORT)),
            (2, &client, Transport::Udp, (served[0], PORT)),
            (4, &client, Transport::Tcp, (served[1], PORT)),
            (1, &host, Transport::Tcp, (served[0], PORT)),
            (5, &client, Transport::Tcp, (ips(HOST)[0], node_port(1))),
            (2, &client, Transport::Tcp, (empty[0], PORT)),
            (6, &client, Transport::Tcp, (other[0], PORT)),
            (1, &client, Transport::Tcp, (served[0], PORT + 1)),
        ] {
            ask_often(times, from, transport, to.into())?;
        }
        let at_node = Frontend::NodePort {
            family: IpFamily::V4,
            protocol: Protocol::Tcp,
            port: node_port(1).try_into().unwrap(),
        };
        let mut expected: BTreeMap<Frontend, Tally> = frontends
            .iter()
            .map(|frontend| (*frontend, tally(0, 0)))
            .collect();
        expected.extend([
            (vip(served[0], Protocol::Tcp), tally(4, 4)),
            (vip(served[0], Protocol::Udp), tally(2, 2)),
            (vip(served[1], Protocol::Tcp), tally(4, 4)),
            (at_node, tally(5, 5)),
            (vip(empty[0], Protocol::Tcp), tally(2, 0)),
        ]);
        let tallies = counting.read().await?;
        ensure!(tallies == expected, "{tallies:#?}");
        let listed = nft(&["list", "ruleset"], "")?;
        ensure!(
            listed.contains("10.96.0.1 . tcp . 80 counter packets 4 bytes"),
            "{listed}"
        );
        drop(counting);
        let tables = nft(&["list", "tables"], "")?;
        ensure!(!tables.contains("berth-count"), "{tables}");
        anyhow::Ok(())
    });
}

#[test]
fn where_the_rules_are_not_our_nftables_what_is_let_through_is_unknown() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        let ip = cluster_ips(1)[0];
        let frontend = vip(ip, Protocol::Tcp);
        let counting = Counting::start([frontend].into()).await?;
        ensure!(ask_from(&client, Transport::Tcp, (ip, PORT).into())?.is_err());
        let unknown = Tally {
            asked: 1,
            let_through: None,
        };
        ensure!(counting.read().await? == BTreeMap::from([(frontend, unknown)]));
        anyhow::Ok(())
    });
}
