// SPDX-License-Identifier: Apache-2.0
//! What the kernel holds: the same by netlink as by text, the same for many Services as for few, the
//! same after a restart.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use berth_model::{IpFamily, SessionAffinity};
use berth_proxy_agent::Error;
use berth_proxy_agent::apply::Observed;
use berth_proxy_agent::apply::nft::Nft;
use berth_proxy_agent::nftables::Nftables;
use berth_proxy_agent::sync::Syncer;
use berth_proxy_core::Settings;
use berth_proxy_core::names::ChainName;
use berth_proxy_core::nft::render::rule_text;
use berth_proxy_core::nft::{Installed, Layout, Scope, StageKind, diff, script, slots};
use berth_testkit::in_sandbox_async;
use nlink::netlink::Connection;
use nlink::netlink::nftables::Family;

use crate::cluster::{Cluster, mk_syncer, retire, settings};

const FAMILIES: [(IpFamily, &str); 2] = [(IpFamily::V4, "ip"), (IpFamily::V6, "ip6")];
const NOW: Duration = Duration::ZERO;

pub(crate) fn nft(arguments: &[&str], input: &str) -> anyhow::Result<String> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run nft (Debian package nftables)")?;
    child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "nft {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn list(family: &str) -> anyhow::Result<String> {
    nft(&["list", "table", family, "berth-proxy"], "")
}

fn small() -> Cluster {
    let mut cluster = Cluster::new();
    cluster
        .set(1, Some(&[11]))
        .set(2, Some(&[11, 12, 13]))
        .set(3, Some(&[]));
    cluster
}

/// Adds a Service with this timeout of session affinity.
fn set_sticky(cluster: &mut Cluster, n: u16, timeout_seconds: u32) {
    cluster.set(n, Some(&[11, 12])).edit(n, |service, _| {
        service.affinity = SessionAffinity::ClientIp { timeout_seconds };
    });
}

/// Chains and rules of both tables.
fn chains_and_rules() -> anyhow::Result<(usize, usize)> {
    let mut found = (0, 0);
    for (_, family) in FAMILIES {
        let text = nft(&["-s", "-t", "list", "table", family, "berth-proxy"], "")?;
        let mut in_chain = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("chain ") {
                in_chain = true;
                found.0 += 1;
            } else if line == "}" {
                in_chain = false;
            } else if in_chain && !line.starts_with("type ") && !line.is_empty() {
                found.1 += 1;
            }
        }
    }
    Ok(found)
}

#[test]
fn netlink_and_text_make_the_same_table_and_it_survives_list_and_load() {
    in_sandbox_async!(async {
        let mut cluster = small();
        set_sticky(&mut cluster, 4, 7_265);
        set_sticky(&mut cluster, 5, 10_800);
        for n in [4, 5] {
            // What nft 1.0.6 lists for IPv6, it does not load.
            cluster.edit(n, |service, _| service.cluster_ips.truncate(1));
        }
        let mut syncer = mk_syncer(NOW)?;
        cluster.sync(&mut syncer).await?;
        for (family, word) in FAMILIES {
            let by_netlink = list(word)?;
            let mut installed = Installed::default();
            let plan = diff(family, &installed, syncer.intent(), Scope::All, NOW, NOW);
            plan.stages.iter().for_each(|stage| installed.apply(stage, NOW));
            let text = script(
                &Layout::new(family, &settings()).grown_for(&plan),
                &installed.elements(),
            );
            nft(&["-f", "-"], &text)?;
            let by_text = list(word)?;
            ensure!(
                by_netlink == by_text,
                "by netlink:\n{by_netlink}\nby text:\n{by_text}"
            );
            nft(&["delete", "table", word, "berth-proxy"], "")?;
            nft(&["-f", "-"], &by_netlink)?;
            ensure!(list(word)? == by_netlink, "list and load changed the table");
            ensure!(
                by_netlink.contains("10.96.0.2 . tcp . 80 . 2") || word == "ip6",
                "{by_netlink}"
            );
        }
        // What text made, netlink takes over without a write.
        let mut restarted = cluster.restarted(NOW)?;
        cluster.sync(&mut restarted).await?;
        ensure!(restarted.turn().await?.is_nothing());
        anyhow::Ok(())
    });
}

#[test]
fn affinity_lists_in_both_families_and_reads_back() {
    in_sandbox_async!(async {
        let mut cluster = small();
        set_sticky(&mut cluster, 4, 7_265);
        let mut syncer = mk_syncer(NOW)?;
        cluster.sync(&mut syncer).await?;
        for (family, word) in FAMILIES {
            let listed = list(word)?;
            let rule = listed.lines().find(|line| line.contains("timeout 2h1m5s"));
            let layout = Layout::new(family, &settings()).with_affinity_timeouts([7_265]);
            let chains = layout.chains();
            let remember = chains.iter().find(|chain| chain.name == ChainName::Remember);
            let rules = remember.map(|chain| chain.rules.as_slice()).unwrap_or_default();
            let texts: Vec<String> = rules.iter().map(|rule| rule_text(family, rule)).collect();
            let rule = rule.context(listed.clone())?.trim().to_owned();
            ensure!(texts.contains(&rule), "{rule}, not in {texts:?}");
            let (number, _) = syncer
                .intent()
                .affinities()
                .find(|(_, affinity)| affinity.family == family)
                .context("a number")?;
            ensure!(listed.contains(&format!(": {number}")), "no {number}: {listed}");
        }
        let mut restarted = cluster.restarted(NOW)?;
        cluster.sync(&mut restarted).await?;
        ensure!(restarted.turn().await?.is_nothing());
        // Another timeout brings a rule, and the table stays.
        let before = list("ip6")?;
        set_sticky(&mut cluster, 5, 11);
        cluster.sync(&mut restarted).await?;
        let after = list("ip6")?;
        ensure!(
            after.contains("timeout 11s") && !before.contains("timeout 11s"),
            "{after}"
        );
        anyhow::Ok(())
    });
}

#[test]
fn no_cluster_cidr_loads_and_lists_too() {
    in_sandbox_async!(async {
        let mut cluster = small();
        let mut syncer = Syncer::new(
            Nftables::new(Nft::open()?, &Default::default(), NOW),
            Default::default(),
        );
        cluster.sync(&mut syncer).await?;
        for (_, word) in FAMILIES {
            let listed = list(word)?;
            ensure!(listed.contains("/0"), "{listed}");
            nft(&["delete", "table", word, "berth-proxy"], "")?;
            nft(&["-f", "-"], &listed)?;
            ensure!(list(word)? == listed);
        }
        anyhow::Ok(())
    });
}

#[test]
fn a_thousand_services_have_the_chains_and_rules_of_ten() {
    in_sandbox_async!(async {
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(NOW)?;
        let pods: [&[u16]; 4] = [&[1], &[1, 2], &[1, 2, 3], &[]];
        for n in 0..10 {
            cluster.set(n, Some(pods[usize::from(n) % 4]));
        }
        cluster.sync(&mut syncer).await?;
        let ten = chains_and_rules()?;
        for n in 10..1_000 {
            cluster.set(n, Some(pods[usize::from(n) % 4]));
        }
        cluster.sync(&mut syncer).await?;
        ensure!(
            chains_and_rules()? == ten,
            "{:?} grew from {ten:?}",
            chains_and_rules()?
        );
        ensure!(ten.0 == 2 * 27 && ten.1 > 400, "{ten:?}");
        let frontends = list("ip")?.matches(". tcp . 80 . 0 :").count();
        ensure!(frontends == 750, "{frontends} Services have a first slot");
        anyhow::Ok(())
    });
}

#[test]
fn a_restart_writes_nothing() {
    in_sandbox_async!(async {
        let mut cluster = small();
        cluster.set(4, Some(&(1..=300).collect::<Vec<u16>>()));
        cluster.set(5, Some(&(1..=100).collect::<Vec<u16>>()));
        let mut syncer = mk_syncer(NOW)?;
        cluster.sync(&mut syncer).await?;
        let before = syncer.backend().nft().generation().await?;
        let mut restarted = cluster.restarted(NOW)?;
        cluster.sync(&mut restarted).await?;
        ensure!(
            restarted.backend().nft().generation().await? == before,
            "a restart wrote to the kernel"
        );
        ensure!(
            restarted
                .backend()
                .plans(restarted.intent())
                .iter()
                .all(berth_proxy_core::nft::Plan::is_empty)
        );
        // And nobody else's change goes unnoticed.
        nft(&["flush", "set", "ip", "berth-proxy", "vip-frontends"], "")?;
        restarted.audit().await?;
        ensure!(!restarted.turn().await?.is_nothing());
        ensure!(restarted.turn().await?.is_nothing());
        anyhow::Ok(())
    });
}

/// Somebody's change between two of ours: the ruleset's generation is then one that we made.
#[test]
fn a_foreign_change_before_one_of_ours_is_still_noticed() {
    in_sandbox_async!(async {
        let mut cluster = small();
        let mut syncer = mk_syncer(NOW)?;
        cluster.sync(&mut syncer).await?;
        retire(&mut syncer).await?;
        let whole = list("ip6")?;
        nft(&["delete", "table", "ip6", "berth-proxy"], "")?;
        // Of one family only, so that nothing of ours meets the missing table.
        let key = cluster.only_in_v4(9, &[11]);
        cluster.sync(&mut syncer).await?;
        syncer.audit().await?;
        syncer.turn().await?;
        ensure!(list("ip6").is_ok_and(|listed| listed == whole), "{key} hid it");
        ensure!(list("ip")?.contains("10.96.0.9 . tcp . 80"));
        // The whole ruleset goes, and the first of our tables that is missed brings both back.
        nft(&["flush", "ruleset"], "")?;
        cluster.only_in_v4(9, &[12]);
        let failed = cluster.sync(&mut syncer).await.is_err();
        syncer.turn().await?;
        ensure!(
            list("ip6").is_ok_and(|listed| listed == whole),
            "failed: {failed}"
        );
        ensure!(list("ip")?.contains("10.96.0.9 . tcp . 80"));
        let before = syncer.backend().nft().generation().await?;
        syncer.audit().await?;
        ensure!(syncer.turn().await?.is_nothing());
        ensure!(syncer.backend().nft().generation().await? == before);
        anyhow::Ok(())
    });
}

#[test]
fn what_follows_a_foreign_change_of_somebody_elses_table_writes_nothing() {
    in_sandbox_async!(async {
        let mut cluster = small();
        let mut syncer = mk_syncer(NOW)?;
        cluster.sync(&mut syncer).await?;
        nft(&["add", "table", "ip", "other"], "")?;
        let before = syncer.backend().nft().generation().await?;
        for _ in 0..2 {
            syncer.audit().await?;
            ensure!(syncer.turn().await?.is_nothing());
        }
        ensure!(syncer.backend().nft().generation().await? == before);
        anyhow::Ok(())
    });
}

#[test]
fn left_overs_are_retired_though_somebody_else_writes_all_the_time() {
    in_sandbox_async!(async {
        let mut cluster = small();
        let mut syncer = mk_syncer(Duration::from_millis(300))?;
        cluster.sync(&mut syncer).await?;
        retire(&mut syncer).await?;
        cluster.set(2, Some(&[11])).sync(&mut syncer).await?;
        for n in 0..5 {
            let Some(wait) = syncer.next_wake() else {
                return Ok(());
            };
            tokio::time::sleep(wait).await;
            nft(&["add", "table", "ip", &format!("other{n}")], "")?;
            syncer.audit().await?;
            syncer.turn().await?;
        }
        anyhow::bail!("never retired")
    });
}

#[test]
fn updates_go_on_while_somebody_else_never_stops_writing() {
    in_sandbox_async!(async {
        let mut cluster = small();
        let mut syncer = mk_syncer(NOW)?;
        cluster.sync(&mut syncer).await?;
        retire(&mut syncer).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let writing = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || -> anyhow::Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(async {
                    let busy = Connection::<nlink::netlink::Nftables>::new()?;
                    while !stop.load(Ordering::Relaxed) {
                        let add = busy.transaction().add_table("busy", Family::Inet);
                        add.commit(&busy).await?;
                        busy.del_table_if_exists("busy", Family::Inet).await?;
                    }
                    Ok(())
                })
            }
        });
        let mut unreadable = 0;
        // On a machine with other work the writer may come too seldom at first.
        for n in 10..60 {
            if n >= 13 && unreadable > 0 {
                break;
            }
            cluster.set(n, Some(&[11])).sync(&mut syncer).await?;
            ensure!(list("ip6")?.contains(&format!("fd00:10:96::{n:x} . tcp . 80")));
            syncer.audit().await?;
            let read = syncer
                .backend()
                .nft()
                .observe(&Layout::new(IpFamily::V4, &settings()), NOW)
                .await;
            unreadable += usize::from(matches!(read, Err(Error::Unstable { .. })));
        }
        stop.store(true, Ordering::Relaxed);
        writing
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        ensure!(unreadable > 0, "the writer was too slow to matter");
        // Then it is looked up after all.
        nft(&["flush", "set", "ip6", "berth-proxy", "vip-frontends"], "")?;
        syncer.audit().await?;
        ensure!(!syncer.turn().await?.is_nothing());
        ensure!(syncer.turn().await?.is_nothing());
        anyhow::Ok(())
    });
}

#[test]
fn networks_of_pods_that_went_come_back() {
    in_sandbox_async!(async {
        for tampering in [
            "flush set ip berth-proxy pod-cidrs",
            "flush set ip6 berth-proxy pod-cidrs",
            "flush set ip6 berth-proxy nodeport-ips",
            "add element ip berth-proxy pod-cidrs { 192.0.2.0/24 }",
        ] {
            let mut cluster = small();
            let mut syncer = mk_syncer(NOW)?;
            cluster.sync(&mut syncer).await?;
            let whole = [list("ip")?, list("ip6")?];
            nft(&["-f", "-"], tampering)?;
            syncer.audit().await?;
            let done = syncer.turn().await?;
            ensure!((done.rebuilt, done.networks) == (0, 1), "{tampering}: {done:?}");
            ensure!(whole == [list("ip")?, list("ip6")?], "{tampering}");
        }
        anyhow::Ok(())
    });
}

#[test]
fn networks_of_any_shape_read_back_as_written() {
    in_sandbox_async!(async {
        let shapes: [&[&str]; 4] = [
            &[],
            &["10.1.1.0/24", "10.1.2.0/24", "fd00:1:1::/48", "fd00:1:2::/48"],
            &["10.1.1.1/32", "10.1.1.2/32", "fd00::1/128", "fd00::2/128"],
            &["128.0.0.0/1", "0.0.0.0/8", "8000::/1", "::/16"],
        ];
        for cidrs in shapes {
            let settings = Settings {
                cluster_cidrs: cidrs.iter().map(|cidr| cidr.parse()).collect::<Result<_, _>>()?,
                ..Settings::default()
            };
            let mut cluster = small();
            cluster
                .sync(&mut Syncer::new(
                    Nftables::new(Nft::open()?, &settings, NOW),
                    settings.clone(),
                ))
                .await?;
            let listed = [list("ip")?, list("ip6")?];
            // As we wrote them, and as nft does.
            for pass in 0..2 {
                let mut restarted =
                    Syncer::new(Nftables::new(Nft::open()?, &settings, NOW), settings.clone());
                restarted.take(&cluster.view, &cluster.view.services.keys().cloned().collect());
                ensure!(restarted.turn().await?.is_nothing(), "{cidrs:?}, pass {pass}");
                for ((_, word), text) in FAMILIES.iter().zip(&listed) {
                    nft(&["delete", "table", word, "berth-proxy"], "")?;
                    nft(&["-f", "-"], text)?;
                }
            }
        }
        anyhow::Ok(())
    });
}

#[test]
fn large_services_find_the_rules_they_grow_into_and_then_the_ladder() {
    in_sandbox_async!(async {
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer(NOW)?;
        cluster.set(1, Some(&[1]));
        cluster.sync(&mut syncer).await?;
        let (chains, rules) = chains_and_rules()?;
        // Rules for 64 are there from the start; from then on for four more than anybody has.
        for (pods, more) in [
            (60, 0),
            (61, 4 * 8),
            (64, 4 * 8),
            (65, 8 * 8),
            (300, 8 * 8),
            (256, 192 * 8),
        ] {
            cluster.set(1, Some(&(1..=pods).collect::<Vec<u16>>()));
            cluster.sync(&mut syncer).await?;
            ensure!(chains_and_rules()? == (chains, rules + more), "{pods} endpoints");
            let first = slots::slot_count(usize::from(pods));
            retire(&mut syncer).await?;
            let held = list("ip")?.matches("10.96.0.1 . tcp . 80 . ").count();
            ensure!(held == first as usize, "{held} slots for {pods} endpoints");
        }
        anyhow::Ok(())
    });
}

#[test]
fn killed_between_any_two_stages_it_converges() {
    in_sandbox_async!(async {
        for stages in 0..3 {
            let mut cluster = small();
            let mut syncer = mk_syncer(NOW)?;
            cluster.sync(&mut syncer).await?;
            retire(&mut syncer).await?;
            cluster
                .set(1, Some(&[11, 12, 14]))
                .set(2, Some(&[12]))
                .set(3, Some(&[11]))
                .set(4, Some(&[11]));
            let mut wanted = cluster.restarted(NOW)?;
            wanted.take(&cluster.view, &cluster.view.services.keys().cloned().collect());
            for (family, _) in FAMILIES {
                let observed = syncer
                    .backend()
                    .nft()
                    .observe(&Layout::new(family, &settings()), NOW)
                    .await?;
                let Observed::Ours { installed, .. } = observed else {
                    anyhow::bail!("{observed:?}");
                };
                let plan = diff(family, &installed, wanted.intent(), Scope::All, NOW, NOW);
                ensure!(plan.stages.len() >= 2 && plan.stages[0].kind == StageKind::Fill);
                for stage in plan.stages.iter().take(stages) {
                    syncer.backend().nft().change(family, &stage.changes).await?;
                }
            }
            let mut restarted = cluster.restarted(NOW)?;
            cluster.sync(&mut restarted).await?;
            retire(&mut restarted).await?;
            let converged = [list("ip")?, list("ip6")?].map(|text| without_slots(&text));
            for (_, word) in FAMILIES {
                nft(&["delete", "table", word, "berth-proxy"], "")?;
            }
            let mut fresh = cluster.restarted(NOW)?;
            cluster.sync(&mut fresh).await?;
            let wanted = [list("ip")?, list("ip6")?].map(|text| without_slots(&text));
            ensure!(
                converged == wanted,
                "after {stages} stages:\n{converged:?}\nwanted:\n{wanted:?}"
            );
            for (_, word) in FAMILIES {
                nft(&["delete", "table", word, "berth-proxy"], "")?;
            }
        }
        anyhow::Ok(())
    });
}

/// Which endpoint is in which slot depends on history; that each is there does not.
fn without_slots(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            line.trim()
                .trim_start_matches("elements = { ")
                .trim_end_matches([',', '}', ' '])
        })
        .flat_map(|line| line.split(", "))
        .map(|element| match element.split_once(" : ") {
            Some((key, target)) => {
                let frontend = key.rsplit_once(" . ").map_or(key, |(frontend, _)| frontend);
                format!("{frontend} has {target}")
            }
            None => element.to_owned(),
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn a_small_socket_buffer_only_means_more_transactions() {
    in_sandbox_async!(async {
        let mut cluster = Cluster::new();
        for n in 0..400 {
            cluster.set(n, Some(&[1, 2, 3, 4, 5]));
        }
        let tight = Nft::open()?.with_budget(120_000);
        let mut syncer = Syncer::new(Nftables::new(tight, &settings(), NOW), settings());
        cluster.sync(&mut syncer).await?;
        let before = list("ip6")?;
        ensure!(before.matches(". tcp . 80 . 4 :").count() == 400);
        let mut roomy = cluster.restarted(NOW)?;
        cluster.sync(&mut roomy).await?;
        ensure!(roomy.turn().await?.is_nothing());
        anyhow::Ok(())
    });
}

#[test]
fn a_table_of_another_layout_is_replaced_and_foreign_tables_are_left_alone() {
    in_sandbox_async!(async {
        nft(
            &["-f", "-"],
            "table ip other { chain c { ip daddr 192.0.2.1 drop; }; }\ntable ip berth-proxy { set x { type ipv4_addr; }; }\n",
        )?;
        let mut cluster = small();
        let mut syncer = mk_syncer(NOW)?;
        cluster.sync(&mut syncer).await?;
        ensure!(!list("ip")?.contains("set x "));
        // Somebody adds a rule, takes a chain, renames the hook: each is noticed and put right.
        for tampering in [
            "add rule ip berth-proxy vips accept",
            "flush chain ip berth-proxy nat-output",
            "add chain ip berth-proxy mine",
            "add set ip berth-proxy mine { type ipv4_addr; }",
        ] {
            nft(&["-f", "-"], tampering)?;
            let mut restarted = cluster.restarted(NOW)?;
            let view = cluster.view.clone();
            restarted.take(&view, &view.services.keys().cloned().collect());
            let done = restarted.turn().await?;
            ensure!(done.rebuilt == 1, "{tampering}: {done:?}");
            ensure!(restarted.turn().await?.is_nothing());
        }
        berth_proxy_agent::cleanup().await?;
        let left = nft(&["list", "ruleset"], "")?;
        ensure!(
            left.contains("table ip other") && !left.contains("berth-proxy"),
            "{left}"
        );
        berth_proxy_agent::cleanup().await?;
        anyhow::Ok(())
    });
}
