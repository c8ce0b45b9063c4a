// SPDX-License-Identifier: Apache-2.0
//! Which of the items `0..n` are taken, and which free one is next.

mod bitmap;
mod sparse;

use bitmap::Bitmap;
use sparse::Sparse;

/// A set of taken items out of `0..n`, for any `n` up to 2^128, that finds free ones in `O(log n)` at any fill.
///
/// Up to 2^24 items (an IPv4 /8) it is a bitmap with summary levels: 1.016 bits an item, whatever is taken. Beyond
/// that it costs memory by what is taken: at most 32 bytes an item in a /64, one byte where neighbours are taken too,
/// next to nothing where all of a stretch is.
///
/// No operation panics: an item that does not exist is neither free nor taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemSet {
    /// `None`: there is no item at all.
    last: Option<u128>,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Dense(Bitmap),
    Sparse(Sparse<u64>),
    /// More than 2^69 items: numbers of chunks do not fit in 64 bits.
    Wide(Sparse<u128>),
}

/// The items of an IPv4 /8: 2 MiB of bits.
const MOST_DENSE: u32 = 1 << 24;
/// Chunks of 32 whose numbers fit in 64 bits.
const LAST_SPARSE: u128 = (1 << 69) - 1;

/// Part of the items, `first <= last`: where a search stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Band {
    /// Its first item.
    pub first: u128,
    /// Its last item, included.
    pub last: u128,
}

impl ItemSet {
    /// All of `0..size` free. The one range that is larger, that of 2^128 items, is [`ItemSet::up_to`]`(u128::MAX)`.
    pub fn new(size: u128) -> Self {
        size.checked_sub(1).map_or_else(Self::of_nothing, Self::up_to)
    }

    /// All of `0..=last` free.
    pub fn up_to(last: u128) -> Self {
        let size = u32::try_from(last).ok().and_then(|last| last.checked_add(1));
        let form = match size {
            Some(size) if size <= MOST_DENSE => Form::Dense(Bitmap::new(size)),
            Some(_) | None if last <= LAST_SPARSE => Form::Sparse(Sparse::up_to(last)),
            Some(_) | None => Form::Wide(Sparse::up_to(last)),
        };
        Self {
            last: Some(last),
            form,
        }
    }

    fn of_nothing() -> Self {
        Self {
            last: None,
            form: Form::Dense(Bitmap::new(0)),
        }
    }

    /// The last item; `None` where there is no item at all.
    pub fn last(&self) -> Option<u128> {
        self.last
    }

    /// How many items are taken; exact.
    pub fn taken(&self) -> u128 {
        match &self.form {
            Form::Dense(bitmap) => bitmap.taken() as u128,
            Form::Sparse(sparse) => sparse.taken(),
            Form::Wide(sparse) => sparse.taken(),
        }
    }

    /// How many items are free; exact, but for all of 2^128, one more than fits, `u128::MAX`.
    pub fn free(&self) -> u128 {
        match (self.last, self.taken().checked_sub(1)) {
            (None, _) => 0,
            (Some(last), None) => last.saturating_add(1),
            (Some(last), Some(all_but_one)) => last - all_but_one,
        }
    }

    /// Whether the item is taken.
    pub fn contains(&self, item: u128) -> bool {
        match &self.form {
            Form::Dense(bitmap) => index(item).is_some_and(|item| bitmap.contains(item)),
            Form::Sparse(sparse) => sparse.contains(item),
            Form::Wide(sparse) => sparse.contains(item),
        }
    }

    /// Takes the item. `false`, and no change: it was taken already, or does not exist.
    pub fn insert(&mut self, item: u128) -> bool {
        match &mut self.form {
            Form::Dense(bitmap) => index(item).is_some_and(|item| bitmap.insert(item)),
            Form::Sparse(sparse) => sparse.insert(item),
            Form::Wide(sparse) => sparse.insert(item),
        }
    }

    /// Gives the item back. `false`, and no change: it was free already, or does not exist.
    pub fn remove(&mut self, item: u128) -> bool {
        match &mut self.form {
            Form::Dense(bitmap) => index(item).is_some_and(|item| bitmap.remove(item)),
            Form::Sparse(sparse) => sparse.remove(item),
            Form::Wide(sparse) => sparse.remove(item),
        }
    }

    /// The lowest free item.
    pub fn first_free(&self) -> Option<u128> {
        self.next_free(0)
    }

    /// The lowest free item that is not below `from`.
    pub fn next_free(&self, from: u128) -> Option<u128> {
        match &self.form {
            Form::Dense(bitmap) => bitmap.next_free(index(from)?).map(|item| item as u128),
            Form::Sparse(sparse) => sparse.next_free(from),
            Form::Wide(sparse) => sparse.next_free(from),
        }
    }

    /// The first free item of the band at or behind `from`, and where there is none, from the band's first item on. A
    /// `from` outside the band counts as its first item.
    pub fn next_free_within(&self, band: Band, from: u128) -> Option<u128> {
        let inside = |item: &u128| *item <= band.last;
        let from = if (band.first..=band.last).contains(&from) {
            from
        } else {
            band.first
        };
        let ahead = self.next_free(from).filter(inside);
        ahead.or_else(|| self.next_free(band.first).filter(|item| *item < from))
    }

    /// Bytes on the heap: what the dense form has, and what the sparse one has at most.
    pub fn heap_bytes(&self) -> usize {
        match &self.form {
            Form::Dense(bitmap) => bitmap.heap_bytes(),
            Form::Sparse(sparse) => sparse.heap_bytes(),
            Form::Wide(sparse) => sparse.heap_bytes(),
        }
    }
}

/// An item as the dense form counts them; beyond that, it has no such item.
fn index(item: u128) -> Option<usize> {
    usize::try_from(item).ok()
}

#[cfg(test)]
mod tests;
