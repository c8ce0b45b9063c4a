// SPDX-License-Identifier: Apache-2.0
//! `berth-e2e soak`: any number of histories of the differential test.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anstream::println;
use anyhow::Result;

use crate::differential::{Config, printed, run};
use crate::stage;

/// How the outcome is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// What to run.
#[derive(clap::Args, Clone, Debug)]
pub struct SoakArgs {
    /// The first seed
    #[arg(long, env = "SEED", value_name = "SEED", default_value_t = 1)]
    pub seed: u64,

    /// How many histories, of this seed and those after it
    #[arg(long, short = 'n', env = "N", value_name = "N", default_value_t = 200)]
    pub histories: u64,

    /// Pairs of API servers at once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub pairs: u8,

    /// How long a failing history is replayed and made smaller at most; 0 for no replay at all
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub shrink_seconds: u64,

    /// Print the histories and do not run them
    #[arg(long)]
    pub print: bool,

    /// How the outcome is written
    #[arg(long, short = 'o', value_name = "FORMAT", value_enum, default_value_t = Output::Text)]
    pub output: Output,

    /// A further flag of Berth, but not of kube-controller-manager: a wrong Berth has to be found out
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub berth_flag: Vec<String>,
}

/// Runs in the sandbox; succeeds when nothing unexplained differs. Progress goes to stderr, if that is a terminal.
///
/// # Errors
/// The harness does not work.
pub async fn soak(args: &SoakArgs) -> Result<ExitCode> {
    if args.print {
        for seed in args.seed..args.seed.saturating_add(args.histories) {
            println!("seed {seed}\n{}", printed(seed));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config {
        seed: args.seed,
        histories: args.histories,
        logs: stage::folder("soak")?,
        pairs: args.pairs.into(),
        shrink_for: Duration::from_secs(args.shrink_seconds),
        patience: Config::PATIENCE,
        berth_flags: args.berth_flag.clone(),
    };
    let terminal = std::io::stderr().is_terminal();
    let progress = |line: &str| {
        if terminal {
            anstream::eprintln!("soak: {line}");
        }
    };
    let report = run(&config, &progress).await?;
    match args.output {
        Output::Text => print!("{report}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
