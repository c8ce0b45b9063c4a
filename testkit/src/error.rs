// SPDX-License-Identifier: Apache-2.0
//! What can go wrong while namespaces, links and processes are made.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why the sandbox, a namespace, the LAN or a process could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that the testkit calls is not installed. Nothing was changed.
    #[error("`{tool}` is not installed: install the Debian package `{package}` (apt-get install {package})")]
    MissingTool {
        /// The program.
        tool: String,
        /// The Debian package that carries it.
        package: &'static str,
    },
    /// A binary of this workspace has not been built. Nothing was changed.
    #[error("{name} is in none of {}: build it with `cargo build -p {package}`", list(.searched))]
    MissingBinary {
        /// The binary.
        name: String,
        /// The crate that holds it.
        package: String,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// The kernel lets this user make no namespaces. Nothing was changed.
    #[error("this user may not create namespaces ({evidence}): {way_out}")]
    NamespacesRefused {
        /// The setting found, or what `unshare` said.
        evidence: String,
        /// What the user can do about it.
        way_out: String,
    },
    /// Called outside the sandbox, where links and rules of the machine would have been changed.
    #[error("{0} works only inside the sandbox: call sandbox::enter() first")]
    OutsideSandbox(&'static str),
    /// A program that was called failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command, or the batch given to it.
        command: String,
        /// How it ended.
        status: String,
        /// What it wrote to its standard error.
        stderr: String,
    },
    /// The kernel or file system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to which object.
        what: String,
        /// The refusal.
        source: io::Error,
    },
    /// Every address of a node's Pod range is in use.
    #[error("{node}: no free Pod address in {range}; delete Pods, or build the LAN with more nodes")]
    PodAddressesExhausted {
        /// The node.
        node: String,
        /// Its IPv4 Pod range.
        range: String,
    },
    /// Nothing answered in time.
    #[error("{what}: not so within {waited:?}; last: {last}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The last thing seen instead.
        last: String,
    },
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Error {
        let what = what.into();
        move |errno| Error::Io {
            what,
            source: errno.into(),
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
