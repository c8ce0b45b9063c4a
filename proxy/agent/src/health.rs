// SPDX-License-Identifier: Apache-2.0
//! What others may know of this proxy's health: `/healthz` and `/livez`, and the health-check node ports
//! of Services.

mod ports;
mod server;
mod state;

pub(crate) use ports::{HealthPorts, Refusal};
pub(crate) use server::serve;
pub(crate) use state::ProxyHealth;
