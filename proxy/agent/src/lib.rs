// SPDX-License-Identifier: Apache-2.0
//! The node proxy: watches Services and EndpointSlices and keeps this node's nftables tables.
//!
//! In: flags, an API server. Out: the tables `ip berth-proxy` and `ip6 berth-proxy`, conntrack
//! clean-ups, metrics, readiness. Touches: the kernel by netlink, nothing but its own tables.
//!
//! ```text
//!  watch --> snapshot::Index --> core::Intent --diff--> Plan --apply--> kernel
//!                                                 ^                       |
//!                                                 +------- observe -------+  (start, after an error)
//! ```

pub mod apply;
mod args;
mod error;
mod feed;
mod metrics;
mod run;
pub mod sync;

pub use args::ProxyArgs;
pub use error::Error;
pub use run::{cleanup, run};
