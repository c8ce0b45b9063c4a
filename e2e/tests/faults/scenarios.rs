// SPDX-License-Identifier: Apache-2.0
//! Each fault once; `make soak` has more of each.

use berth_e2e::faults::Scenario;
use berth_testkit::in_sandbox_async;

const SEED: u64 = 4;

#[test]
fn without_any_fault_nothing_is_refused() {
    super::prepare();
    in_sandbox_async!(async { Scenario::Nothing.play("faults-nothing", SEED).await.map(drop) });
}

#[test]
fn kill_9_at_random_moments_of_convergence() {
    super::prepare();
    in_sandbox_async!(async { Scenario::Kills(10).play("faults-kills", SEED).await.map(drop) });
}

#[test]
fn the_api_server_is_restarted_and_crashes() {
    super::prepare();
    in_sandbox_async!(async {
        Scenario::ApiServerRestarts
            .play("faults-restarts", SEED)
            .await
            .map(drop)
    });
}

#[test]
fn watches_are_cut_again_and_again() {
    super::prepare();
    in_sandbox_async!(async { Scenario::CutWatches(10).play("faults-cuts", SEED).await.map(drop) });
}

#[test]
fn etcd_forgets_what_the_watches_have_not_seen() {
    super::prepare();
    in_sandbox_async!(async { Scenario::Expired.play("faults-expired", SEED).await.map(drop) });
}

#[test]
fn a_second_writer_edits_the_same_objects() {
    super::prepare();
    in_sandbox_async!(async {
        Scenario::SecondWriter(60)
            .play("faults-second-writer", SEED)
            .await
            .map(drop)
    });
}

#[test]
fn one_of_twenty_writes_fails() {
    super::prepare();
    in_sandbox_async!(async {
        Scenario::FailedWrites
            .play("faults-failed-writes", SEED)
            .await
            .map(drop)
    });
}

#[test]
fn each_watch_falls_behind_the_others() {
    super::prepare();
    in_sandbox_async!(async { Scenario::HeldWatches.play("faults-held", SEED).await.map(drop) });
}
