//! One connection: its transport, its bytes, and how far each side has come.

use super::clients::Lists;
use super::framing;
use super::peer::Peer;
use super::reading::Reading;
use super::stream::Stream;
use super::transport::{Broken, Transport};
use nix::sys::epoll::EpollFlags;
use std::time::Instant;

/// How far its output has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// The transport takes echoes.
    Ready,
    /// It is full: the client has to read first.
    Blocked,
    /// All is sent, and so is the end. The connection is closed by this time at the latest.
    Over(Instant),
    /// The connection is broken, or given up: nobody takes echoes.
    Gone,
}

/// Whether a client that is owed something takes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taking {
    /// Up to where it had taken its echoes when that was last seen to change,
    pub(super) up_to: u64,
    /// and when that was.
    pub(super) since: Instant,
    /// When it is checked next.
    pub(super) check_at: Instant,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) transport: Transport,
    pub(super) peer: Peer,
    /// Its number in the records.
    pub(super) number: u32,
    pub(super) stream: Stream,
    pub(super) framing: framing::State,
    pub(super) reading: Reading,
    pub(super) output: Output,
    /// What epoll reports of it now; `None`: it is not watched.
    pub(super) watched: Option<EpollFlags>,
    pub(super) lists: Lists,
    /// When it last sent something.
    pub(super) heard: Instant,
    /// A timer for a partial runs.
    pub(super) partial_timer: bool,
    /// While it is owed something and is given a time to take it.
    pub(super) taking: Option<Taking>,
}

impl Client {
    pub(super) fn new(transport: Transport, peer: Peer, number: u32, now: Instant) -> Client {
        Client {
            transport,
            peer,
            number,
            stream: Stream::default(),
            framing: framing::State::default(),
            reading: Reading::new(),
            output: Output::Ready,
            watched: None,
            lists: Lists::default(),
            heard: now,
            partial_timer: false,
            taking: None,
        }
    }

    /// What epoll should report of it; `None`: nothing, not even that it broke.
    /// Edge-triggered while it is served, so that nothing is reported again each round.
    pub(super) fn wanted(&self) -> Option<EpollFlags> {
        let news = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI | EpollFlags::EPOLLET;
        match self.output {
            Output::Gone => None,
            Output::Over(_) => Some(EpollFlags::EPOLLIN),
            Output::Blocked => Some(news | EpollFlags::EPOLLOUT),
            Output::Ready => Some(news),
        }
    }

    /// Whether everything it sent was queued and went back.
    pub(super) fn is_done(&self) -> bool {
        !self.reading.is_open() && self.stream.held() == 0
    }

    /// Up to where its kernel has acknowledged what was sent.
    pub(super) fn taken(&self) -> u64 {
        self.stream.sent().saturating_sub(self.transport.unacknowledged() as u64)
    }

    /// Whether it has something to take, if it has taken everything up to `taken`.
    pub(super) fn is_owed(&self, taken: u64) -> bool {
        !matches!(self.output, Output::Over(_) | Output::Gone)
            && (taken < self.stream.sent() || !self.stream.due().is_empty())
    }

    /// Sends what is due, as far as the transport takes it.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn send_due(&mut self) -> Result<(), Broken> {
        let due = self.stream.due();
        let all = due.len();
        let sent = self.transport.write(due)?;
        self.stream.echoed(sent);
        if sent < all {
            self.output = Output::Blocked;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_client_is_small() {
        assert!(size_of::<Client>() <= 256, "{} bytes", size_of::<Client>());
    }
}
