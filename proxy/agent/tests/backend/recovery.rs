// SPDX-License-Identifier: Apache-2.0
//! What others do to our tables, seen by the cheap look that the run loop takes four times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use berth_proxy_agent::nftables::Nftables;
use berth_proxy_agent::sync::Syncer;
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;

use crate::cluster::{Cluster, PORT, cluster_ips, mk_syncer};
use crate::structure::{list, nft};
use crate::traffic::{PATIENCE, Transport, ask_from, mk_pod, serve};

/// As many lists as are sampled in a few glances.
fn mk_cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.set(1, Some(&[11])).set(2, Some(&[11, 12, 13]));
    cluster
}

/// Whether one of some glances sees it, each after one more change of somebody's, since each samples other lists.
async fn is_seen(syncer: &mut Syncer<Nftables>) -> anyhow::Result<bool> {
    for n in 0..4 {
        if syncer.glance().await? {
            return Ok(true);
        }
        nft(&["add", "table", "ip", &format!("other{n}")], "")?;
    }
    Ok(false)
}

#[test]
fn what_is_gone_or_edited_is_seen_at_a_glance_and_comes_back() {
    in_sandbox_async!(async {
        for vandalism in [
            "flush ruleset",
            "delete table ip berth-proxy",
            "delete table ip6 berth-proxy",
            "flush table ip6 berth-proxy",
            "flush chain ip berth-proxy services",
            "insert rule ip berth-proxy vips accept",
            "add table ip berth-proxy { flags dormant; }",
            "add chain ip berth-proxy stranger",
            "flush set ip berth-proxy vip-frontends",
            "flush map ip6 berth-proxy vip-slots",
            "delete element ip berth-proxy nodeport-count-3 { tcp . 30002 }",
        ] {
            let mut cluster = mk_cluster();
            let mut syncer = mk_syncer(Duration::ZERO)?;
            cluster.sync(&mut syncer).await?;
            let whole = [list("ip")?, list("ip6")?];
            nft(&["-f", "-"], vandalism)?;
            ensure!(is_seen(&mut syncer).await?, "{vandalism}: not seen");
            ensure!(!syncer.turn().await?.is_nothing(), "{vandalism}");
            ensure!(whole == [list("ip")?, list("ip6")?], "{vandalism}");
            ensure!(!syncer.glance().await?, "{vandalism}: seen for ever");
            ensure!(syncer.turn().await?.is_nothing(), "{vandalism}");
        }
        anyhow::Ok(())
    });
}

#[test]
fn looking_writes_nothing_and_others_changes_of_their_own_tables_are_none_of_ours() {
    in_sandbox_async!(async {
        let mut cluster = mk_cluster();
        let mut syncer = mk_syncer(Duration::ZERO)?;
        ensure!(
            !syncer.glance().await?,
            "before the first turn there is nothing to miss"
        );
        cluster.sync(&mut syncer).await?;
        let commits = syncer.backend().nft().commits();
        for n in 0..5 {
            ensure!(!syncer.glance().await?);
            nft(&["add", "table", "ip", &format!("other{n}")], "")?;
            ensure!(!syncer.glance().await?, "table other{n} is not ours");
            ensure!(syncer.turn().await?.is_nothing());
        }
        // Then all is read once, and not again.
        syncer.audit().await?;
        ensure!(syncer.glance().await?, "nothing is read although somebody wrote");
        ensure!(syncer.turn().await?.is_nothing());
        syncer.audit().await?;
        ensure!(!syncer.glance().await?, "all is read although nobody wrote");
        ensure!(syncer.backend().nft().commits() == commits);
        // What we change ourselves, rules included, is no news.
        let many: Vec<u16> = (1..=80).collect();
        cluster.set(1, Some(&many)).sync(&mut syncer).await?;
        ensure!(!syncer.glance().await?);
        anyhow::Ok(())
    });
}

#[test]
fn what_was_read_ahead_of_the_first_turn_counts_unless_somebody_wrote_since() {
    in_sandbox_async!(async {
        let mut cluster = mk_cluster();
        cluster.sync(&mut mk_syncer(Duration::ZERO)?).await?;
        let whole = [list("ip")?, list("ip6")?];
        for vandalism in [
            None,
            Some("delete table ip6 berth-proxy"),
            Some("flush set ip berth-proxy vip-frontends"),
            Some("insert rule ip berth-proxy vips accept"),
        ] {
            let mut syncer = cluster.restarted(Duration::ZERO)?;
            syncer.prepare().await?;
            eventually("read", Duration::from_secs(30), async || {
                if syncer.backend().is_reading() {
                    Err("reading")
                } else {
                    Ok(())
                }
            })
            .await?;
            if let Some(vandalism) = vandalism {
                nft(&["-f", "-"], vandalism)?;
            }
            cluster.sync(&mut syncer).await?;
            let written = syncer.backend().nft().commits();
            ensure!((written == 0) == vandalism.is_none(), "{vandalism:?}: {written}");
            ensure!(whole == [list("ip")?, list("ip6")?], "{vandalism:?}");
        }
        anyhow::Ok(())
    });
}

/// The table as the version before had it, as far as that matters: refusals and unallocated addresses in filter chains.
fn as_it_was(listed: &str) -> anyhow::Result<String> {
    let mut text = listed.to_owned();
    for (now, before) in [
        ("chain layout-", "chain layout-0"),
        ("chain refuse-", "chain filter-"),
        ("chain unallocated-postrouting", "chain unallocated-forward"),
        (
            "type nat hook prerouting priority dstnat - 10;",
            "type filter hook prerouting priority -110;",
        ),
        (
            "type nat hook output priority -110;",
            "type filter hook output priority -110;",
        ),
        (
            "type nat hook postrouting priority srcnat - 10;",
            "type filter hook forward priority 0;",
        ),
    ] {
        ensure!(text.matches(now).count() >= 1, "no {now:?} in {listed}");
        text = text.replace(now, before);
    }
    Ok(text)
}

async fn more(connections: u64, made: &AtomicU64) -> anyhow::Result<()> {
    let wanted = made.load(Ordering::Relaxed) + connections;
    let enough = || async {
        let made = made.load(Ordering::Relaxed);
        if made < wanted {
            Err(format!("{made} so far"))
        } else {
            Ok(())
        }
    };
    Ok(berth_testkit::wait::eventually("connections", PATIENCE, enough).await?)
}

#[test]
fn a_table_of_the_version_before_is_replaced_while_connections_are_made() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        let mut cluster = Cluster::new();
        cluster.set(1, Some(&[1])).set(2, Some(&[]));
        let mut syncer = mk_syncer(Duration::ZERO)?;
        cluster.sync(&mut syncer).await?;
        drop(syncer);
        let families = ["ip", "ip6"];
        let now = families.map(list);
        for (family, now) in families.iter().zip(&now) {
            let now = now.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            let before = as_it_was(now)?;
            nft(
                &["-f", "-"],
                &format!("delete table {family} berth-proxy\n{before}"),
            )?;
        }
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let asking = std::thread::spawn({
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            move || -> anyhow::Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    for ip in cluster_ips(1) {
                        let answer = ask_from(&client, Transport::Tcp, (ip, PORT).into())??;
                        ensure!(answer.starts_with("1 "), "{answer}");
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            }
        });
        more(20, &made).await?;
        let mut restarted = cluster.restarted(Duration::ZERO)?;
        restarted.take(&cluster.view, &cluster.view.services.keys().cloned().collect());
        let done = restarted.turn().await?;
        ensure!(done.rebuilt == 2, "{done:?}");
        more(20, &made).await?;
        stop.store(true, Ordering::Relaxed);
        asking
            .join()
            .map_err(|_| anyhow::anyhow!("the client panicked"))??;
        for (family, now) in families.into_iter().zip(now) {
            ensure!(list(family)? == now?, "{family}");
        }
        anyhow::Ok(())
    });
}
