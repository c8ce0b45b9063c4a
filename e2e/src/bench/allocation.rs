// SPDX-License-Identifier: Apache-2.0
//! `make bench BENCH=allocation`: an address allocated and given back, beside the API server's own bitmap.
//!
//! Each figure is a process of its own that prints one number: `berth-bench-allocation` (`e2e/allocation`), and the same
//! loop around upstream's package (`e2e/peers/allocation.go`). They take turns. What a pool adds to the set (owner, quota,
//! a hold that becomes an allocation) has no counterpart: Berth alone.

mod case;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::endpoints::{profile_of, runs_in_words, said_version};
use super::row::{Goal, Row, Setting};
use super::stats::Spread;
use super::usage::load_average;
use crate::peers::Peers;
use case::Case;

/// The program that measures Berth's side.
const PROGRAM: &str = "berth-bench-allocation";
/// Issue 6: a bit an item and a tenth.
const BITS: Goal = Goal::AtMost(1.1);
/// Issue 6, in megabytes.
const STREWN: Goal = Goal::AtMost(4.0);

/// What to run.
#[derive(Clone, Debug)]
pub struct AllocationOptions {
    /// The program that measures Berth's side; the folder that it is in says by which profile it was built.
    pub program: PathBuf,
    /// How often each figure is measured.
    pub runs: u32,
    /// How long each measurement takes at least.
    pub milliseconds: u32,
    /// IPv4 prefix lengths, from 8 to 32.
    pub prefixes: Vec<u8>,
    /// How many items are strewn over a /64.
    pub strewn: u32,
}

impl AllocationOptions {
    /// What issue 6 asks for, measured by the program that stands beside this build of Berth.
    ///
    /// # Errors
    /// The program was not built.
    pub fn beside(berth: &Path, runs: u32) -> Result<Self> {
        let program = berth.with_file_name(PROGRAM);
        ensure!(
            program.is_file(),
            "{}: no such file; build it by cargo build --release -p {PROGRAM}",
            program.display()
        );
        Ok(Self {
            program,
            runs,
            milliseconds: 200,
            prefixes: vec![16, 12],
            strewn: 100_000,
        })
    }
}

/// Measures everything; also the log of each run.
pub(super) async fn measure(options: &AllocationOptions, say: &impl Fn(&str)) -> Result<(Vec<Row>, String)> {
    ensure!(options.runs > 0, "--runs=0: there is nothing to measure");
    let peers = Peers::ensure().await?;
    let bench = Bench {
        options,
        upstream: &peers.service_allocator,
        setting: setting(
            options,
            &said_version(&peers.kube_controller_manager, "Kubernetes v")?,
        )?,
    };
    let (mut rows, mut log) = (Vec::new(), String::new());
    for prefix in &options.prefixes {
        for case in Case::of(*prefix) {
            say(&case.name());
            rows.push(bench.beside(&case, &mut log).await?);
        }
    }
    for prefix in &options.prefixes {
        for case in Case::of(*prefix) {
            say(&format!("pool, {}", case.name()));
            rows.push(bench.pool(&case, &mut log).await?);
        }
    }
    say("memory");
    for prefix in options.prefixes.iter().copied().chain([8]) {
        rows.push(bench.bitmap(prefix, &mut log).await?);
    }
    rows.push(bench.strewn("set", "set of items", STREWN, &mut log).await?);
    rows.push(
        bench
            .strewn("pool", "pool, owners included", Goal::None, &mut log)
            .await?,
    );
    Ok((rows, log))
}

/// Both sides and what stays the same.
struct Bench<'a> {
    options: &'a AllocationOptions,
    upstream: &'a Path,
    setting: Setting,
}

impl Bench<'_> {
    /// The set of items beside upstream's bitmap.
    async fn beside(&self, case: &Case, log: &mut String) -> Result<Row> {
        let (mut berth, mut peer) = (Vec::new(), Vec::new());
        for _ in 0..self.options.runs {
            berth.push(self.time("set", case, log).await?);
            let ground = case.arguments(self.options.milliseconds);
            peer.push(number(self.upstream, &ground, log).await?);
        }
        self.row(case.name(), "ns", case.goal(), &berth, &peer)
    }

    /// A pool, which upstream does not have.
    async fn pool(&self, case: &Case, log: &mut String) -> Result<Row> {
        let mut berth = Vec::new();
        for _ in 0..self.options.runs {
            berth.push(self.time("pool", case, log).await?);
        }
        let figure = format!("pool (owner, quota, hold), {}", case.name());
        self.row(figure, "ns", Goal::None, &berth, &[])
    }

    async fn time(&self, level: &str, case: &Case, log: &mut String) -> Result<f64> {
        let mut arguments = vec!["time".to_owned(), level.to_owned()];
        arguments.extend(case.arguments(self.options.milliseconds));
        number(&self.options.program, &arguments, log).await
    }

    async fn bitmap(&self, prefix: u8, log: &mut String) -> Result<Row> {
        let size = case::addresses(prefix);
        let bytes = number(
            &self.options.program,
            &["bitmap".to_owned(), size.to_string()],
            log,
        )
        .await?;
        let bits = bytes * 8.0 / f64::from(size);
        self.row(
            format!("memory, bitmap of a /{prefix}"),
            "bits an address",
            BITS,
            &[bits],
            &[],
        )
    }

    async fn strewn(&self, level: &str, what: &str, goal: Goal, log: &mut String) -> Result<Row> {
        const MB: f64 = 1e6;
        let arguments = [
            "strewn".to_owned(),
            level.to_owned(),
            self.options.strewn.to_string(),
        ];
        let mut berth = Vec::new();
        for _ in 0..self.options.runs {
            berth.push(number(&self.options.program, &arguments, log).await? / MB);
        }
        let figure = format!(
            "memory, {} random addresses of a /64, {what}",
            self.options.strewn
        );
        self.row(figure, "MB", goal, &berth, &[])
    }

    fn row(&self, figure: String, unit: &str, goal: Goal, berth: &[f64], peer: &[f64]) -> Result<Row> {
        let ours = Spread::of(berth).context("nothing was measured")?;
        Ok(Row::new(
            figure,
            unit,
            goal,
            ours,
            Spread::of(peer),
            &self.setting,
        ))
    }
}

/// The number that a program prints.
async fn number(program: &Path, arguments: &[String], log: &mut String) -> Result<f64> {
    let output = Command::new(program).args(arguments).output().await;
    let output = output.with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = format!("{} {}", program.display(), arguments.join(" "));
    ensure!(
        output.status.success(),
        "{line}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    log.push_str(&format!("{line}: {}\n", said.trim()));
    said.trim()
        .parse()
        .with_context(|| format!("{line}: printed {said:?}"))
}

fn setting(options: &AllocationOptions, peer: &str) -> Result<Setting> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(Setting {
        conditions: format!(
            "Linux {}, {} cores, load average {:.1} before the first run; one thread; one address allocated at random, \
             past a static band of upstream's size, and given back; the mean over {} ms or more; Berth ({} build); {}",
            kernel.trim(),
            std::thread::available_parallelism()?,
            load_average(),
            options.milliseconds,
            profile_of(&options.program),
            runs_in_words(options.runs),
        ),
        peer_name: format!("NewAllocationMapWithOffset of Kubernetes {peer}"),
    })
}
