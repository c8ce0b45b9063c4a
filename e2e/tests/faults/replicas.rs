// SPDX-License-Identifier: Apache-2.0
//! Two replicas of which never both write.

use anyhow::{Result, ensure};
use berth_e2e::faults::{Loss, Succession, succession};
use berth_testkit::in_sandbox_async;

async fn lose(loss: Loss) -> Result<()> {
    let how = succession(loss, 4).await?;
    println!("{loss}: {how:?}");
    ensure!(how.gap <= Succession::GAP, "nobody led for {:?}", how.gap);
    Ok(())
}

#[test]
fn the_other_takes_over_from_a_leader_that_is_killed() {
    super::prepare();
    in_sandbox_async!(async { lose(Loss::Killed).await });
}

#[test]
fn a_leader_that_sleeps_past_its_lease_writes_nothing_once_awake() {
    super::prepare();
    in_sandbox_async!(async { lose(Loss::Paused).await });
}

#[test]
fn a_leader_whose_connections_are_refused_gives_up() {
    super::prepare();
    in_sandbox_async!(async { lose(Loss::Refused).await });
}

#[test]
fn a_leader_whose_packets_are_lost_gives_up() {
    super::prepare();
    in_sandbox_async!(async { lose(Loss::Silenced).await });
}
