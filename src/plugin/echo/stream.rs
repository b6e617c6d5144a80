//! A connection's bytes: one buffer and four positions. Pure.
//!
//! The echo is byte for byte what was received, so the bytes are kept once, and are sent back
//! from where they were received:
//!
//! ```text
//! echoed <= released <= queued <= received
//!        due         waiting  unframed
//! ```
//!
//! Positions count from the connection's first byte, so they stay valid when
//! the bytes move. A connection that waits for its client holds no buffer.

use super::memory::{Memory, Needs};

/// What one client sent that has not been echoed.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Empty, or a buffer in which the bytes from `echoed` to `received` are in use.
    buffer: Vec<u8>,
    /// The position of the buffer's first byte.
    start: u64,
    echoed: u64,
    released: u64,
    queued: u64,
    received: u64,
    mute: bool,
}

impl Stream {
    /// What [`Stream::room`] will take from the memory.
    pub(super) fn needs(&self, memory: &Memory) -> Needs {
        let longest = memory.limit().longest;
        match self.buffer.len() {
            0 => Needs::First,
            size if self.is_crowded() && !self.can_move(longest) => Needs::More((2 * size).min(longest) - size),
            _ => Needs::Nothing,
        }
    }

    /// Lengthens the buffer to the maximum if this connection may have the reserve, and
    /// returns whether it did.
    pub(super) fn lengthen(&mut self, memory: &mut Memory) -> bool {
        memory.lengthen_one(&mut self.buffer)
    }

    /// The room to read the next bytes into: at least one byte and at most `most`, if
    /// less than [`Limit::high`](super::memory::Limit::high) is held. `None` if there is no
    /// memory for it.
    pub(super) fn room(&mut self, memory: &mut Memory, most: usize) -> Option<&mut [u8]> {
        if self.buffer.is_empty() {
            self.buffer = memory.take()?;
            self.start = self.echoed;
        }
        if self.is_crowded() && !self.make_room(memory) {
            return None;
        }
        let from = self.at(self.received);
        let to = self.buffer.len().min(from.saturating_add(most));
        Some(&mut self.buffer[from..to])
    }

    /// Whether hardly any room is left after its bytes.
    fn is_crowded(&self) -> bool {
        let size = self.buffer.len();
        self.at(self.received) > size - size / 8
    }

    /// Whether to make room by moving the bytes to the head of the buffer instead of
    /// lengthening it.
    fn can_move(&self, longest: usize) -> bool {
        let size = self.buffer.len();
        self.at(self.echoed) >= size / 2 || size >= longest
    }

    fn make_room(&mut self, memory: &mut Memory) -> bool {
        let longest = memory.limit().longest;
        if self.can_move(longest) {
            let (head, tail) = (self.at(self.echoed), self.at(self.received));
            self.buffer.copy_within(head..tail, 0);
            self.start = self.echoed;
            true
        } else {
            let size = self.buffer.len();
            memory.lengthen(&mut self.buffer, (2 * size).min(longest))
        }
    }

    /// This many bytes were read into the room.
    pub(super) fn received(&mut self, count: usize) {
        debug_assert!(self.at(self.received) + count <= self.buffer.len());
        self.received += count as u64;
    }

    /// The bytes that are not in a message yet.
    pub(super) fn unframed(&self) -> &[u8] {
        &self.buffer[self.at(self.queued)..self.at(self.received)]
    }

    /// The position after the next `count` unframed bytes.
    pub(super) fn position_after(&self, count: usize) -> u64 {
        self.queued + count as u64
    }

    /// Takes the next bytes for a message, and returns the position of their end.
    pub(super) fn queue(&mut self, count: usize) -> u64 {
        self.queued += count as u64;
        debug_assert!(self.queued <= self.received);
        if self.mute {
            self.mute();
        }
        self.queued
    }

    /// Everything up to this position may be echoed.
    pub(super) fn release(&mut self, to: u64) {
        debug_assert!(to <= self.queued);
        self.released = self.released.max(to);
    }

    /// The bytes that may be echoed now.
    pub(super) fn due(&self) -> &[u8] {
        &self.buffer[self.at(self.echoed)..self.at(self.released)]
    }

    /// This many of them were sent.
    pub(super) fn echoed(&mut self, count: usize) {
        self.echoed += count as u64;
        debug_assert!(self.echoed <= self.released);
    }

    /// Echoes can't be sent any more, so queued bytes are not kept for them.
    pub(super) fn mute(&mut self) {
        self.mute = true;
        self.released = self.queued;
        self.echoed = self.queued;
    }

    /// The position up to which echoes were sent.
    pub(super) fn sent(&self) -> u64 {
        self.echoed
    }

    /// Whether some of its messages are on their way, to the sink or back. If so, its buffer
    /// will have room without more memory.
    pub(super) fn is_under_way(&self) -> bool {
        self.echoed < self.queued
    }

    /// How many bytes were received but not echoed.
    pub(super) fn held(&self) -> usize {
        self.at(self.received) - self.at(self.echoed)
    }

    /// Gives the buffer back if nothing is held.
    pub(super) fn rest(&mut self, memory: &mut Memory) {
        if self.echoed == self.received && !self.buffer.is_empty() {
            memory.give(std::mem::take(&mut self.buffer));
            self.start = self.echoed;
        }
    }

    /// Gives the buffer back, because the connection is over.
    pub(super) fn end(&mut self, memory: &mut Memory) {
        if !self.buffer.is_empty() {
            memory.give(std::mem::take(&mut self.buffer));
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a position in the buffer")]
    fn at(&self, position: u64) -> usize {
        (position - self.start) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Limit, SMALLEST};
    use super::*;
    use proptest::prelude::*;

    // Not a power of two.
    const LONGEST: usize = 3 * SMALLEST;

    fn memory() -> Memory {
        Memory::new(1 << 30, 1, Limit { longest: LONGEST })
    }

    fn receive(stream: &mut Stream, memory: &mut Memory, bytes: &[u8]) -> usize {
        let room = stream.room(memory, usize::MAX).expect("enough memory");
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        stream.received(count);
        count
    }

    #[test]
    fn a_connection_at_rest_holds_no_buffer() {
        let (mut stream, mut memory) = (Stream::default(), memory());
        receive(&mut stream, &mut memory, b"hello");
        let end = stream.queue(5);
        stream.rest(&mut memory);
        assert_eq!(memory.held(), SMALLEST, "it is still owed its echo");
        stream.release(end);
        assert_eq!(stream.due(), b"hello");
        stream.echoed(5);
        stream.rest(&mut memory);
        assert_eq!((memory.held(), stream.buffer.capacity()), (0, 0));
        assert!(size_of::<Stream>() < 128);
    }

    #[test]
    fn a_mute_connection_holds_only_what_is_unframed() {
        let (mut stream, mut memory) = (Stream::default(), memory());
        receive(&mut stream, &mut memory, b"one two");
        let end = stream.queue(3);
        stream.mute();
        stream.release(end);
        assert_eq!((stream.held(), stream.due(), stream.unframed()), (4, &b""[..], &b" two"[..]));
        stream.queue(4);
        assert_eq!(stream.held(), 0);
    }

    #[test]
    fn it_takes_the_memory_that_it_needs() {
        let (mut stream, mut memory) = (Stream::default(), memory());
        assert_eq!(stream.needs(&memory), Needs::First);
        receive(&mut stream, &mut memory, &[b'x'; SMALLEST - 1]);
        assert_eq!((stream.needs(&memory), memory.held()), (Needs::More(SMALLEST), SMALLEST));
        receive(&mut stream, &mut memory, b"yy");
        assert_eq!((stream.needs(&memory), memory.held()), (Needs::Nothing, 2 * SMALLEST));
        assert!(stream.lengthen(&mut memory));
        assert_eq!((stream.buffer.len(), memory.held()), (LONGEST, LONGEST));
        stream.end(&mut memory);
        assert_eq!(memory.held(), 0);
    }

    proptest! {
        #[test]
        fn the_echo_is_what_was_received(steps in prop::collection::vec((0u8..4, 0usize..9000), 1..300)) {
            let (mut stream, mut memory) = (Stream::default(), memory());
            let mut next = 0u8;
            let (mut sent, mut back, mut ends) = (Vec::new(), Vec::new(), std::collections::VecDeque::new());
            for (step, n) in steps {
                match step {
                    0 if stream.held() < memory.limit().high() => {
                        let bytes: Vec<u8> = (0..n).map(|i| next.wrapping_add((i % 251) as u8)).collect();
                        next = next.wrapping_add(77);
                        let (needs, before) = (stream.needs(&memory), memory.held());
                        let count = receive(&mut stream, &mut memory, &bytes);
                        prop_assert!(count > 0 || n == 0);
                        match needs {
                            // It may be a free buffer, which can be longer.
                            Needs::First => prop_assert!(memory.held() >= SMALLEST && before == 0),
                            Needs::Nothing => prop_assert_eq!(memory.held(), before),
                            Needs::More(more) => prop_assert_eq!(memory.held(), before + more),
                        }
                        sent.extend_from_slice(&bytes[..count]);
                    }
                    1 => ends.push_back(stream.queue(n.min(stream.unframed().len()))),
                    2 => if let Some(end) = ends.pop_front() {
                        stream.release(end);
                    },
                    _ => {
                        let count = n.min(stream.due().len());
                        back.extend_from_slice(&stream.due()[..count]);
                        stream.echoed(count);
                        stream.rest(&mut memory);
                    }
                }
                prop_assert!(stream.buffer.len() <= LONGEST);
                prop_assert_eq!(memory.held(), stream.buffer.len());
                prop_assert_eq!(stream.held(), sent.len() - back.len());
            }
            stream.queue(stream.unframed().len());
            stream.release(stream.queued);
            back.extend_from_slice(stream.due());
            prop_assert!(back == sent);
        }
    }
}
