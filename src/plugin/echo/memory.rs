//! The memory of all connections: free buffers, how many bytes are in use, and which clients
//! wait for more. Pure.
//!
//! `max_memory` bounds the buffers that connections hold. A part of it, as large as the
//! longest buffer, is reserved for one connection at a time that can't continue otherwise.
//! So long messages get through one after the other, however many begin at once. A part of
//! the rest is only for first buffers: enough for every client, or half of all memory.
//! Clients that take no echoes can hold everything else, and the others are still served.

use super::slots::Id;
use std::collections::VecDeque;

/// The size of the smallest buffer.
pub(super) const SMALLEST: usize = 4096;
/// How many bytes of unused buffers are kept for later.
const SPARE: usize = 4 * 1024 * 1024;

/// The least that a connection's longest buffer has.
const LEAST_LIMIT: usize = 32 * 1024;

/// How many bytes a connection may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// The size of the longest buffer.
    pub(super) longest: usize,
}

impl Limit {
    /// Twice the longest message: room for a message that is not whole yet, beside what
    /// waits to be echoed.
    pub(super) fn for_messages(max: usize) -> Limit {
        Limit { longest: (2 * max).max(LEAST_LIMIT) }
    }

    /// Above this, the socket is not read.
    pub(super) fn high(self) -> usize {
        self.longest / 4 * 3
    }

    /// From this many bytes down, it is read again.
    pub(super) fn low(self) -> usize {
        self.longest / 2
    }
}

/// How much memory a client needs to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// None: there is room in its buffer.
    Nothing,
    /// A first buffer.
    First,
    /// This many more bytes.
    More(usize),
}

/// Free buffers, and counts of what connections hold.
#[derive(Debug)]
pub(super) struct Memory {
    free: Vec<Vec<u8>>,
    /// Bytes in the free buffers.
    spare: usize,
    /// Bytes that connections hold.
    held: usize,
    /// How many of them are beyond one first buffer for each connection.
    grown: usize,
    /// The limit of `held`.
    most: usize,
    /// The limit of `grown`, without the reserve for the one connection that can't continue
    /// otherwise.
    longer: usize,
    limit: Limit,
    /// Clients that are not read because memory is short.
    pub(super) waiting: Waiting<Id>,
}

impl Memory {
    /// At most `most` bytes for this many connections, each with this limit.
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

    /// Whether there is enough memory.
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

    /// A buffer: the one given back last, unless it is a long one and those are scarce.
    /// `None` if there is not enough memory.
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

    /// Lengthens a buffer if there is enough memory, and returns whether there was.
    pub(super) fn lengthen(&mut self, buffer: &mut Vec<u8>, to: usize) -> bool {
        self.lengthen_if(self.has(Needs::More(to - buffer.len())), buffer, to)
    }

    /// Lengthens the buffer of the first client in line to the maximum, and returns whether
    /// there was enough memory. There always is unless another connection has the reserve.
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

    /// Takes a buffer back.
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

/// Two lines of clients that wait for memory, first come, first served: one for a first
/// buffer, and one for a longer buffer.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    lines: [VecDeque<T>; 2],
    /// Whether another client began to wait, or memory came back, since the lines were last
    /// served.
    may_move: bool,
}

impl<T> Default for Waiting<T> {
    fn default() -> Waiting<T> {
        Waiting { lines: [VecDeque::new(), VecDeque::new()], may_move: false }
    }
}

impl<T: Copy> Waiting<T> {
    /// Both lines.
    pub(super) const ALL: [usize; 2] = [0, 1];

    fn of(needs: Needs) -> usize {
        usize::from(needs != Needs::First)
    }

    /// Puts a client at the end of its line.
    pub(super) fn push(&mut self, needs: Needs, one: T) {
        self.lines[Self::of(needs)].push_back(one);
        self.may_move = true;
    }

    /// Whether there may now be enough for the first of a line.
    pub(super) fn may_move(&self) -> bool {
        self.may_move && self.lines.iter().any(|line| !line.is_empty())
    }

    /// The lines are being served now.
    pub(super) fn move_once(&mut self) {
        self.may_move = false;
    }

    /// There may be enough for the first of a line again.
    pub(super) fn move_again(&mut self) {
        self.may_move = true;
    }

    /// Whether another client already waits in the same line.
    pub(super) fn is_anyone_before(&self, needs: Needs) -> bool {
        needs != Needs::Nothing && !self.lines[Self::of(needs)].is_empty()
    }

    /// The first of that line.
    pub(super) fn first(&self, line: usize) -> Option<T> {
        self.lines[line].front().copied()
    }

    /// Removes the first of that line.
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
    fn long_buffers_leave_enough_for_a_first_buffer_of_each_client() {
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
        // Both if long buffers and if first buffers hold all that they may.
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
    fn a_long_free_buffer_is_not_used_as_a_first_one_while_long_ones_are_scarce() {
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
        assert!(!lines.may_move(), "no client waits");
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
