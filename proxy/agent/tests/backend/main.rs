// SPDX-License-Identifier: Apache-2.0
//! The nftables backend on the running kernel, each test in a sandbox of its own.

#![expect(clippy::unwrap_used, reason = "helpers of tests: constants that parse")]

mod affinity;
mod cluster;
mod counting;
mod detectors;
mod links;
mod pace;
mod packets;
mod policies;
mod recovery;
mod refused;
mod strays;
mod structure;
mod traffic;
mod unallocated;
