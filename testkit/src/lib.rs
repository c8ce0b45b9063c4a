// SPDX-License-Identifier: Apache-2.0
//! A LAN for tests and the demo, made of network namespaces.
//!
//! In: how many nodes; a `kube::Client` for the node agents. Out: namespaces with a bridge, nodes, a
//! client host and Pods whose processes really listen. Touches: only the namespaces that
//! [`sandbox`] has put the current process into; nothing outside them changes.
//!
//! ```text
//!  sandbox (user, net, mount, pid)          lan                         kubelet
//!  re-executes the program,        ->  br-lan + node-N + client  <-  Pods of the API server
//!  its end removes everything          netns, ip                     become namespaces, processes, status
//!                                           ^
//!                                   probe, stream: who answers whom, for how long nobody did
//! ```

pub mod builders;
pub mod cases;
mod error;
pub mod kubelet;
pub mod lan;
pub mod netns;
mod node;
pub mod pods;
pub mod probe;
pub mod process;
pub mod sandbox;
pub mod scheduler;
pub mod stream;
pub mod wait;

pub use error::Error;
