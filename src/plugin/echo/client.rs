//! One connection: its transport, its bytes, and how far each side has come.

use super::clients::Lists;
use super::framing;
use super::peer::Peer;
use super::reading::Reading;
use super::stream::Stream;
use super::transport::{Broken, Transport};
use nix::sys::epoll::EpollFlags;
use std::time::Instant;

/// The state of its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// The transport takes echoes.
    Ready,
    /// The transport is full until the client reads.
    Blocked,
    /// Everything is sent, and so is the end (FIN). The connection is closed by this time at
    /// the latest.
    Over(Instant),
    /// The connection is broken or given up, so no echo can be sent.
    Gone,
}

/// What is known about whether a client takes what it is owed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taking {
    /// How far it had taken its echoes when that last changed.
    pub(super) up_to: u64,
    /// When that was.
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
    /// What epoll reports about it now; `None` if it is not watched.
    pub(super) watched: Option<EpollFlags>,
    pub(super) lists: Lists,
    /// When it last sent something.
    pub(super) heard: Instant,
    /// Whether a timer for bytes without a line end is running.
    pub(super) partial_timer: bool,
    /// Set while it is owed something and has limited time to take it.
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

    /// What epoll should report about it; `None` for nothing, not even that it broke.
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

    /// Whether everything it sent was queued and echoed.
    pub(super) fn is_done(&self) -> bool {
        !self.reading.is_open() && self.stream.held() == 0
    }

    /// How much of what was sent its kernel has acknowledged.
    pub(super) fn taken(&self) -> u64 {
        self.stream.sent().saturating_sub(self.transport.unacknowledged() as u64)
    }

    /// Whether it is still owed something, given that it has taken everything up to `taken`.
    pub(super) fn is_owed(&self, taken: u64) -> bool {
        !matches!(self.output, Output::Over(_) | Output::Gone)
            && (taken < self.stream.sent() || !self.stream.due().is_empty())
    }

    /// Sends as much of what is due as the transport takes.
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
