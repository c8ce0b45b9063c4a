// SPDX-License-Identifier: Apache-2.0
//! Sets of addresses as disjoint intervals.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use berth_model::{IpFamily, IpRange, address_bits};

/// A set of addresses of both families, normalised: two sets with the same members are equal,
/// however they were written. Every operation on one address is `O(log intervals)`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AddressSet {
    v4: Intervals,
    v6: Intervals,
}

impl AddressSet {
    /// Adds every address of the range.
    pub fn insert(&mut self, range: IpRange) {
        self.family_mut(range.family())
            .insert(address_bits(range.first()), address_bits(range.last()));
    }

    /// Takes every address of the range out.
    pub fn remove(&mut self, range: IpRange) {
        self.family_mut(range.family())
            .remove(address_bits(range.first()), address_bits(range.last()));
    }

    /// Adds one address.
    pub fn insert_address(&mut self, address: IpAddr) {
        let bits = address_bits(address);
        self.family_mut(IpFamily::of(address)).insert(bits, bits);
    }

    /// Takes one address out.
    pub fn remove_address(&mut self, address: IpAddr) {
        let bits = address_bits(address);
        self.family_mut(IpFamily::of(address)).remove(bits, bits);
    }

    /// Whether the address is a member.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.family(IpFamily::of(address)).contains(address_bits(address))
    }

    /// The lowest member of a family.
    pub fn first(&self, family: IpFamily) -> Option<IpAddr> {
        let (start, _) = self.family(family).by_start.first_key_value()?;
        Some(family.address(*start))
    }

    /// How many members a family has. All of IPv6, one more than fits, counts as `u128::MAX`.
    pub fn count(&self, family: IpFamily) -> u128 {
        self.family(family).count()
    }

    /// Whether it has no member at all.
    pub fn is_empty(&self) -> bool {
        IpFamily::ALL
            .iter()
            .all(|family| self.family(*family).by_start.is_empty())
    }

    /// The members as ranges, IPv4 first, ascending, none touching the next.
    pub fn ranges(&self) -> Vec<IpRange> {
        let mut ranges = Vec::new();
        for family in IpFamily::ALL {
            for (start, end) in &self.family(family).by_start {
                ranges.extend(range(family, *start, *end));
            }
        }
        ranges
    }

    /// What both sets hold.
    pub fn intersection(&self, other: &AddressSet) -> AddressSet {
        let mut both = AddressSet::default();
        for family in IpFamily::ALL {
            let theirs = other.family(family);
            for (&start, &end) in &self.family(family).by_start {
                // The interval of theirs that begins before ours may reach into it.
                let from = theirs
                    .by_start
                    .range(..=start)
                    .next_back()
                    .map_or(start, |(s, _)| *s);
                for (&their_start, &their_end) in theirs.by_start.range(from..=end) {
                    let (low, high) = (start.max(their_start), end.min(their_end));
                    if low <= high {
                        both.family_mut(family).insert(low, high);
                    }
                }
            }
        }
        both
    }

    fn family(&self, family: IpFamily) -> &Intervals {
        match family {
            IpFamily::V4 => &self.v4,
            IpFamily::V6 => &self.v6,
        }
    }

    fn family_mut(&mut self, family: IpFamily) -> &mut Intervals {
        match family {
            IpFamily::V4 => &mut self.v4,
            IpFamily::V6 => &mut self.v6,
        }
    }
}

impl FromIterator<IpRange> for AddressSet {
    fn from_iter<I: IntoIterator<Item = IpRange>>(ranges: I) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

impl fmt::Display for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges().iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// Disjoint inclusive intervals of one family, no two of them adjacent.
#[derive(Clone, Default, PartialEq, Eq)]
struct Intervals {
    by_start: BTreeMap<u128, u128>,
    /// Number of members modulo 2^128: zero with a non-empty map means every IPv6 address.
    count: u128,
}

impl Intervals {
    fn insert(&mut self, first: u128, last: u128) {
        let (mut start, mut end) = (first, last);
        if let Some((&s, &e)) = self.by_start.range(..=first).next_back()
            && e.saturating_add(1) >= first
        {
            start = s;
            end = end.max(e);
        }
        while let Some((&s, &e)) = self.by_start.range(start..).next()
            && s <= end.saturating_add(1)
        {
            self.drop_interval(s, e);
            end = end.max(e);
        }
        self.add_interval(start, end);
    }

    fn remove(&mut self, first: u128, last: u128) {
        let reaching_in = self.by_start.range(..first).next_back();
        let mut touched: Vec<(u128, u128)> = reaching_in
            .into_iter()
            .chain(self.by_start.range(first..=last))
            .map(|(s, e)| (*s, *e))
            .collect();
        touched.retain(|(_, e)| *e >= first);
        for (s, e) in touched {
            self.drop_interval(s, e);
            if s < first {
                self.add_interval(s, first - 1);
            }
            if e > last {
                self.add_interval(last + 1, e);
            }
        }
    }

    fn contains(&self, bits: u128) -> bool {
        self.by_start
            .range(..=bits)
            .next_back()
            .is_some_and(|(_, end)| *end >= bits)
    }

    fn count(&self) -> u128 {
        if self.count == 0 && !self.by_start.is_empty() {
            u128::MAX
        } else {
            self.count
        }
    }

    fn add_interval(&mut self, start: u128, end: u128) {
        self.by_start.insert(start, end);
        self.count = self.count.wrapping_add(end - start).wrapping_add(1);
    }

    fn drop_interval(&mut self, start: u128, end: u128) {
        self.by_start.remove(&start);
        self.count = self.count.wrapping_sub(end - start).wrapping_sub(1);
    }
}

fn range(family: IpFamily, first: u128, last: u128) -> Option<IpRange> {
    IpRange::new(family.address(first), family.address(last)).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &[&str]) -> AddressSet {
        ranges
            .iter()
            .map(|text| text.parse::<IpRange>().unwrap())
            .collect()
    }

    #[test]
    fn ranges_that_overlap_or_touch_become_one() {
        for (written, normal) in [
            (&["10.0.0.0/31", "10.0.0.2/31"][..], "10.0.0.0-10.0.0.3"),
            (&["10.0.0.5", "10.0.0.0-10.0.0.9"], "10.0.0.0-10.0.0.9"),
            (&["10.0.0.4-10.0.0.6", "10.0.0.0-10.0.0.4"], "10.0.0.0-10.0.0.6"),
            (&["10.0.0.0", "10.0.0.2"], "10.0.0.0, 10.0.0.2"),
            (&["fd00::/127", "10.0.0.1"], "10.0.0.1, fd00::-fd00::1"),
            (
                &["0.0.0.0", "255.255.255.255", "0.0.0.1-255.255.255.254"],
                "0.0.0.0-255.255.255.255",
            ),
        ] {
            assert_eq!(set(written).to_string(), normal);
        }
    }

    #[test]
    fn the_ends_of_both_address_spaces_are_ordinary_members() {
        let mut all = set(&["0.0.0.0/0", "::/0"]);
        assert_eq!(all.count(IpFamily::V4), 1 << 32);
        assert_eq!(all.count(IpFamily::V6), u128::MAX);
        for edge in [
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            let edge: IpAddr = edge.parse().unwrap();
            assert!(all.contains(edge));
            all.remove_address(edge);
            assert!(!all.contains(edge));
        }
        assert_eq!(all.count(IpFamily::V4), (1 << 32) - 2);
        assert_eq!(all.count(IpFamily::V6), u128::MAX - 1);
        assert_eq!(all.first(IpFamily::V4), Some("0.0.0.1".parse().unwrap()));
        assert_eq!(all.first(IpFamily::V6), Some("::1".parse().unwrap()));
    }

    #[test]
    fn intersection_names_exactly_the_contested_ranges() {
        let ours = set(&["10.0.0.0/24", "10.0.2.0/24", "fd00::/64"]);
        for (theirs, shared) in [
            (
                &["10.0.0.128-10.0.2.7"][..],
                "10.0.0.128-10.0.0.255, 10.0.2.0-10.0.2.7",
            ),
            (&["10.0.1.0/24"], ""),
            (&["fd00::5", "10.0.2.255"], "10.0.2.255, fd00::5"),
        ] {
            assert_eq!(ours.intersection(&set(theirs)).to_string(), shared);
            assert_eq!(set(theirs).intersection(&ours).to_string(), shared);
        }
    }

    /// Where a small window of addresses lies: at the bottom, somewhere, at the top.
    fn window(family: IpFamily, place: u8, offset: u8) -> IpAddr {
        let top = match family {
            IpFamily::V4 => u128::from(u32::MAX),
            IpFamily::V6 => u128::MAX,
        };
        let base = [0, 0x0a00_0000, top - u128::from(u8::MAX)][usize::from(place % 3)];
        family.address(base + u128::from(offset))
    }

    proptest! {
        #[test]
        fn behaves_as_a_plain_set(
            v6: bool,
            place in 0u8..3,
            steps in prop::collection::vec((any::<bool>(), any::<u8>(), 0u8..40), 0..60),
        ) {
            let family = if v6 { IpFamily::V6 } else { IpFamily::V4 };
            let (mut set, mut naive) = (AddressSet::default(), BTreeSet::new());
            for (insert, from, length) in steps {
                let to = from.saturating_add(length);
                let range = IpRange::new(window(family, place, from), window(family, place, to)).unwrap();
                for offset in from..=to {
                    if insert {
                        naive.insert(window(family, place, offset));
                    } else {
                        naive.remove(&window(family, place, offset));
                    }
                }
                if insert { set.insert(range) } else { set.remove(range) }
                prop_assert_eq!(set.count(family), naive.len() as u128);
                prop_assert_eq!(set.first(family), naive.first().copied());
                prop_assert_eq!(set.is_empty(), naive.is_empty());
            }
            for offset in 0..=u8::MAX {
                let address = window(family, place, offset);
                prop_assert_eq!(set.contains(address), naive.contains(&address));
            }
            let ranges = set.ranges();
            for pair in ranges.windows(2) {
                prop_assert!(address_bits(pair[0].last()) + 1 < address_bits(pair[1].first()), "touching: {:?}", ranges);
            }
        }
    }
}
