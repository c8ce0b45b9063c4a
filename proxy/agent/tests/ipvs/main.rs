// SPDX-License-Identifier: Apache-2.0
//! The IPVS backend in a kernel that has IPVS: user-mode-linux, run by scripts/uml-run. This program runs itself again in
//! there, once for all cases; each case has a network namespace of its own, which is the node. Where the guest does
//! not start, the test fails.

#![expect(clippy::unwrap_used, reason = "helpers of tests: constants that parse")]

mod cluster;
mod keeping;
mod policies;
mod refused;
mod rolling;
mod sctp;
mod traffic;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};

use berth_testkit::cases::{self, Case};
use nix::sched::{CloneFlags, unshare};

/// Set in the guest. It is a machine of its own, so testkit's namespaces may be used there as in its sandbox.
const IN_GUEST: [(&str, &str); 2] = [("BERTH_UML_GUEST", "1"), ("BERTH_SANDBOX", "uml")];
/// What testkit's sandbox has, too.
const SCRATCH: &str = berth_testkit::sandbox::SCRATCH;
/// For a busy machine.
const PATIENCE_SECONDS: &str = "300";

type Body = fn() -> anyhow::Result<()>;

const CASES: [Case<Body>; 21] = [
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
        "traffic::affinity-timeout",
        traffic::a_client_is_forgotten_so_long_after_its_last_connection,
    ),
    (
        "traffic::udp",
        traffic::udp_clients_that_keep_their_port_leave_an_endpoint_that_left,
    ),
    (
        "traffic::node-port-addresses",
        traffic::node_ports_are_served_on_the_chosen_addresses_and_the_choice_changes_in_place,
    ),
    ("sctp", sctp::associations_are_spread_over_endpoints),
    (
        "sctp::iptables",
        sctp::in_iptables_associations_meet_every_endpoint,
    ),
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
        "rolling",
        rolling::a_rolling_update_costs_no_connection_under_either_policy,
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
        "keeping::strict-arp",
        keeping::with_strict_arp_this_host_does_not_answer_for_service_addresses_and_without_it_is_left_alone,
    ),
    (
        "keeping::cleanup",
        keeping::clean_up_leaves_nothing_of_ours_and_all_of_others,
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(chosen) = cases::chosen(&CASES, &arguments) else {
        return ExitCode::SUCCESS;
    };
    let is_inside = std::env::var_os(IN_GUEST[0].0).is_some();
    // For no test no guest is started.
    if is_inside || chosen.is_empty() {
        return inside(&chosen);
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

fn inside(chosen: &[&Case<Body>]) -> ExitCode {
    cases::run(CASES.len(), chosen, |body| run(*body))
}

/// One case, on a thread whose network namespace is the node.
fn run(body: Body) -> anyhow::Result<()> {
    std::fs::create_dir_all(SCRATCH)?;
    let outcome = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")))
    })
    .join();
    world::forget_namespaces();
    outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("its thread died")))
}
