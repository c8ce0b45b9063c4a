// SPDX-License-Identifier: Apache-2.0
//! A Service that the kernel refuses.

use std::collections::BTreeSet;

use anyhow::ensure;
use berth_model::{IpFamily, ServiceKey};
use berth_proxy_agent::backend::Backend;
use berth_proxy_agent::nftables::Nftables;
use berth_proxy_agent::sync::Syncer;
use berth_proxy_core::nft::{Layout, script};
use berth_testkit::in_sandbox_async;

use crate::cluster::{Cluster, mk_syncer, retire, settings};
use crate::packets::SOON;
use crate::structure::{list, nft};

/// The table as Berth makes it, but for the map of slots, which has room for so many.
fn make_narrow(slots: usize) -> anyhow::Result<()> {
    let text = script(&Layout::new(IpFamily::V4, &settings()), &[]);
    let map = "map vip-slots {\n";
    ensure!(text.contains(map), "{text}");
    let text = text.replacen(map, &format!("{map}\t\tsize {slots}\n"), 1);
    nft(&["-f", "-"], &text)?;
    Ok(())
}

fn key(n: u16) -> ServiceKey {
    ServiceKey::new("shop", format!("s{n}"))
}

/// The Services that have a frontend on their IPv4 ClusterIP.
fn served() -> anyhow::Result<BTreeSet<u16>> {
    let listed = nft(&["list", "set", "ip", "berth-proxy", "vip-frontends"], "")?;
    Ok((1..100)
        .filter(|n| listed.contains(&format!("10.96.0.{n} . tcp")))
        .collect())
}

fn refused(syncer: &Syncer<Nftables>) -> BTreeSet<ServiceKey> {
    syncer.refused().keys().cloned().collect()
}

#[test]
fn one_that_does_not_fit_is_left_out_and_the_others_are_served() {
    in_sandbox_async!(async {
        // Each endpoint takes two slots, for TCP and for UDP.
        make_narrow(2 * 12)?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(SOON)?;
        for n in 1..=9 {
            cluster.set(n, Some(&[11]));
        }
        // More than there is room for, whoever else is served.
        let many: Vec<u16> = (11..24).collect();
        cluster.set(5, Some(&many));
        cluster.sync(&mut syncer).await?;
        ensure!(refused(&syncer) == [key(5)].into(), "{:?}", syncer.refused());
        let why = &syncer.refused()[&key(5)];
        ensure!(why.contains("change elements"), "{why}");
        ensure!(
            served()? == (1..=9).filter(|n| *n != 5).collect(),
            "{:?}",
            served()?
        );
        ensure!(syncer.backend().next_wake().is_some(), "nobody tries again");
        ensure!(
            list("ip6")?.contains("fd00:10:96::5 . tcp"),
            "the other family takes it"
        );

        // Others come and go meanwhile, and it is not asked for again and again.
        let before = syncer.backend().nft().commits();
        cluster.set(9, Some(&[12]));
        cluster.sync(&mut syncer).await?;
        ensure!(
            syncer.backend().nft().commits() - before <= 4,
            "tried again already"
        );
        ensure!(refused(&syncer) == [key(5)].into());

        // What changes about it is a reason to try.
        cluster.set(5, Some(&[11, 12]));
        cluster.sync(&mut syncer).await?;
        ensure!(refused(&syncer).is_empty(), "{:?}", syncer.refused());
        ensure!(served()? == (1..=9).collect(), "{:?}", served()?);

        // What worked goes on working when the next step is refused.
        cluster.set(5, Some(&many));
        cluster.sync(&mut syncer).await?;
        ensure!(refused(&syncer) == [key(5)].into());
        ensure!(served()? == (1..=9).collect(), "{:?}", served()?);
        cluster.set(5, None);
        cluster.sync(&mut syncer).await?;
        retire(&mut syncer).await?;
        ensure!(refused(&syncer).is_empty() && syncer.next_wake().is_none());
        anyhow::Ok(())
    });
}

#[test]
fn where_nothing_fits_it_is_nobodys_fault() {
    in_sandbox_async!(async {
        make_narrow(1)?;
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(SOON)?;
        cluster.set(1, Some(&[11])).set(2, Some(&[12]));
        let error = cluster.sync(&mut syncer).await;
        ensure!(error.is_err() && syncer.refused().is_empty(), "{error:?}");
        anyhow::Ok(())
    });
}
