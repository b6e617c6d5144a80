//! Whether a client is read, and if not, why. Pure.
//!
//! epoll is edge-triggered: it reports once that a socket has something to read. So this
//! remembers what was reported but has not been read yet.

use super::memory::Limit;

/// What is known about a client's socket, and whether it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It was read until empty. epoll reports when there is more.
    Empty,
    /// It may have bytes, or its end. It is read at the client's next turn.
    Readable,
    /// It may have bytes, but there is no memory for them until the client's own echoes
    /// leave or its turn for memory comes.
    NoMemory,
    /// The client holds too many bytes that have not been echoed. Meanwhile its socket
    /// may become readable.
    Paused {
        /// It may have bytes, or its end.
        readable: bool,
    },
    /// The client has ended its side of the connection.
    Ended,
    /// No more is taken, although the client may send more.
    Cut,
}

/// The reading of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    state: State,
    /// The most bytes that are still taken. There is no limit until a stop begins; then it is
    /// the number of bytes that had arrived by that time.
    most: usize,
    /// Whether epoll reported an end. If so, a read that doesn't fill its room does not mean
    /// that the socket is empty, because the end or an urgent mark may follow (epoll(7)).
    /// Only a read that returns nothing does.
    reports_end: bool,
}

impl Reading {
    pub(super) fn new() -> Reading {
        Reading { state: State::Empty, most: usize::MAX, reports_end: false }
    }

    /// Whether more will be taken, now or later.
    pub(super) fn is_open(self) -> bool {
        !matches!(self.state, State::Ended | State::Cut)
    }

    /// Whether the client has ended its side of the connection.
    pub(super) fn has_ended(self) -> bool {
        self.state == State::Ended
    }

    /// Whether no more is taken, although the client may send more.
    pub(super) fn is_cut(self) -> bool {
        self.state == State::Cut
    }

    /// Whether the socket may have something that is not read yet.
    pub(super) fn is_readable(self) -> bool {
        matches!(self.state, State::Readable | State::NoMemory | State::Paused { readable: true })
    }

    /// Whether the client is to be read at its next turn.
    pub(super) fn is_due(self) -> bool {
        self.state == State::Readable
    }

    /// Whether it may be read now, if there is memory.
    pub(super) fn may_begin(self) -> bool {
        matches!(self.state, State::Empty | State::Readable | State::NoMemory)
    }

    /// Whether it waits for memory.
    pub(super) fn lacks_memory(self) -> bool {
        self.state == State::NoMemory
    }

    /// Whether the client may have ended, and that is not read yet.
    pub(super) fn may_have_ended(self) -> bool {
        self.reports_end && self.is_open()
    }

    /// The most bytes that are still taken.
    pub(super) fn most(self) -> usize {
        if self.is_open() { self.most } else { 0 }
    }

    /// epoll reported something to read, which may be the end.
    pub(super) fn on_report(&mut self, end: bool) {
        self.reports_end |= end;
        match &mut self.state {
            State::Paused { readable } => *readable = true,
            state @ State::Empty => *state = State::Readable,
            State::Readable | State::NoMemory | State::Ended | State::Cut => {}
        }
    }

    /// `count` bytes were read into a buffer of `room` bytes.
    pub(super) fn on_bytes(&mut self, count: usize, room: usize) {
        if self.most != usize::MAX {
            self.most = self.most.saturating_sub(count);
        }
        self.state = match self.state {
            _ if self.most == 0 => State::Cut,
            _ if count < room && !self.reports_end => State::Empty,
            _ => State::Readable,
        };
    }

    /// There was nothing to read.
    pub(super) fn on_nothing(&mut self) {
        self.state = if self.most == usize::MAX { State::Empty } else { State::Cut };
    }

    /// The client has ended its side, or its connection broke and was read until empty.
    pub(super) fn on_end(&mut self) {
        self.state = State::Ended;
    }

    /// The connection broke. It is no longer watched, so it is read until nothing is left.
    pub(super) fn on_break(&mut self) {
        self.reports_end = true;
        if let State::Empty | State::Paused { .. } = self.state {
            self.state = State::Readable;
        }
    }

    /// There is no memory to read into.
    pub(super) fn on_no_memory(&mut self) {
        self.state = State::NoMemory;
    }

    /// There is memory again, if it was missing.
    pub(super) fn on_memory(&mut self) {
        if self.lacks_memory() {
            self.state = State::Readable;
        }
    }

    /// The client holds this many bytes. Reading pauses above the limit until enough of
    /// them have been echoed.
    pub(super) fn on_held(&mut self, held: usize, limit: Limit) {
        self.state = match self.state {
            State::Empty if held > limit.high() => State::Paused { readable: false },
            State::Readable if held > limit.high() => State::Paused { readable: true },
            State::Paused { readable: false } if held <= limit.low() => State::Empty,
            State::Paused { readable: true } if held <= limit.low() => State::Readable,
            state => state,
        };
    }

    /// Takes this many more bytes, then no more.
    pub(super) fn stop_after(&mut self, bytes: usize) {
        if self.is_open() {
            self.most = bytes;
            if bytes == 0 {
                self.cut();
            }
        }
    }

    /// Takes no more.
    pub(super) fn cut(&mut self) {
        self.state = State::Cut;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_state(state: State) -> Reading {
        Reading { state, ..Reading::new() }
    }

    #[test]
    fn after_a_stop_begins_reading_ends_with_the_last_byte_or_an_empty_socket() {
        let mut stopping = Reading::new();
        stopping.on_report(false);
        stopping.stop_after(10);
        stopping.on_bytes(4, 4);
        assert_eq!((stopping.most(), stopping.is_due()), (6, true));
        let mut other = stopping;
        stopping.on_bytes(6, 6);
        other.on_nothing();
        assert!(stopping.is_cut() && other.is_cut());
        let mut nothing_arrived = Reading::new();
        nothing_arrived.stop_after(0);
        assert!(nothing_arrived.is_cut());
        let mut goes_on = Reading::new();
        goes_on.on_nothing();
        assert_eq!(goes_on, Reading::new());
    }

    #[test]
    fn a_read_that_leaves_room_shows_an_empty_socket_unless_an_end_was_reported() {
        for (end, count, due) in [(false, 4, false), (false, 8, true), (true, 4, true), (true, 8, true)] {
            let mut reading = Reading::new();
            reading.on_report(end);
            reading.on_bytes(count, 8);
            assert_eq!(reading.is_due(), due, "{end} {count}");
        }
    }

    #[test]
    fn a_client_that_holds_too_much_is_paused_until_enough_is_echoed_and_no_report_is_lost() {
        let limit = Limit::for_messages(64 * 1024);
        for reported in [false, true] {
            let mut reading = Reading::new();
            reading.on_held(limit.high() + 1, limit);
            assert!(!reading.may_begin());
            if reported {
                reading.on_report(false);
            }
            reading.on_held(limit.low() + 1, limit);
            assert!(!reading.may_begin() && !reading.is_due());
            reading.on_held(limit.low(), limit);
            assert!(reading.may_begin());
            assert_eq!(reading.is_due(), reported);
        }
    }

    #[test]
    fn a_broken_connection_is_read_until_nothing_is_left() {
        for state in [State::Empty, State::Readable, State::Paused { readable: false }] {
            let mut reading = in_state(state);
            reading.on_break();
            assert!(reading.is_due() && reading.may_have_ended());
            reading.on_bytes(4, 8);
            assert!(reading.is_due());
        }
        let mut waits = in_state(State::NoMemory);
        waits.on_break();
        assert!(waits.lacks_memory());
    }

    #[test]
    fn an_end_is_final() {
        for end in [State::Ended, State::Cut] {
            let mut reading = in_state(end);
            reading.on_report(true);
            reading.on_held(usize::MAX, Limit::for_messages(1));
            reading.on_memory();
            reading.on_break();
            reading.stop_after(5);
            assert_eq!((reading.state, reading.most()), (end, 0));
            assert!(!reading.is_readable() && !reading.may_begin() && !reading.may_have_ended());
        }
    }
}
