//! Messages in the bytes of a source that sends records.

use super::ledger::CARRY_MAX;
use super::record::{Decoded, Flags, Head, MAGIC, MESSAGE_MAX, RECORD_MAX, decode};

/// What is at the head of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A whole message.
    Message {
        /// The head of its last record.
        head: Head,
        /// Whether any of its records asks for it to be on the disk.
        sync: bool,
        /// Its bytes.
        bytes: &'a [u8],
        /// How many bytes its records take.
        len: usize,
    },
    /// This many bytes of a message whose last record never came.
    Incomplete(usize),
    /// This many bytes that are not a record, or are a later record of a message whose first
    /// record is missing.
    Garbage(usize),
}

/// The message at the head of `bytes`; `None` if it is not whole yet. At
/// the end of the link (`last`), a message that is not whole never will be.
///
/// A message of several records is put together in `joined`.
pub fn next_message<'a>(bytes: &'a [u8], joined: &'a mut Vec<u8>, last: bool) -> Option<Next<'a>> {
    next(bytes, joined, last, last)
}

/// Like [`next_message`], if `bytes` has all that was written. A record is written as a
/// whole or not at all, so if only a part of one is there with another record behind it,
/// it was torn when its source ended.
pub fn next_behind_torn<'a>(bytes: &'a [u8], joined: &'a mut Vec<u8>) -> Option<Next<'a>> {
    next(bytes, joined, false, true)
}

/// Whether there is a whole record somewhere in `bytes` behind the message at its head,
/// which according to [`next_message`] is not whole.
pub fn hides_records(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Decoded::Record(record) = decode(&bytes[at..]) {
        at += record.len;
    }
    next_record(&bytes[at..]).is_some()
}

/// Where the next whole record begins, past the first byte.
fn next_record(bytes: &[u8]) -> Option<usize> {
    let rest = bytes.get(1..)?;
    let magic = MAGIC.to_le_bytes();
    let mut begins = memchr::memmem::find_iter(rest, &magic).map(|at| at + 1);
    begins.find(|&at| matches!(decode(&bytes[at..]), Decoded::Record(_)))
}

/// Like [`decode`]. But if records may be `torn`, one that is not whole and has a whole one
/// behind it counts as garbage, up to the whole one.
fn decode_torn(bytes: &[u8], torn: bool) -> Decoded<'_> {
    match decode(bytes) {
        Decoded::Incomplete if torn => next_record(bytes).map_or(Decoded::Incomplete, Decoded::Garbage),
        other => other,
    }
}

fn next<'a>(bytes: &'a [u8], joined: &'a mut Vec<u8>, last: bool, torn: bool) -> Option<Next<'a>> {
    let first = match decode_torn(bytes, torn) {
        Decoded::Record(record) => record,
        Decoded::Garbage(0) => return None,
        Decoded::Garbage(n) => return Some(Next::Garbage(n)),
        Decoded::Incomplete if last && !bytes.is_empty() => return Some(Next::Garbage(bytes.len())),
        Decoded::Incomplete => return None,
    };
    let head = first.head;
    if !head.flags.has(Flags::FIRST) {
        return Some(Next::Garbage(first.len));
    }
    if head.flags.has(Flags::LAST) {
        let sync = head.flags.has(Flags::SYNC);
        return Some(Next::Message { head, sync, bytes: first.payload, len: first.len });
    }
    joined.clear();
    joined.extend_from_slice(first.payload);
    let mut sync = head.flags.has(Flags::SYNC);
    let mut at = first.len;
    loop {
        let next = match decode_torn(&bytes[at..], torn) {
            Decoded::Record(record) => record,
            Decoded::Incomplete | Decoded::Garbage(0) if !last => return None,
            Decoded::Incomplete | Decoded::Garbage(_) => return Some(Next::Incomplete(at)),
        };
        let same = (next.head.epoch, next.head.sequence) == (head.epoch, head.sequence);
        let longer = joined.len() + next.payload.len();
        // A message that never ends must not fill the ledger.
        let fits = longer <= MESSAGE_MAX && at + next.len <= CARRY_MAX - RECORD_MAX;
        if !same || next.head.flags.has(Flags::FIRST) || !fits {
            return Some(Next::Incomplete(at));
        }
        joined.extend_from_slice(next.payload);
        sync |= next.head.flags.has(Flags::SYNC);
        at += next.len;
        if next.head.flags.has(Flags::LAST) {
            return Some(Next::Message { head: next.head, sync, bytes: joined, len: at });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::record::Peer;
    use proptest::prelude::*;

    fn head(sequence: u64) -> Head {
        Head { flags: Flags::default(), peer: Peer::None, connection: 1, epoch: 9, sequence, time: 5 }
    }

    fn records(sequence: u64, message: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        head(sequence).encode_message(message, &mut bytes, |_| {});
        bytes
    }

    /// The sequence and bytes of each message, the number of bytes that are garbage, of
    /// incomplete messages, and of bytes that are left.
    fn all(mut bytes: &[u8], last: bool) -> (Vec<(u64, Vec<u8>)>, usize, usize, usize) {
        let (mut messages, mut garbage, mut incomplete, mut joined) = (Vec::new(), 0, 0, Vec::new());
        while let Some(next) = next_message(bytes, &mut joined, last) {
            let len = match next {
                Next::Message { head, bytes, len, .. } => {
                    messages.push((head.sequence, bytes.to_vec()));
                    len
                }
                Next::Incomplete(len) => {
                    incomplete += 1;
                    len
                }
                Next::Garbage(len) => {
                    garbage += len;
                    len
                }
            };
            assert!(len > 0);
            bytes = &bytes[len..];
        }
        (messages, garbage, incomplete, bytes.len())
    }

    #[test]
    fn records_become_messages() {
        let long = vec![b'x'; 10_000];
        let bytes = [records(1, b"one"), records(2, &long), records(3, b"")].concat();
        let expected = vec![(1, b"one".to_vec()), (2, long), (3, vec![])];
        assert_eq!(all(&bytes, false), (expected, 0, 0, 0));
    }

    #[test]
    fn a_message_whose_last_record_never_came_is_left_out() {
        let cut = records(1, &[b'x'; 10_000])[..RECORD_MAX].to_vec();
        assert_eq!(all(&cut, false), (vec![], 0, 0, RECORD_MAX));
        assert_eq!(all(&cut, true), (vec![], 0, 1, 0));
        let bytes = [cut, records(2, b"two")].concat();
        assert_eq!(all(&bytes, false), (vec![(2, b"two".to_vec())], 0, 1, 0));
    }

    #[test]
    fn garbage_is_passed_over_and_a_message_torn_by_it_is_left_out() {
        let long = records(1, &[b'x'; 10_000]);
        let mut bytes = b"noise".to_vec();
        bytes.extend_from_slice(&records(0, b"zero"));
        bytes.extend_from_slice(&long[..RECORD_MAX]);
        bytes.extend_from_slice(b"more noise");
        bytes.extend_from_slice(&long[RECORD_MAX..]);
        bytes.extend_from_slice(&records(2, b"two"));
        let garbage = 15 + long.len() - RECORD_MAX;
        assert_eq!(all(&bytes, false), (vec![(0, b"zero".to_vec()), (2, b"two".to_vec())], garbage, 1, 0));
    }

    /// A torn record, and three whole ones behind it.
    fn torn(record: &[u8], cut: usize) -> Vec<u8> {
        [&record[..cut], &records(1, b"one"), &records(2, &[b'y'; 5000]), &records(3, b"")].concat()
    }

    fn behind_torn() -> Vec<(u64, Vec<u8>)> {
        vec![(1, b"one".to_vec()), (2, vec![b'y'; 5000]), (3, vec![])]
    }

    #[test]
    fn a_torn_record_hides_none_of_those_behind_it() {
        let (short, long) = (records(9, b"short"), records(9, &[b'x'; 9000]));
        for (record, cuts) in
            [(&short, 1..short.len()), (&long, 1..RECORD_MAX), (&long, RECORD_MAX + 1..2 * RECORD_MAX)]
        {
            for cut in cuts.step_by(7) {
                let bytes = torn(record, cut);
                // At the end of the link.
                let (messages, garbage, incomplete, left) = all(&bytes, true);
                assert_eq!((messages, left), (behind_torn(), 0), "{cut}");
                assert_eq!((garbage, incomplete), (cut % RECORD_MAX, usize::from(cut > RECORD_MAX)), "{cut}");
                // While it goes on.
                let mut joined = Vec::new();
                let (before, _, passed, left) = all(&bytes, false);
                let rest = &bytes[bytes.len() - left..];
                if before.len() < 3 {
                    assert!(hides_records(rest), "{cut}");
                    let len = match next_behind_torn(rest, &mut joined) {
                        Some(Next::Garbage(len) | Next::Incomplete(len)) => len,
                        other => panic!("{other:?}"),
                    };
                    let (messages, ..) = all(&rest[len..], true);
                    assert_eq!([before, messages].concat(), behind_torn(), "{cut} {passed}");
                }
            }
        }
    }

    #[test]
    fn a_message_that_is_not_whole_yet_hides_nothing() {
        let long = records(1, &[b'x'; 20_000]);
        for len in (0..long.len()).step_by(97) {
            assert!(!hides_records(&long[..len]), "{len}");
        }
    }

    #[test]
    fn a_message_without_end_does_not_fill_the_ledger() {
        let mut endless = Vec::new();
        for i in 0..60_000 {
            let flags = if i == 0 { Flags::FIRST } else { Flags::default() };
            Head { flags, ..head(1) }.encode(b"x", &mut endless);
        }
        let (messages, garbage, incomplete, left) = all(&endless, false);
        assert_eq!((messages, incomplete), (vec![], 1));
        assert!(left < CARRY_MAX && garbage > 0);
    }

    #[test]
    fn the_longest_message_fits() {
        let message = vec![b'x'; MESSAGE_MAX];
        assert_eq!(all(&records(1, &message), false).0, vec![(1, message)]);
    }

    proptest! {
        #[test]
        fn messages_do_not_depend_on_how_bytes_arrive(
            lens in proptest::collection::vec(0usize..9000, 0..8),
            steps in proptest::collection::vec(1usize..9000, 1..20),
        ) {
            let mut bytes = Vec::new();
            for (i, len) in (0u8..).zip(lens) {
                bytes.extend_from_slice(&records(u64::from(i), &vec![i; len]));
            }
            let (mut messages, mut at, mut end) = (Vec::new(), 0, 0);
            for step in steps.into_iter().chain([bytes.len()]) {
                end = (end + step).min(bytes.len());
                let (more, garbage, incomplete, left) = all(&bytes[at..end], false);
                prop_assert_eq!((garbage, incomplete), (0, 0));
                messages.extend(more);
                at = end - left;
            }
            prop_assert_eq!((messages, 0, 0, 0), all(&bytes, true));
        }
    }
}
