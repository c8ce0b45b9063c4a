// SPDX-License-Identifier: Apache-2.0
//! A Service of which the kernel refuses the way to its relays.

use anyhow::ensure;
use berth_model::{IpFamily, ServiceKey};
use berth_proxy_core::names::RELAY_TABLE;
use berth_proxy_core::nft::{Layout, script};
use berth_testkit::in_sandbox_async;

use crate::cluster::{Cluster, PORT, cluster_ips};
use crate::ground::{all_settings, mk_node, mk_proxy};
use crate::steering::nft;
use crate::traffic::{Transport, ask_from, mk_pod, serve};

/// The table as Berth makes it, but for the map of slots, which has room for so many.
fn make_narrow(slots: usize) -> anyhow::Result<()> {
    let text = script(&Layout::of_relays(IpFamily::V4, &all_settings()), &[]);
    let map = "map vip-slots {\n";
    ensure!(text.contains(map), "{text}");
    nft(
        &["-f", "-"],
        &text.replacen(map, &format!("{map}\t\tsize {slots}\n"), 1),
    )?;
    ensure!(nft(&["list", "table", "ip", RELAY_TABLE], "")?.contains(&format!("size {slots}")));
    Ok(())
}

#[test]
fn one_that_does_not_fit_is_left_out_and_the_others_are_relayed() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        mk_node()?;
        // Each address takes two slots, for TCP and for UDP.
        make_narrow(2 * 12)?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        for n in 1..=9 {
            cluster.set(n, Some(&[1]));
        }
        // More than there is room for, whoever else is served.
        cluster.edit(5, |service, _| {
            service.external_ips = (1..=13).map(|n| [192, 0, 2, n].into()).collect();
        });
        cluster.sync(&mut proxy).await?;
        let refused = proxy.refused();
        ensure!(refused.keys().eq([&ServiceKey::new("shop", "s5")]), "{refused:?}");
        for n in [1, 9] {
            let at = (cluster_ips(n)[0], PORT).into();
            ensure!(ask_from(&client, Transport::Tcp, at)??.starts_with("1 "), "{n}");
        }
        ensure!(proxy.next_wake().is_some(), "nobody tries again");
        // What changes about it is a reason to try.
        cluster.set(5, Some(&[1])).sync(&mut proxy).await?;
        ensure!(proxy.refused().is_empty(), "{:?}", proxy.refused());
        let at = (cluster_ips(5)[0], PORT).into();
        ensure!(ask_from(&client, Transport::Tcp, at)??.starts_with("1 "));
        anyhow::Ok(())
    });
}
