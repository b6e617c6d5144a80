//! Rendered entries that could not be written yet. The backlog is bounded, and entries
//! that did not fit are counted.

use std::collections::VecDeque;

/// How many bytes may wait.
const BOUND: usize = 256 * 1024;

/// Rendered entries in order; the first may be partly written.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: VecDeque<Item>,
    bytes: usize,
    /// Bytes of the first item that are already written.
    went: usize,
    /// Entries that were dropped since the last note about that.
    dropped: u64,
}

/// An entry that waits, or a note that stands for dropped entries.
#[derive(Debug)]
struct Item {
    bytes: Vec<u8>,
    stands_for: u64,
}

impl Backlog {
    /// Adds an entry, after a note if entries before it were dropped; drops it if there is
    /// no room.
    pub(super) fn push(&mut self, entry: Vec<u8>, note: impl FnOnce(u64) -> Vec<u8>) {
        let note = (self.dropped > 0).then(|| note(self.dropped));
        let more = entry.len() + note.as_ref().map_or(0, Vec::len);
        if self.bytes + more > BOUND {
            self.dropped += 1;
            return;
        }
        if let Some(note) = note {
            self.put(Item { bytes: note, stands_for: self.dropped });
            self.dropped = 0;
        }
        self.put(Item { bytes: entry, stands_for: 1 });
    }

    /// What to write next: the rest of the first entry or, after the last one, a note if
    /// entries were dropped.
    pub(super) fn front(&mut self, note: impl FnOnce(u64) -> Vec<u8>) -> Option<&[u8]> {
        if self.waiting.is_empty() && self.dropped > 0 {
            let item = Item { bytes: note(self.dropped), stands_for: self.dropped };
            self.dropped = 0;
            self.put(item);
        }
        self.waiting.front().map(|item| &item.bytes[self.went..])
    }

    /// Notes that this many more bytes of the first entry are written.
    pub(super) fn went(&mut self, n: usize) {
        self.went += n;
        if self.waiting.front().is_some_and(|item| self.went >= item.bytes.len()) {
            self.take_front();
        }
    }

    /// Drops the first entry, which can't be written at all. Returns whether another one waits.
    pub(super) fn drop_front(&mut self) -> bool {
        self.dropped += self.take_front().map_or(0, |item| item.stands_for);
        !self.waiting.is_empty()
    }

    /// Makes the first entry start again from its beginning, because the reader that got
    /// its first part is gone.
    pub(super) fn anew(&mut self) {
        self.went = 0;
    }

    /// How many entries are not written, those that wait included.
    pub(super) fn unsent(&self) -> u64 {
        self.dropped + self.waiting.iter().map(|item| item.stands_for).sum::<u64>()
    }

    fn put(&mut self, item: Item) {
        self.bytes += item.bytes.len();
        self.waiting.push_back(item);
    }

    fn take_front(&mut self) -> Option<Item> {
        let item = self.waiting.pop_front()?;
        self.bytes -= item.bytes.len();
        self.went = 0;
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn note(dropped: u64) -> Vec<u8> {
        format!("[{dropped}]").into_bytes()
    }

    fn all(backlog: &mut Backlog, chunk: usize) -> String {
        let mut out = Vec::new();
        while let Some(bytes) = backlog.front(note) {
            let n = bytes.len().min(chunk);
            out.extend_from_slice(&bytes[..n]);
            backlog.went(n);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn entries_are_written_in_order_however_little_at_a_time() {
        let mut backlog = Backlog::default();
        for entry in ["one ", "two ", "three "] {
            backlog.push(entry.into(), note);
        }
        assert_eq!(all(&mut backlog, 2), "one two three ");
        assert_eq!(backlog.bytes, 0);
    }

    #[test]
    fn an_entry_that_was_half_written_is_whole_for_the_next_reader() {
        let mut backlog = Backlog::default();
        backlog.push("entry ".into(), note);
        backlog.went(3);
        backlog.anew();
        assert_eq!(all(&mut backlog, 100), "entry ");
        backlog.anew();
        assert_eq!(all(&mut backlog, 100), "");
    }

    #[test]
    fn dropped_entries_are_reported_where_they_are_missing() {
        let mut backlog = Backlog::default();
        backlog.push(vec![b'a'; BOUND], note);
        backlog.push("lost".into(), note);
        backlog.push("lost".into(), note);
        backlog.went(BOUND);
        backlog.push("after".into(), note);
        assert_eq!(all(&mut backlog, 4096), "[2]after");
    }

    #[test]
    fn dropped_entries_are_reported_even_if_nothing_comes_after() {
        let mut backlog = Backlog::default();
        backlog.push(vec![b'a'; BOUND + 1], note);
        assert_eq!(all(&mut backlog, 4096), "[1]");
        assert_eq!(backlog.front(note), None);
    }

    #[test]
    fn a_note_that_can_not_be_written_keeps_its_count() {
        let mut backlog = Backlog::default();
        backlog.push("x".into(), note);
        assert!(!backlog.drop_front());
        assert_eq!(backlog.front(note).unwrap(), b"[1]");
        assert!(!backlog.drop_front());
        backlog.push("y".into(), note);
        assert_eq!(all(&mut backlog, 100), "[1]y");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize),
        Went(usize),
        DropFront,
    }

    proptest! {
        // Each case moves megabytes.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn each_entry_is_written_or_counted_and_no_more_than_the_bound_waits(
            steps in prop::collection::vec(
                prop_oneof![
                    (1..BOUND).prop_map(Step::Push),
                    (1..BOUND).prop_map(Step::Went),
                    Just(Step::DropFront),
                ],
                0..100,
            )
        ) {
            let mut backlog = Backlog::default();
            let (mut pushed, mut gone) = (0u64, 0u64);
            for step in steps {
                match step {
                    Step::Push(len) => {
                        backlog.push(vec![b'x'; len], note);
                        pushed += 1;
                    }
                    Step::Went(n) => {
                        let n = backlog.front(note).map_or(0, |bytes| bytes.len().min(n));
                        let before = backlog.waiting.len();
                        let first = backlog.waiting.front().map_or(0, |item| item.stands_for);
                        backlog.went(n);
                        if backlog.waiting.len() < before {
                            gone += first;
                        }
                    }
                    Step::DropFront => {
                        backlog.drop_front();
                    }
                }
                prop_assert_eq!(pushed, gone + backlog.unsent());
                prop_assert!(backlog.bytes <= BOUND);
            }
        }
    }
}
