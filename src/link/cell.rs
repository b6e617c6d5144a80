//! A cell: a value in words of 8 bytes, and one word with their checksum.
//!
//! Ledger and intent file are both made of cells, so that what another process
//! finds is a whole value or none. Which words those are is the layout of each;
//! where they are kept, in mapped memory or in a file, is up to the caller.

use super::words::crc_of;
use std::marker::PhantomData;

/// What a cell can hold.
pub(super) trait Value<const N: usize> {
    fn words(&self) -> [u64; N];
    fn of(words: [u64; N]) -> Self;
}

impl<const N: usize> Value<N> for [u64; N] {
    fn words(&self) -> [u64; N] {
        *self
    }

    fn of(words: [u64; N]) -> [u64; N] {
        words
    }
}

/// Where a value is: its words, and the one with their checksum.
#[derive(Debug)]
pub(super) struct Cell<T, const N: usize> {
    at: [usize; N],
    checksum: usize,
    value: PhantomData<fn() -> T>,
}

impl<T: Value<N>, const N: usize> Cell<T, N> {
    pub(super) const fn new(at: [usize; N], checksum: usize) -> Cell<T, N> {
        Cell { at, checksum, value: PhantomData }
    }

    /// The value; `None` if it does not check out.
    pub(super) fn read(&self, word: impl Fn(usize) -> u64) -> Option<T> {
        let words = self.at.map(&word);
        (word(self.checksum) == crc_of(words)).then(|| T::of(words))
    }

    /// The value, where something else says that it counts.
    pub(super) fn read_unchecked(&self, word: impl Fn(usize) -> u64) -> T {
        T::of(self.at.map(word))
    }

    /// Writes the value, and its checksum last: that one store makes it count.
    pub(super) fn write(&self, value: &T, mut set: impl FnMut(usize, u64)) {
        let words = value.words();
        self.at.into_iter().zip(words).for_each(|(at, word)| set(at, word));
        set(self.checksum, crc_of(words));
    }

    /// Makes the value count no more, so that another can be written in its place.
    pub(super) fn clear(&self, mut set: impl FnMut(usize, u64)) {
        set(self.checksum, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: Cell<[u64; 2], 2> = Cell::new([3, 1], 0);

    #[test]
    fn a_value_counts_with_its_last_store_and_not_before() {
        let mut words = [9; 4];
        let mut stores = Vec::new();
        CELL.write(&[7, 8], |at, word| {
            words[at] = word;
            stores.push(CELL.read(|at| words[at]));
        });
        assert_eq!(stores, [None, None, Some([7, 8])]);
        assert_eq!((words[3], words[1], words[2]), (7, 8, 9));
        CELL.clear(|at, word| words[at] = word);
        assert_eq!((CELL.read(|at| words[at]), CELL.read_unchecked(|at| words[at])), (None, [7, 8]));
    }

    #[test]
    fn a_wrong_bit_is_no_value() {
        let mut words = [0; 4];
        CELL.write(&[7, 8], |at, word| words[at] = word);
        for at in [0, 1, 3] {
            for bit in 0..64 {
                words[at] ^= 1 << bit;
                assert_eq!(CELL.read(|at| words[at]), None, "{at} {bit}");
                words[at] ^= 1 << bit;
            }
        }
    }
}
