// SPDX-License-Identifier: Apache-2.0
//! Berth as a user runs it, on a real API server and a LAN of network namespaces, under the roles it ships.

mod bad_input;
mod examples;
mod kernel;
mod modes;
mod proxy_health;
mod restarts;
mod service_cidrs;
mod slim;
mod state;

use anyhow::Result;
use berth_e2e::cluster::{Cluster, ClusterConfig};
use berth_e2e::controlplane::Binaries;
use berth_testkit::sandbox;

/// What has to be there before a sandbox is entered: there is no way to any registry from inside.
#[expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]
fn prepare() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
    }
}

/// A cluster with all of Berth on three nodes.
async fn whole(name: &str) -> Result<Cluster> {
    let config = ClusterConfig::whole(name);
    Cluster::start(&config, |step| println!("{name}: {step}")).await
}

/// What every test of a cluster ends with: no daemon has ended by itself, and none lacked a right.
fn sound(mut cluster: Cluster) -> Result<()> {
    cluster.daemons.check()?;
    cluster.nothing_was_forbidden()
}
