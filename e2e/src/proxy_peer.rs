// SPDX-License-Identifier: Apache-2.0
//! `berth proxy` and kube-proxy 1.37 side by side, each the proxy of a node of its own that looks just like the other's.
//!
//! In: a stage, a namespace, how the node is called. Out: a running proxy; what becomes of packets under it. Touches:
//! the sandbox it runs in, a folder for logs.
//!
//! ```text
//!   stage: API server 0.0.0.0  <-- uplink --  node of Berth        <- Pods, outside, elsewhere: packets
//!     Services and slices      <-- uplink --  node of kube-proxy   <- Pods, outside, elsewhere: the same packets
//! ```

pub mod answer;
pub mod compare;
pub mod differences;
pub mod ground;
pub mod launch;
pub mod objects;
pub mod scenario;
pub mod structure;
pub mod world;
