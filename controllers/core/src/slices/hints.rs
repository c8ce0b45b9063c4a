// SPDX-License-Identifier: Apache-2.0
//! Zone and node hints after `spec.trafficDistribution` (KEP-4444, KEP-3015).

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForNode, ForZone};

use crate::names;

/// Which hints the endpoints of a Service carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hinting {
    /// None: hints found are removed.
    None,
    /// Each ready endpoint serves its own zone.
    OwnZone,
    /// Each ready endpoint serves its own node and zone.
    OwnNode,
}

impl Hinting {
    /// What the Service asks for. Topology mode, where enabled, beats `trafficDistribution`; its
    /// own hints are not computed, which is what upstream does where too few endpoints allow them.
    pub(crate) fn of(service: &Service) -> Self {
        if topology_mode(service) {
            return Self::None;
        }
        let spec = service.spec.as_ref();
        match spec.and_then(|spec| spec.traffic_distribution.as_deref()) {
            Some("PreferClose" | "PreferSameZone") => Self::OwnZone,
            Some("PreferSameNode") => Self::OwnNode,
            Some(_) | None => Self::None,
        }
    }

    /// The hints that an endpoint should have, or nothing where whatever it has may stay.
    fn wanted(self, endpoint: &Endpoint) -> Option<Option<EndpointHints>> {
        if self == Self::None {
            return Some(None);
        }
        let conditions = endpoint.conditions.as_ref();
        if conditions.and_then(|conditions| conditions.ready) != Some(true) {
            return None;
        }
        let for_zones = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
        let node = endpoint.node_name.clone().filter(|_| self == Self::OwnNode);
        let for_nodes = node.map(|name| vec![ForNode { name }]);
        let any = for_zones.is_some() || for_nodes.is_some();
        Some(any.then_some(EndpointHints { for_nodes, for_zones }))
    }

    fn is_right(self, endpoint: &Endpoint) -> bool {
        self.wanted(endpoint)
            .is_none_or(|wanted| wanted.as_ref() == normal(endpoint.hints.as_ref()).as_ref())
    }

    /// Sets the hints of a slice that is written anyway.
    pub(crate) fn set(self, slice: &mut EndpointSlice) {
        for endpoint in slice.endpoints.iter_mut().flatten() {
            if let Some(wanted) = self.wanted(endpoint) {
                endpoint.hints = wanted;
            }
        }
    }

    /// A copy with right hints, if the hints of this slice are wrong.
    pub(crate) fn corrected(self, slice: &Arc<EndpointSlice>) -> Option<EndpointSlice> {
        let endpoints = slice.endpoints.as_deref().unwrap_or_default();
        if endpoints.iter().all(|endpoint| self.is_right(endpoint)) {
            return None;
        }
        let mut copy = EndpointSlice::clone(slice);
        self.set(&mut copy);
        Some(copy)
    }
}

/// Absent and empty lists are the same on the wire.
fn normal(hints: Option<&EndpointHints>) -> Option<EndpointHints> {
    let hints = hints?;
    let hints = EndpointHints {
        for_nodes: hints.for_nodes.clone().filter(|nodes| !nodes.is_empty()),
        for_zones: hints.for_zones.clone().filter(|zones| !zones.is_empty()),
    };
    Some(hints)
}

/// Whether the Service asks for topology mode; the older annotation wins where both are set.
fn topology_mode(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let value = annotations.and_then(|annotations| {
        annotations
            .get(names::TOPOLOGY_HINTS)
            .or_else(|| annotations.get(names::TOPOLOGY_MODE))
    });
    matches!(value.map(String::as_str), Some("Auto" | "auto"))
}
