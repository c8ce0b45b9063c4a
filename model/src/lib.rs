// SPDX-License-Identifier: Apache-2.0
//! The nouns that every part of Berth shares.
//!
//! In: nothing but plain values. Out: typed keys, addresses, ports, Services and endpoints as the
//! data path sees them. Touches: nothing (no IO, no clock, no Kubernetes types).
//!
//! ```text
//!  View --< Service --< ServicePort            one frontend port of one Service
//!             |
//!             +------< EndpointPort --< Endpoint   joined by port name and protocol, never by number
//! ```
#![forbid(unsafe_code)]

mod addr;
mod endpoint;
mod key;
mod port;
mod port_range;
mod service;
mod view;

pub use addr::{IpFamily, IpRange, RangeError, address_bits};
pub use endpoint::{Conditions, Endpoint, EndpointHints};
pub use key::{KeyError, NodeName, PortName, ServiceKey, ServicePortName};
pub use port::{Port, Protocol, UnknownProtocol};
pub use port_range::{PortRange, PortRangeError};
pub use service::{
    IpMode, LoadBalancerIngress, Service, ServiceKind, ServicePort, SessionAffinity, TrafficPolicy,
};
pub use view::{EndpointPort, View};
