// SPDX-License-Identifier: Apache-2.0
//! What others do to our chains, seen by the cheap look that the run loop takes four times a second.

use anyhow::ensure;
use berth_model::IpFamily;
use berth_testkit::in_sandbox_async;

use crate::cluster::{Cluster, settings};
use crate::ground::{VARIANTS, mk_syncer, program, run, save};
use crate::structure::everything;

fn families() -> anyhow::Result<[String; 2]> {
    Ok([save_of(IpFamily::V4)?, save_of(IpFamily::V6)?])
}

/// What both variants have, without the order in which chains were made and rules of frontends added.
fn save_of(family: IpFamily) -> anyhow::Result<String> {
    let saved = VARIANTS.map(|variant| save(variant, family));
    let [nft, legacy] = saved;
    let all = format!("{}\n{}", nft?, legacy?);
    let mut lines: Vec<&str> = all.lines().collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

#[test]
fn what_is_flushed_is_seen_at_a_glance_and_comes_back() {
    in_sandbox_async!(async {
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            everything(&mut cluster);
            let mut syncer = mk_syncer(variant, &settings())?;
            ensure!(
                !syncer.glance().await?,
                "before the first turn there is nothing to miss"
            );
            cluster.sync(&mut syncer).await?;
            let before = families()?;
            for (family, arguments) in [
                (IpFamily::V4, &["-t", "nat", "-F"][..]),
                (IpFamily::V6, &["-t", "nat", "-F"]),
                (IpFamily::V6, &["-t", "filter", "-F"]),
                (IpFamily::V4, &["-t", "mangle", "-X", "KUBE-PROXY-CANARY"]),
                (IpFamily::V4, &["-t", "nat", "-F", "KUBE-SERVICES"]),
                (IpFamily::V6, &["-t", "nat", "-D", "PREROUTING", "1"]),
                (
                    IpFamily::V4,
                    &["-t", "filter", "-I", "KUBE-FORWARD", "-j", "ACCEPT"],
                ),
            ] {
                ensure!(!syncer.glance().await?, "{variant}");
                run(&program(variant, family, ""), arguments, "")?;
                ensure!(syncer.glance().await?, "{variant} {arguments:?}: not seen");
                ensure!(!syncer.turn().await?.is_nothing(), "{variant} {arguments:?}");
                ensure!(families()? == before, "{variant} {arguments:?}");
            }
            berth_proxy_agent::iptables::remove(
                &crate::ground::path(),
                berth_proxy_agent::iptables::Whose::Ours,
            )
            .await?;
        }
        anyhow::Ok(())
    });
}

#[test]
fn looking_writes_nothing_and_an_edit_that_does_not_show_is_found_when_all_is_read() {
    in_sandbox_async!(async {
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            everything(&mut cluster);
            let mut syncer = mk_syncer(variant, &settings())?;
            cluster.sync(&mut syncer).await?;
            let before = families()?;
            for _ in 0..3 {
                ensure!(!syncer.glance().await?, "{variant}");
                syncer.audit().await?;
                ensure!(syncer.turn().await?.is_nothing(), "{variant}");
            }
            ensure!(families()? == before, "{variant}");
            // A rule takes another's place.
            let list = program(variant, IpFamily::V4, "");
            let chain = before[0]
                .lines()
                .find_map(|line| line.strip_prefix(":KUBE-SEP-"))
                .and_then(|rest| rest.split(' ').next());
            let chain = format!("KUBE-SEP-{}", chain.unwrap_or_default());
            run(&list, &["-t", "nat", "-R", &chain, "1", "-j", "RETURN"], "")?;
            syncer.audit().await?;
            ensure!(!syncer.turn().await?.is_nothing(), "{variant}");
            ensure!(families()? == before, "{variant}");
            berth_proxy_agent::iptables::remove(
                &crate::ground::path(),
                berth_proxy_agent::iptables::Whose::Ours,
            )
            .await?;
        }
        anyhow::Ok(())
    });
}
