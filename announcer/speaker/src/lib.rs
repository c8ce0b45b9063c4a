// SPDX-License-Identifier: Apache-2.0
//! The announcer's shell: it does on a node what `berth-announcer-core` decides.
//!
//! In: Services and Nodes from the API server, links from the kernel, frames and heartbeats from the LAN. Out: answers
//! and unasked announcements, heartbeats, one `NodeAnnouncement`. Touches: packet and UDP sockets, multicast
//! groups, netlink (reading only), the API server. It puts no address on the node: when it is killed, nothing is left.
//!
//! ```text
//!  observe (API server) --> Cluster --+
//!  links (netlink) ---------- Links --+--> drive (Engine) --> ports, groups, heartbeat socket
//!  ports, heartbeat socket -----------+        |
//!                                              +--> Report --> status (NodeAnnouncement), metrics
//! ```

mod args;
mod clock;
mod drive;
mod error;
mod groups;
mod heartbeat;
mod links;
mod lock;
mod metrics;
mod observe;
mod ports;
mod report;
mod run;
mod status;

pub use args::AnnouncerArgs;
pub use drive::{Setup, Speaker};
pub use error::SpeakerError;
pub use metrics::AnnouncerMetrics;
pub use observe::Cluster;
pub use report::Report;
pub use run::run;
