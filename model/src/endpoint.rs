// SPDX-License-Identifier: Apache-2.0
//! Endpoints as they come out of EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use crate::{NodeName, Port};

/// The three conditions of discovery/v1, with the API's defaults applied (ready and serving absent
/// mean true, terminating absent means false).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conditions {
    /// May receive new connections in the ordinary case.
    pub ready: bool,
    /// Passes its readiness check, whether or not it is terminating.
    pub serving: bool,
    /// Is on its way out.
    pub terminating: bool,
}

impl Conditions {
    /// An ordinary endpoint in service.
    pub const READY: Self = Self {
        ready: true,
        serving: true,
        terminating: false,
    };
}

/// Topology hints of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointHints {
    /// Zones that should prefer this endpoint.
    pub zones: Box<[Arc<str>]>,
    /// Nodes that should prefer this endpoint.
    pub nodes: Box<[NodeName]>,
}

/// One address and port behind a Service port. There are more of these than of anything else, so texts are shared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The endpoint's address.
    pub ip: IpAddr,
    /// The endpoint's port: may differ between endpoints of one Service port.
    pub port: Port,
    /// Its conditions.
    pub conditions: Conditions,
    /// The Node it runs on; `None` is never local.
    pub node: Option<NodeName>,
    /// Its zone, if known.
    pub zone: Option<Arc<str>>,
    /// Its hints.
    pub hints: EndpointHints,
}

impl Endpoint {
    /// Whether it runs on the given Node.
    pub fn is_on(&self, node: &NodeName) -> bool {
        self.node.as_ref() == Some(node)
    }
}
