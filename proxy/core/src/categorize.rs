// SPDX-License-Identifier: Apache-2.0
//! Which endpoints of a Service port may receive new connections on this node.

use berth_model::{Endpoint, IpFamily, NodeName};

use crate::{Settings, Target};

/// The endpoints of one Service port and family, sorted by use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usable {
    /// Receive new connections under traffic policy Cluster.
    pub cluster: Vec<Target>,
    /// Receive new connections under traffic policy Local.
    pub local: Vec<Target>,
    /// Those of `cluster` and `local` that run on this node: their connections may come back to themselves.
    pub here: Vec<Target>,
    /// All that serve, whether or not they receive new connections: existing UDP flows to them stay.
    pub serving: Vec<Target>,
    /// Whether some endpoint anywhere can take a connection, even if none that this node may use. It decides
    /// between a refusal and silence.
    pub has_any: bool,
}

/// Which hints count, decided once for all endpoints of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    /// Hints are not looked at.
    Any,
    /// Only endpoints whose hints name this node.
    SameNode,
    /// Only endpoints whose hints name this node's zone.
    SameZone,
}

/// Sorts the endpoints of one Service port by use, for one family and the node of the settings.
///
/// * An endpoint *drains* if it serves and terminates and is not ready: it is on its way out, yet better than
///   a refusal (KEP-1669).
/// * `cluster`: the ready endpoints that the topology allows. If there is none, every draining one, whatever
///   its hints.
/// * The topology is chosen over the *ready* endpoints (KEP-2433, KEP-3015): if each of them has node hints
///   and one names this node, those that name it; else, if each has zone hints and one names this node's
///   zone, those that name it; else all. One ready endpoint without a hint disables that kind of hint.
/// * `local`: the ready endpoints on this node. If there is none, the draining ones on this node, whether or not
///   others are ready elsewhere. Hints do not matter. An endpoint without a Node is never local.
/// * `here`: the union of both lists, as far as it runs on this node.
/// * `serving`: every serving endpoint, ready or not.
/// * `has_any`: whether any endpoint is ready or drains, wherever it is.
///
/// `cluster` is therefore empty only if `has_any` is false. Input order is kept, so sorted endpoints give
/// sorted lists. (behaviour: kube-proxy's `CategorizeEndpoints`; which list a frontend uses is the intent's
/// decision.)
pub fn categorize<'a>(
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
    family: IpFamily,
    settings: &Settings,
) -> Usable {
    let node = settings.node.as_ref();
    let zone = settings.zone.as_deref();
    let ours: Vec<&Endpoint> = endpoints
        .into_iter()
        .filter(|endpoint| IpFamily::of(endpoint.ip) == family)
        .collect();
    let ready = || ours.iter().copied().filter(|endpoint| endpoint.conditions.ready);
    let draining = || ours.iter().copied().filter(|endpoint| drains(endpoint));
    let is_here = |endpoint: &Endpoint| node.is_some_and(|node| endpoint.is_on(node));
    let topology = topology(ready(), node, zone);
    let is_allowed = |endpoint: &Endpoint| is_allowed(endpoint, topology, node, zone);
    let some_allowed = ready().any(is_allowed);
    let some_here = ready().any(is_here);
    let in_cluster = |endpoint: &Endpoint| {
        if some_allowed {
            endpoint.conditions.ready && is_allowed(endpoint)
        } else {
            drains(endpoint)
        }
    };
    let in_local = |endpoint: &Endpoint| {
        is_here(endpoint)
            && if some_here {
                endpoint.conditions.ready
            } else {
                drains(endpoint)
            }
    };
    let chosen = |wanted: &dyn Fn(&Endpoint) -> bool| targets(ours.iter().copied().filter(|e| wanted(e)));
    Usable {
        cluster: chosen(&in_cluster),
        local: chosen(&in_local),
        here: chosen(&|endpoint| is_here(endpoint) && (in_cluster(endpoint) || in_local(endpoint))),
        serving: chosen(&|endpoint| endpoint.conditions.serving),
        has_any: ready().chain(draining()).next().is_some(),
    }
}

fn drains(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions;
    !conditions.ready && conditions.serving && conditions.terminating
}

fn targets<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<Target> {
    endpoints
        .map(|endpoint| Target {
            ip: endpoint.ip,
            port: endpoint.port,
        })
        .collect()
}

fn names_node(endpoint: &Endpoint, node: Option<&NodeName>) -> bool {
    node.is_some_and(|node| endpoint.hints.nodes.contains(node))
}

fn names_zone(endpoint: &Endpoint, zone: Option<&str>) -> bool {
    zone.is_some_and(|zone| endpoint.hints.zones.iter().any(|hint| **hint == *zone))
}

fn topology<'a>(
    ready: impl Iterator<Item = &'a Endpoint> + Clone,
    node: Option<&NodeName>,
    zone: Option<&str>,
) -> Topology {
    let nodes_named = ready.clone().all(|endpoint| !endpoint.hints.nodes.is_empty());
    let zones_named = ready.clone().all(|endpoint| !endpoint.hints.zones.is_empty());
    if nodes_named && ready.clone().any(|endpoint| names_node(endpoint, node)) {
        Topology::SameNode
    } else if zones_named && ready.clone().any(|endpoint| names_zone(endpoint, zone)) {
        Topology::SameZone
    } else {
        Topology::Any
    }
}

fn is_allowed(endpoint: &Endpoint, topology: Topology, node: Option<&NodeName>, zone: Option<&str>) -> bool {
    match topology {
        Topology::Any => true,
        Topology::SameNode => names_node(endpoint, node),
        Topology::SameZone => names_zone(endpoint, zone),
    }
}

#[cfg(test)]
mod tests;
