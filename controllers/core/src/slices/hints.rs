// SPDX-License-Identifier: Apache-2.0
//! The hints of one family's slices: none, those of `spec.trafficDistribution`, or topology mode's.

use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForNode, ForZone};

use super::routing::{Routing, TrafficDistribution};
use super::topology::{Verdict, Written, ZoneShares, hint, is_ready};

/// Sets the hints in what is written anyway, and adds the unchanged slices whose hints are wrong.
/// The verdict is topology mode's, where that is asked for.
pub(crate) fn settle(
    routing: Routing,
    mut written: Written<'_>,
    unchanged: &[Arc<EndpointSlice>],
    shares: &ZoneShares,
) -> Option<Verdict> {
    let (kind, verdict) = match routing {
        Routing::Anywhere => (Kind::None, None),
        Routing::Distribution(TrafficDistribution::PreferClose | TrafficDistribution::PreferSameZone) => {
            (Kind::OwnZone, None)
        }
        Routing::Distribution(TrafficDistribution::PreferSameNode) => (Kind::OwnNode, None),
        Routing::Topology => match hint(written.reborrow(), unchanged, shares) {
            Verdict::On(counts) => return Some(Verdict::On(counts)),
            off @ Verdict::Off(..) => (Kind::None, Some(off)),
        },
    };
    written.slices().for_each(|slice| kind.set(slice));
    let corrected = unchanged.iter().filter_map(|slice| kind.corrected(slice));
    written.update.extend(corrected);
    verdict
}

/// Hints that each endpoint has by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// None: those found are removed.
    None,
    /// Each ready endpoint serves its own zone.
    OwnZone,
    /// Each ready endpoint serves its own node and zone.
    OwnNode,
}

impl Kind {
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
