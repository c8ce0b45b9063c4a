// SPDX-License-Identifier: Apache-2.0
//! A range as blocks in which a value can be looked up: CEL can mask an address, and can't compare two of them.

use berth_model::{IpRange, PortRange, address_bits};

/// A part of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Of addresses the length of the prefix, of node ports how many.
    pub(super) size: u32,
    /// Of addresses a CIDR, of node ports the first and how many: `30080/16`.
    pub(super) text: String,
}

/// The fewest CIDRs that have exactly these addresses, ascending: at most two for each bit of the family.
pub(super) fn address_blocks(range: IpRange) -> Vec<Block> {
    let family = range.family();
    let width = u32::from(family.bits());
    let aligned = aligned(address_bits(range.first()), address_bits(range.last()), width);
    let block = |(at, bits): (u128, u32)| Block {
        size: width - bits,
        text: format!("{}/{}", family.address(at), width - bits),
    };
    aligned.into_iter().map(block).collect()
}

/// The same for node ports: blocks whose first port is a multiple of their size, which is a power of two.
pub(super) fn port_blocks(range: PortRange) -> Vec<Block> {
    let ends = [range.first(), range.last()].map(|port| u128::from(port.get()));
    let block = |(at, bits): (u128, u32)| Block {
        size: 1 << bits,
        text: format!("{at}/{}", 1_u32 << bits),
    };
    aligned(ends[0], ends[1], 16).into_iter().map(block).collect()
}

/// Where each block starts, and how many bits it has.
fn aligned(mut at: u128, last: u128, width: u32) -> Vec<(u128, u32)> {
    let mut blocks = Vec::new();
    loop {
        let bits = block_bits(at, last, width);
        blocks.push((at, bits));
        // All of IPv6 is one block, whose size is no number of 128 bits.
        let next = 1_u128.checked_shl(bits).and_then(|size| at.checked_add(size));
        match next.filter(|next| *next <= last) {
            Some(next) => at = next,
            None => return blocks,
        }
    }
}

/// How many bits are behind the prefix of the largest block that starts here and ends by `last`.
fn block_bits(at: u128, last: u128, width: u32) -> u32 {
    let aligned = at.trailing_zeros().min(width);
    let fits = |bits: &u32| {
        let host = 1_u128.checked_shl(*bits).map_or(u128::MAX, |size| size - 1);
        at.checked_add(host).is_some_and(|end| end <= last)
    };
    (0..=aligned).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Vec<String> {
        let blocks = address_blocks(text.parse().unwrap());
        blocks.into_iter().map(|block| block.text).collect()
    }

    #[test]
    fn a_cidr_is_itself_and_a_range_is_few_of_them() {
        assert_eq!(of("10.96.8.0/24"), ["10.96.8.0/24"]);
        assert_eq!(of("fd00::7"), ["fd00::7/128"]);
        assert_eq!(
            of("10.0.0.5-10.0.0.9"),
            ["10.0.0.5/32", "10.0.0.6/31", "10.0.0.8/31"]
        );
    }

    #[test]
    fn the_ends_of_the_address_spaces_are_no_exception() {
        assert_eq!(of("0.0.0.0/0"), ["0.0.0.0/0"]);
        assert_eq!(of("::/0"), ["::/0"]);
        assert_eq!(of("255.255.255.254-255.255.255.255"), ["255.255.255.254/31"]);
        let top = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert_eq!(of(&format!("{top}-{top}")), [format!("{top}/128")]);
        assert_eq!(of(&format!("::1-{top}")).len(), 128);
    }

    proptest! {
        #[test]
        fn the_blocks_of_a_range_are_the_range(one: u32, other: u32) {
            let ends = [one.min(other), one.max(other)].map(|bits| IpAddr::from(bits.to_be_bytes()));
            let range = IpRange::new(ends[0], ends[1]).unwrap();
            let blocks: Vec<IpRange> = address_blocks(range).iter().map(|block| block.text.parse().unwrap()).collect();
            prop_assert!(blocks.len() <= 62);
            prop_assert_eq!(blocks.first().unwrap().first(), range.first());
            prop_assert_eq!(blocks.last().unwrap().last(), range.last());
            for pair in blocks.windows(2) {
                prop_assert_eq!(address_bits(pair[0].last()) + 1, address_bits(pair[1].first()));
            }
        }

        #[test]
        fn the_blocks_of_ports_are_the_ports(one in 1_u16.., other in 1_u16..) {
            let text = format!("{}-{}", one.min(other), one.max(other));
            let mut next = u32::from(one.min(other));
            for block in port_blocks(text.parse().unwrap()) {
                let (first, size) = block.text.split_once('/').unwrap();
                prop_assert_eq!(first.parse::<u32>().unwrap(), next);
                prop_assert_eq!(size.parse::<u32>().unwrap(), block.size);
                prop_assert_eq!(next % block.size, 0);
                next += block.size;
            }
            prop_assert_eq!(next, u32::from(one.max(other)) + 1);
        }
    }
}
