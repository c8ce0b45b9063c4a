// SPDX-License-Identifier: Apache-2.0
//! What can go wrong between us and the kernel.

use std::path::PathBuf;

use berth_runtime::exit::{Code, ExitError};

/// A failure of the kernel side. The kernel applies a transaction wholly or not at all, so after any of
/// these the table is as some committed stage left it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not administer the network.
    #[error(
        "{what}: permission denied; berth proxy needs CAP_NET_ADMIN in the node's network namespace (run as root, or in a Pod with hostNetwork and that capability)"
    )]
    Privilege {
        /// What was tried.
        what: String,
    },
    /// The kernel refused.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: Box<nlink::Error>,
    },
    /// The ruleset kept changing while it was read.
    #[error("the ruleset changed during each of {attempts} attempts to read it")]
    Unstable {
        /// How often it was tried.
        attempts: u32,
    },
    /// A program could not be run.
    #[error("{}: {source}", program.display())]
    Program {
        /// Which.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program did not do what it was asked for.
    #[error("{command}: {status}: {said}{}", lines.first().map(|line| format!("; the line: {line}")).unwrap_or_default())]
    Refused {
        /// Which, with its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        said: String,
        /// Which lines of its input it named.
        lines: Vec<String>,
    },
    /// The node lacks something: a program, a module, a setting.
    #[error("{what}; {way_out}")]
    Missing {
        /// What is not there.
        what: String,
        /// What to do about it.
        way_out: String,
    },
    /// A socket option could not be read or set.
    #[error("netlink socket: {0}")]
    Socket(#[from] nix::errno::Errno),
}

impl Error {
    pub(crate) fn kernel(what: impl Into<String>) -> impl FnOnce(nlink::Error) -> Self {
        let what = what.into();
        move |source| {
            if source.is_permission_denied() {
                Self::Privilege { what }
            } else {
                Self::Kernel {
                    what,
                    source: Box::new(source),
                }
            }
        }
    }
}

impl From<Error> for ExitError {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Privilege { .. } => Code::Privilege,
            Error::Kernel { .. }
            | Error::Unstable { .. }
            | Error::Program { .. }
            | Error::Refused { .. }
            | Error::Missing { .. }
            | Error::Socket(_) => Code::Failure,
        };
        Self::new(code, error)
    }
}
