//! The memory of all connections: free buffers, how many bytes are in use, and who waits
//! for more. Pure.
//!
//! `max_memory` bounds the buffers that connections hold. A part of it, as large as the
//! longest buffer, is reserved for one connection at a time that can't continue otherwise:
//! so one long message after the other gets through, however many began at once. A part of
//! the rest is for first buffers alone: enough for every client, or half of all memory.
//! Clients that take no echoes can hold everything else, and the others are still served.

use super::slots::Id;
use std::collections::VecDeque;

/// The least bytes a buffer has.
pub(super) const SMALLEST: usize = 4096;
/// How many bytes of buffers that nobody uses are kept for the next.
const SPARE: usize = 4 * 1024 * 1024;

/// The least that a connection may hold before it is read no further.
const LEAST_LIMIT: usize = 32 * 1024;

/// How many bytes a connection may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// The longest buffer.
    pub(super) longest: usize,
}

impl Limit {
    /// Twice the longest message: room for one that is not whole yet, beside
    /// what waits to go back.
    pub(super) fn for_messages(max: usize) -> Limit {
        Limit { longest: (2 * max).max(LEAST_LIMIT) }
    }

    /// Above this the socket is read no further.
    pub(super) fn high(self) -> usize {
        self.longest / 4 * 3
    }

    /// From here down it is read again.
    pub(super) fn low(self) -> usize {
        self.longest / 2
    }
}

/// How much memory a client needs to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// There is room in the buffer.
    Nothing,
    /// A buffer.
    First,
    /// This many bytes more.
    More(usize),
}

/// Free buffers, and what connections hold.
#[derive(Debug)]
pub(super) struct Memory {
    free: Vec<Vec<u8>>,
    /// Bytes of those.
    spare: usize,
    /// Bytes that connections hold.
    held: usize,
    /// How many of them are more than a first buffer for each.
    grown: usize,
    /// The most of all.
    most: usize,
    /// The most that may be grown, except for the one that can't continue otherwise.
    longer: usize,
    limit: Limit,
    /// Those that are not read for want of memory.
    pub(super) waiting: Waiting<Id>,
}

impl Memory {
    /// At most `most` bytes for that many connections, each with this limit.
    pub(super) fn new(most: usize, connections: usize, limit: Limit) -> Memory {
        let firsts = connections.saturating_mul(SMALLEST).min(most / 2);
        Memory {
            free: Vec::new(),
            spare: 0,
            held: 0,
            grown: 0,
            most,
            longer: (most - firsts).saturating_sub(limit.longest),
            limit,
            waiting: Waiting::default(),
        }
    }

    /// How much each connection may hold.
    pub(super) fn limit(&self) -> Limit {
        self.limit
    }

    /// Whether there is enough.
    pub(super) fn has(&self, needs: Needs) -> bool {
        let shared = self.most.saturating_sub(self.limit.longest);
        match needs {
            Needs::Nothing => true,
            Needs::First => self.held - self.grown.saturating_sub(self.longer) + SMALLEST <= shared,
            Needs::More(bytes) => self.grown + bytes <= self.longer && self.held + bytes <= shared,
        }
    }

    /// Bytes that connections hold.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// A buffer: the last that came back, unless it is a long one and those are scarce.
    /// `None`: there is not enough.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        if !self.has(Needs::First) {
            return None;
        }
        let last = self.free.last().map(Vec::len);
        let fits = last.is_some_and(|length| length == SMALLEST || self.has(Needs::More(length)));
        let buffer = match if fits { self.free.pop() } else { None } {
            Some(buffer) => {
                self.spare -= buffer.len();
                buffer
            }
            None => vec![0; SMALLEST],
        };
        self.held += buffer.len();
        self.grown += buffer.len() - SMALLEST;
        Some(buffer)
    }

    /// Makes a buffer longer, if there is enough; whether there was.
    pub(super) fn lengthen(&mut self, buffer: &mut Vec<u8>, to: usize) -> bool {
        self.lengthen_if(self.has(Needs::More(to - buffer.len())), buffer, to)
    }

    /// Makes the buffer of the first in line the longest, if there is enough, as there
    /// always is unless another connection has that; whether there was.
    pub(super) fn lengthen_one(&mut self, buffer: &mut Vec<u8>) -> bool {
        let longest = self.limit.longest;
        let more = longest - buffer.len();
        let has = self.grown + more <= self.longer + longest && self.held + more <= self.most;
        self.lengthen_if(has, buffer, longest)
    }

    fn lengthen_if(&mut self, has: bool, buffer: &mut Vec<u8>, to: usize) -> bool {
        if has {
            self.held += to - buffer.len();
            self.grown += to - buffer.len();
            buffer.resize(to, 0);
        }
        has
    }

    /// A buffer comes back.
    pub(super) fn give(&mut self, buffer: Vec<u8>) {
        self.held -= buffer.len();
        self.grown -= buffer.len() - SMALLEST;
        self.waiting.move_again();
        if self.spare + buffer.len() <= SPARE {
            self.spare += buffer.len();
            self.free.push(buffer);
        }
    }
}

/// Those that wait for memory, first come, first served: for a first buffer, and for a
/// longer one.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    lines: [VecDeque<T>; 2],
    /// Another began to wait, or memory came back, since the first were last served.
    may_move: bool,
}

impl<T> Default for Waiting<T> {
    fn default() -> Waiting<T> {
        Waiting { lines: [VecDeque::new(), VecDeque::new()], may_move: false }
    }
}

impl<T: Copy> Waiting<T> {
    /// Each of the two.
    pub(super) const ALL: [usize; 2] = [0, 1];

    fn of(needs: Needs) -> usize {
        usize::from(needs != Needs::First)
    }

    /// Waits behind the others.
    pub(super) fn push(&mut self, needs: Needs, one: T) {
        self.lines[Self::of(needs)].push_back(one);
        self.may_move = true;
    }

    /// Whether there may be enough for the first by now.
    pub(super) fn may_move(&self) -> bool {
        self.may_move && self.lines.iter().any(|line| !line.is_empty())
    }

    /// They are served now.
    pub(super) fn move_once(&mut self) {
        self.may_move = false;
    }

    /// There may be enough for the first.
    pub(super) fn move_again(&mut self) {
        self.may_move = true;
    }

    /// Whether another waits for the same already.
    pub(super) fn is_anyone_before(&self, needs: Needs) -> bool {
        needs != Needs::Nothing && !self.lines[Self::of(needs)].is_empty()
    }

    /// The first of one of the two.
    pub(super) fn first(&self, line: usize) -> Option<T> {
        self.lines[line].front().copied()
    }

    /// Removes the first of that one.
    pub(super) fn pop(&mut self, line: usize) {
        self.lines[line].pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const LONGEST: usize = 128 << 10;
    const LIMIT: Limit = Limit { longest: LONGEST };

    #[test]
    fn spare_buffers_are_bounded() {
        let mut memory = Memory::new(256 * MIB, 10_000, LIMIT);
        let all: Vec<_> = (0..2000).map(|_| memory.take().expect("enough")).collect();
        assert_eq!(memory.held(), 2000 * SMALLEST);
        all.into_iter().for_each(|buffer| memory.give(buffer));
        assert_eq!((memory.held(), memory.spare), (0, SPARE));
        while !memory.free.is_empty() {
            memory.take().expect("enough");
        }
        assert_eq!((memory.held(), memory.spare), (SPARE, 0));
    }

    fn take_longer(memory: &mut Memory, to: usize) -> Vec<u8> {
        let mut buffer = memory.take().expect("enough");
        assert!(memory.lengthen(&mut buffer, to));
        buffer
    }

    #[test]
    fn what_long_buffers_leave_is_enough_for_a_first_one_of_each() {
        for (most, connections) in [(256 * MIB, 10_000), (MIB, 100), (8 * MIB, 1024)] {
            let mut memory = Memory::new(most, connections, LIMIT);
            let mut buffers = 0;
            while memory.has(Needs::More(SMALLEST)) && buffers < connections {
                take_longer(&mut memory, 2 * SMALLEST);
                buffers += 1;
            }
            while memory.take().is_some() {
                buffers += 1;
            }
            assert!(buffers >= connections.min(most / 2 / SMALLEST), "{buffers} of {connections}");
            assert!(memory.held() <= most);
        }
    }

    #[test]
    fn one_at_a_time_can_always_go_on() {
        // Whether long buffers or first ones hold all that they may.
        for length in [SMALLEST, 2 * SMALLEST, LONGEST / 2] {
            for connections in [64, 10_000] {
                let mut memory = Memory::new(MIB, connections, LIMIT);
                let mut first = || memory.take().expect("enough");
                let (mut one, mut other) = (first(), first());
                while memory.has(Needs::First) && memory.has(Needs::More(length - SMALLEST)) {
                    take_longer(&mut memory, length);
                }
                while memory.take().is_some() {}
                assert!(memory.lengthen_one(&mut one), "{length} {connections}");
                assert!(!memory.lengthen_one(&mut other), "{length} {connections}");
                assert!(memory.held() <= MIB);
                memory.give(one);
                assert!(memory.lengthen_one(&mut other), "{length} {connections}");
            }
        }
    }

    #[test]
    fn a_long_buffer_that_came_back_is_none_to_begin_with_where_those_are_scarce() {
        let mut memory = Memory::new(MIB, 128, LIMIT);
        let long = take_longer(&mut memory, LONGEST);
        memory.give(long);
        let long = memory.take().expect("enough");
        assert_eq!(long.len(), LONGEST);
        while memory.has(Needs::More(SMALLEST)) {
            take_longer(&mut memory, 2 * SMALLEST);
        }
        memory.give(long);
        while memory.has(Needs::More(SMALLEST)) {
            take_longer(&mut memory, 2 * SMALLEST);
        }
        assert_eq!(memory.take().map(|buffer| buffer.len()), Some(SMALLEST));
    }

    #[test]
    fn the_two_lines_do_not_wait_for_each_other() {
        let mut lines = Waiting::default();
        lines.move_again();
        assert!(!lines.may_move(), "nobody waits");
        lines.push(Needs::More(1), 'a');
        assert!(lines.is_anyone_before(Needs::More(9)) && !lines.is_anyone_before(Needs::First));
        lines.push(Needs::First, 'b');
        lines.push(Needs::First, 'c');
        assert_eq!((lines.first(0), lines.first(1)), (Some('b'), Some('a')));
        lines.pop(0);
        assert_eq!(lines.first(0), Some('c'));
        lines.pop(0);
        lines.pop(1);
        assert!(!lines.may_move() && !lines.is_anyone_before(Needs::First));
    }
}
