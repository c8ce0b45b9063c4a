// SPDX-License-Identifier: Apache-2.0
//! A real Kubernetes control plane for demo, tests and benchmarks: etcd and kube-apiserver, nothing imitated.
//!
//! In: a folder of its own and an address to serve on. Out: a running API server, kubeconfigs for the admin
//! and for service accounts, clients and kubectl. Touches: two child processes, that folder, the build cache.
//!
//! ```text
//! Binaries (found, cached or built) -> ControlPlane::start -> etcd  <- unix socket -  kube-apiserver
//!                                                                                       | TLS, own CA
//!                                            admin_kubeconfig, client, kubectl, service_account_kubeconfig
//! ```
//!
//! There is no kube-controller-manager: nothing garbage-collects, a deleted namespace stays Terminating,
//! ServiceAccounts exist only where something creates them, and the aggregated roles (admin, edit, view) are empty.

mod binaries;
mod build;
mod certificates;
mod config;
mod error;
mod kinds;
mod kubeconfig;
mod kubectl;
mod listen;
mod process;
mod progress;
mod rbac;
mod server;
mod toolchain;

pub use binaries::Binaries;
pub(crate) use binaries::Surroundings;
pub(crate) use build::Module;
pub use config::ControlPlaneConfig;
pub use error::ControlPlaneError;
pub use kubeconfig::Access;
pub use kubectl::Kubectl;
pub use server::ControlPlane;

/// Service ranges of every test cluster, IPv4 first (the primary family).
pub const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:10:96::/112";
