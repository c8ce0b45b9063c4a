// SPDX-License-Identifier: Apache-2.0
//! What `berth_controllers_core::admission` foresees is what the real API server does, on random writes of Services.
//!
//! Every Service is made twice. One of the twins is sent as a user sends it: what is stored then has to be what was
//! foreseen. The other one gets the same writes with the patch: it has to end as its twin, with the chosen values in
//! place of those that the API server took, and what the one is refused for the other is refused for too.
//!
//! `BERTH_TEST_SCALE=full` makes more of it, from another seed each time; `BERTH_TEST_SEED` takes the seed it printed.

#![expect(
    clippy::indexing_slicing,
    reason = "a test fails by a panic, on a value that is not there too"
)]

mod admitted;
mod compare;
mod history;
mod propose;
mod symbols;
mod tally;
mod twin;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use berth_controllers_core::admission::ClusterFamilies;
use berth_e2e::controlplane::{Binaries, ControlPlane, ControlPlaneConfig};
use berth_e2e::stage;
use berth_testkit::{in_sandbox_async, sandbox};
use futures::{StreamExt, stream};
use history::History;
use tally::Tally;

/// Histories under way at once: each has values of its own.
const AT_ONCE: u64 = 8;

/// Of the runs that guard every change.
const SEED: u64 = 6;

/// How many histories, and from which seed.
fn size(moderate: u64) -> (u64, u64) {
    let full = std::env::var_os("BERTH_TEST_SCALE").is_some_and(|value| value == "full");
    let asked = std::env::var("BERTH_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let fresh = || if full { fastrand::u64(..) } else { SEED };
    (
        if full { moderate * 25 } else { moderate },
        asked.unwrap_or_else(fresh),
    )
}

/// A cluster of one family, and the same data later with two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    OneFamily,
    TwoFamilies,
}

async fn control_plane(folder: &Path, age: Age) -> Result<(ControlPlane, ClusterFamilies)> {
    let ranges = match age {
        Age::OneFamily => "--service-cluster-ip-range=10.96.0.0/16",
        Age::TwoFamilies => "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
    };
    let (first, last) = twin::NODE_PORTS;
    let config = ControlPlaneConfig {
        logs: Some(folder.to_owned()),
        apiserver_flags: vec![
            ranges.to_owned(),
            format!("--service-node-port-range={first}-{last}"),
        ],
        ..ControlPlaneConfig::loopback(Path::new(sandbox::SCRATCH).join("admission"))
    };
    let cluster = ClusterFamilies {
        primary: berth_model::IpFamily::V4,
        dual_stack: age == Age::TwoFamilies,
    };
    Ok((ControlPlane::start(config).await?, cluster))
}

/// Takes all histories some writes further; ends when each has.
async fn take_further(
    histories: Vec<History>,
    client: &kube::Client,
    cluster: ClusterFamilies,
    steps: usize,
) -> (Vec<History>, Tally) {
    // Histories with the same values follow one another.
    let mut lanes: BTreeMap<u64, Vec<History>> = BTreeMap::new();
    for history in histories {
        lanes.entry(history.lane()).or_default().push(history);
    }
    let lanes = stream::iter(lanes.into_values()).map(|lane| async move {
        let (mut taken, mut tally) = (Vec::new(), Tally::default());
        for mut history in lane {
            match history.run(client, cluster, steps, &mut tally).await {
                Ok(()) => taken.push(history),
                Err(error) => {
                    tally.failed(&error);
                    // What is left of it would be in the way of others.
                    if let Err(error) = history.end(client).await {
                        tally.failed(&error);
                    }
                }
            }
        }
        (taken, tally)
    });
    let lanes: Vec<_> = lanes.buffer_unordered(usize::MAX).collect().await;
    let (mut histories, mut tally) = (Vec::new(), Tally::default());
    for (taken, counted) in lanes {
        histories.extend(taken);
        tally.add(counted);
    }
    (histories, tally)
}

#[test]
fn what_is_foreseen_of_random_writes_is_what_the_api_server_does() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
    }
    in_sandbox_async!(async {
        let (count, seed) = size(96);
        println!("seed {seed}, {count} histories");
        let folder = stage::folder("admission-defaults")?;

        let (one, cluster) = control_plane(&folder, Age::OneFamily).await?;
        let early = (0..count / 4).map(|index| History::new(seed, index, AT_ONCE).ending());
        let (_, mut single) = take_further(early.collect(), &one.client(), cluster, 5).await;
        // A few live on into the time when the cluster has two families.
        let early = (count..count + AT_ONCE).map(|index| History::new(seed, index, AT_ONCE));
        let (survivors, counted) = take_further(early.collect(), &one.client(), cluster, 4).await;
        single.add(counted);
        println!("one family:\n{single}");
        drop(one);

        let (two, cluster) = control_plane(&folder, Age::TwoFamilies).await?;
        let (survivors, mut dual) = take_further(survivors, &two.client(), cluster, 4).await;
        for mut history in survivors {
            history.end(&two.client()).await?;
        }
        let late = (count..count * 2)
            .map(|index| History::new(seed, index, AT_ONCE).ending())
            .collect();
        let (_, counted) = take_further(late, &two.client(), cluster, 6).await;
        dual.add(counted);
        println!("two families:\n{dual}");

        let failures: Vec<&String> = single.failures.iter().chain(&dual.failures).collect();
        ensure!(failures.is_empty(), "{} failures", failures.len());
        // Never when pools could have had a part in it.
        ensure!(
            dual.given_up == 0,
            "the API server gave up {} requests",
            dual.given_up
        );
        let disturbed = single.disturbed + dual.disturbed;
        ensure!(
            disturbed * 20 <= dual.writes,
            "{disturbed} of {} writes were disturbed",
            dual.writes
        );
        // A generator whose writes are refused, or that never needs anything, shows nothing.
        ensure!(dual.accepted * 2 > dual.writes, "too much is refused");
        ensure!(dual.by_reason.len() >= 12, "left alone for few reasons only");
        ensure!(dual.freed > 10, "too little is given back");
        ensure!(dual.patched * 6 > dual.writes, "too little is patched");
        ensure!(single.patched > 10, "too little is patched on one family");
        anyhow::Ok(())
    });
}
