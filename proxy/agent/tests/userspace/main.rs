// SPDX-License-Identifier: Apache-2.0
//! The user-space backend on the running kernel, each test in a sandbox of its own.

#![expect(clippy::unwrap_used, reason = "helpers of tests: constants that parse")]

#[path = "../backend/cluster.rs"]
#[expect(dead_code, reason = "some of it is about nftables")]
mod cluster;
mod datagrams;
mod ground;
mod policies;
mod refused;
mod steering;
mod streams;
#[path = "../backend/traffic.rs"]
#[expect(dead_code, reason = "some of it is about random picks")]
mod traffic;
