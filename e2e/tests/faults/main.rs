// SPDX-License-Identifier: Apache-2.0
//! Berth's controllers while processes die, connections break and others write: the end is what a naive model says.

mod events;
mod interposer;
mod listed;
mod replicas;
mod scenarios;
mod stale;
mod still;

use berth_e2e::controlplane::Binaries;
use berth_testkit::sandbox;

/// What has to be there before a sandbox is entered: there is no way to any registry from inside.
#[expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]
fn prepare() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
    }
}
