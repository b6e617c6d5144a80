//! All that the logger's loop waits for.

use super::archivist::Archivist;
use super::orders::Orders;
use super::removed::Watch;
use crate::link::source::Source;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::Pid;
use std::io;
use std::time::Duration;

/// What there is to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wakeup {
    /// A signal came.
    Signal,
    /// The archivist has hung up.
    Archivist,
    /// The message file has changed, and not by a write.
    File,
    /// The queue of that source has something, or its end.
    Queue(usize),
    /// The replies pipe of that source has room again.
    Replies(usize),
}

/// All that the loop waits for.
#[derive(Debug)]
pub(super) struct Wakeups {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    /// By source: whether its queue is watched, and its replies.
    watched: Vec<(bool, bool)>,
    /// The archivist that is watched.
    archivist: Option<Pid>,
}

/// What epoll(7) says where the archivist has hung up; sources count from 1.
const ARCHIVIST: u64 = u64::MAX;
/// The same where the message file has changed.
const FILE: u64 = ARCHIVIST - 1;

impl Wakeups {
    pub(super) fn new(orders: &Orders, watch: &Watch, sources: &[Source]) -> io::Result<Wakeups> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(orders, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        if let Some(readable) = watch.readable() {
            epoll.add(readable, EpollEvent::new(EpollFlags::EPOLLIN, FILE))?;
        }
        let events = vec![EpollEvent::empty(); 3 + 2 * sources.len()];
        let mut wakeups = Wakeups { epoll, events, watched: vec![(false, false); sources.len()], archivist: None };
        for (at, source) in sources.iter().enumerate() {
            wakeups.epoll.add(source.intake.queue(), EpollEvent::new(EpollFlags::EPOLLIN, 1 + 2 * at as u64))?;
            wakeups.watched[at].0 = true;
        }
        wakeups.update(sources)?;
        Ok(wakeups)
    }

    /// An end is seen once; room for replies is waited for only where there is none.
    pub(super) fn update(&mut self, sources: &[Source]) -> io::Result<()> {
        for (at, (source, (queue, replies))) in sources.iter().zip(&mut self.watched).enumerate() {
            if *queue && source.intake.ended() {
                self.epoll.delete(source.intake.queue())?;
                *queue = false;
            }
            if let Some(pipe) = &source.replies {
                match (*replies, pipe.is_waiting()) {
                    (false, true) => {
                        self.epoll.add(pipe, EpollEvent::new(EpollFlags::EPOLLOUT, 2 + 2 * at as u64))?;
                    }
                    (true, false) => self.epoll.delete(pipe)?,
                    _ => {}
                }
                *replies = pipe.is_waiting();
            }
        }
        Ok(())
    }

    /// Watches the archivist that is at work, if any. One that has hung up is
    /// not watched any more, because it would be reported again and again.
    pub(super) fn watch(&mut self, archivist: &Archivist) -> io::Result<()> {
        let at_work = archivist.at_work();
        if let (None, Some(hung_up)) = (at_work, archivist.hung_up()) {
            if self.archivist.is_some() {
                self.epoll.delete(hung_up)?;
            }
        }
        if let Some((_, ended)) = at_work.filter(|(pid, _)| self.archivist != Some(*pid)) {
            self.epoll.add(ended, EpollEvent::new(EpollFlags::EPOLLIN, ARCHIVIST))?;
        }
        self.archivist = at_work.map(|(pid, _)| pid);
        Ok(())
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<impl Iterator<Item = Wakeup> + '_> {
        // Rounded up: to wake too early would be to wake again and again.
        let timeout =
            timeout.map_or(Ok(EpollTimeout::NONE), |t| EpollTimeout::try_from(t + Duration::from_micros(999)));
        let count = match self.epoll.wait(&mut self.events, timeout.unwrap_or(EpollTimeout::MAX)) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        Ok(self.events[..count].iter().map(|event| {
            match event.data() {
                ARCHIVIST => return Wakeup::Archivist,
                FILE => return Wakeup::File,
                _ => {}
            }
            #[expect(clippy::cast_possible_truncation, reason = "an index, as it was given")]
            let token = event.data() as usize;
            match token {
                0 => Wakeup::Signal,
                odd if odd % 2 == 1 => Wakeup::Queue(odd / 2),
                even => Wakeup::Replies(even / 2 - 1),
            }
        }))
    }
}
