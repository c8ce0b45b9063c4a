// SPDX-License-Identifier: Apache-2.0
//! On which address relays listen.

use std::collections::BTreeSet;
use std::net::IpAddr;

use berth_model::IpFamily;

/// The address of this machine that connections of a family are steered to.
///
/// Steering to an address, and not to "whatever the incoming link has" (nft's `redirect`), works on links without an
/// address of the family, as some network plug-ins make them for Pods; there `redirect` drops. Loopback addresses are
/// out: a packet that came from elsewhere may not be led to one (IPv4 without `route_localnet`, IPv6 at all).
///
/// * The address that is used already, as long as the machine has it: a change moves every relay.
/// * Else the Node's own address of the family, if the machine has it.
/// * Else the machine's smallest that is neither loopback nor link-local nor multicast.
pub fn relay_address(
    family: IpFamily,
    used: Option<IpAddr>,
    node: &BTreeSet<IpAddr>,
    machine: &BTreeSet<IpAddr>,
) -> Option<IpAddr> {
    let fits = |ip: &IpAddr| IpFamily::of(*ip) == family && machine.contains(ip) && is_reachable(*ip);
    let of_node = node.iter().copied().find(fits);
    used.filter(fits)
        .or(of_node)
        .or_else(|| machine.iter().copied().find(fits))
}

fn is_reachable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(link_local || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_address_in_use_comes_first_then_the_nodes_then_the_smallest() {
        let machine = ips(&[
            "127.0.0.1",
            "169.254.1.1",
            "10.0.0.9",
            "10.77.0.11",
            "::1",
            "fe80::1",
            "fd00::9",
        ]);
        let node = ips(&["10.77.0.11", "fd00::b"]);
        for (family, used, known, chosen) in [
            (IpFamily::V4, Some("10.0.0.9"), true, Some("10.0.0.9")),
            (IpFamily::V4, Some("10.0.0.1"), true, Some("10.77.0.11")),
            (IpFamily::V4, None, true, Some("10.77.0.11")),
            (IpFamily::V4, None, false, Some("10.0.0.9")),
            (IpFamily::V6, None, true, Some("fd00::9")),
            (IpFamily::V6, Some("::1"), true, Some("fd00::9")),
        ] {
            let used = used.map(|ip| ip.parse().unwrap());
            let node = if known { node.clone() } else { BTreeSet::new() };
            let chosen = chosen.map(|ip: &str| ip.parse().unwrap());
            assert_eq!(
                relay_address(family, used, &node, &machine),
                chosen,
                "{family} {used:?}"
            );
        }
        let loopback = ips(&["127.0.0.1", "::1", "fe80::1"]);
        for family in IpFamily::ALL {
            assert_eq!(relay_address(family, None, &node, &loopback), None);
        }
    }
}
