//! Everything that the logger's loop waits for.

use super::archivist::Archivist;
use super::orders::Orders;
use super::removed::Watch;
use crate::link::source::Source;
use crate::sys::poll::{Poll, Token};
use nix::sys::epoll::EpollFlags;
use nix::unistd::Pid;
use std::io;
use std::time::Duration;

/// What the loop was woken for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wakeup {
    /// A signal came.
    Signal,
    /// The archivist has hung up.
    Archivist,
    /// The message file has changed, other than by a write.
    File,
    /// The queue of that source has data, or has ended.
    Queue(u32),
    /// The replies pipe of that source has room again.
    Replies(u32),
}

impl Token for Wakeup {
    fn encode(self) -> u64 {
        let (kind, at) = match self {
            Wakeup::Signal => (0, 0),
            Wakeup::Archivist => (1, 0),
            Wakeup::File => (2, 0),
            Wakeup::Queue(at) => (3, at),
            Wakeup::Replies(at) => (4, at),
        };
        (kind << 32) | u64::from(at)
    }

    fn decode(bits: u64) -> Wakeup {
        #[expect(clippy::cast_possible_truncation, reason = "the low half is the source")]
        let at = bits as u32;
        match bits >> 32 {
            0 => Wakeup::Signal,
            1 => Wakeup::Archivist,
            2 => Wakeup::File,
            3 => Wakeup::Queue(at),
            _ => Wakeup::Replies(at),
        }
    }
}

/// Everything that the loop waits for.
#[derive(Debug)]
pub(super) struct Wakeups {
    poll: Poll<Wakeup>,
    events: Vec<(Wakeup, EpollFlags)>,
    /// For each source, whether its queue and its replies pipe are watched.
    watched: Vec<(bool, bool)>,
    /// The archivist that is watched.
    archivist: Option<Pid>,
}

impl Wakeups {
    pub(super) fn new(orders: &Orders, watch: &Watch, sources: &[Source]) -> io::Result<Wakeups> {
        let poll = Poll::new()?;
        poll.add(orders, EpollFlags::EPOLLIN, Wakeup::Signal)?;
        if let Some(readable) = watch.readable() {
            poll.add(readable, EpollFlags::EPOLLIN, Wakeup::File)?;
        }
        for (at, source) in (0..).zip(sources) {
            poll.add(source.intake.queue(), EpollFlags::EPOLLIN, Wakeup::Queue(at))?;
        }
        let events = Vec::with_capacity(3 + 2 * sources.len());
        let mut wakeups = Wakeups { poll, events, watched: vec![(true, false); sources.len()], archivist: None };
        wakeups.update(sources)?;
        Ok(wakeups)
    }

    /// Stops watching queues that have ended, and watches a replies pipe only while it has no
    /// room.
    pub(super) fn update(&mut self, sources: &[Source]) -> io::Result<()> {
        for (at, (source, (queue, replies))) in (0..).zip(sources.iter().zip(&mut self.watched)) {
            if *queue && source.intake.ended() {
                self.poll.remove(source.intake.queue());
                *queue = false;
            }
            if let Some(pipe) = &source.replies {
                match (*replies, pipe.is_waiting()) {
                    (false, true) => self.poll.add(pipe, EpollFlags::EPOLLOUT, Wakeup::Replies(at))?,
                    (true, false) => self.poll.remove(pipe),
                    _ => {}
                }
                *replies = pipe.is_waiting();
            }
        }
        Ok(())
    }

    /// Watches the archivist that is running, if any. One that has hung up is
    /// no longer watched, because it would be reported again and again.
    pub(super) fn watch(&mut self, archivist: &Archivist) -> io::Result<()> {
        let at_work = archivist.at_work();
        if let (None, Some(hung_up)) = (at_work, archivist.hung_up()) {
            if self.archivist.is_some() {
                self.poll.remove(hung_up);
            }
        }
        if let Some((_, ended)) = at_work.filter(|(pid, _)| self.archivist != Some(*pid)) {
            self.poll.add(ended, EpollFlags::EPOLLIN, Wakeup::Archivist)?;
        }
        self.archivist = at_work.map(|(pid, _)| pid);
        Ok(())
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<impl Iterator<Item = Wakeup> + '_> {
        self.poll.wait(&mut self.events, timeout)?;
        Ok(self.events.iter().map(|&(wakeup, _)| wakeup))
    }
}
