// SPDX-License-Identifier: Apache-2.0
//! What a kube-proxy left goes, if that is wished, and nothing else.

use anyhow::ensure;
use berth_model::IpFamily;
use berth_proxy_agent::iptables::{Whose, remove};
use berth_proxy_agent::options::ProxyMode;
use berth_proxy_agent::takeover::take_over;
use berth_testkit::in_sandbox_async;

use crate::ground::{VARIANTS, path, program, run, save};

const TABLES: &str = "add table ip kube-proxy\nadd chain ip kube-proxy services\nadd table ip6 kube-proxy\n\
                      add chain ip6 kube-proxy services\nadd table ip somebody\n";
/// Stale refusals, and chains that are not kube-proxy's.
const CHAINS: &str = "*filter\n:KUBE-SERVICES - [0:0]\n:KUBE-FIREWALL - [0:0]\n:DOCKER - [0:0]\n\
                      -A INPUT -j KUBE-FIREWALL\n-A OUTPUT -j KUBE-SERVICES\n\
                      -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j REJECT\nCOMMIT\n";

#[test]
fn tables_and_chains_of_a_kube_proxy_are_removed_and_nobody_elses() {
    in_sandbox_async!(async {
        run("nft", &["-f", "-"], TABLES)?;
        for variant in VARIANTS {
            let restore = program(variant, IpFamily::V4, "-restore");
            run(&restore, &["--noflush"], CHAINS)?;
        }
        ensure!(remove(&path(), Whose::Ours).await? == 0, "they are not ours");

        let taken = take_over(ProxyMode::Nftables).await?;
        ensure!((taken.tables, taken.servers_left) == (2, false), "{taken:?}");
        ensure!(taken.chains >= VARIANTS.len(), "{taken:?}");
        let tables = run("nft", &["list", "tables"], "")?;
        ensure!(
            !tables.contains("kube-proxy") && tables.contains("table ip somebody"),
            "{tables}"
        );
        for variant in VARIANTS {
            let listed = save(variant, IpFamily::V4)?;
            ensure!(!listed.contains("KUBE-SERVICES"), "{variant}: {listed}");
            for kept in [":KUBE-FIREWALL", ":DOCKER", "-A INPUT -j KUBE-FIREWALL"] {
                ensure!(listed.contains(kept), "{variant}: {kept}: {listed}");
            }
        }
        let again = take_over(ProxyMode::Nftables).await?;
        ensure!((again.tables, again.chains) == (0, 0), "{again:?}");

        // In mode iptables such chains are ours by now.
        run(
            &program(VARIANTS[0], IpFamily::V4, "-restore"),
            &["--noflush"],
            CHAINS,
        )?;
        let taken = take_over(ProxyMode::Iptables).await?;
        ensure!(taken.chains == 0 && save(VARIANTS[0], IpFamily::V4)?.contains("KUBE-SERVICES"));
        anyhow::Ok(())
    });
}
