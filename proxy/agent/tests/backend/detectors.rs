// SPDX-License-Identifier: Apache-2.0
//! Pods told by the interfaces that their packets come in by.

use anyhow::ensure;
use berth_proxy_agent::apply::nft::Nft;
use berth_proxy_agent::nftables::Nftables;
use berth_proxy_agent::sync::Syncer;
use berth_testkit::in_sandbox_async;

use crate::cluster::Cluster;
use crate::links::{cases, expect, mk_world};
use crate::packets::{SOON, untranslated};
use crate::structure::{list, nft};

#[test]
fn pods_are_told_by_a_bridge_or_by_how_their_links_are_named() {
    in_sandbox_async!(async {
        let mut cluster = Cluster::new();
        let clients = mk_world(&mut cluster)?;
        let keys = cluster.view.services.keys().cloned().collect();
        let mut syncer = None;
        for (settings, clients) in cases(&clients) {
            let mk_syncer = || -> anyhow::Result<_> {
                let backend = Nftables::new(Nft::open()?, &settings, SOON);
                Ok(Syncer::new(backend, settings.clone()))
            };
            let syncer = match &mut syncer {
                Some(syncer) => syncer,
                none => none.insert(mk_syncer()?),
            };
            // The second time the mode is another, and the rules are replaced.
            syncer.reconfigure(settings.clone(), &cluster.view);
            syncer.take(&cluster.view, &keys);
            syncer.turn().await?;
            expect(&clients)?;
            for word in ["ip", "ip6"] {
                let listed = list(word)?;
                ensure!(listed.contains("iifname != \"c"), "{listed}");
                nft(&["delete", "table", word, "berth-proxy"], "")?;
                nft(&["-f", "-"], &listed)?;
                ensure!(list(word)? == listed, "list and load changed the table");
            }
            let mut restarted = mk_syncer()?;
            restarted.take(&cluster.view, &keys);
            ensure!(restarted.turn().await?.is_nothing(), "{settings:?}");
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}
