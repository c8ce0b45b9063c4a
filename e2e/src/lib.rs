// SPDX-License-Identifier: Apache-2.0
//! Berth on a real control plane with real packets: the demo and the ground of the end-to-end tests.
//!
//! In: the workspace's own binaries, `manifests/`, `examples/`. Out: a running cluster, what it showed.
//! Touches: the sandbox, the build cache, `target/e2e` for logs.
//!
//! ```text
//!  controlplane (etcd, kube-apiserver) --+
//!  testkit: LAN, nodes, Pods ------------+--> cluster --> examples, failover --> demo, tests
//!  berth controllers, proxy, announcer --+
//! ```

pub mod bench;
pub mod cluster;
pub mod controlplane;
pub mod demo;
pub mod differential;
pub mod examples;
pub mod failover;
pub mod faults;
pub mod interposer;
mod keep;
pub mod metrics;
pub mod peers;
pub mod proxy_modes;
pub mod proxy_peer;
pub mod replicas;
pub mod soak;
pub mod stage;
