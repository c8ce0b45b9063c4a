// SPDX-License-Identifier: Apache-2.0
//! The faults, each with the bound on writes that follows from it.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::second_writer;
use super::{Ground, Report, compact};
use crate::cluster::PATIENCE;
use crate::interposer::{Reach, WriteFaults};

/// Workers of the three controllers together (`--concurrent-*-syncs`): as many writes are under way at most.
const WORKERS: usize = 15;
/// How long a kill waits for its moment; in case Berth has nothing left to ask for.
const MOMENT: Duration = Duration::from_secs(5);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Nothing: what the workload alone costs.
    Nothing,
    /// kill -9 at a random moment of convergence, so many times.
    Kills(usize),
    /// The API server is restarted, once as by an upgrade and once as by a crash.
    ApiServerRestarts,
    /// All watches break, so many times.
    CutWatches(usize),
    /// Berth is cut off while etcd forgets what it has not seen.
    Expired,
    /// Another writer edits the same objects, so many times.
    SecondWriter(usize),
    /// 5% of all writes fail, some of them after they were carried out.
    FailedWrites,
    /// Each kind's watch falls behind the others in turn.
    HeldWatches,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing goes wrong"),
            Self::Kills(count) => write!(f, "kill -9, {count} times"),
            Self::ApiServerRestarts => f.write_str("the API server restarts"),
            Self::CutWatches(count) => write!(f, "all watches are cut, {count} times"),
            Self::Expired => f.write_str("a watch expires"),
            Self::SecondWriter(count) => write!(f, "a second writer, {count} edits"),
            Self::FailedWrites => f.write_str("5% of writes fail"),
            Self::HeldWatches => f.write_str("watches fall behind"),
        }
    }
}

impl Scenario {
    /// Plays it. `name` is that of the folder with the logs.
    ///
    /// # Errors
    /// The end is not as it must be, or it cost too much.
    pub async fn play(self, name: &str, seed: u64) -> Result<Report> {
        let mut ground = Ground::start(name, seed).await?;
        let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed);
        // Writes beyond those of the changes that the fault itself explains.
        let extra = match self {
            Self::Nothing => {
                ground.workload.release(300);
                0
            }
            Self::Kills(count) => kills(&mut ground, &mut random, count).await?,
            Self::ApiServerRestarts => restarts(&mut ground).await?,
            Self::CutWatches(count) => cuts(&mut ground, count).await?,
            Self::Expired => expired(&mut ground).await?,
            Self::SecondWriter(count) => second_writer::play(&mut ground, &mut random, count).await?,
            Self::FailedWrites => failed_writes(&mut ground, seed).await?,
            Self::HeldWatches => held(&mut ground).await?,
        };
        ground.settle().await?;
        let writes_before = ground.writes().len();
        let report_of_work = ground.report(0).await?;
        ground.pass_through().await?;
        let late = ground.writes().len() - writes_before;
        let at_rest = self.again_at_rest(&mut ground).await?;
        ground.settle().await?;
        let report = Report {
            writes_at_rest: at_rest,
            ..report_of_work
        };
        println!("{self}, seed {seed}: {report}");
        ensure!(late <= 6, "{late} writes for two Services after all was settled");
        ensure!(at_rest == 0, "{at_rest} writes at rest: {report}");
        let bound = report.needed + report.failed_on_purpose + extra;
        ensure!(report.writes <= bound, "more than {bound} writes: {report}");
        ensure!(
            report.conflicts.len() <= report.failed_on_purpose + extra,
            "more conflicts than faults: {report}\n{}",
            report.conflicts.join("\n")
        );
        Ok(report)
    }

    /// The same fault where nothing is to be done: it may cost reads, but no write.
    async fn again_at_rest(self, ground: &mut Ground) -> Result<usize> {
        match self {
            Self::Kills(_) => ground.kill_and_restart().await?,
            Self::ApiServerRestarts => ground.restart_apiserver(false, async |_| Ok(())).await?,
            Self::CutWatches(_) | Self::HeldWatches => ground.interposer.cut_watches(),
            Self::Expired => forget(ground, 0).await?,
            Self::Nothing | Self::SecondWriter(_) | Self::FailedWrites => {}
        }
        ground.pass_through().await
    }
}

/// Each kill may strike in the middle of as many writes as there are workers: the next process repeats them.
async fn kills(ground: &mut Ground, random: &mut fastrand::Rng, count: usize) -> Result<usize> {
    for _ in 0..count {
        ground.workload.release(30);
        let moment = random.usize(1..40);
        // Late is as good a moment as any.
        let _ = tokio::time::timeout(MOMENT, ground.interposer.further_requests(moment)).await;
        ground.kill_and_restart().await?;
    }
    Ok(count * WORKERS)
}

/// What is under way when the server goes may be carried out or not.
async fn restarts(ground: &mut Ground) -> Result<usize> {
    ground.workload.release(60);
    ground.interposer.further_requests(50).await;
    ground.restart_apiserver(false, async |_| Ok(())).await?;
    ground.workload.release(60);
    ground.interposer.further_requests(50).await;
    ground.restart_apiserver(true, async |_| Ok(())).await?;
    ground.workload.release(30);
    Ok(2 * WORKERS)
}

/// A watch goes on where it was cut: nothing is repeated. But watches come back one after the other, and of the changes
/// that follow a cut a few meet an object that its own watch has not shown yet: once each, and then they rest.
async fn cuts(ground: &mut Ground, count: usize) -> Result<usize> {
    for _ in 0..count {
        ground.workload.release(30);
        ground.interposer.further_requests(10).await;
        ground.interposer.cut_watches();
    }
    Ok(2 * count)
}

async fn expired(ground: &mut Ground) -> Result<usize> {
    ground.workload.release(30);
    ground.settle().await?;
    forget(ground, 150).await?;
    ground.workload.release(30);
    Ok(WORKERS)
}

/// Changes that Berth does not see, and whose history is gone before it is back.
async fn forget(ground: &mut Ground, changes: usize) -> Result<()> {
    let expired = r#"fault="expired""#;
    let before = ground.metric("berth_watch_failures_total", expired).await?;
    ground.interposer.reach(Reach::Refused);
    ground.workload.release(changes);
    ground.workload.done().await?;
    // Without it the revision that Berth knows would be the latest one.
    super::Workload::move_node(&ground.stage.client(), 0, 1).await?;
    super::Workload::move_node(&ground.stage.client(), 0, 0).await?;
    ground.restart_apiserver(false, compact).await?;
    ground.interposer.reach(Reach::Open);
    berth_testkit::wait::eventually("a watch of Berth's that expired", PATIENCE, || async {
        let seen = ground.metric("berth_watch_failures_total", expired).await?;
        ensure!(seen > before, "{seen} as before");
        anyhow::Ok(())
    })
    .await?;
    Ok(())
}

/// Each failed answer is repeated once; one that was lost after it was carried out may meet its own result once more.
async fn failed_writes(ground: &mut Ground, seed: u64) -> Result<usize> {
    ground.interposer.fail_writes(WriteFaults::some(seed, 50));
    ground.workload.release(200);
    ground.workload.done().await?;
    // It may get there while one of twenty writes fails. A Service with many slices fails often, and then waits long.
    let _ = tokio::time::timeout(PATIENCE, ground.settle()).await;
    let failed = ground.interposer.fail_none();
    ensure!(failed > 20, "only {failed} writes failed");
    Ok(failed)
}

/// What was planned from a cache that is behind meets a newer object: a conflict, and the turn is repeated.
async fn held(ground: &mut Ground) -> Result<usize> {
    let resources = ["services", "pods", "endpointslices", "endpoints", "nodes"];
    for resource in resources {
        ground.interposer.hold_watches(resource);
        ground.workload.release(30);
        ground.workload.done().await?;
        ground.interposer.let_go();
    }
    Ok(resources.len() * WORKERS)
}
