// SPDX-License-Identifier: Apache-2.0
//! Which node owns an address: the same answer on every node that sees the same candidates.

use std::net::IpAddr;

use berth_model::NodeName;

/// The owner of an address among the candidates, or `None` if there are none.
///
/// Rendezvous hashing: each candidate has a score for the address, the highest wins, a tie goes to the
/// name that sorts first. When a candidate disappears only its own addresses move; when one appears it
/// takes only what it wins.
///
/// The score is part of the protocol between announcers and must not change within a heartbeat
/// version: FNV-1a (64 bit, offset basis `cbf29ce484222325`, prime `100000001b3`) over the bytes of the
/// node name, one byte `ff` (which no name contains), and the address as 16 bytes (an IPv4 address
/// mapped into IPv6, RFC 4291 section 2.5.5.2); then the finalizer of splitmix64, because FNV mixes the last
/// bytes badly into the high bits, which decide.
pub fn owner<'a>(
    address: IpAddr,
    candidates: impl IntoIterator<Item = &'a NodeName>,
) -> Option<&'a NodeName> {
    candidates
        .into_iter()
        .max_by(|a, b| score(a, address).cmp(&score(b, address)).then_with(|| b.cmp(a)))
}

fn score(node: &NodeName, address: IpAddr) -> u64 {
    let address = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let bytes = node.as_str().bytes().chain([0xff]).chain(address.octets());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn nodes(count: usize) -> Vec<NodeName> {
        (1..=count).map(|n| NodeName::new(format!("node-{n}"))).collect()
    }

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a4d_00c8 + n).into()
    }

    #[test]
    fn the_score_is_pinned() {
        // Computed from the description above by another program.
        let node = NodeName::new("node-1");
        assert_eq!(
            score(&node, "10.77.0.200".parse().unwrap()),
            0xfe1d_0cc6_f900_2b8a
        );
        assert_eq!(
            score(&node, "fd00:77::200".parse().unwrap()),
            0x2a5f_4b4c_a6fb_c55e
        );
    }

    #[test]
    fn nobody_owns_an_address_without_candidates() {
        assert_eq!(owner(address(0), []), None);
    }

    #[test]
    fn addresses_are_spread_fairly() {
        for count in [3, 7, 50] {
            let nodes = nodes(count);
            let mut shares: BTreeMap<&NodeName, u32> = BTreeMap::new();
            for n in 0..10_000 {
                *shares.entry(owner(address(n), &nodes).unwrap()).or_default() += 1;
            }
            let fair = 10_000 / u32::try_from(count).unwrap();
            for (node, share) in &shares {
                assert!(
                    (fair * 7 / 10..=fair * 13 / 10).contains(share),
                    "{node} has {share}, fair is {fair}"
                );
            }
            assert_eq!(shares.len(), count);
        }
    }

    proptest! {
        #[test]
        fn the_order_of_candidates_does_not_matter(count in 1usize..12, n: u32, turn in 0usize..12) {
            let sorted = nodes(count);
            let mut turned = sorted.clone();
            turned.rotate_left(turn % count);
            turned.reverse();
            let target = IpAddr::from(Ipv4Addr::from_bits(n));
            prop_assert_eq!(owner(target, &sorted), owner(target, &turned));
        }

        #[test]
        fn only_the_addresses_of_a_node_that_goes_move(count in 2usize..12, gone in 0usize..12, n: u32) {
            let before = nodes(count);
            let gone = before[gone % count].clone();
            let after: Vec<NodeName> = before.iter().filter(|node| **node != gone).cloned().collect();
            let target = IpAddr::from(Ipv4Addr::from_bits(n));
            let (was, is) = (owner(target, &before).unwrap(), owner(target, &after).unwrap());
            prop_assert!(*was == gone || was == is);
        }
    }
}
