// SPDX-License-Identifier: Apache-2.0
//! Pods told by the interfaces that their packets come in by.

use anyhow::ensure;
use berth_testkit::in_sandbox_async;

use crate::cluster::Cluster;
use crate::ground::{VARIANTS, mk_syncer};
use crate::links::{cases, expect, mk_world};

#[test]
fn pods_are_told_by_a_bridge_or_by_how_their_links_are_named() {
    in_sandbox_async!(async {
        let mut cluster = Cluster::new();
        let clients = mk_world(&mut cluster)?;
        let keys = cluster.view.services.keys().cloned().collect();
        for variant in VARIANTS {
            let cases = cases(&clients);
            let mut syncer = mk_syncer(variant, &cases[0].0)?;
            for (settings, clients) in &cases {
                syncer.reconfigure(settings.clone(), &cluster.view);
                syncer.take(&cluster.view, &keys);
                syncer.turn().await?;
                expect(clients)?;
                let mut restarted = mk_syncer(variant, settings)?;
                restarted.take(&cluster.view, &keys);
                ensure!(restarted.turn().await?.is_nothing(), "{variant}: {settings:?}");
            }
            let mut without = Cluster::new();
            without.set(1, None).sync(&mut syncer).await?;
        }
        anyhow::Ok(())
    });
}
