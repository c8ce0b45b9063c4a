// SPDX-License-Identifier: Apache-2.0
//! The one binary: subcommands, wiring, output.
//!
//! In: flags, environment, files. Out: running daemons, or text for people. Touches: whatever the
//! chosen subcommand's shell touches; it decides nothing itself.

mod commands;
mod plan;

use clap::{Parser, Subcommand};

/// The Kubernetes Service layer in one binary.
#[derive(Parser, Debug)]
#[command(name = "berth", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Plan(commands::plan::PlanArgs),
    Crds(commands::crds::CrdsArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Plan(args) => commands::plan::run(&args),
        Command::Crds(args) => commands::crds::run(&args),
    }
}
