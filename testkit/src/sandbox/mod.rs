// SPDX-License-Identifier: Apache-2.0
//! Runs the current program again inside fresh namespaces.
//!
//! The inner program is process 1 of its own pid namespace. When it ends, or when the outer one dies
//! of whatever cause, the kernel kills every process in there and with them go the network
//! namespaces, links, rules and mounts. So nothing needs a clean-up of its own, and nothing outside
//! changes. There is no way out to any network from inside: build and download before entering.
//!
//! Root gets no user namespace, because some limits (the forced socket buffer sizes of netlink) are
//! tied to the machine's own one; an ordinary user, or root without the right to do so, gets one.
//! `BERTH_SANDBOX_USER=1` asks for a user namespace as root too.

mod inner;
mod outer;
mod test;

use std::path::Path;
use std::process::ExitCode;

use crate::Error;

pub use inner::enter_command;
pub(crate) use outer::pid_of;
pub use outer::require_tools;
pub use test::{name_from, run_async_test, run_test};

/// Set for the inner program: the process id of the outer one, as seen outside.
const MARKER: &str = "BERTH_SANDBOX";
/// Asks for a user namespace even where root could do without.
const FORCE_USER: &str = "BERTH_SANDBOX_USER";
/// A memory-backed folder inside the sandbox, gone with it: data that need not outlive the run.
pub const SCRATCH: &str = "/run/berth";

/// On which side of [`enter`] the program is.
#[derive(Debug)]
pub enum Side {
    /// Inside: go on with the real work.
    Inside,
    /// Outside, and the inner program has ended with this code: leave `main` with it.
    Finished(ExitCode),
}

/// To be called first thing in `main`, before any thread is started: outside it runs the same
/// program with the same arguments in the sandbox and waits for its end; inside it prepares
/// the sandbox and returns at once.
///
/// SIGINT, SIGTERM and SIGHUP to the outer program are passed on to the inner one if it handles
/// them; a second one, or 10 s without an end, ends it. Without a handler it ends at once.
///
/// # Errors
/// A missing tool, or a kernel that refuses the namespaces, with the way out.
pub fn enter() -> Result<Side, Error> {
    if is_inside() {
        inner::prepare()?;
        return Ok(Side::Inside);
    }
    outer::run_program().map(Side::Finished)
}

/// Whether the current process runs inside the sandbox.
pub fn is_inside() -> bool {
    std::env::var_os(MARKER).is_some() && (std::process::id() == 1 || Path::new(SCRATCH).is_dir())
}

/// Refuses to go on outside the sandbox.
///
/// # Errors
/// Outside the sandbox.
pub fn require_inside(what: &'static str) -> Result<(), Error> {
    if is_inside() {
        Ok(())
    } else {
        Err(Error::OutsideSandbox(what))
    }
}
