// SPDX-License-Identifier: Apache-2.0
//! Berth measured beside its peers, in one run on one machine: `make bench`.
//!
//! In: release builds of both sides. Out: a table, `target/bench/NAME.json`, a log of what was asked of the API
//! server. Touches: the sandbox, a folder of data sets beside the cached control plane.
//!
//! ```text
//!  dataset --load once--> store --copy--> run: stage + one contender --> figures --> row: table, JSON
//!                                          |  usage (/proc), scrape (/metrics), wire (nftables)
//!                                          |  observe (one watch a kind), churn (readiness flips)
//! ```

mod churn;
mod dataset;
mod endpoints;
mod figures;
mod observe;
mod row;
mod run;
mod scrape;
mod stats;
mod store;
mod usage;
mod wire;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anstream::{eprintln, println};
use anyhow::{Context, Result};
use berth_testkit::process::binary;

pub use endpoints::{Case, Options};

/// Which benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Bench {
    /// Endpoints, EndpointSlices and mirroring, beside kube-controller-manager
    Endpoints,
}

/// `berth-e2e bench`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Which to run; all where none is named
    #[arg(value_enum)]
    pub benches: Vec<Bench>,

    /// Runs of each contender in each case
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,

    /// What is there at the start; may be given several times
    #[arg(long = "case", value_enum, value_name = "CASE", default_values_t = Case::DEFAULT)]
    pub cases: Vec<Case>,

    /// The build of Berth to measure; the one beside this program where absent
    #[arg(long, value_name = "FILE")]
    pub berth: Option<PathBuf>,

    /// Folder for NAME.json and NAME.log; target/bench where absent
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}

/// Runs the benchmarks inside the sandbox and prints their tables. A missed goal is in the table, not in the exit code:
/// a busy machine misses some.
///
/// # Errors
/// A benchmark that could not be completed.
pub async fn run(arguments: &Arguments) -> Result<()> {
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => default_folder()?,
    };
    let berth = match &arguments.berth {
        Some(berth) => berth
            .canonicalize()
            .with_context(|| berth.display().to_string())?,
        None => binary("berth", "berth")?,
    };
    let options = Options {
        berth,
        runs: arguments.runs,
        cases: arguments.cases.clone(),
        cache: crate::controlplane::Surroundings::observe().cache_folder()?,
    };
    for bench in [Bench::Endpoints] {
        if arguments.benches.is_empty() || arguments.benches.contains(&bench) {
            let path = endpoints(&options, &out).await?;
            println!("written to {}", path.display());
        }
    }
    Ok(())
}

/// Runs the benchmark of the endpoint controllers, prints its table and says where its JSON is.
///
/// # Errors
/// It could not be completed.
pub async fn endpoints(options: &Options, out: &Path) -> Result<PathBuf> {
    let started = Instant::now();
    let say = |step: &str| {
        if std::io::stderr().is_terminal() {
            eprintln!("{:>6.0} s  {step}", started.elapsed().as_secs_f64());
        }
    };
    let (rows, log) = endpoints::measure(options, &say).await?;
    let path = out.join("endpoints.json");
    row::store(&rows, &path)?;
    let log_path = out.join("endpoints.log");
    std::fs::write(&log_path, log).with_context(|| log_path.display().to_string())?;
    println!("{}", row::table(&rows));
    if let Some(row) = rows.first() {
        println!(
            "peer: {}\n{}",
            row.peer_name.as_deref().unwrap_or("none"),
            row.conditions
        );
    }
    Ok(path)
}

/// `bench` in the target folder that the running program is in.
fn default_folder() -> Result<PathBuf> {
    let running = std::env::current_exe()?;
    let target = running
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .context("this program is in no target folder: name one by --out")?;
    Ok(target.join("bench"))
}
