// SPDX-License-Identifier: Apache-2.0
//! The read view: what every planner of the data path takes as input.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Endpoint, PortName, Protocol, Service, ServiceKey};

/// The join between Service ports and endpoints: port name and protocol, never the number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointPort {
    /// The port's name.
    pub name: PortName,
    /// The port's protocol.
    pub protocol: Protocol,
}

/// Services and their endpoints at one moment, ordered, cheap to clone.
///
/// A key may have endpoints and no Service (slices seen first) or a Service and no endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Services with a data path.
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
    /// Endpoints of both families by Service, sorted by address and port, without duplicates.
    pub endpoints: BTreeMap<ServiceKey, Arc<BTreeMap<EndpointPort, Vec<Endpoint>>>>,
}

impl View {
    /// The endpoints behind one port of one Service, both families; empty if there are none.
    pub fn endpoints_of(&self, service: &ServiceKey, port: &EndpointPort) -> &[Endpoint] {
        self.endpoints
            .get(service)
            .and_then(|ports| ports.get(port))
            .map_or(&[], Vec::as_slice)
    }
}
