//! Where to begin in a plain file: by binary search for a time, or backwards for the last
//! messages.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

/// Bytes that can be read in any place.
pub(super) trait Bytes {
    /// As [`FileExt::read_at`].
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
}

impl Bytes for File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, at)
    }
}

/// How much is read at first to find a line. Most lines are shorter.
const LOOK: usize = 4096;
/// How much is read at a time on the way back.
const BLOCK: usize = 256 * 1024;

/// Reads as much as fits, up to `end`.
fn fill(bytes: &impl Bytes, at: u64, end: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let most = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len());
    let mut filled = 0;
    while filled < most {
        match bytes.read_at(&mut buffer[filled..most], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Where the first newline at or after `at` is, before `end`.
fn newline(bytes: &impl Bytes, mut at: u64, end: u64, buffer: &mut [u8]) -> io::Result<Option<u64>> {
    loop {
        let filled = fill(bytes, at, end, buffer)?;
        if filled == 0 {
            return Ok(None);
        }
        if let Some(found) = memchr::memchr(b'\n', &buffer[..filled]) {
            return Ok(Some(at + found as u64));
        }
        at += filled as u64;
    }
}

/// The beginning of a line such that none before it is wanted, found by binary search.
/// `is_early` says of a line whether no line up to it is wanted; `None`: it can't tell. It sees
/// no more than the line's first [`LOOK`] bytes.
///
/// Whatever the order of the lines is, the answer follows from a line that was early itself.
pub(super) fn first(bytes: &impl Bytes, end: u64, mut is_early: impl FnMut(&[u8]) -> Option<bool>) -> io::Result<u64> {
    let mut buffer = vec![0; LOOK];
    // A line begins at `low`, and none before it is wanted. The search is for lines that begin
    // before `high`.
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        let mut begins = match middle {
            middle if middle == low => Some(low),
            middle => newline(bytes, middle - 1, end, &mut buffer)?.map(|at| at + 1),
        };
        let early_to = loop {
            let Some(begin) = begins.filter(|begin| *begin < high) else { break None };
            let filled = fill(bytes, begin, end, &mut buffer)?;
            let line = memchr::memchr(b'\n', &buffer[..filled]);
            let early = is_early(&buffer[..line.unwrap_or(filled)]);
            let next = match line {
                Some(at) => Some(begin + at as u64 + 1),
                None => newline(bytes, begin + filled as u64, end, &mut buffer)?.map(|at| at + 1),
            };
            match early {
                Some(true) => break next,
                Some(false) => break None,
                None => begins = next,
            }
        };
        match early_to {
            Some(next) => low = next,
            None => high = middle,
        }
    }
    Ok(low)
}

/// What is known of a line on the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Back {
    /// It counts.
    Counts,
    /// It does not.
    Not,
    /// It does not, and neither does any before it.
    End,
}

/// Where the last `most` lines that count begin, and how many there are; less than `most` if
/// the beginning was reached. A last line without its newline does not count.
pub(super) fn last(
    bytes: &impl Bytes,
    end: u64,
    most: u64,
    mut look: impl FnMut(&[u8]) -> Back,
) -> io::Result<(u64, u64)> {
    let mut buffer = vec![0; BLOCK];
    let mut count = 0;
    // No line that counts begins behind this; a line ends there.
    let mut high = whole(bytes, end, &mut buffer)?;
    let mut found = high;
    while high > 0 && count < most {
        let low = high.saturating_sub(buffer.len() as u64);
        let filled = fill(bytes, low, high, &mut buffer)?;
        if low + (filled as u64) < high {
            return Err(io::Error::other("it was truncated meanwhile"));
        }
        let block = &buffer[..filled];
        let first = match memchr::memchr(b'\n', block) {
            _ if low == 0 => 0,
            Some(at) if at + 1 < block.len() => at + 1,
            // The block is not even one line.
            _ => {
                let longer = buffer.len() * 2;
                buffer.resize(longer, 0);
                continue;
            }
        };
        let mut line_end = block.len() - 1;
        loop {
            let begin = memchr::memrchr(b'\n', &block[first..line_end]).map_or(first, |at| first + at + 1);
            match look(&block[begin..line_end]) {
                Back::Counts => {
                    count += 1;
                    found = low + begin as u64;
                }
                Back::Not => {}
                Back::End => return Ok((found, count)),
            }
            if begin == first || count == most {
                break;
            }
            line_end = begin - 1;
        }
        high = low + first as u64;
    }
    Ok((found, count))
}

/// Where the last whole line ends.
pub(super) fn whole(bytes: &impl Bytes, end: u64, buffer: &mut [u8]) -> io::Result<u64> {
    let mut high = end;
    while high > 0 {
        let low = high.saturating_sub(buffer.len() as u64);
        let filled = fill(bytes, low, high, buffer)?;
        if let Some(at) = memchr::memrchr(b'\n', &buffer[..filled]) {
            return Ok(low + at as u64 + 1);
        }
        high = low;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Bytes for &[u8] {
        fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
            let from = self.len().min(usize::try_from(at).unwrap());
            // Reads may be short.
            let n = buffer.len().min(self.len() - from).min(1000);
            buffer[..n].copy_from_slice(&self[from..from + n]);
            Ok(n)
        }
    }

    fn number(line: &[u8]) -> Option<i32> {
        std::str::from_utf8(line).ok()?.split(' ').next()?.parse().ok()
    }

    /// Lines that begin with a number, or with none, some of them long.
    fn text(lines: &[(Option<i32>, usize)]) -> Vec<u8> {
        let line = |(number, length): &(Option<i32>, usize)| {
            let number = number.map_or("none".to_owned(), |number| number.to_string());
            format!("{number} {}\n", "x".repeat(*length))
        };
        lines.iter().map(line).collect::<String>().into_bytes()
    }

    fn whole_lines(text: &[u8]) -> Vec<&[u8]> {
        let mut lines: Vec<_> = text.split(|&byte| byte == b'\n').collect();
        lines.pop();
        lines
    }

    fn some_lines() -> impl Strategy<Value = Vec<(Option<i32>, usize)>> {
        let length = prop_oneof![8 => 0usize..60, 1 => 4000usize..9000];
        proptest::collection::vec((proptest::option::weighted(0.9, 0i32..100), length), 0..60)
    }

    proptest! {
        #[test]
        fn a_binary_search_finds_what_a_linear_one_does(mut lines in some_lines(), wanted in 0i32..100) {
            let mut numbers: Vec<i32> = lines.iter().filter_map(|(number, _)| *number).collect();
            numbers.sort_unstable();
            let mut sorted = numbers.into_iter();
            lines.iter_mut().filter(|(n, _)| n.is_some()).for_each(|line| line.0 = sorted.next());
            let text = text(&lines);
            let found = first(&&text[..], text.len() as u64, |line| number(line).map(|n| n < wanted)).unwrap();
            // Behind the last line that is early: lines without a number may be on both sides.
            let mut expected = 0;
            let mut at = 0;
            for line in whole_lines(&text) {
                at += line.len() as u64 + 1;
                if number(line).is_some_and(|n| n < wanted) {
                    expected = at;
                }
            }
            prop_assert_eq!(found, expected);
        }

        /// Numbers go back by less than 10, as times do where a clock is set back.
        #[test]
        fn what_goes_back_a_little_is_not_hidden(lines in some_lines(), wanted in 0i32..200) {
            let mut least = 0;
            let lines: Vec<_> = lines.into_iter().enumerate().map(|(at, (number, length))| {
                let number = number.map(|n| {
                    let this = i32::try_from(at).unwrap() * 2 + n % 10;
                    least = least.max(this - 9);
                    this.max(least)
                });
                (number, length)
            }).collect();
            let text = text(&lines);
            let found = first(&&text[..], text.len() as u64, |line| number(line).map(|n| n < wanted - 9)).unwrap();
            let is_wanted = |line: &&[u8]| number(line).is_some_and(|n| n >= wanted);
            let all: Vec<_> = whole_lines(&text).into_iter().filter(is_wanted).collect();
            let from_there: Vec<_> = whole_lines(&text[usize::try_from(found).unwrap()..])
                .into_iter().filter(is_wanted).collect();
            prop_assert_eq!(all, from_there);
        }

        #[test]
        fn the_last_ones_are_the_tail_of_all(
            lines in some_lines(), most in 0u64..20, wanted in 0i32..100, rest in "[a-z]{0,5}", long in 0usize..3,
        ) {
            let mut text = text(&lines);
            text.extend_from_slice(&b"50 x".repeat(long * 100_000));
            text.extend_from_slice(if long > 0 { b"\n" } else { b"" });
            text.extend_from_slice(rest.as_bytes());
            let counts = |line: &[u8]| number(line).is_some_and(|n| n >= wanted);
            let look = |line: &[u8]| if counts(line) { Back::Counts } else { Back::Not };
            let (found, count) = last(&&text[..], text.len() as u64, most, look).unwrap();
            let all: Vec<_> = whole_lines(&text).into_iter().filter(|line| counts(line)).collect();
            let tail = &all[all.len().saturating_sub(usize::try_from(most).unwrap())..];
            let from_there = &text[usize::try_from(found).unwrap()..];
            let shown: Vec<_> = whole_lines(from_there).into_iter().filter(|line| counts(line)).collect();
            prop_assert_eq!((shown.as_slice(), count), (tail, tail.len() as u64));
        }
    }
}
