// SPDX-License-Identifier: Apache-2.0
//! As many pools as a large cluster may have: they are within what API servers evaluate.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use berth_controllers_core::enforcement::Action;
use berth_testkit::in_sandbox_async;
use serde_json::json;

use crate::ground::{Ground, with};
use crate::prepare;

/// Creates to take the mean of.
const CREATES: u32 = 200;

/// A hundred pools with sixteen ranges each, one for each of a hundred namespaces; `a` is among them.
async fn pools(ground: &Ground) -> Result<()> {
    for pool in 0..100 {
        let ranges: Vec<String> = (0..16)
            .map(|range| format!("10.96.{}.{}/29", 100 + pool, range * 8))
            .collect();
        let namespace = if pool == 57 {
            "a".to_owned()
        } else {
            format!("team-{pool}")
        };
        let spec = json!({"use": "ClusterIP", "addresses": ranges, "selector": {"namespaces": [namespace]}});
        ground
            .pool("addresspools", &format!("pool-{pool}"), &spec)
            .await?;
    }
    Ok(())
}

/// The mean time of a create in namespace `b`, which no pool is for.
async fn mean(ground: &Ground, prefix: &str) -> Result<Duration> {
    let mut took = Duration::ZERO;
    for index in 0..CREATES {
        let (low, high) = (index % 250, index / 250 + if prefix == "bare" { 10 } else { 20 });
        let service = with(&json!({"clusterIP": format!("10.96.{high}.{}", low + 1)}));
        let start = Instant::now();
        let answer = ground.create("b", &format!("{prefix}-{index}"), &service).await?;
        took += start.elapsed();
        ensure!(answer.status == 201, "{answer:?}");
    }
    Ok(took / CREATES)
}

#[test]
fn a_hundred_pools_are_held() {
    prepare();
    in_sandbox_async!(async {
        let mut ground = Ground::start("enforcement-scale").await?;
        pools(&ground).await?;
        let bare = mean(&ground, "bare").await?;
        ground.observe(&[]).await?;
        ground.lead(Action::Deny).await?;
        ground.is_denied().await?;
        let held = mean(&ground, "held").await?;
        println!("a create takes {bare:?} without and {held:?} with a hundred pools enforced");
        for (namespace, address, status) in [
            ("a", "10.96.157.5", 201),
            ("a", "10.96.158.5", 403),
            ("a", "10.96.5.5", 403),
            ("b", "10.96.199.127", 403),
            ("b", "10.96.199.128", 201),
        ] {
            let name = format!("at-{}", address.replace('.', "-"));
            let service = with(&json!({"clusterIP": address}));
            let answer = ground.create(namespace, &name, &service).await?;
            ensure!(answer.status == status, "{namespace} {address}: {answer:?}");
        }
        anyhow::Ok(())
    });
}
