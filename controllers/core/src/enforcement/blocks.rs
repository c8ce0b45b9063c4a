// SPDX-License-Identifier: Apache-2.0
//! A range as CIDRs, which is all that CEL can look an address up in.

use berth_model::{IpFamily, IpRange, address_bits};

/// The fewest CIDRs that have exactly these addresses, ascending: at most two for each bit of the family.
pub(super) fn blocks(range: IpRange) -> Vec<String> {
    let family = range.family();
    let (mut at, last) = (address_bits(range.first()), address_bits(range.last()));
    let mut blocks = Vec::new();
    loop {
        let bits = block_bits(family, at, last);
        let prefix = u32::from(family.bits()) - bits;
        blocks.push(format!("{}/{prefix}", family.address(at)));
        // All of a family is one block, whose size is no number of 128 bits.
        let next = 1_u128.checked_shl(bits).and_then(|size| at.checked_add(size));
        match next.filter(|next| *next <= last) {
            Some(next) => at = next,
            None => return blocks,
        }
    }
}

/// How many bits are behind the prefix of the largest block that starts here and ends by `last`.
fn block_bits(family: IpFamily, at: u128, last: u128) -> u32 {
    let aligned = at.trailing_zeros().min(u32::from(family.bits()));
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
        blocks(text.parse().unwrap())
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
            let blocks: Vec<IpRange> = blocks(range).iter().map(|text| text.parse().unwrap()).collect();
            prop_assert!(blocks.len() <= 62);
            prop_assert_eq!(blocks.first().unwrap().first(), range.first());
            prop_assert_eq!(blocks.last().unwrap().last(), range.last());
            for pair in blocks.windows(2) {
                prop_assert_eq!(address_bits(pair[0].last()) + 1, address_bits(pair[1].first()));
            }
        }
    }
}
