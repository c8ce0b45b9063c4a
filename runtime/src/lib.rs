// SPDX-License-Identifier: Apache-2.0
//! The shell that every daemon shares.
//!
//! In: flags, environment, the API server's streams, signals. Out: normalised watch events, a keyed
//! work queue, leadership, an admin port, logs, exit codes. Touches: sockets, clock, environment,
//! process signals; never a Service, an endpoint or a kernel rule.
//!
//! ```text
//!  client --> watch --> (index of the daemon) --> queue --> (reconcile of the daemon)
//!  lease  --> Leadership                     ready, metrics --> admin
//! ```

pub mod admin;
pub mod backoff;
pub mod client;
pub mod duration;
pub mod exit;
pub mod lease;
pub mod log;
pub mod manifest;
pub mod metrics;
pub mod queue;
pub mod ready;
pub mod serve;
pub mod shutdown;
pub mod sys;
pub mod watch;
