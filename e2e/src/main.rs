// SPDX-License-Identifier: Apache-2.0
//! `berth-e2e`: the demo, and the parts of it that a script may want alone.

use std::process::ExitCode;

use anyhow::Result;
use berth_e2e::bench;
use berth_e2e::controlplane::Binaries;
use berth_e2e::faults;
use berth_e2e::peers::Peers;
use berth_e2e::soak::{SoakArgs, soak};
use berth_testkit::sandbox::{self, Side};
use clap::{Parser, Subcommand};

/// Runs Berth on a real control plane and a LAN of network namespaces.
#[derive(Parser, Debug)]
#[command(name = "berth-e2e", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Shows everything at work and cleans up after itself.
    Demo {
        /// Leave it running until Ctrl-C, and print how to use it (also KEEP=1).
        #[arg(long)]
        keep: bool,
    },
    /// Measures Berth beside its peers; a release build of both programs is wanted.
    Bench(bench::Arguments),
    /// A plain relay: what a benchmark measures mode userspace beside.
    #[command(hide = true)]
    Relay(bench::RelayArguments),
    /// The part of a benchmark that runs in a guest kernel.
    #[command(hide = true)]
    TrafficInGuest(bench::GuestArguments),
    /// Runs random histories against Berth and kube-controller-manager and compares what they make of them.
    Soak(SoakArgs),
    /// Lets everything go wrong that can, and looks whether Berth's Endpoints and slices come out right.
    Faults(faults::Arguments),
    /// Builds the control plane (etcd, kube-apiserver, kubectl), or says that it is there.
    ControlPlane,
    /// Builds what Berth is compared with (kube-controller-manager, kube-proxy) beside the control plane, or says that it is there.
    Peers,
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    if let Command::Relay(arguments) = command {
        runtime()?.block_on(bench::relay(arguments))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::TrafficInGuest(arguments) = command {
        runtime()?.block_on(bench::traffic_in_guest(arguments))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !sandbox::is_inside() {
        // There is no way to any registry from inside.
        Binaries::find_or_build()?;
        if matches!(command, Command::Peers | Command::Bench(_) | Command::Soak(_)) {
            Peers::find_or_build()?;
        }
    }
    if matches!(command, Command::ControlPlane | Command::Peers) {
        return Ok(ExitCode::SUCCESS);
    }
    match sandbox::enter()? {
        Side::Finished(code) => Ok(code),
        Side::Inside => runtime()?.block_on(inside(command)),
    }
}

async fn inside(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Demo { keep } => {
            let keep =
                *keep || std::env::var_os("KEEP").is_some_and(|value| !value.is_empty() && value != "0");
            berth_e2e::demo::run(keep).await?;
        }
        Command::Bench(arguments) => bench::run(arguments).await?,
        Command::Soak(arguments) => return soak(arguments).await,
        Command::Faults(arguments) => faults::run(arguments).await?,
        Command::Relay(_) | Command::TrafficInGuest(_) | Command::ControlPlane | Command::Peers => {}
    }
    Ok(ExitCode::SUCCESS)
}
