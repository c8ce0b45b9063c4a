// SPDX-License-Identifier: Apache-2.0
//! Which endpoints of a Service port may receive new connections.

use berth_model::{Endpoint, IpFamily, NodeName};

use crate::Target;

/// The endpoints of one Service port and family, sorted by use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usable {
    /// Receive new connections under traffic policy Cluster.
    pub cluster: Vec<Target>,
    /// Those of `cluster` that run on this node.
    pub local: Vec<Target>,
    /// All that serve, whether or not they receive new connections: existing UDP flows to them stay.
    pub serving: Vec<Target>,
}

/// Sorts the endpoints of one Service port by use, for one family.
///
/// * `cluster`: every ready endpoint. If there is none, every endpoint that is serving and terminating:
///   it is on its way out, yet better than a refusal (KEP-1669). Otherwise empty: the frontend rejects.
/// * `local`: the members of `cluster` whose Node is `node`; an endpoint without a Node is never local.
/// * `serving`: every serving endpoint, ready or not.
///
/// Input order is kept, so sorted endpoints give sorted lists. Topology hints and the separate fallback
/// of policy Local (behaviour/proxy-dns.md section 1.2) belong here when they are honoured.
pub fn categorize<'a>(
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
    family: IpFamily,
    node: Option<&NodeName>,
) -> Usable {
    let ours: Vec<&Endpoint> = endpoints
        .into_iter()
        .filter(|endpoint| IpFamily::of(endpoint.ip) == family)
        .collect();
    let any_ready = ours.iter().any(|endpoint| endpoint.conditions.ready);
    let chosen = |endpoint: &Endpoint| {
        let conditions = endpoint.conditions;
        if any_ready {
            conditions.ready
        } else {
            conditions.serving && conditions.terminating
        }
    };
    let mut usable = Usable::default();
    for endpoint in ours {
        let target = Target {
            ip: endpoint.ip,
            port: endpoint.port,
        };
        if chosen(endpoint) {
            usable.cluster.push(target);
            if node.is_some_and(|node| endpoint.is_on(node)) {
                usable.local.push(target);
            }
        }
        if endpoint.conditions.serving {
            usable.serving.push(target);
        }
    }
    usable
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use berth_model::{Conditions, EndpointHints};

    use super::*;

    fn mk_endpoint(last: u8, ready: bool, serving: bool, terminating: bool) -> Endpoint {
        Endpoint {
            ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)),
            port: 80.try_into().unwrap(),
            conditions: Conditions {
                ready,
                serving,
                terminating,
            },
            node: Some(NodeName::new(if last.is_multiple_of(2) { "even" } else { "odd" })),
            zone: None,
            hints: EndpointHints::default(),
        }
    }

    fn last_bytes(targets: &[Target]) -> Vec<u8> {
        targets
            .iter()
            .map(|target| match target.ip {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => 0,
            })
            .collect()
    }

    #[test]
    fn ready_endpoints_are_used_and_others_only_when_none_is_ready() {
        let ready = |n| mk_endpoint(n, true, true, false);
        let unready = |n| mk_endpoint(n, false, false, false);
        let draining = |n| mk_endpoint(n, false, true, true);
        let gone = |n| mk_endpoint(n, false, false, true);
        for (behaviour, endpoints, cluster) in [
            ("all ready", vec![ready(1), ready(2)], vec![1, 2]),
            ("an unready one is left out", vec![ready(1), unready(2)], vec![1]),
            (
                "a draining one is left out while another is ready",
                vec![draining(1), ready(2)],
                vec![2],
            ),
            (
                "draining ones serve when nothing is ready",
                vec![draining(1), unready(2), gone(3)],
                vec![1],
            ),
            ("nothing usable", vec![unready(1), gone(2)], vec![]),
            ("no endpoint", vec![], vec![]),
        ] {
            let usable = categorize(&endpoints, IpFamily::V4, None);
            assert_eq!(last_bytes(&usable.cluster), cluster, "{behaviour}");
        }
    }

    #[test]
    fn local_means_usable_and_on_this_node() {
        let endpoints = [1, 2, 4].map(|n| mk_endpoint(n, true, true, false));
        let node = NodeName::new("even");
        assert_eq!(
            last_bytes(&categorize(&endpoints, IpFamily::V4, Some(&node)).local),
            [2, 4]
        );
        assert!(categorize(&endpoints, IpFamily::V4, None).local.is_empty());
    }

    #[test]
    fn the_other_family_is_not_seen() {
        assert_eq!(
            categorize(&[mk_endpoint(1, true, true, false)], IpFamily::V6, None),
            Usable::default()
        );
    }
}
