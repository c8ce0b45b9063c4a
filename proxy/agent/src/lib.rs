// SPDX-License-Identifier: Apache-2.0
//! The node proxy: watches Services and EndpointSlices and keeps this node's nftables tables, or in another mode kube-proxy's
//! chains in iptables or virtual servers with sets and rules, or relays connections itself.
//!
//! In: flags or a kube-proxy configuration, an API server. Out: the tables `ip berth-proxy` and `ip6
//! berth-proxy` (mode userspace: `berth-relay`), conntrack clean-ups, answers to health checks, events, metrics, readiness.
//! Touches: the kernel by netlink, nothing but its own tables; TCP ports that Services ask to be checked on; in mode
//! userspace the sockets of relays.
//!
//! ```text
//!  watch --> snapshot::Index --> core::Intent --diff--> Plan --apply--> kernel
//!                                                 ^                       |
//!                                                 +------- observe -------+  (start, after an error)
//! ```

pub mod apply;
mod args;
pub mod backend;
mod config;
mod error;
mod events;
mod feed;
mod health;
pub mod iptables;
pub mod ipvs;
mod metrics;
pub mod nftables;
mod node;
mod once;
pub mod options;
mod program;
mod refusals;
mod run;
mod source;
mod start;
mod state_file;
pub mod sync;
mod sysctl;
pub mod takeover;
mod upstream;
pub mod userspace;

pub use args::{CountFormat, ProxyArgs, SharedArgs};
pub use error::Error;
pub use once::cleanup;
pub use run::run;
