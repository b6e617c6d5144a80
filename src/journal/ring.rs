//! The last entries of the log, kept in memory for `plumbd log`, whatever the log's target is.
//!
//! There is one ring for each child, so that a child that writes much pushes out no other
//! child's lines, and one for the daemon. A reader has a [`Cursor`]: it remembers how far
//! it has read in each ring, so nothing is queued for it, and if it is too slow, it learns
//! how many entries it missed.

use super::entry::{OWN, Priority};
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// How many bytes a ring has at most, unless its child's `log_keep` says otherwise.
pub const KEEP: u64 = 64 << 10;
/// What an entry takes besides its text, so that a ring of empty lines is bounded, too.
const OVERHEAD: usize = size_of::<Kept>();

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Rises by one from each entry to the next, over all rings.
    pub seq: u64,
    /// When it was logged.
    pub at: Timestamp,
    /// How much it matters.
    pub(super) priority: Priority,
    /// Printable text.
    pub text: Box<str>,
    /// The child wrote it; otherwise the daemon did, about the child.
    pub by_child: bool,
}

impl Kept {
    /// The level that the log shows.
    pub fn level(&self) -> log::Level {
        self.priority.level()
    }
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// An entry of that child, or of the daemon.
    Entry(&'a str, &'a Kept),
    /// The reader was too slow: so many entries of that child are gone.
    Lost(&'a str, u64),
}

/// The rings.
#[derive(Debug, Default)]
pub(super) struct Rings {
    rings: BTreeMap<String, Ring>,
    next: u64,
}

/// One ring.
#[derive(Debug)]
struct Ring {
    entries: VecDeque<Kept>,
    /// Entries are numbered from here on, above those of any ring that had its name before.
    born: u64,
    /// The number of its first entry.
    first: u64,
    bytes: usize,
    most: usize,
}

/// How far a reader has read.
#[derive(Debug, Clone, Default)]
pub struct Cursor {
    /// The number of the next entry in each ring. Of a ring that is not here, all is new.
    next: BTreeMap<String, u64>,
    /// Nothing from this number on is read.
    until: Option<u64>,
}

impl Ring {
    fn new(most: usize, born: u64) -> Ring {
        Ring { entries: VecDeque::new(), born, first: born, bytes: 0, most }
    }

    fn fit(&mut self) {
        while self.bytes > self.most {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.text.len() + OVERHEAD;
            self.first += 1;
        }
    }

    /// Where the entry of that number is, and how many are gone before it that should have been read.
    fn from(&self, number: u64) -> (u64, usize) {
        let number = number.max(self.born);
        let place = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        (self.first.saturating_sub(number), place.min(self.entries.len()))
    }
}

impl Rings {
    /// Keeps entries of that child from now on, in a ring of so many bytes.
    pub(super) fn keep(&mut self, name: &str, most: u64) {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let ring = self.rings.entry(name.to_owned()).or_insert_with(|| Ring::new(most, self.next));
        ring.most = most;
        ring.fit();
    }

    /// Forgets that child.
    pub(super) fn forget(&mut self, name: &str) {
        self.rings.remove(name);
    }

    /// Keeps an entry. What is about nobody known is the daemon's.
    pub(super) fn push(&mut self, name: &str, priority: Priority, text: String, by_child: bool) {
        let (name, text) = match self.rings.contains_key(name) {
            true => (name, text),
            false if name == OWN => (OWN, text),
            false => (OWN, format!("{name}: {text}")),
        };
        let ring = match self.rings.get_mut(name) {
            Some(ring) => ring,
            None => self.rings.entry(name.to_owned()).or_insert_with(|| Ring::new(KEEP as usize, self.next)),
        };
        let kept = Kept { seq: self.next, at: Timestamp::now(), priority, text: text.into(), by_child };
        self.next += 1;
        ring.bytes += kept.text.len() + OVERHEAD;
        ring.entries.push_back(kept);
        ring.fit();
    }

    /// The number that the next entry will have.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The last line that a child itself wrote, from that number on.
    pub(super) fn last_line(&self, name: &str, from: u64) -> Option<&Kept> {
        let entries = self.rings.get(name)?.entries.iter().rev().take_while(|kept| kept.seq >= from);
        entries.into_iter().find(|kept| kept.by_child && !kept.text.trim().is_empty())
    }

    /// A reader of the last `lines` entries (`None`: all), and of what comes after them if it
    /// `follows`.
    pub(super) fn cursor(&self, wanted: &dyn Fn(&str) -> bool, lines: Option<usize>, follows: bool) -> Cursor {
        let chosen = || self.rings.iter().filter(|(name, _)| wanted(name));
        let mut first = 0;
        if let Some(lines) = lines {
            let mut all: Vec<u64> = chosen().flat_map(|(_, ring)| ring.entries.iter().map(|kept| kept.seq)).collect();
            let skipped = all.len().saturating_sub(lines);
            first = match all.len() - skipped {
                0 => self.next,
                _ => *all.select_nth_unstable(skipped).1,
            };
        }
        let next = chosen().map(|(name, ring)| {
            let skipped = ring.entries.partition_point(|kept| kept.seq < first);
            (name.clone(), ring.first + skipped as u64)
        });
        Cursor { next: next.collect(), until: (!follows).then_some(self.next) }
    }

    /// Reads on, in the order in which entries came, until `each` has enough. Returns
    /// whether there is nothing more to read for now.
    pub(super) fn read(
        &self,
        cursor: &mut Cursor,
        wanted: &dyn Fn(&str) -> bool,
        mut each: impl FnMut(Piece<'_>) -> bool,
    ) -> bool {
        cursor.next.retain(|name, _| self.rings.contains_key(name));
        let mut heads = BinaryHeap::new();
        let chosen: Vec<(&String, &Ring)> = self.rings.iter().filter(|(name, _)| wanted(name)).collect();
        let until = cursor.until.unwrap_or(u64::MAX);
        let mut wants_more = true;
        for (which, (name, ring)) in chosen.iter().enumerate() {
            let (lost, place) = ring.from(cursor.next.get(*name).copied().unwrap_or(0));
            if lost > 0 {
                wants_more = each(Piece::Lost(name, lost));
            }
            cursor.next.insert((*name).clone(), ring.first + place as u64);
            if let Some(kept) = ring.entries.get(place).filter(|kept| kept.seq < until) {
                heads.push(Reverse((kept.seq, which, place)));
            }
        }
        while wants_more {
            let Some(Reverse((_, which, place))) = heads.pop() else { return true };
            let (name, ring) = chosen[which];
            let Some(kept) = ring.entries.get(place) else { continue };
            wants_more = each(Piece::Entry(name, kept));
            if let Some(next) = cursor.next.get_mut(name) {
                *next += 1;
            }
            if let Some(kept) = ring.entries.get(place + 1).filter(|kept| kept.seq < until) {
                heads.push(Reverse((kept.seq, which, place + 1)));
            }
        }
        heads.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn everybody(_: &str) -> bool {
        true
    }

    fn said(rings: &Rings, cursor: &mut Cursor) -> Vec<String> {
        let mut said = Vec::new();
        rings.read(cursor, &everybody, |piece| {
            said.push(match piece {
                Piece::Entry(name, kept) => format!("{name} {}", kept.text),
                Piece::Lost(name, count) => format!("{name} lost {count}"),
            });
            true
        });
        said
    }

    fn rings(names: &[&str], most: usize) -> Rings {
        let mut rings = Rings::default();
        names.iter().for_each(|name| rings.keep(name, most as u64));
        rings
    }

    fn push(rings: &mut Rings, name: &str, text: &str) {
        rings.push(name, Priority::WARNING, text.to_owned(), true);
    }

    #[test]
    fn entries_of_several_children_come_in_order() {
        let mut rings = rings(&["a", "b"], 10_000);
        let said_by = [("a", "1"), ("b", "2"), ("a", "3"), ("plumbd", "4"), ("gone", "5")];
        said_by.into_iter().for_each(|(name, text)| push(&mut rings, name, text));
        let all = ["a 1", "b 2", "a 3", "plumbd 4", "plumbd gone: 5"];
        assert_eq!(said(&rings, &mut rings.cursor(&everybody, None, true)), all);
        assert_eq!(said(&rings, &mut rings.cursor(&everybody, Some(2), true)), all[3..]);
        assert!(said(&rings, &mut rings.cursor(&everybody, Some(0), true)).is_empty());
        let only_b = |name: &str| name == "b";
        let mut cursor = rings.cursor(&only_b, Some(9), false);
        let mut count = 0;
        assert!(rings.read(&mut cursor, &only_b, |_| {
            count += 1;
            true
        }));
        assert_eq!(count, 1);
    }

    #[test]
    fn one_that_follows_reads_on_and_one_that_does_not_stops_at_what_was_there() {
        let mut rings = rings(&["a"], 10_000);
        push(&mut rings, "a", "1");
        let (mut follows, mut once) = (rings.cursor(&everybody, None, true), rings.cursor(&everybody, None, false));
        push(&mut rings, "a", "2");
        rings.keep("new", 10_000);
        push(&mut rings, "new", "3");
        assert_eq!(said(&rings, &mut once), ["a 1"]);
        assert_eq!(said(&rings, &mut follows), ["a 1", "a 2", "new 3"]);
        assert!(said(&rings, &mut follows).is_empty());
    }

    #[test]
    fn a_slow_reader_learns_how_much_it_missed() {
        let mut rings = rings(&["a"], 3 * (OVERHEAD + 1));
        let mut cursor = rings.cursor(&everybody, None, true);
        "123456789".chars().for_each(|c| push(&mut rings, "a", &c.to_string()));
        assert_eq!(said(&rings, &mut cursor), ["a lost 6", "a 7", "a 8", "a 9"]);
        rings.forget("a");
        rings.keep("a", 10_000);
        push(&mut rings, "a", "x");
        assert_eq!(said(&rings, &mut cursor), ["a x"]);
    }

    #[test]
    fn the_last_line_is_one_of_the_child_itself() {
        let mut rings = rings(&["a"], 10_000);
        push(&mut rings, "a", "why");
        let from = rings.next();
        rings.push("a", Priority::WARNING, "it ended".to_owned(), false);
        push(&mut rings, "a", " ");
        assert_eq!(rings.last_line("a", 0).map(|kept| &*kept.text), Some("why"));
        assert_eq!(rings.last_line("a", from), None);
    }

    proptest! {
        #[test]
        fn whatever_is_read_when_each_entry_comes_once_in_order_or_is_counted(
            steps in prop::collection::vec((0usize..3, 0usize..6), 1..200),
        ) {
            let mut rings = rings(&["a", "b", "c"], 4 * (OVERHEAD + 3));
            let mut cursor = rings.cursor(&everybody, None, true);
            let (mut read, mut lost, mut last, mut pushed) = (0, 0, None, 0);
            let mut look = |rings: &Rings, most: usize| {
                let mut room = most;
                rings.read(&mut cursor, &everybody, |piece| {
                    match piece {
                        Piece::Entry(_, kept) => {
                            assert!(last < Some(kept.seq), "{last:?} {}", kept.seq);
                            last = Some(kept.seq);
                            read += 1;
                        }
                        Piece::Lost(_, count) => lost += count,
                    }
                    room = room.saturating_sub(1);
                    room > 0
                });
                (read, lost)
            };
            for (which, most) in steps {
                push(&mut rings, ["a", "b", "c"][which], "abc");
                pushed += 1;
                if most > 3 {
                    look(&rings, most - 3);
                }
            }
            let (read, lost) = look(&rings, usize::MAX);
            prop_assert_eq!(read + lost, pushed);
            for ring in rings.rings.values() {
                prop_assert!(ring.bytes <= ring.most);
                prop_assert_eq!(ring.bytes, ring.entries.iter().map(|kept| kept.text.len() + OVERHEAD).sum::<usize>());
            }
        }
    }
}
