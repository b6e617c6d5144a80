//! One connection: its socket, its bytes, and how far each side has come.

use super::framing;
use super::stream::Stream;
use crate::sys::socket;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, recv, send};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

/// How far its input has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// It may send more.
    Open,
    /// So many more bytes are taken: those that had arrived when the end began.
    LastCall(usize),
    /// It said that it sends no more.
    Ended,
    /// No more is taken, though it may send.
    Cut,
}

impl Input {
    /// Whether bytes are taken, and how many at most.
    pub(super) fn open(self) -> Option<usize> {
        match self {
            Input::Open => Some(usize::MAX),
            Input::LastCall(left) => Some(left),
            Input::Ended | Input::Cut => None,
        }
    }

    /// What it is after that many bytes.
    pub(super) fn after(self, count: usize) -> Input {
        match self {
            Input::LastCall(left) if left <= count => Input::Cut,
            Input::LastCall(left) => Input::LastCall(left - count),
            other => other,
        }
    }

    /// What it is when nothing is there to read now.
    pub(super) fn after_nothing(self) -> Input {
        match self {
            Input::LastCall(_) => Input::Cut,
            other => other,
        }
    }
}

/// How far its output has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// The socket takes echoes.
    Ready,
    /// It is full: the client has to read first.
    Blocked,
    /// All is sent, and so is the end; closed at the latest then.
    Over(Instant),
    /// The connection is broken, or given up: nobody takes echoes.
    Gone,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: OwnedFd,
    pub(super) peer: SocketAddr,
    /// Its number in the records.
    pub(super) number: u32,
    pub(super) stream: Stream,
    pub(super) framing: framing::State,
    pub(super) input: Input,
    pub(super) output: Output,
    /// Its socket may have bytes, or its end: epoll tells that once (EPOLLET).
    pub(super) readable: bool,
    /// Only recv(2) can say that it has no more: a read that leaves room does
    /// not, for its end or a mark of urgent data may be there (epoll(7)).
    pub(super) ends: bool,
    /// It holds too much to be read on.
    pub(super) paused: bool,
    /// It stands in line, for the outbox to take more or to be read on.
    pub(super) in_line: bool,
    /// It is not read for want of memory, until its own echoes leave or its turn comes.
    pub(super) short: bool,
    /// It stands in a line for memory.
    pub(super) in_memory_line: bool,
    /// It stands in the list of those that an echo is due to.
    pub(super) due: bool,
    /// What epoll tells of it now; `None`: not watched.
    pub(super) watched: Option<EpollFlags>,
    /// When it last sent something.
    pub(super) heard: Instant,
    /// Up to where it had taken its echoes, and when that was seen: while the timer runs.
    pub(super) taken: u64,
    pub(super) took: Instant,
    /// A timer for a partial runs.
    pub(super) partial_timer: bool,
    /// When it is looked at whether it takes what it is owed; `None`: it is owed nothing.
    pub(super) stuck_at: Option<Instant>,
}

impl Client {
    pub(super) fn new(socket: OwnedFd, peer: SocketAddr, number: u32, now: Instant) -> Client {
        Client {
            socket,
            peer,
            number,
            stream: Stream::default(),
            framing: framing::State::default(),
            input: Input::Open,
            output: Output::Ready,
            readable: false,
            ends: false,
            paused: false,
            in_line: false,
            short: false,
            in_memory_line: false,
            due: false,
            watched: None,
            heard: now,
            taken: 0,
            took: now,
            partial_timer: false,
            stuck_at: None,
        }
    }

    /// What epoll should tell of it; `None`: nothing, not even that it broke.
    /// News only, each once: whatever is known is not looked at again each round.
    pub(super) fn wanted(&self) -> Option<EpollFlags> {
        let news = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI | EpollFlags::EPOLLET;
        match self.output {
            Output::Gone => None,
            Output::Over(_) => Some(EpollFlags::EPOLLIN),
            Output::Blocked => Some(news | EpollFlags::EPOLLOUT),
            Output::Ready => Some(news),
        }
    }

    /// Whether more of it is to be read as soon as it is its turn.
    pub(super) fn is_to_be_read(&self) -> bool {
        self.readable
            && !self.paused
            && !self.short
            && self.input.open().is_some()
            && !matches!(self.output, Output::Over(_))
    }

    /// A read of so many bytes had room for `room`.
    pub(super) fn after_read(&mut self, count: usize, room: usize) {
        if count < room && !self.ends {
            self.readable = false;
        }
    }

    /// Everything it sent was queued and went back.
    pub(super) fn is_done(&self) -> bool {
        self.input.open().is_none() && self.stream.held() == 0
    }

    /// Everything up to `end` may go back; whether it is to be put on the list
    /// of those that an echo is due to.
    pub(super) fn release(&mut self, end: u64) -> bool {
        if self.output == Output::Gone {
            return false;
        }
        self.stream.release(end);
        !std::mem::replace(&mut self.due, true)
    }

    /// Up to where its kernel has acknowledged what was sent. A kernel without room says
    /// that it has none, so what a client does not read is not acknowledged for long.
    pub(super) fn taken(&self) -> u64 {
        let under_way = socket::unacknowledged(&self.socket).unwrap_or(0);
        self.stream.sent().saturating_sub(under_way as u64)
    }

    /// Whether it has something to take, where it has taken what it had up to there.
    pub(super) fn is_owed(&self, taken: u64) -> bool {
        !matches!(self.output, Output::Over(_) | Output::Gone)
            && (taken < self.stream.sent() || !self.stream.due().is_empty())
    }

    /// Sends what is due (send(2)) without waiting; whether all of it went.
    pub(super) fn send_due(&mut self) -> Result<bool, Errno> {
        let due = self.stream.due();
        let all = due.len();
        let sent = loop {
            match send(self.socket.as_raw_fd(), due, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => break sent,
                Err(Errno::EAGAIN) => break 0,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        };
        self.stream.echoed(sent);
        Ok(sent == all)
    }
}

/// recv(2) without waiting. 0: the client sends no more.
pub(super) fn receive(socket: &OwnedFd, room: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match recv(socket.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Whether a client has sent its end and nothing of it is left to be read, without taking
/// a byte.
///
/// # Errors
/// EAGAIN: neither; else the connection broke, and nothing is left.
pub(super) fn has_ended(socket: &OwnedFd) -> Result<bool, Errno> {
    loop {
        match recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK) {
            Err(Errno::EINTR) => {}
            other => return other.map(|count| count == 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_client_is_small() {
        assert!(size_of::<Client>() <= 256, "{} bytes", size_of::<Client>());
    }

    #[test]
    fn the_last_call_ends_with_its_last_byte_or_when_nothing_comes() {
        let call = Input::LastCall(10);
        assert_eq!(call.after(4), Input::LastCall(6));
        assert_eq!(call.after(4).after(6), Input::Cut);
        assert_eq!(call.after_nothing(), Input::Cut);
        assert_eq!((Input::Open.after(4), Input::Open.after_nothing()), (Input::Open, Input::Open));
    }
}
