//! A cell: a value in words of 8 bytes, and one word with their checksum.
//!
//! Ledger and intent file are both made of cells, so that another process finds a whole
//! value or none. Each of them defines which words make up a cell; the caller decides
//! where the words are kept, in mapped memory or in a file.

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

/// Where a value is: its words, and the word with their checksum.
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

    /// The value; `None` if its checksum is wrong.
    pub(super) fn read(&self, word: impl Fn(usize) -> u64) -> Option<T> {
        let words = self.at.map(&word);
        (word(self.checksum) == crc_of(words)).then(|| T::of(words))
    }

    /// The value, for a caller that knows that it counts.
    pub(super) fn read_unchecked(&self, word: impl Fn(usize) -> u64) -> T {
        T::of(self.at.map(word))
    }

    /// Writes the value, with its checksum last. That one store makes the value count.
    pub(super) fn write(&self, value: &T, mut set: impl FnMut(usize, u64)) {
        let words = value.words();
        self.at.into_iter().zip(words).for_each(|(at, word)| set(at, word));
        set(self.checksum, crc_of(words));
    }

    /// Makes the value no longer count, so that another can be written in its place.
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
    fn with_a_wrong_bit_there_is_no_value() {
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
