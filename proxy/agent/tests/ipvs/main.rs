// SPDX-License-Identifier: Apache-2.0
//! The IPVS backend in a kernel that has IPVS: user-mode-linux, run by scripts/uml-run. This program runs itself again in
//! there, once for all cases; each case has a network namespace of its own, which is the node. Where the guest does
//! not start, the test fails.

#![expect(clippy::unwrap_used, reason = "helpers of tests: constants that parse")]

mod cluster;
mod keeping;
mod policies;
mod refused;
mod sctp;
mod traffic;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};

/// Set in the guest. It is a machine of its own, so testkit's namespaces may be used there as in its sandbox.
const IN_GUEST: [(&str, &str); 2] = [("BERTH_UML_GUEST", "1"), ("BERTH_SANDBOX", "uml")];
/// What testkit's sandbox has, too.
const SCRATCH: &str = berth_testkit::sandbox::SCRATCH;
/// For a busy machine.
const PATIENCE_SECONDS: &str = "300";

type Case = (&'static str, fn() -> anyhow::Result<()>);

const CASES: [Case; 16] = [
    (
        "traffic::spread",
        traffic::connections_are_spread_over_the_endpoints_of_every_frontend,
    ),
    (
        "traffic::masquerade",
        traffic::node_ports_hairpin_hosts_and_strangers_are_masqueraded_and_pods_are_not,
    ),
    (
        "traffic::refuse",
        traffic::a_service_without_endpoints_and_an_unknown_port_refuse,
    ),
    (
        "traffic::affinity",
        traffic::a_client_stays_with_its_endpoint_as_long_as_that_is_there,
    ),
    (
        "traffic::udp",
        traffic::udp_clients_that_keep_their_port_leave_an_endpoint_that_left,
    ),
    ("sctp", sctp::associations_are_spread_over_endpoints),
    (
        "policies::local",
        policies::policy_local_keeps_the_source_address_from_outside_and_is_short_cut_inside,
    ),
    (
        "policies::nobody-here",
        policies::policy_local_without_a_local_endpoint_is_silent_outside_and_serves_pods,
    ),
    (
        "policies::ranges",
        policies::source_ranges_bind_the_load_balancer_address_alone,
    ),
    (
        "policies::flip",
        policies::a_policy_that_changes_is_followed_in_place,
    ),
    (
        "refused",
        refused::one_that_the_kernel_refuses_is_left_out_and_the_others_are_served,
    ),
    (
        "keeping::drain",
        keeping::an_endpoint_that_left_keeps_its_connections_until_they_end,
    ),
    (
        "keeping::restart",
        keeping::a_restart_writes_nothing_and_gives_weights_back,
    ),
    (
        "keeping::repair",
        keeping::what_somebody_else_takes_away_comes_back,
    ),
    (
        "keeping::scheduler",
        keeping::a_scheduler_that_the_kernel_lacks_is_named_and_another_takes_its_servers_over,
    ),
    (
        "keeping::cleanup",
        keeping::clean_up_leaves_nothing_of_ours_and_all_of_others,
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        CASES.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen: Vec<&Case> = CASES
        .iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())))
        .collect();
    if std::env::var_os(IN_GUEST[0].0).is_some() {
        return inside(&chosen);
    }
    if chosen.is_empty() {
        println!(
            "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; {} filtered out",
            CASES.len()
        );
        return ExitCode::SUCCESS;
    }
    outside(&arguments)
}

/// Runs this program in the guest and ends as it ended.
fn outside(arguments: &[String]) -> ExitCode {
    let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/uml-run");
    let program = std::env::current_exe().unwrap();
    let status = Command::new(&runner)
        .args(["-t", PATIENCE_SECONDS, "--"])
        .arg(program)
        .args(arguments)
        .envs(IN_GUEST)
        .status();
    match status {
        Ok(status) => ExitCode::from(
            status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(1),
        ),
        Err(error) => {
            eprintln!("{}: {error}", runner.display());
            ExitCode::FAILURE
        }
    }
}

fn inside(chosen: &[&Case]) -> ExitCode {
    std::fs::create_dir_all(SCRATCH).unwrap();
    let started = Instant::now();
    println!("\nrunning {} tests", chosen.len());
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

/// One case, on a thread whose network namespace is the node.
fn run((name, body): &Case) -> bool {
    let started = Instant::now();
    let body = *body;
    let outcome = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")))
    })
    .join();
    world::forget_namespaces();
    let took = started.elapsed().as_secs_f64();
    match outcome {
        Ok(Ok(())) => {
            println!("test {name} ... ok ({took:.1} s)");
            true
        }
        Ok(Err(error)) => {
            println!("test {name} ... FAILED ({took:.1} s)\n{error:?}");
            false
        }
        Err(_) => {
            println!("test {name} ... FAILED: its thread died");
            false
        }
    }
}
