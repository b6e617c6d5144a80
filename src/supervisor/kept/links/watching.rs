//! Watching the queues: when bytes wait in one, and whether it is full.
//!
//! A queue has one place in the loop for each of its ends. Both report only once, so that a
//! queue from which its sink takes everything costs next to nothing. Who wants to know again
//! asks again.

use super::fullness::{Action, Event, Fill, Fullness, News, Progress};
use super::{Links, Queue};
use crate::config::model::Link as Config;
use crate::supervisor::poll::{Poll, Token};
use crate::sys::cause::cause;
use crate::sys::pipe;
use nix::sys::epoll::EpollFlags;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// What is known of a queue that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    /// The queue's number in the loop, which is never reused.
    number: u32,
    fullness: Fullness,
    /// Whether the kernel refused to watch it, which was logged.
    refused: bool,
}

/// A link, and what is to be known of it.
pub(crate) type LinkNews = (Config, News);

impl Watch {
    pub(super) fn new(number: u32) -> Watch {
        Watch { number, fullness: Fullness::new(), refused: false }
    }

    /// The queue's input has ended.
    pub(super) fn end(&mut self, now: Instant) {
        let _no_news = self.fullness.step(Event::Lost, now);
        self.refused = false;
    }
}

impl Links {
    /// Watches the queues that are new, or whose input was opened again.
    pub(crate) fn watch(&mut self, poll: &Poll, now: Instant) {
        for place in 0..self.queues.len() {
            let queue = &self.queues[place];
            if queue.write.is_some() && queue.watch.fullness.is_unknown() && !queue.watch.refused {
                let _no_news = self.step(place, Event::Begin, poll, now);
            }
        }
    }

    /// Has the loop report once that bytes wait for that child.
    pub(crate) fn await_bytes(&self, sink: &str, poll: &Poll) -> io::Result<()> {
        self.queues_into(sink).into_iter().try_for_each(|queue| queue.await_bytes(poll))
    }

    /// The sink of the queue of that number.
    pub(crate) fn sink_of(&self, number: u32) -> Option<&str> {
        self.queues.iter().find(|queue| queue.watch.number == number).map(|queue| queue.id.sink())
    }

    /// The loop reports something about the queue of that number.
    pub(crate) fn reported(&mut self, number: u32, flags: EpollFlags, poll: &Poll, now: Instant) -> Vec<LinkNews> {
        let place = self.queues.iter().position(|queue| queue.watch.number == number);
        let Some(place) = place.filter(|&place| self.queues[place].write.is_some()) else { return Vec::new() };
        let event = if flags.contains(EpollFlags::EPOLLOUT) { Event::Room } else { Event::Bytes };
        self.step(place, event, poll, now)
    }

    /// When to look at a queue.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|queue| queue.watch.fullness.deadline()).min()
    }

    /// Looks at the queues that are due. `progress` shows whether something moves in
    /// the links of a queue.
    pub(crate) fn on_time(
        &mut self,
        poll: &Poll,
        now: Instant,
        progress: impl Fn(&Links, &[&Config]) -> Progress,
    ) -> Vec<LinkNews> {
        let mut news = Vec::new();
        for place in 0..self.queues.len() {
            let queue = &self.queues[place];
            if queue.watch.fullness.deadline().is_some_and(|at| at <= now) {
                let links = || self.held.iter().filter(|held| held.queue == queue.id).map(|held| &held.config);
                let fill = queue.fill(|| progress(self, &links().collect::<Vec<_>>()));
                let event = fill.map_or(Event::Lost, Event::Looked);
                news.extend(self.step(place, event, poll, now));
            }
        }
        news
    }

    fn step(&mut self, place: usize, event: Event, poll: &Poll, now: Instant) -> Vec<LinkNews> {
        let queue = &mut self.queues[place];
        let awaited = match queue.watch.fullness.step(event, now) {
            None => Ok(()),
            Some(Action::AwaitBytes) => queue.await_bytes(poll),
            Some(Action::AwaitRoom) => queue.await_room(poll),
            Some(Action::Say(news)) => {
                let of_queue = self.held.iter().filter(|held| held.queue == self.queues[place].id);
                return of_queue.map(|held| (held.config.clone(), news)).collect();
            }
        };
        if let Err(error) = awaited {
            queue.watch.end(now);
            queue.watch.refused = true;
            log::warn!("cannot see whether the links into {} are full: {}", queue.id.sink(), cause(&error));
        }
        Vec::new()
    }
}

impl Queue {
    fn await_bytes(&self, poll: &Poll) -> io::Result<()> {
        self.await_once(&self.read, EpollFlags::EPOLLIN, poll)
    }

    fn await_room(&self, poll: &Poll) -> io::Result<()> {
        self.write.as_ref().map_or(Ok(()), |write| self.await_once(write, EpollFlags::EPOLLOUT, poll))
    }

    fn await_once(&self, end: &OwnedFd, flags: EpollFlags, poll: &Poll) -> io::Result<()> {
        let (flags, token) = (flags | EpollFlags::EPOLLONESHOT, Token::Link(self.watch.number));
        poll.modify(end, flags, token).or_else(|_| poll.add(end, flags, token))
    }

    /// How full it is; `None`: its input has ended, so nobody can write to it.
    fn fill(&self, progress: impl FnOnce() -> Progress) -> Option<Fill> {
        let write = self.write.as_ref()?;
        // If it can't be looked at, it is better not called full.
        Some(match pipe::has_room(write) {
            Ok(false) => Fill::Full(progress()),
            Ok(true) | Err(_) if pipe::bytes_in(&self.read).is_ok_and(|bytes| bytes == 0) => Fill::Empty,
            Ok(true) | Err(_) => Fill::Some,
        })
    }
}
