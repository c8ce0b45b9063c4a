// SPDX-License-Identifier: Apache-2.0
//! Random numbers for tests: the same seed gives the same history, so that a failure is one to look at again.

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..sides`.
    pub(crate) fn below(&mut self, sides: u64) -> u64 {
        self.roll() % sides
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn one_of<'a, T>(&mut self, these: &'a [T]) -> &'a T {
        let index = usize::try_from(self.below(these.len() as u64)).unwrap();
        &these[index]
    }
}

/// Steps of a random history: so many, or a hundred times that in a build with `BERTH_TEST_SCALE=full`.
pub(crate) fn scaled(steps: u64) -> u64 {
    match option_env!("BERTH_TEST_SCALE") {
        Some("full") => steps * 100,
        Some(_) | None => steps,
    }
}
