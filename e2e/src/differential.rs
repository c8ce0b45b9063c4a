// SPDX-License-Identifier: Apache-2.0
//! The differential test: the same history against kube-controller-manager and against Berth, on two real API servers.
//!
//! In: seeds. Out: what differs and is no deviation on purpose, shrunken. Touches: the sandbox it runs in, two control
//! planes with a contender each, a folder for logs.
//!
//! ```text
//!  seed -> generate -> history --+--> API server <- kube-controller-manager --+
//!                        ^       |                                            +--> observe -> compare -> explain
//!                        |       +--> API server <- berth controllers --------+                  |
//!                     shrink <-------------------------- difference ------------------------------+
//! ```
//!
//! Histories of many seeds run side by side, a namespace each. Between two barriers the steps of a namespace follow
//! each other as fast as the servers take them; at a barrier both sides settle and are compared. What happens to the
//! nodes, which are cluster-wide, is shared by 64 consecutive seeds.

mod arena;
mod compare;
mod dice;
mod explain;
mod generate;
mod history;
mod observe;
mod packing;
mod propose;
mod propose_endpoints;
mod request;
mod rows;
mod run;
mod sentinel;
mod shrink;
mod side;
mod step;
mod world;

pub use run::{Config, Failure, Replay, Report, printed, run};
