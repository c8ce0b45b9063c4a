// SPDX-License-Identifier: Apache-2.0
//! The one binary: subcommands, wiring, output.
//!
//! In: flags, environment, files. Out: running daemons, or text for people. Touches: whatever the
//! chosen subcommand's shell touches; it decides nothing itself.

mod commands;
mod plan;
mod pools;
mod uninstall;

use std::process::ExitCode;

use berth_runtime::exit::ExitError;
use clap::{Parser, Subcommand};

/// The Kubernetes Service layer in one binary: endpoints, addresses, announcements, kernel rules.
///
/// Three daemons make it up. `controllers` runs once per cluster (several replicas, one leads), `proxy` and
/// `announcer` run on each node. `plan` shows what they would do with some YAML, without a cluster;
/// `pools` shows who has which address or node port of a cluster;
/// `uninstall` takes out of a cluster what the controllers wrote there.
///
/// Exit codes: 0 done; 1 failure; 2 wrong usage; 3 a privilege is missing; 4 the API server cannot be reached or
/// does not accept us; 5 the Lease is lost, or another announcer runs for this node.
#[derive(Parser, Debug)]
#[command(name = "berth", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Controllers(Box<commands::daemon::Controllers>),
    Proxy(Box<commands::daemon::Proxy>),
    Announcer(Box<commands::daemon::Announcer>),
    Plan(commands::plan::PlanArgs),
    Pools(commands::pools::PoolsArgs),
    Uninstall(commands::uninstall::UninstallArgs),
    Crds(commands::crds::CrdsArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Controllers(daemon) => daemon.run(),
        Command::Proxy(daemon) => daemon.run(),
        Command::Announcer(daemon) => daemon.run(),
        Command::Plan(args) => said(commands::plan::run(&args)),
        Command::Pools(args) => told(commands::pools::run(&args)),
        Command::Uninstall(args) => told(commands::uninstall::run(&args)),
        Command::Crds(args) => said(commands::crds::run(&args)),
    }
}

/// The exit code of a command for people; its error goes to standard error.
fn said(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The same of a command that asks an API server.
fn told(result: Result<(), ExitError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("error: {error}");
            error.code().into()
        }
    }
}
