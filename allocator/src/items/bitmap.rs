// SPDX-License-Identifier: Apache-2.0
//! The dense form: one bit an item, and above each 64 of them one bit that says "all set".

/// Bits in a word.
const WORD: usize = u64::BITS as usize;

/// Levels that 2^32 items need: 64^6 is more.
const MOST_LEVELS: usize = 6;

/// Which of the items `0..size` are taken.
///
/// Level 0 has one bit an item, level `n + 1` one bit for each word of level `n`: set where the whole word is.
/// The last level is a single word. Bits behind the last item are set on every level, so that a search
/// never ends there. A search climbs while a word has nothing to offer and descends once: at most two steps a level,
/// of which a /8 has four, however full it is.
///
/// The levels above the first take a 63rd of its size, so 1.016 bits an item in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bitmap {
    size: usize,
    taken: usize,
    /// All levels, one behind the other.
    words: Box<[u64]>,
    /// Where in `words` each level begins.
    levels: [usize; MOST_LEVELS],
    /// How many levels there are.
    height: usize,
}

impl Bitmap {
    /// All of `0..size` free.
    pub(super) fn new(size: u32) -> Self {
        let size = size as usize;
        let (mut words, mut levels, mut height) = (Vec::new(), [0; MOST_LEVELS], 0);
        let mut bits = size;
        loop {
            levels[height] = words.len();
            height += 1;
            // At least one word: of no items at all it is one of padding.
            let last = bits.div_ceil(WORD).max(1) - 1;
            words.resize(words.len() + last, 0);
            words.push(behind(bits - last * WORD));
            if last == 0 {
                break;
            }
            bits = last + 1;
        }
        Self {
            size,
            taken: 0,
            words: words.into_boxed_slice(),
            levels,
            height,
        }
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Whether the item is taken. One that does not exist is not.
    pub(super) fn contains(&self, item: usize) -> bool {
        item < self.size && self.words[item / WORD] & bit(item) != 0
    }

    /// Takes the item. `false`: it was taken already, or does not exist.
    pub(super) fn insert(&mut self, item: usize) -> bool {
        if item >= self.size || self.contains(item) {
            return false;
        }
        self.taken += 1;
        let mut index = item;
        for level in &self.levels[..self.height] {
            let word = &mut self.words[level + index / WORD];
            *word |= bit(index);
            if *word != u64::MAX {
                break;
            }
            index /= WORD;
        }
        true
    }

    /// Gives the item back. `false`: it was free already, or does not exist.
    pub(super) fn remove(&mut self, item: usize) -> bool {
        if !self.contains(item) {
            return false;
        }
        self.taken -= 1;
        let mut index = item;
        for level in &self.levels[..self.height] {
            let word = &mut self.words[level + index / WORD];
            let was_full = *word == u64::MAX;
            *word &= !bit(index);
            if !was_full {
                break;
            }
            index /= WORD;
        }
        true
    }

    /// The lowest free item that is not below `from`.
    pub(super) fn next_free(&self, from: usize) -> Option<usize> {
        if from >= self.size {
            return None;
        }
        let mut index = from;
        for height in 0..self.height {
            // Nothing is behind the last word of a level, on any level.
            let word = self.level(height).get(index / WORD)?;
            let free = !word & (u64::MAX << (index % WORD));
            if free != 0 {
                return Some(self.lowest_below(height, index / WORD * WORD + lowest(free)));
            }
            index = index / WORD + 1;
        }
        None
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// The lowest free item below the clear bit `index` of the level `height`.
    fn lowest_below(&self, height: usize, index: usize) -> usize {
        let below = (0..height).rev().map(|height| self.level(height));
        below.fold(index, |index, level| index * WORD + lowest(!level[index]))
    }

    fn level(&self, height: usize) -> &[u64] {
        let end = if height + 1 < self.height {
            self.levels[height + 1]
        } else {
            self.words.len()
        };
        &self.words[self.levels[height]..end]
    }
}

/// The mask of an item within its word.
fn bit(index: usize) -> u64 {
    1 << (index % WORD)
}

/// The lowest bit that is set in a word that has one.
fn lowest(word: u64) -> usize {
    word.trailing_zeros() as usize
}

/// A word whose bits from the `used`-th up are set; `used` is at most 64.
fn behind(used: usize) -> u64 {
    if used < WORD { u64::MAX << used } else { 0 }
}
