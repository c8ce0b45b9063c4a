// SPDX-License-Identifier: Apache-2.0
//! Every operation against a plain `BTreeSet`, and the edges by name.

use std::collections::BTreeSet;

use super::*;
use crate::dice::{Dice, scaled};

const SLASH_8: u128 = 1 << 24;
const SLASH_64: u128 = 1 << 64;
const EVERYTHING: u128 = u128::MAX;

/// The naive model: the free items of some windows, one by one. Whatever lies outside them stays free.
struct Naive {
    last: u128,
    windows: Vec<Band>,
    free: BTreeSet<u128>,
    taken: u128,
}

impl Naive {
    fn new(last: u128, windows: &[Band]) -> Self {
        Self {
            last,
            windows: windows.to_vec(),
            free: windows
                .iter()
                .flat_map(|window| window.first..=window.last)
                .collect(),
            taken: 0,
        }
    }

    fn contains(&self, item: u128) -> bool {
        self.windows
            .iter()
            .any(|window| (window.first..=window.last).contains(&item))
            && !self.free.contains(&item)
    }

    fn next_free(&self, from: u128) -> Option<u128> {
        let mut outside = Some(from).filter(|from| *from <= self.last);
        for window in &self.windows {
            if let Some(at) = outside.filter(|at| (window.first..=window.last).contains(at)) {
                outside = (window.last < self.last).then(|| at.max(window.last + 1));
            }
        }
        let inside = self.free.range(from..).next().copied();
        [inside, outside].into_iter().flatten().min()
    }

    fn next_free_within(&self, band: Band, from: u128) -> Option<u128> {
        let from = if from < band.first || from > band.last {
            band.first
        } else {
            from
        };
        let first_of = |from: u128, to: u128| self.next_free(from).filter(|item| *item <= to);
        first_of(from, band.last).or_else(|| first_of(band.first, band.last))
    }
}

/// Windows of a range: all of a small one, else both ends and two places between.
fn windows(last: u128) -> Vec<Band> {
    const WIDTH: u128 = 150;
    if last < 10_000 {
        return vec![Band { first: 0, last }];
    }
    let middle = last / 2 - 77;
    [0, last / 3, middle, last - WIDTH]
        .map(|first| Band {
            first,
            last: first + WIDTH,
        })
        .to_vec()
}

/// A random history on one range: it fills up, empties, and fills up again.
fn history(last: u128, seed: u64, steps: u64) {
    let windows = windows(last);
    let (mut set, mut naive) = (ItemSet::up_to(last), Naive::new(last, &windows));
    let mut dice = Dice::new(seed);
    let phase = (steps / 6).max(1);
    let mut filling = 50;
    for step in 0..steps {
        if step % phase == 0 {
            filling = [97, 3, 50, 99, 30, 90][usize::try_from(step / phase % 6).unwrap()];
        }
        let window = *dice.one_of(&windows);
        let item = window.first + u128::from(dice.roll()) % (window.last - window.first + 1);
        let said = format!("item {item} of 0..={last}, seed {seed}, step {step}");
        if dice.percent(filling) {
            // The one that is next, as a pool would, or one by number.
            let item = if dice.percent(70) {
                naive.next_free(item).unwrap_or(item)
            } else {
                item
            };
            if naive.contains(item) {
                assert!(!set.insert(item), "{said}");
            } else if windows.iter().any(|w| w.first <= item && item <= w.last) {
                assert!(set.insert(item), "{said}");
                naive.free.remove(&item);
                naive.taken += 1;
            }
        } else {
            let taken = naive.contains(item);
            assert_eq!(set.remove(item), taken, "{said}");
            if taken {
                naive.free.insert(item);
                naive.taken -= 1;
            }
        }
        assert_eq!(set.contains(item), naive.contains(item), "{said}");
        assert_eq!(set.taken(), naive.taken, "{said}");
        assert_eq!(set.next_free(item), naive.next_free(item), "{said}");
        let other = *dice.one_of(&windows);
        let (first, last) = (item.min(other.last), item.max(other.last));
        let from = first + u128::from(dice.roll()) % (last - first).saturating_add(1).max(1);
        let band = Band { first, last };
        assert_eq!(
            set.next_free_within(band, from),
            naive.next_free_within(band, from),
            "{said} {band:?} {from}"
        );
    }
    let left: u128 = windows
        .iter()
        .map(|window| window.last - window.first + 1)
        .sum::<u128>()
        - naive.taken;
    assert_eq!(naive.free.len() as u128, left);
}

#[test]
fn behaves_as_a_plain_set_at_every_size() {
    let small = [
        1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 4_095, 4_096, 4_097, 9_999,
    ];
    let large = [
        262_143,
        262_144,
        262_145,
        SLASH_8 - 1,
        SLASH_8,
        SLASH_8 + 1,
        1 << 32,
        SLASH_64,
        (1 << 69) - 1,
        1 << 69,
        (1 << 69) + 1,
        (1 << 69) + 17,
        EVERYTHING,
    ];
    for (seed, size) in small.into_iter().chain(large).enumerate() {
        history(size - 1, seed as u64, scaled(80_000));
    }
    history(EVERYTHING, 99, scaled(80_000));
}

#[test]
fn the_sparse_form_behaves_as_the_dense_one_where_chunks_and_runs_meet() {
    for last in [0u128, 30, 31, 32, 95, 96, 500] {
        let mut dense = ItemSet::up_to(last);
        let mut sparse: Sparse<u64> = Sparse::up_to(last);
        let mut dice = Dice::new(7);
        for step in 0..scaled(40_000) {
            let item = u128::from(dice.roll()) % (last + 3);
            if dice.percent(if step / 4_000 % 2 == 0 { 80 } else { 20 }) {
                assert_eq!(sparse.insert(item), dense.insert(item), "{item} of {last}");
            } else {
                assert_eq!(sparse.remove(item), dense.remove(item), "{item} of {last}");
            }
            assert_eq!(sparse.taken(), dense.taken());
            assert_eq!(sparse.contains(item), dense.contains(item));
            assert_eq!(
                sparse.next_free(item),
                dense.next_free(item),
                "{item} of {last}: {sparse:?}"
            );
        }
    }
}

#[test]
fn no_items_at_all_is_full_and_empty() {
    let mut nothing = ItemSet::new(0);
    assert_eq!((nothing.last(), nothing.taken(), nothing.free()), (None, 0, 0));
    for item in [0, 1, 63, 64, EVERYTHING] {
        assert!(!nothing.insert(item) && !nothing.remove(item) && !nothing.contains(item));
        assert_eq!(nothing.next_free(item), None);
        assert_eq!(
            nothing.next_free_within(Band { first: 0, last: item }, item),
            None
        );
    }
}

/// `/32` and `/128` have one item; the others are ranges in use, the last one all of IPv6.
#[test]
fn the_last_free_item_is_found_from_everywhere_and_then_it_is_full() {
    for size in [1, 2, 63, 64, 65, 4_095, 4_096, 4_097, 65_536, 1 << 20] {
        for spared in [0, size / 2, size - 1] {
            let mut set = ItemSet::new(size);
            for item in (0..size).filter(|item| *item != spared) {
                assert!(set.insert(item));
            }
            assert_eq!((set.free(), set.first_free()), (1, Some(spared)), "{size}");
            let all = Band {
                first: 0,
                last: size - 1,
            };
            for from in [0, 1, spared, spared + 1, size - 1, size, EVERYTHING] {
                assert_eq!(set.next_free_within(all, from), Some(spared), "{size} {from}");
                assert_eq!(
                    set.next_free(from),
                    (from <= spared).then_some(spared),
                    "{size} {from}"
                );
            }
            assert!(set.insert(spared) && !set.insert(spared));
            assert_eq!((set.free(), set.first_free()), (0, None), "{size}");
            assert!(set.remove(spared));
            assert_eq!(set.first_free(), Some(spared), "{size}");
        }
    }
}

#[test]
fn items_beyond_the_range_do_not_exist() {
    for last in [0, 63, 64, SLASH_8 - 1, SLASH_8, SLASH_64 - 1, EVERYTHING - 1] {
        let mut set = ItemSet::up_to(last);
        for item in [last + 1, last.saturating_add(64), EVERYTHING] {
            assert!(
                !set.insert(item) && !set.remove(item) && !set.contains(item),
                "{last}"
            );
            assert_eq!(set.next_free(item), None, "{last}");
        }
        assert_eq!(set, ItemSet::up_to(last), "nothing has changed");
        assert!(set.insert(last));
        assert_eq!(set.next_free(last), None, "{last}");
        assert_eq!(set.free(), last);
    }
}

#[test]
fn the_top_of_all_addresses_is_an_ordinary_place() {
    let mut set = ItemSet::up_to(EVERYTHING);
    assert_eq!(set.free(), EVERYTHING, "one more than fits");
    for item in [EVERYTHING, EVERYTHING - 1, EVERYTHING - 40, 0] {
        assert!(set.insert(item));
    }
    assert_eq!(set.free(), EVERYTHING - 3);
    assert_eq!(set.next_free(EVERYTHING - 1), None);
    assert_eq!(set.next_free(EVERYTHING - 40), Some(EVERYTHING - 39));
    let top = Band {
        first: EVERYTHING - 1,
        last: EVERYTHING,
    };
    assert_eq!(set.next_free_within(top, EVERYTHING), None);
}

#[test]
fn a_band_is_searched_to_its_end_and_then_from_its_start() {
    let mut set = ItemSet::new(300);
    let band = Band {
        first: 100,
        last: 199,
    };
    for item in 150..200 {
        set.insert(item);
    }
    for (from, found) in [
        (0, 100),
        (100, 100),
        (149, 149),
        (150, 100),
        (199, 100),
        (250, 100),
    ] {
        assert_eq!(set.next_free_within(band, from), Some(found), "{from}");
    }
    for item in 100..150 {
        set.insert(item);
    }
    assert_eq!(set.next_free_within(band, 150), None);
    assert_eq!(
        set.next_free_within(Band { first: 9, last: 8 }, 9),
        None,
        "no band"
    );
}

#[test]
fn the_dense_form_takes_hardly_more_than_a_bit_an_item() {
    for size in [1u128 << 12, 1 << 16, 1 << 20, SLASH_8] {
        let mut set = ItemSet::new(size);
        let bits = set.heap_bytes() as u128 * 8;
        assert!(bits * 10 <= size * 11, "{bits} bits for {size} items");
        for item in (0..size).step_by(3) {
            set.insert(item);
        }
        assert_eq!(set.heap_bytes() as u128 * 8, bits, "whatever is taken");
    }
}

#[test]
fn a_hundred_thousand_items_of_a_slash_64_take_less_than_4_mb() {
    const ITEMS: u64 = 100_000;
    const MOST: usize = 4_000_000;
    let mut dice = Dice::new(64);
    let mut strewn = ItemSet::new(SLASH_64);
    while strewn.taken() < ITEMS.into() {
        strewn.insert(dice.roll().into());
    }
    assert!(strewn.heap_bytes() < MOST, "{} bytes", strewn.heap_bytes());
    let mut adjacent = ItemSet::new(SLASH_64);
    let mut every_other = ItemSet::new(SLASH_64);
    for item in 0..ITEMS {
        adjacent.insert(item.into());
        every_other.insert((item * 2).into());
    }
    assert!(adjacent.heap_bytes() < 1_000, "{} bytes", adjacent.heap_bytes());
    assert!(
        every_other.heap_bytes() < MOST / 10,
        "{} bytes",
        every_other.heap_bytes()
    );
    assert_eq!(ItemSet::new(SLASH_64).heap_bytes(), 0);
}
