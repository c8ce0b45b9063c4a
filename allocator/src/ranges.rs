// SPDX-License-Identifier: Apache-2.0
//! Sets of items as ranges.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use berth_model::Port;

use crate::Item;
use crate::intervals::Intervals;

/// A set of items of all families, normalised: two sets with the same members are equal, however they were
/// written. It costs memory by its ranges, never by their size, and every operation on one item is
/// `O(log ranges)`.
#[derive(Clone, PartialEq, Eq)]
pub struct RangeSet<I: Item> {
    /// No family without a member.
    by_family: BTreeMap<I::Family, Intervals>,
}

/// A set of addresses of both families.
pub type AddressSet = RangeSet<IpAddr>;
/// A set of ports.
pub type PortSet = RangeSet<Port>;

impl<I: Item> RangeSet<I> {
    /// Adds every item of the range.
    pub fn insert(&mut self, range: I::Range) {
        let (first, last) = I::ends(range);
        self.by_family
            .entry(first.family())
            .or_default()
            .insert(first.number(), last.number());
    }

    /// Takes every item of the range out.
    pub fn remove(&mut self, range: I::Range) {
        let (first, last) = I::ends(range);
        self.cut(first.family(), first.number(), last.number());
    }

    /// Adds one item.
    pub fn insert_item(&mut self, item: I) {
        let number = item.number();
        self.by_family
            .entry(item.family())
            .or_default()
            .insert(number, number);
    }

    /// Takes one item out.
    pub fn remove_item(&mut self, item: I) {
        self.cut(item.family(), item.number(), item.number());
    }

    /// Whether the item is a member.
    pub fn contains(&self, item: I) -> bool {
        self.family(item.family())
            .is_some_and(|intervals| intervals.contains(item.number()))
    }

    /// How many members a family has. All of IPv6, one more than fits, counts as `u128::MAX`.
    pub fn count(&self, family: I::Family) -> u128 {
        self.family(family).map_or(0, Intervals::count)
    }

    /// Whether it has no member at all.
    pub fn is_empty(&self) -> bool {
        self.by_family.is_empty()
    }

    /// The families that it has members of.
    pub fn families(&self) -> impl Iterator<Item = I::Family> {
        self.by_family.keys().copied()
    }

    /// The members as ranges, family by family, ascending, none touching the next.
    pub fn ranges(&self) -> Vec<I::Range> {
        let all = self.by_family.iter().flat_map(|(family, intervals)| {
            intervals
                .iter()
                .filter_map(|(first, last)| I::range(I::at(*family, first), I::at(*family, last)))
        });
        all.collect()
    }

    /// What both sets hold.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let both = self.by_family.iter().filter_map(|(family, ours)| {
            let shared = ours.intersection(other.family(*family)?);
            (!shared.is_empty()).then_some((*family, shared))
        });
        Self {
            by_family: both.collect(),
        }
    }

    /// What this set holds and the other does not.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        for (family, theirs) in &other.by_family {
            for (first, last) in theirs.iter() {
                rest.cut(*family, first, last);
            }
        }
        rest
    }

    /// The members of a family as numbers; `None` if there are none.
    pub(crate) fn family(&self, family: I::Family) -> Option<&Intervals> {
        self.by_family.get(&family)
    }

    fn cut(&mut self, family: I::Family, first: u128, last: u128) {
        let Some(intervals) = self.by_family.get_mut(&family) else {
            return;
        };
        intervals.remove(first, last);
        if intervals.is_empty() {
            self.by_family.remove(&family);
        }
    }
}

impl<I: Item> Default for RangeSet<I> {
    fn default() -> Self {
        Self {
            by_family: BTreeMap::new(),
        }
    }
}

impl<I: Item> FromIterator<I::Range> for RangeSet<I> {
    fn from_iter<R: IntoIterator<Item = I::Range>>(ranges: R) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

impl<I: Item> fmt::Display for RangeSet<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges().iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

impl<I: Item> fmt::Debug for RangeSet<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use berth_model::{IpFamily, IpRange, address_bits};
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
            all.remove_item(edge);
            assert!(!all.contains(edge));
        }
        assert_eq!(all.count(IpFamily::V4), (1 << 32) - 2);
        assert_eq!(all.count(IpFamily::V6), u128::MAX - 1);
        assert_eq!(
            all.to_string(),
            "0.0.0.1-255.255.255.254, ::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"
        );
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
            let (rest, taken) = (ours.without(&set(theirs)), set(&[]));
            assert_eq!(rest.intersection(&set(theirs)), taken);
            for family in IpFamily::ALL {
                let shared = ours.intersection(&set(theirs)).count(family);
                assert_eq!(rest.count(family), ours.count(family) - shared);
            }
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
                prop_assert_eq!(set.ranges().first().map(IpRange::first), naive.first().copied());
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
