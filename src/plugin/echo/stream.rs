//! A connection's bytes: one buffer and four positions. Pure.
//!
//! The echo is byte for byte what came, so what came is kept once and goes
//! back from where it was put:
//!
//! ```text
//! echoed <= released <= queued <= received
//!        due         waiting  unframed
//! ```
//!
//! Positions count from the connection's first byte, so they stay right while
//! the bytes move. A connection that waits for its client holds no buffer.

/// The least bytes a buffer has.
const SMALLEST: usize = 4096;
/// The least that a connection may hold before it is read no further.
const LEAST_LIMIT: usize = 32 * 1024;
/// How many bytes of buffers that nobody uses are kept for the next.
const SPARE: usize = 4 * 1024 * 1024;

/// Buffers that are free now.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Vec<Vec<u8>>,
    bytes: usize,
}

impl Pool {
    fn take(&mut self) -> Vec<u8> {
        let Some(buffer) = self.free.pop() else {
            return vec![0; SMALLEST];
        };
        self.bytes -= buffer.len();
        buffer
    }

    fn give(&mut self, buffer: Vec<u8>) {
        if self.bytes + buffer.len() <= SPARE {
            self.bytes += buffer.len();
            self.free.push(buffer);
        }
    }
}

/// How many bytes a connection may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    buffer: usize,
}

impl Limit {
    /// Twice the longest message: room for one that is not whole yet, beside
    /// what waits to go back.
    pub(super) fn for_messages(max: usize) -> Limit {
        Limit { buffer: (2 * max).max(LEAST_LIMIT) }
    }

    /// Past this the socket is read no further.
    pub(super) fn high(self) -> usize {
        self.buffer / 4 * 3
    }

    /// Below this it is read again.
    pub(super) fn low(self) -> usize {
        self.buffer / 2
    }
}

/// What one connection sent and has not got back.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Empty, or a buffer of which the bytes from `echoed` to `received` count.
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
    /// Where the next bytes are to be read to: at least one byte, at most `most`,
    /// as long as less than [`Limit::high`] is held.
    pub(super) fn room(&mut self, pool: &mut Pool, limit: Limit, most: usize) -> &mut [u8] {
        if self.buffer.is_empty() {
            self.buffer = pool.take();
            self.start = self.echoed;
        }
        let size = self.buffer.len();
        if self.at(self.received) > size - size / 8 {
            self.make_room(limit.buffer);
        }
        let from = self.at(self.received);
        let to = self.buffer.len().min(from.saturating_add(most));
        &mut self.buffer[from..to]
    }

    /// Moves the bytes to the buffer's head, or makes it longer.
    fn make_room(&mut self, longest: usize) {
        let (head, tail, size) = (self.at(self.echoed), self.at(self.received), self.buffer.len());
        if head >= size / 2 || size >= longest {
            self.buffer.copy_within(head..tail, 0);
            self.start = self.echoed;
        } else {
            self.buffer.resize((2 * size).min(longest), 0);
        }
    }

    /// So many bytes were read into the room.
    pub(super) fn received(&mut self, count: usize) {
        debug_assert!(self.at(self.received) + count <= self.buffer.len());
        self.received += count as u64;
    }

    /// The bytes that are in no message yet.
    pub(super) fn unframed(&self) -> &[u8] {
        &self.buffer[self.at(self.queued)..self.at(self.received)]
    }

    /// The position after the next `count` unframed bytes.
    pub(super) fn position_after(&self, count: usize) -> u64 {
        self.queued + count as u64
    }

    /// Takes the next bytes for a message; returns the position of their end.
    pub(super) fn queue(&mut self, count: usize) -> u64 {
        self.queued += count as u64;
        debug_assert!(self.queued <= self.received);
        if self.mute {
            self.mute();
        }
        self.queued
    }

    /// Everything up to this position may go back.
    pub(super) fn release(&mut self, to: u64) {
        debug_assert!(to <= self.queued);
        self.released = self.released.max(to);
    }

    /// The bytes that may go back now.
    pub(super) fn due(&self) -> &[u8] {
        &self.buffer[self.at(self.echoed)..self.at(self.released)]
    }

    /// So many of them went.
    pub(super) fn echoed(&mut self, count: usize) {
        self.echoed += count as u64;
        debug_assert!(self.echoed <= self.released);
    }

    /// Nobody is there to take echoes any more: what is queued is done with.
    pub(super) fn mute(&mut self) {
        self.mute = true;
        self.released = self.queued;
        self.echoed = self.queued;
    }

    /// How many bytes have come and not gone back.
    pub(super) fn held(&self) -> usize {
        self.at(self.received) - self.at(self.echoed)
    }

    /// Gives the buffer back where nothing is held.
    pub(super) fn rest(&mut self, pool: &mut Pool) {
        if self.echoed == self.received && !self.buffer.is_empty() {
            pool.give(std::mem::take(&mut self.buffer));
            self.start = self.echoed;
        }
    }

    /// Gives the buffer back: the connection is over.
    pub(super) fn end(mut self, pool: &mut Pool) {
        if !self.buffer.is_empty() {
            pool.give(std::mem::take(&mut self.buffer));
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a position in the buffer")]
    fn at(&self, position: u64) -> usize {
        (position - self.start) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Limit = Limit { buffer: 3 * SMALLEST };

    fn receive(stream: &mut Stream, pool: &mut Pool, bytes: &[u8]) -> usize {
        let room = stream.room(pool, SMALL, usize::MAX);
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        stream.received(count);
        count
    }

    #[test]
    fn a_connection_at_rest_holds_no_buffer() {
        let (mut stream, mut pool) = (Stream::default(), Pool::default());
        receive(&mut stream, &mut pool, b"hello");
        let end = stream.queue(5);
        stream.rest(&mut pool);
        assert_eq!(pool.free.len(), 0, "it is still owed its echo");
        stream.release(end);
        assert_eq!(stream.due(), b"hello");
        stream.echoed(5);
        stream.rest(&mut pool);
        assert_eq!((pool.free.len(), stream.buffer.capacity()), (1, 0));
        assert!(size_of::<Stream>() < 128);
    }

    #[test]
    fn a_mute_connection_holds_only_what_is_unframed() {
        let (mut stream, mut pool) = (Stream::default(), Pool::default());
        receive(&mut stream, &mut pool, b"one two");
        let end = stream.queue(3);
        stream.mute();
        stream.release(end);
        assert_eq!((stream.held(), stream.due(), stream.unframed()), (4, &b""[..], &b" two"[..]));
        stream.queue(4);
        assert_eq!(stream.held(), 0);
    }

    #[test]
    fn spare_buffers_are_bounded() {
        let mut pool = Pool::default();
        for _ in 0..2000 {
            pool.give(vec![0; SMALLEST]);
        }
        assert_eq!(pool.bytes, SPARE);
        while !pool.free.is_empty() {
            pool.take();
        }
        assert_eq!(pool.bytes, 0);
    }

    proptest! {
        #[test]
        fn what_goes_back_is_what_came(steps in prop::collection::vec((0u8..4, 0usize..9000), 1..300)) {
            let (mut stream, mut pool) = (Stream::default(), Pool::default());
            let mut next = 0u8;
            let (mut sent, mut back, mut ends) = (Vec::new(), Vec::new(), std::collections::VecDeque::new());
            for (step, n) in steps {
                match step {
                    0 if stream.held() < SMALL.high() => {
                        let bytes: Vec<u8> = (0..n).map(|i| next.wrapping_add((i % 251) as u8)).collect();
                        next = next.wrapping_add(77);
                        let count = receive(&mut stream, &mut pool, &bytes);
                        prop_assert!(count > 0 || n == 0);
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
                        stream.rest(&mut pool);
                    }
                }
                prop_assert!(stream.buffer.len() <= SMALL.buffer);
                prop_assert_eq!(stream.held(), sent.len() - back.len());
            }
            stream.queue(stream.unframed().len());
            stream.release(stream.queued);
            back.extend_from_slice(stream.due());
            prop_assert!(back == sent);
        }
    }
}
