// SPDX-License-Identifier: Apache-2.0
//! The same histories against kube-controller-manager and against Berth: what they make of them is equal, but for the
//! deviations on purpose, which are asserted where they are met.

use std::time::Duration;

use anyhow::{Result, ensure};
use berth_e2e::controlplane::Binaries;
use berth_e2e::differential::{Config, Report, run};
use berth_e2e::peers::Peers;
use berth_e2e::stage;
use berth_testkit::{in_sandbox_async, sandbox};

/// The first seed of those that guard every change; `make soak` takes others.
const SEED: u64 = 64;

/// There is no way to any registry from inside a sandbox.
#[expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]
fn prepare() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
        Peers::find_or_build().unwrap();
    }
}

async fn compared(name: &str, histories: u64, berth_flags: Vec<String>) -> Result<Report> {
    let wrong = !berth_flags.is_empty();
    let config = Config {
        seed: SEED,
        histories,
        logs: stage::folder(name)?,
        pairs: 2,
        // The sandbox ends a test after 15 minutes; `make soak` takes its time.
        shrink_for: Duration::from_secs(if wrong { 0 } else { 240 }),
        patience: if wrong { Duration::ZERO } else { Config::PATIENCE },
        berth_flags,
    };
    let report = run(&config, &|line| println!("{name}: {line}")).await?;
    println!("{report}");
    Ok(report)
}

#[test]
fn sixty_four_histories_end_alike_with_kube_controller_manager_and_with_berth() {
    prepare();
    in_sandbox_async!(async {
        let report = compared("differential", 64, Vec::new()).await?;
        ensure!(
            report.failures.is_empty(),
            "{} unexplained differences",
            report.failures.len()
        );
        ensure!(report.histories == 64, "{} histories", report.histories);
        // A generator whose steps are refused, or that leaves nothing to compare, shows nothing.
        ensure!(report.steps >= 64 * 45, "{} steps taken", report.steps);
        ensure!(report.compared >= 64 * 20, "{} comparisons", report.compared);
        // By the model of upstream's packing one slice more is explained: so it has to hold for upstream itself.
        ensure!(
            report.as_modelled * 50 >= report.modelled * 49,
            "upstream packs as the model says at {} of {} barriers only",
            report.as_modelled,
            report.modelled
        );
        anyhow::Ok(())
    });
}

#[test]
fn a_berth_that_packs_worse_is_found_out() {
    prepare();
    in_sandbox_async!(async {
        let wrong = vec!["--max-endpoints-per-slice=1".to_owned()];
        let report = compared("differential-wrong", 3, wrong).await?;
        let found: String = report
            .failures
            .iter()
            .map(|failure| failure.difference.clone())
            .collect();
        ensure!(
            found.contains("number of EndpointSlices"),
            "not found out: {found}"
        );
        anyhow::Ok(())
    });
}
