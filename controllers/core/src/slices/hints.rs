// SPDX-License-Identifier: Apache-2.0
//! Zone and node hints: which kind a Service asks for, and those after `spec.trafficDistribution`
//! (KEP-4444, KEP-3015).

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForNode, ForZone};

use super::topology::{Verdict, Written, ZoneShares, hint, is_ready};
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
    /// Zones get endpoints in proportion to the CPU of their Nodes.
    ByCpu,
}

impl Hinting {
    /// What the Service asks for. Topology mode, where enabled, beats `trafficDistribution`.
    pub(crate) fn of(service: &Service) -> Self {
        if topology_mode(service) {
            return Self::ByCpu;
        }
        let spec = service.spec.as_ref();
        match spec.and_then(|spec| spec.traffic_distribution.as_deref()) {
            Some("PreferClose" | "PreferSameZone") => Self::OwnZone,
            Some("PreferSameNode") => Self::OwnNode,
            Some(_) | None => Self::None,
        }
    }

    /// Settles the hints of one family: sets them in what is written anyway, and adds the unchanged
    /// slices whose hints are wrong. The verdict is topology mode's, where that is asked for.
    pub(crate) fn settle(
        self,
        mut written: Written<'_>,
        unchanged: &[Arc<EndpointSlice>],
        shares: &ZoneShares,
    ) -> Option<Verdict> {
        let simple = match self {
            Self::None => Simple::None,
            Self::OwnZone => Simple::OwnZone,
            Self::OwnNode => Simple::OwnNode,
            Self::ByCpu => {
                let verdict = hint(&mut written, unchanged, shares);
                if let Verdict::Off(..) = verdict {
                    Simple::None.settle(&mut written, unchanged);
                }
                return Some(verdict);
            }
        };
        simple.settle(&mut written, unchanged);
        None
    }
}

/// Hints that each endpoint gets by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Simple {
    None,
    OwnZone,
    OwnNode,
}

impl Simple {
    fn settle(self, written: &mut Written<'_>, unchanged: &[Arc<EndpointSlice>]) {
        written.slices().for_each(|slice| self.set(slice));
        let corrected = unchanged.iter().filter_map(|slice| self.corrected(slice));
        written.update.extend(corrected);
    }

    /// The hints that an endpoint should have, or nothing where whatever it has may stay.
    fn wanted(self, endpoint: &Endpoint) -> Option<Option<EndpointHints>> {
        if self == Self::None {
            return Some(None);
        }
        if !is_ready(endpoint) {
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
    fn set(self, slice: &mut EndpointSlice) {
        for endpoint in slice.endpoints.iter_mut().flatten() {
            if let Some(wanted) = self.wanted(endpoint) {
                endpoint.hints = wanted;
            }
        }
    }

    /// A copy with right hints, if the hints of this slice are wrong.
    fn corrected(self, slice: &Arc<EndpointSlice>) -> Option<EndpointSlice> {
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
pub fn topology_mode(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let value = annotations.and_then(|annotations| {
        annotations
            .get(names::TOPOLOGY_HINTS)
            .or_else(|| annotations.get(names::TOPOLOGY_MODE))
    });
    matches!(value.map(String::as_str), Some("Auto" | "auto"))
}
