// SPDX-License-Identifier: Apache-2.0
//! A Service of which the kernel refuses a virtual server, because somebody else's is in its place.

use anyhow::ensure;

use crate::cluster::{Cluster, block_on, key, mk_syncer, on};
use crate::world::{PORT, Transport, ask, cluster_ips, mk_node, mk_pod};

pub(crate) fn one_that_the_kernel_refuses_is_left_out_and_the_others_are_served() -> anyhow::Result<()> {
    block_on(async {
        let node = mk_node()?;
        let client = mk_pod(100)?;
        mk_pod(1)?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        cluster.set(1, &[1]).sync(&mut syncer).await?;
        let foreign = format!("{}:{PORT}", cluster_ips(2)[0]);
        node.output("ipvsadm", &["-A", "-t", &foreign, "-s", "wrr"])?;
        for n in [2, 3] {
            cluster.put(n, on("node-1", &[1]), |service| service.external_ips = vec![]);
        }
        cluster.sync(&mut syncer).await?;
        let refused = syncer.refused();
        ensure!(refused.keys().eq([&key(2)]), "{refused:?}");
        let why = &refused[&key(2)];
        ensure!(why.contains(&foreign), "{why}");
        for n in [1, 3] {
            let answer = ask(&client, Transport::Tcp, (cluster_ips(n)[0], PORT).into())??;
            ensure!(answer == "1 10.244.0.100", "{n}: {answer}");
        }
        ensure!(syncer.next_wake().is_some(), "nobody tries again");
        ensure!(syncer.turn().await?.is_nothing(), "tried again already");
        // What changes about it is a reason to look: the server is where a Service's is to be, and is taken over.
        cluster.put(2, on("node-1", &[1]), |service| {
            service.external_ips = vec![];
            service.affinity = berth_model::SessionAffinity::ClientIp { timeout_seconds: 30 };
        });
        cluster.sync(&mut syncer).await?;
        ensure!(syncer.refused().is_empty(), "{:?}", syncer.refused());
        let answer = ask(&client, Transport::Tcp, (cluster_ips(2)[0], PORT).into())??;
        ensure!(answer == "1 10.244.0.100", "{answer}");
        Ok(())
    })
}
