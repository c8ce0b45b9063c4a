// SPDX-License-Identifier: Apache-2.0
//! Mode ipvs in a guest kernel (scripts/uml-run), which no network reaches: a state file stands in for the API server.
//!
//! Outside, [`record`] leads a real API server through the Service's life and writes down what it holds after each step.
//! Inside, [`live`] hands that to the proxy, file by file, and sends packets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use berth_testkit::process::{Process, Spec, binary};
use berth_testkit::sandbox::SCRATCH;
use berth_testkit::wait::eventually;

use super::Mode;
use super::expect;
use super::life::{self, Step, life};
use crate::cluster::{CLUSTER_CIDRS, PATIENCE, log_path, repository};
use crate::proxy_peer::answer::Endpoints;
use crate::proxy_peer::ground::stage_for;
use crate::proxy_peer::launch::{Proxy, Variant, path_with, wait_ready};
use crate::proxy_peer::world::{NODES, World};

/// Says in the guest where the states are.
const STATES: &str = "BERTH_E2E_STATES";
/// Set in the guest. It is a machine of its own, so testkit's namespaces may be used there as in its sandbox.
const IN_GUEST: [(&str, &str); 1] = [("BERTH_SANDBOX", "uml")];
/// One CPU, and a kernel that is a process.
const PATIENCE_SECONDS: &str = "600";
const MEMORY: &str = "768M";

/// Where the states are, in the guest.
pub fn states() -> Option<PathBuf> {
    std::env::var_os(STATES).map(PathBuf::from)
}

/// Where [`record`] puts them.
///
/// # Errors
/// The running program is nowhere.
pub fn folder(name: &str) -> Result<PathBuf> {
    log_path(name)
}

/// Runs a test of this program, alone, in the guest.
///
/// # Errors
/// The guest does not start, or the test fails there.
pub fn run_again(test: &str, states: &Path) -> Result<()> {
    let runner = repository().join("scripts/uml-run");
    let status = Command::new(&runner)
        .args(["-t", PATIENCE_SECONDS, "-m", MEMORY, "--"])
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .envs(IN_GUEST)
        .env(STATES, states)
        .status();
    let status = status.with_context(|| runner.display().to_string())?;
    ensure!(status.success(), "{test} in the guest: {status}");
    Ok(())
}

/// Writes down what the API server holds after each step: `0.json` and so on, in the folder of the logs.
///
/// # Errors
/// The API server does not come up or refuses something.
pub async fn record(name: &str) -> Result<()> {
    let stage = stage_for(name, 0).await?;
    for (number, step) in life().iter().enumerate() {
        for request in &step.requests {
            request.send(&stage.client()).await?;
        }
        let kinds = "services,endpointslices.discovery.k8s.io,nodes";
        let get = ["get", kinds, "--all-namespaces", "--output=json"];
        let text = stage.control_plane().kubectl(&get).await?;
        fs::write(stage.logs().join(format!("{number}.json")), text)?;
    }
    Ok(())
}

/// The Service's life under mode ipvs, and what clean-up leaves.
///
/// # Errors
/// A packet meets something else; something is left.
pub async fn live(states: &Path) -> Result<()> {
    let world = World::in_guest(1)?;
    let _endpoints = Endpoints::listen(&world)?;
    let state = Path::new(SCRATCH).join("state.json");
    let steps = life();
    hand_over(states, 0, &state)?;
    let mut process = start(&world, &serving(Mode::Ipvs, &state))?;
    wait_ready(Proxy::Berth, &mut process)?;
    for (number, step) in steps.iter().enumerate() {
        println!("{}", step.name);
        hand_over(states, number, &state)?;
        let checked = expect::check(&world, Mode::Ipvs, &step.expected).await;
        checked.with_context(|| format!("{}: {}", step.name, process.log_end()))?;
    }
    println!("to mode iptables and back");
    let served = |step: &Step| step.expected == life::SERVED;
    let number = steps.iter().rposition(served).context("a step that serves")?;
    hand_over(states, number, &state)?;
    expect::check(&world, Mode::Ipvs, &life::SERVED).await?;
    ensure!(!left(&world)?.is_empty(), "nothing of ours is seen");
    let process = to_iptables_and_back(&world, process, &state).await?;
    end(process)?;
    println!("clean-up");
    let mut cleanup = start(&world, &["--cleanup".to_owned()])?;
    let status = cleanup.wait(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", cleanup.log_end());
    let left = left(&world)?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

/// Each mode removes what the other wrote.
async fn to_iptables_and_back(world: &World, ipvs: Process, state: &Path) -> Result<Process> {
    end(ipvs)?;
    let mut iptables = start(world, &serving(Mode::Iptables, state))?;
    wait_ready(Proxy::Berth, &mut iptables)?;
    expect::check(world, Mode::Iptables, &life::SERVED).await?;
    eventually("nothing of mode ipvs", PATIENCE, || async {
        let mut left = left(world)?;
        // The mark of mode iptables.
        left.retain(|line| !line.contains("BERTH-PROXY"));
        ensure!(left.is_empty(), "left: {left:?}");
        anyhow::Ok(())
    })
    .await?;
    end(iptables)?;
    let mut ipvs = start(world, &serving(Mode::Ipvs, state))?;
    wait_ready(Proxy::Berth, &mut ipvs)?;
    expect::check(world, Mode::Ipvs, &life::SERVED).await?;
    eventually("nothing of mode iptables", PATIENCE, || async {
        let listed = world.node().output("iptables-legacy-save", &[])?;
        let left = listed
            .lines()
            .find(|line| line.contains("KUBE-") || line.contains("BERTH-PROXY"));
        ensure!(left.is_none(), "left: {left:?}");
        anyhow::Ok(())
    })
    .await?;
    Ok(ipvs)
}

fn end(mut process: Process) -> Result<()> {
    let status = process.terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", process.log_end());
    Ok(())
}

fn serving(mode: Mode, state: &Path) -> Vec<String> {
    vec![
        format!("--proxy-mode={mode}"),
        format!("--state={}", state.display()),
    ]
}

/// By a rename: a half of a file is nothing to read.
fn hand_over(states: &Path, number: usize, state: &Path) -> Result<()> {
    let new = state.with_extension("new");
    let recorded = states.join(format!("{number}.json"));
    fs::copy(&recorded, &new).with_context(|| recorded.display().to_string())?;
    Ok(fs::rename(&new, state)?)
}

fn start(world: &World, flags: &[String]) -> Result<Process> {
    let log = Path::new(SCRATCH).join("proxy.log");
    let mut spec = Spec::new("proxy", binary("berth", "berth")?, &log);
    spec.args = [
        "proxy",
        &format!("--node-name={}", NODES[0].0),
        &format!("--cluster-cidr={CLUSTER_CIDRS}"),
        "--metrics-bind-address=127.0.0.1:10356",
    ]
    .map(str::to_owned)
    .into();
    spec.args.extend(flags.iter().cloned());
    // Of the variant that the guest's kernel has.
    let programs = path_with(Variant::Legacy, Path::new(SCRATCH))?;
    spec.env.push(("PATH".to_owned(), programs.into()));
    Ok(Process::start(world.node(), &spec)?)
}

/// What the kernel has of ours: virtual servers, addresses, sets, chains.
fn left(world: &World) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (program, arguments, mark) in [
        ("ipvsadm", &["--save", "--numeric"][..], "-A"),
        ("ip", &["-oneline", "link"], "kube-ipvs0"),
        ("ipset", &["list", "-name"], "BERTH-"),
        ("iptables-legacy-save", &[], "BERTH-"),
        ("ip6tables-legacy-save", &[], "BERTH-"),
    ] {
        let listed = world.node().output(program, arguments)?;
        let lines = listed.lines().filter(|line| line.contains(mark));
        found.extend(lines.map(|line| format!("{program}: {line}")));
    }
    Ok(found)
}
