// SPDX-License-Identifier: Apache-2.0
//! Berth's controllers and kube-controller-manager on the same real API server: one takes over from the other without
//! a write, and what is large or being deleted costs no more writes than it must.

mod converge;
mod everything;
mod objects;
mod scale;
mod settled;
mod takeover;

use berth_e2e::controlplane::Binaries;
use berth_e2e::peers::Peers;
use berth_testkit::sandbox;

/// What has to be there before a sandbox is entered: there is no way to any registry from inside.
#[expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]
fn prepare() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
        Peers::find_or_build().unwrap();
    }
}
