// SPDX-License-Identifier: Apache-2.0
//! Requests without a pause while endpoints roll over, the proxy is killed and restarted, and somebody flushes its rules:
//! real packets, and the proxy a process of its own with its run loop. This program is that process, too.
//!
//! Mode ipvs is not here: its kernel is the guest of `tests/ipvs`.

#![expect(clippy::unwrap_used, reason = "helpers of tests: constants that parse")]

mod cases;
mod proxy;
mod stream;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use berth_testkit::sandbox::{Side, enter};

type Case = (&'static str, fn(&world::World) -> anyhow::Result<()>);

const CASES: [Case; 3] = [
    ("nftables", cases::nftables),
    ("iptables", cases::iptables),
    ("userspace", cases::userspace),
];

fn main() -> ExitCode {
    if std::env::var_os(proxy::IS_PROXY).is_some() {
        return proxy::run();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        CASES.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let chosen: Vec<&Case> = CASES.iter().filter(|(name, _)| chosen(name)).collect();
    match enter() {
        Ok(Side::Inside) => inside(&chosen),
        Ok(Side::Finished(code)) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn inside(chosen: &[&Case]) -> ExitCode {
    println!("\nrunning {} tests", chosen.len());
    let started = Instant::now();
    let failed = chosen.iter().filter(|case| !run(case)).count();
    let outcome = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {outcome}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s",
        chosen.len() - failed,
        CASES.len() - chosen.len(),
        started.elapsed().as_secs_f64()
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(101)
    }
}

fn run((name, body): &Case) -> bool {
    let outcome = world::World::new().and_then(|world| {
        let outcome = body(&world);
        world.end().and(outcome)
    });
    match outcome {
        Ok(()) => println!("test {name} ... ok"),
        Err(error) => {
            println!("test {name} ... FAILED\n{error:?}");
            return false;
        }
    }
    true
}
