// SPDX-License-Identifier: Apache-2.0
//! The iptables backend on the running kernel, in both variants of iptables, each test in a sandbox of its own.

#![expect(clippy::unwrap_used, reason = "helpers of tests: constants that parse")]

mod affinity;
#[path = "../backend/cluster.rs"]
#[expect(dead_code, reason = "some of it is about nftables")]
mod cluster;
mod detectors;
mod ground;
#[path = "../backend/links.rs"]
mod links;
mod packets;
mod policies;
mod recovery;
mod refused;
#[path = "../backend/strays.rs"]
mod strays;
mod structure;
mod takeover;
#[path = "../backend/traffic.rs"]
mod traffic;
