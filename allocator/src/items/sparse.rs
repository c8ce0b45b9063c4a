// SPDX-License-Identifier: Apache-2.0
//! The sparse form: only what is taken costs memory.

use std::collections::BTreeMap;

/// Items in a chunk. With 32 of them an entry has 12 bytes in a range of up to 2^69 items, so that items strewn
/// one a chunk cost 32 bytes each in the worst case (see [`Sparse::heap_bytes`]).
const CHUNK: u128 = u32::BITS as u128;

/// The number of a chunk: as narrow as the range allows.
pub(super) trait ChunkNumber: Copy + Ord {
    /// From the number as such, which is known to fit.
    fn narrow(number: u128) -> Self;
    /// The number as such.
    fn wide(self) -> u128;
}

/// For ranges of at most 2^69 items.
impl ChunkNumber for u64 {
    fn narrow(number: u128) -> Self {
        Self::try_from(number).unwrap_or(Self::MAX)
    }

    fn wide(self) -> u128 {
        self.into()
    }
}

/// For all others.
impl ChunkNumber for u128 {
    fn narrow(number: u128) -> Self {
        number
    }

    fn wide(self) -> u128 {
        self
    }
}

/// Which of the items `0..=last` are taken: chunks of 32 items that are taken in part, and runs of
/// chunks that are taken whole. Every operation is `O(log n)` in the number of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sparse<K> {
    last: u128,
    taken: u128,
    /// Some bits set, never all. Bits behind the last item are set as soon as its chunk is here.
    partial: BTreeMap<K, u32>,
    /// First and last chunk of each run, no two of them adjacent.
    full: BTreeMap<K, K>,
}

impl<K: ChunkNumber> Sparse<K> {
    /// All of `0..=last` free.
    pub(super) fn up_to(last: u128) -> Self {
        Self {
            last,
            taken: 0,
            partial: BTreeMap::new(),
            full: BTreeMap::new(),
        }
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> u128 {
        self.taken
    }

    /// Whether the item is taken. One that does not exist is not.
    pub(super) fn contains(&self, item: u128) -> bool {
        item <= self.last && self.bits(chunk(item)) & bit(item) != 0
    }

    /// Takes the item. `false`: it was taken already, or does not exist.
    pub(super) fn insert(&mut self, item: u128) -> bool {
        if item > self.last || self.contains(item) {
            return false;
        }
        self.taken += 1;
        let number = chunk(item);
        let bits = self.bits(number) | bit(item);
        if bits == u32::MAX {
            self.partial.remove(&K::narrow(number));
            self.fill(number);
        } else {
            self.partial.insert(K::narrow(number), bits);
        }
        true
    }

    /// Gives the item back. `false`: it was free already, or does not exist.
    pub(super) fn remove(&mut self, item: u128) -> bool {
        if !self.contains(item) {
            return false;
        }
        self.taken -= 1;
        let number = chunk(item);
        let bits = self.bits(number) & !bit(item);
        if let Some((first, last)) = self.run_of(number) {
            self.open(number, first, last);
        }
        if bits == self.padding(number) {
            self.partial.remove(&K::narrow(number));
        } else {
            self.partial.insert(K::narrow(number), bits);
        }
        true
    }

    /// The lowest free item that is not below `from`.
    pub(super) fn next_free(&self, from: u128) -> Option<u128> {
        if from > self.last {
            return None;
        }
        let mut number = chunk(from);
        let free = !self.bits(number) & (u32::MAX << (from % CHUNK));
        if free != 0 {
            return Some(lowest(number, free));
        }
        number += 1;
        if let Some((_, last)) = self.run_of(number) {
            number = last + 1;
        }
        // What follows a run is free in part at least.
        (number <= chunk(self.last)).then(|| lowest(number, !self.bits(number)))
    }

    /// Bytes on the heap, at most: a node of the maps has room for 11 entries, and every node but the root holds 5 or
    /// more (`std::collections::BTreeMap`, B = 6).
    pub(super) fn heap_bytes(&self) -> usize {
        most_bytes::<K, u32>(self.partial.len()) + most_bytes::<K, K>(self.full.len())
    }

    /// The chunk's bits, padding included.
    fn bits(&self, number: u128) -> u32 {
        match self.partial.get(&K::narrow(number)) {
            Some(bits) => *bits,
            None if self.run_of(number).is_some() => u32::MAX,
            None => self.padding(number),
        }
    }

    /// The bits that have no item: some of the last chunk's.
    fn padding(&self, number: u128) -> u32 {
        let used = self.last % CHUNK + 1;
        if number == chunk(self.last) && used < CHUNK {
            u32::MAX << used
        } else {
            0
        }
    }

    /// The run of full chunks that this one is in.
    fn run_of(&self, number: u128) -> Option<(u128, u128)> {
        let (first, last) = self.full.range(..=K::narrow(number)).next_back()?;
        (last.wide() >= number).then(|| (first.wide(), last.wide()))
    }

    /// Adds a chunk to the runs.
    fn fill(&mut self, number: u128) {
        let below = number.checked_sub(1).and_then(|below| self.run_of(below));
        let above = (number < chunk(self.last))
            .then(|| self.run_of(number + 1))
            .flatten();
        if let Some((first, _)) = above {
            self.full.remove(&K::narrow(first));
        }
        let first = below.map_or(number, |(first, _)| first);
        let last = above.map_or(number, |(_, last)| last);
        self.full.insert(K::narrow(first), K::narrow(last));
    }

    /// Takes a chunk out of its run.
    fn open(&mut self, number: u128, first: u128, last: u128) {
        self.full.remove(&K::narrow(first));
        if first < number {
            self.full.insert(K::narrow(first), K::narrow(number - 1));
        }
        if number < last {
            self.full.insert(K::narrow(number + 1), K::narrow(last));
        }
    }
}

fn chunk(item: u128) -> u128 {
    item / CHUNK
}

fn bit(item: u128) -> u32 {
    1 << (item % CHUNK)
}

fn lowest(number: u128, free: u32) -> u128 {
    number * CHUNK + u128::from(free.trailing_zeros())
}

/// What a map of so many entries takes at most: entries and edges of its nodes, as few in each as may be.
fn most_bytes<K, V>(entries: usize) -> usize {
    const ROOM: usize = 11;
    const LEAST: usize = 5;
    if entries == 0 {
        return 0;
    }
    let nodes = (entries - 1) / LEAST + 1;
    let internal = (nodes + 3) / (LEAST + 1);
    // Beside its entries a node has a pointer to its parent and two lengths of 16 bits.
    let leaf = (ROOM * (size_of::<K>() + size_of::<V>()) + size_of::<usize>() + 2 * size_of::<u16>())
        .next_multiple_of(align_of::<K>());
    nodes * leaf + internal * (ROOM + 1) * size_of::<usize>()
}
