// SPDX-License-Identifier: Apache-2.0
//! Who may come to a LoadBalancer address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use berth_model::{IpFamily, Service};
use ipnet::IpNet;

/// The sources that `spec.loadBalancerSourceRanges` admits to this address of the Service, disjoint and sorted; `None`
/// if everybody is.
///
/// * Ranges of the address's family decide. A /0 among them admits everybody.
/// * If there are none of its family, a /0 of the other family still says "everybody"; any other list admits
///   nobody. (kube-proxy leaves the address open to everybody then: a list of IPv4 networks, written to
///   keep strangers out, would let all of IPv6 in.)
/// * Where a range admits an address of this node, the LoadBalancer address itself is admitted: bound on the
///   node, it is what the node's own packets to it carry as source.
pub(super) fn of(service: &Service, vip: IpAddr, node_ips: &BTreeSet<IpAddr>) -> Option<Arc<[IpNet]>> {
    let listed = service.source_ranges.as_ref()?;
    let family = IpFamily::of(vip);
    let ours: Vec<IpNet> = listed
        .iter()
        .filter(|net| IpFamily::of(net.addr()) == family)
        .map(IpNet::trunc)
        .collect();
    let deciding = if ours.is_empty() { listed } else { &ours };
    if deciding.iter().any(|net| net.prefix_len() == 0) {
        return None;
    }
    let from_node = node_ips.iter().any(|ip| ours.iter().any(|net| net.contains(ip)));
    let bound = from_node.then(|| IpNet::from(vip));
    let mut admitted = IpNet::aggregate(&ours.into_iter().chain(bound).collect());
    admitted.sort();
    Some(admitted.into())
}
