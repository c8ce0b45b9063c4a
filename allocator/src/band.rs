// SPDX-License-Identifier: Apache-2.0
//! Which items upstream never hands out, and which it hands out last.

use berth_model::{IpFamily, IpRange};

use crate::AddressSet;

/// The lowest items of a pool, kept for those who ask for a certain one: others get them only when nothing else is
/// left (KEP-3070, KEP-3668).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaticBand {
    /// None are kept.
    #[default]
    Nothing,
    /// A sixteenth, from 16 to 256, nothing of up to 16 addresses: upstream's rule for ClusterIPs.
    ClusterIps,
    /// A 32nd, from 16 to 128, nothing of up to 16 ports: upstream's rule for node ports.
    NodePorts,
    /// So many.
    Lowest(u64),
}

impl StaticBand {
    /// How many items of a family are kept if `size` of it were written, exclusions, network and broadcast
    /// addresses included.
    pub fn items(self, size: u128) -> u128 {
        const LEAST: u128 = 16;
        let part = |step: u128, most: u128| {
            if size <= LEAST {
                0
            } else {
                (size / step).clamp(LEAST, most)
            }
        };
        match self {
            Self::Nothing => 0,
            Self::ClusterIps => part(16, 256),
            Self::NodePorts => part(32, 128),
            Self::Lowest(items) => items.into(),
        }
    }
}

/// The addresses of a ClusterIP range that the API server never gives: the network address, and of IPv4 the broadcast
/// address too. The last address of an IPv6 range is one like any other.
pub fn network_and_broadcast(cidr: IpRange) -> AddressSet {
    let mut set = AddressSet::default();
    set.insert_item(cidr.first());
    match cidr.family() {
        IpFamily::V4 => set.insert_item(cidr.last()),
        IpFamily::V6 => {}
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_upstreams() {
        for (prefix, size, cluster_ips) in [
            ("/32", 1u128, 0u128),
            ("/28", 16, 0),
            ("/27", 32, 16),
            ("/24", 256, 16),
            ("/22", 1_024, 64),
            ("/20", 4_096, 256),
            ("/8", 1 << 24, 256),
            ("/64", 1 << 64, 256),
            ("all of IPv6", u128::MAX, 256),
        ] {
            assert_eq!(StaticBand::ClusterIps.items(size), cluster_ips, "{prefix}");
        }
        for (size, node_ports) in [
            (0, 0),
            (16, 0),
            (17, 16),
            (512, 16),
            (2_768, 86),
            (4_096, 128),
            (65_535, 128),
        ] {
            assert_eq!(StaticBand::NodePorts.items(size), node_ports, "{size}");
        }
        assert_eq!(StaticBand::Nothing.items(1 << 24), 0);
        assert_eq!(StaticBand::Lowest(7).items(4), 7);
    }

    #[test]
    fn a_range_without_room_for_hosts_has_nothing_usable() {
        for (cidr, usable) in [
            ("10.0.0.0/24", "10.0.0.1-10.0.0.254"),
            ("10.0.0.0/30", "10.0.0.1-10.0.0.2"),
            ("10.0.0.0/31", ""),
            ("10.0.0.0/32", ""),
            ("0.0.0.0/0", "0.0.0.1-255.255.255.254"),
            ("fd00::/126", "fd00::1-fd00::3"),
            ("fd00::/127", "fd00::1"),
            ("fd00::/128", ""),
        ] {
            let range: IpRange = cidr.parse().unwrap();
            let all: AddressSet = [range].into_iter().collect();
            assert_eq!(
                all.without(&network_and_broadcast(range)).to_string(),
                usable,
                "{cidr}"
            );
        }
    }
}
