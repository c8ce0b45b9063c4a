// SPDX-License-Identifier: Apache-2.0
//! Mode ipvs, beside kube-proxy's, in one boot of a guest kernel (scripts/uml-run): the machine's own need not have IPVS.
//!
//! Outside, [`measure`] starts the guest with this very program in it. [`inside`] starts a real API server there, lets each
//! proxy write its rules and ends it: the guest has one CPU, on which nobody shall have anything else to do while
//! packets are measured. What is compared are the rules as they were left in the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anstream::println;
use anyhow::{Context, Result, ensure};
use berth_testkit::process::binary;
use berth_testkit::sandbox::SCRATCH;
use serde::{Deserialize, Serialize};

use super::contender::GUEST;
use super::ground::{GUEST_LOGS, Ground};
use super::{Measured, TrafficOptions, Turns, kernel_release, take_turns};
use crate::cluster::{log_path, repository};

/// Set in the guest. It is a machine of its own, so testkit's namespaces may be used there as in its sandbox.
const IN_GUEST: [(&str, &str); 1] = [("BERTH_SANDBOX", "uml")];
/// An API server takes a minute to start on the guest's one CPU, and so do rules for some hundred Services.
const START: Duration = Duration::from_secs(1_200);
/// For etcd, kube-apiserver and a proxy, and what they keep on a file system in memory.
const MEMORY: &str = "2G";
/// Of a turn. The guest's one CPU has what others leave of the machine's: all contenders shall meet the same of that.
const SLICES: u32 = 12;
/// What it said last is shown where it fails.
const SHOWN: usize = 20;

/// `berth-e2e traffic-in-guest`: the benchmark's other half, which starts it by itself.
#[derive(clap::Args, Clone, Debug)]
pub struct GuestArguments {
    /// As of the benchmark
    #[arg(long)]
    pub runs: u32,

    /// How long a turn takes, for each of the two figures
    #[arg(long, value_name = "MILLISECONDS")]
    pub turn: u64,

    /// Services that are there beside the measured one
    #[arg(long)]
    pub others: u16,

    /// The build of Berth to measure
    #[arg(long, value_name = "FILE")]
    pub berth: PathBuf,

    /// Where to write what came of it
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// What the guest tells, by the contenders' names.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    kernel: String,
    turns: BTreeMap<String, Turns>,
    log: String,
}

/// What is different from the machine's own kernel, in words.
pub(super) fn conditions(kernel: &str) -> String {
    format!(
        "Linux {kernel} (user-mode-linux), one CPU that client and server share; turns in {SLICES} slices that alternate; both proxies' rules in one \
         boot, each as its proxy left them: proxies and API server have ended"
    )
}

/// Starts the guest and waits for what comes of it: the kernel's release and all turns. Blocks.
///
/// # Errors
/// The guest does not start (it takes the package user-mode-linux), or the measurement fails in it; with what it said last.
pub(super) fn measure(options: &TrafficOptions, say: &impl Fn(&str)) -> Result<(String, Measured)> {
    let out = log_path(GUEST_LOGS)?.with_extension("json");
    let folder = out.parent().context("a folder for what the guest tells")?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    tokio::task::block_in_place(|| run(options, &out, say))?;
    let text = fs::read_to_string(&out).with_context(|| out.display().to_string())?;
    understood(&text).with_context(|| out.display().to_string())
}

fn run(options: &TrafficOptions, out: &Path, say: &impl Fn(&str)) -> Result<()> {
    let runner = repository().join("scripts/uml-run");
    let contenders = u32::try_from(GUEST.len())?;
    // Two figures, and as much again for the rest.
    let patience = START + 4 * contenders * options.runs * options.turn;
    let mut guest = Command::new(&runner)
        .args(["-t", &patience.as_secs().to_string(), "-m", MEMORY, "--"])
        .arg(binary("berth-e2e", "berth-e2e")?)
        .arg("traffic-in-guest")
        .arg(format!("--runs={}", options.runs))
        .arg(format!("--turn={}", options.turn.as_millis()))
        .arg(format!("--others={}", options.others))
        .arg(format!("--berth={}", options.berth.display()))
        .arg(format!("--out={}", out.display()))
        .envs(IN_GUEST)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| runner.display().to_string())?;
    let output = guest.stdout.take().context("the guest's output")?;
    let mut said = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        say(&format!("guest: {line}"));
        said.push(line);
    }
    let status = guest.wait()?;
    let last = said.split_off(said.len().saturating_sub(SHOWN)).join("\n");
    ensure!(status.success(), "in the guest kernel: {status}\n{last}");
    Ok(())
}

fn understood(text: &str) -> Result<(String, Measured)> {
    let mut told: Told = serde_json::from_str(text)?;
    let turns: Result<_> = GUEST
        .into_iter()
        .map(|contender| {
            let turns = told.turns.remove(contender.name());
            Ok((
                contender,
                turns.with_context(|| format!("no {}", contender.name()))?,
            ))
        })
        .collect();
    let measured = Measured {
        turns: turns?,
        log: told.log,
    };
    Ok((told.kernel, measured))
}

/// In the guest: measures, and writes down what came of it.
///
/// # Errors
/// Outside the guest; whatever did not come up.
pub(crate) async fn inside(arguments: &GuestArguments) -> Result<()> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    ensure!(
        is_guest(&cpu),
        "not in a guest kernel: the benchmark starts this by itself"
    );
    fs::create_dir_all(SCRATCH).context(SCRATCH)?;
    let options = TrafficOptions {
        runs: arguments.runs,
        turn: Duration::from_millis(arguments.turn),
        others: arguments.others,
        berth: arguments.berth.clone(),
        ipvs: true,
    };
    let say = |line: &str| println!("{line}");
    let ground = Ground::of_rules_alone(&options, &say).await?;
    let measured = take_turns(&ground, &GUEST, SLICES, &options, &say)?;
    let told = told(kernel_release()?, &measured);
    let text = serde_json::to_string_pretty(&told)?;
    fs::write(&arguments.out, text).with_context(|| arguments.out.display().to_string())
}

fn told(kernel: String, measured: &Measured) -> Told {
    let turns = measured.turns.iter();
    Told {
        kernel,
        turns: turns
            .map(|(contender, turns)| (contender.name().to_owned(), turns.clone()))
            .collect(),
        log: measured.log.clone(),
    }
}

/// Whether /proc/cpuinfo is user-mode-linux's.
fn is_guest(cpu: &str) -> bool {
    cpu.lines()
        .filter_map(|line| line.split_once(':'))
        .any(|(key, value)| key.trim() == "vendor_id" && value.trim() == "User Mode Linux")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_tells_is_understood_outside_and_everybody_must_be_in_it() {
        let turns = |rate| Turns {
            connections: vec![rate, rate + 1.0],
            throughput: vec![0.5],
        };
        let measured = Measured {
            turns: GUEST.into_iter().zip([1.0, 2.0, 3.0].map(turns)).collect(),
            log: "a line\n".to_owned(),
        };
        let mut told = told("6.1".to_owned(), &measured);
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(understood(&text).unwrap(), ("6.1".to_owned(), measured));
        told.turns.remove("kube-proxy-ipvs");
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(understood(&text).unwrap_err().to_string(), "no kube-proxy-ipvs");
    }

    #[test]
    fn a_guest_is_known_by_its_cpu() {
        assert!(is_guest(
            "processor\t: 0\nvendor_id\t: User Mode Linux\nmodel name\t: UML\n"
        ));
        assert!(!is_guest("processor\t: 0\nvendor_id\t: GenuineIntel\n"));
    }
}
