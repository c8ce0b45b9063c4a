// SPDX-License-Identifier: Apache-2.0
//! Berth's Endpoints and slices while processes die, connections break, answers get lost and others write.
//!
//! In: a seed, a scenario. Out: what it cost; an error where the end is not what the oracle says. Touches: the sandbox.
//!
//! ```text
//!  workload (users) ----------------------> kube-apiserver <--- interposer <--- berth controllers
//!  oracle (naive) <-- everything listed ---        |                |
//!  the scenario: kill -9, restart, compact, cut, hold, fail, write in between
//! ```
//!
//! Every scenario ends in the same way: the cluster comes to rest, everything is as the oracle says, the writes
//! are counted, each refusal is accounted for, and the same fault on the cluster at rest then costs no write at all.

mod etcd;
mod ground;
mod oracle;
mod replicas;
mod retry;
mod scenarios;
mod second_writer;
mod workload;
mod world;

use std::fmt;

use anyhow::{Result, ensure};

pub use etcd::compact;
pub use ground::Ground;
pub use oracle::Observed;
pub use replicas::{Loss, Succession, succession};
pub use scenarios::Scenario;
pub use workload::{NAMESPACES, Workload};

/// `--max-endpoints-per-slice`: small, so that every Service has several slices that could be lost or doubled.
pub const MAX_ENDPOINTS: usize = 10;

/// How much of it, for `berth-e2e faults`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// How often Berth is killed
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub kills: usize,
    /// Of the workload and of all that goes wrong
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// Plays everything that can go wrong, one after the other; says what each cost.
///
/// # Errors
/// The first that did not end as it must.
pub async fn run(arguments: &Arguments) -> Result<()> {
    let scenarios = [
        Scenario::Nothing,
        Scenario::Kills(arguments.kills),
        Scenario::ApiServerRestarts,
        Scenario::CutWatches(arguments.kills),
        Scenario::Expired,
        Scenario::SecondWriter(5 * arguments.kills),
        Scenario::FailedWrites,
        Scenario::HeldWatches,
    ];
    for scenario in scenarios {
        scenario.play("faults", arguments.seed).await?;
    }
    for loss in Loss::ALL {
        let how = succession(loss, arguments.seed).await?;
        println!("the leader is {loss}: {how:?}");
        ensure!(how.gap <= Succession::GAP, "nobody led for {:?}", how.gap);
    }
    Ok(())
}

/// What a scenario cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Changes of the workload, the making of each namespace as one.
    pub changes: usize,
    /// Endpoints and slices at the end.
    pub objects: usize,
    /// Writes that the changes cost if each is dealt with by itself.
    pub needed: usize,
    /// Writes of Endpoints and slices that were sent.
    pub writes: usize,
    /// Of them answered with a fault on purpose.
    pub failed_on_purpose: usize,
    /// Of them answered by the API server that the object is another by now (409) or, to an update, gone (404); each in words.
    pub conflicts: Vec<String>,
    /// Writes that the same fault cost once everything was at rest.
    pub writes_at_rest: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} changes, {} objects at the end; writes: {} (one by one it were {}), {} failed on purpose, {} conflicts; \
             at rest {}",
            self.changes,
            self.objects,
            self.writes,
            self.needed,
            self.failed_on_purpose,
            self.conflicts.len(),
            self.writes_at_rest
        )
    }
}
