//! The one epoll(7) of a loop, with typed tokens that say which descriptor is ready.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

/// How many events a wait returns at most, unless there is room for more.
const EVENTS: usize = 64;

/// The name that a loop gives to a descriptor that it watches. The kernel keeps it in 64 bits.
pub trait Token: Copy {
    /// The token as the kernel keeps it.
    fn encode(self) -> u64;

    /// The token with these bits.
    fn decode(bits: u64) -> Self;
}

/// A set of watched descriptors. Clones are the same set.
#[derive(Debug)]
pub struct Poll<T> {
    epoll: Rc<Epoll>,
    /// Where the kernel puts events. Only a clone that has waited has one.
    buffer: Vec<EpollEvent>,
    token: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Poll<T> {
    fn clone(&self) -> Poll<T> {
        Poll { epoll: Rc::clone(&self.epoll), buffer: Vec::new(), token: PhantomData }
    }
}

impl<T: Token> Poll<T> {
    /// An empty one.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new() -> io::Result<Poll<T>> {
        let epoll = Rc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        Ok(Poll { epoll, buffer: Vec::new(), token: PhantomData })
    }

    /// Watches a descriptor until it is removed, or until its last copy in any process is
    /// closed. It is level-triggered unless the flags say EPOLLET.
    ///
    /// # Errors
    /// ENOSPC past /proc/sys/fs/epoll/max_user_watches, ENOMEM; EPERM for a file, which
    /// is always ready.
    pub fn add(&self, fd: impl AsFd, flags: EpollFlags, token: T) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(flags, token.encode()))?)
    }

    /// Changes the flags and the token of a descriptor that [`Poll::add`] began to watch.
    ///
    /// # Errors
    /// Only because of a bug: nothing is allocated for a change.
    pub fn modify(&self, fd: impl AsFd, flags: EpollFlags, token: T) -> io::Result<()> {
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(flags, token.encode()))?)
    }

    /// Stops watching a descriptor that [`Poll::add`] began to watch.
    pub fn remove(&self, fd: impl AsFd) {
        remove(&self.epoll, fd);
    }

    /// Watches `item` until it is dropped.
    ///
    /// # Errors
    /// As [`Poll::add`].
    pub fn watch<I: AsFd>(&self, item: I, flags: EpollFlags, token: T) -> io::Result<Watched<I>> {
        self.watch_part(item, I::as_fd, flags, token)
    }

    /// Watches one of the several descriptors of `item`, which `part` chooses, until the
    /// item is dropped.
    ///
    /// # Errors
    /// As [`Poll::add`].
    pub fn watch_part<I>(
        &self,
        item: I,
        part: fn(&I) -> BorrowedFd<'_>,
        flags: EpollFlags,
        token: T,
    ) -> io::Result<Watched<I>> {
        self.add(part(&item), flags, token)?;
        Ok(Watched { epoll: Rc::clone(&self.epoll), token: token.encode(), part, item })
    }

    /// Waits for events, for no longer than `timeout`; `None`: as long as it takes. It
    /// may return early, without any. It takes at most as many events as `events` has room
    /// for without another allocation, or 64 if that is more.
    ///
    /// # Errors
    /// Only because of a bug.
    pub fn wait(&mut self, events: &mut Vec<(T, EpollFlags)>, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        let ready = wait(&self.epoll, &mut self.buffer, events.capacity(), timeout)?;
        events.extend(ready.iter().map(|event| (T::decode(event.data()), event.events())));
        Ok(())
    }
}

fn remove(epoll: &Epoll, fd: impl AsFd) {
    // ENOENT: it was not watched, which is fine.
    let _removed = epoll.delete(fd);
}

/// The events that are ready: at most `room`, or 64 if that is more.
fn wait<'a>(
    epoll: &Epoll,
    buffer: &'a mut Vec<EpollEvent>,
    room: usize,
    timeout: Option<Duration>,
) -> io::Result<&'a [EpollEvent]> {
    if buffer.is_empty() {
        buffer.resize(room.max(EVENTS), EpollEvent::empty());
    }
    let mut timeout = match timeout {
        None => EpollTimeout::NONE,
        // Rounded up, so that the deadline has passed when it returns.
        Some(t) => EpollTimeout::try_from(t.as_millis() + u128::from(t.subsec_nanos() % 1_000_000 > 0))
            .unwrap_or(EpollTimeout::MAX),
    };
    loop {
        match epoll.wait(buffer, timeout) {
            // Most likely a signal, whose handler wrote to the self-pipe, so the next wait
            // reports that at once.
            Err(Errno::EINTR) => timeout = EpollTimeout::ZERO,
            other => return Ok(&buffer[..other?]),
        }
    }
}

/// An item with a descriptor that is watched for as long as the item lives.
///
/// Dropping it stops the watch before the descriptor is closed. Closing alone is not
/// enough: a process between fork and exec holds a copy of every descriptor, and epoll
/// keeps reporting a descriptor that this process has closed and can no longer remove
/// (epoll(7), question 6).
#[derive(Debug)]
pub struct Watched<I> {
    epoll: Rc<Epoll>,
    token: u64,
    part: fn(&I) -> BorrowedFd<'_>,
    item: I,
}

impl<I> Watched<I> {
    /// Changes the events that it is watched for.
    ///
    /// # Errors
    /// Only because of a bug: nothing is allocated for a change.
    pub fn watch_for(&self, flags: EpollFlags) -> io::Result<()> {
        Ok(self.epoll.modify((self.part)(&self.item), &mut EpollEvent::new(flags, self.token))?)
    }
}

impl<I> Drop for Watched<I> {
    fn drop(&mut self) {
        remove(&self.epoll, (self.part)(&self.item));
    }
}

impl<I> Deref for Watched<I> {
    type Target = I;

    fn deref(&self) -> &I {
        &self.item
    }
}

impl<I> DerefMut for Watched<I> {
    fn deref_mut(&mut self) -> &mut I {
        &mut self.item
    }
}

#[cfg(test)]
mod tests {
    use super::super::pipe::Pipe;
    use super::*;
    use std::time::Instant;

    impl Token for u64 {
        fn encode(self) -> u64 {
            self
        }

        fn decode(bits: u64) -> u64 {
            bits
        }
    }

    fn events(poll: &mut Poll<u64>) -> Vec<(u64, EpollFlags)> {
        let mut events = Vec::new();
        poll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        events
    }

    #[test]
    fn a_dropped_descriptor_is_not_reported_even_if_another_process_has_a_copy() {
        let mut poll = Poll::new().unwrap();
        let Pipe { read, write } = Pipe::new(4096).unwrap();
        // As a process between fork and exec has it.
        let copy = read.try_clone().unwrap();
        let watched = poll.watch(read, EpollFlags::EPOLLIN, 7).unwrap();
        drop(write);
        assert_eq!(events(&mut poll), [(7, EpollFlags::EPOLLHUP)]);
        drop(watched);
        assert_eq!(events(&mut poll), []);
        drop(copy);
    }

    #[test]
    fn a_descriptor_that_is_watched_for_nothing_is_quiet_until_it_is_watched_for_something() {
        let mut poll = Poll::new().unwrap();
        let pipe = Pipe::new(4096).unwrap();
        let watched = poll.watch_part(pipe, |pipe| pipe.read.as_fd(), EpollFlags::empty(), 1).unwrap();
        nix::unistd::write(&watched.write, b"x").unwrap();
        assert_eq!(events(&mut poll), []);
        watched.watch_for(EpollFlags::EPOLLIN).unwrap();
        assert_eq!(events(&mut poll), [(1, EpollFlags::EPOLLIN)]);
    }

    #[test]
    fn an_edge_is_reported_once_and_a_level_again_and_again() {
        for (flags, again) in [(EpollFlags::EPOLLIN, 1), (EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)] {
            let mut poll = Poll::new().unwrap();
            let pipe = Pipe::new(4096).unwrap();
            poll.add(&pipe.read, flags, u64::MAX).unwrap();
            nix::unistd::write(&pipe.write, b"x").unwrap();
            assert_eq!(events(&mut poll), [(u64::MAX, EpollFlags::EPOLLIN)]);
            assert_eq!(events(&mut poll).len(), again);
            poll.remove(&pipe.read);
            nix::unistd::write(&pipe.write, b"x").unwrap();
            assert_eq!(events(&mut poll), []);
        }
    }

    #[test]
    fn a_wait_takes_as_many_events_as_there_is_room_for() {
        for (room, most) in [(0, EVENTS), (EVENTS + 1, EVENTS + 1)] {
            let mut poll = Poll::new().unwrap();
            let pipes: Vec<_> = (0..EVENTS + 2).map(|_| Pipe::new(4096).unwrap()).collect();
            for (token, pipe) in (0..).zip(&pipes) {
                poll.add(&pipe.write, EpollFlags::EPOLLOUT, token).unwrap();
            }
            let mut events = Vec::with_capacity(room);
            poll.wait(&mut events, None).unwrap();
            assert_eq!(events.len(), most);
        }
    }

    #[test]
    fn a_wait_is_not_shorter_than_asked_and_may_be_for_ever() {
        let mut poll: Poll<u64> = Poll::new().unwrap();
        let start = Instant::now();
        poll.wait(&mut Vec::new(), Some(Duration::from_micros(1100))).unwrap();
        assert!(start.elapsed() >= Duration::from_micros(1100));
        let pipe = Pipe::new(4096).unwrap();
        poll.add(&pipe.write, EpollFlags::EPOLLOUT, 1).unwrap();
        for timeout in [None, Some(Duration::MAX)] {
            let mut events = Vec::new();
            poll.wait(&mut events, timeout).unwrap();
            assert_eq!(events, [(1, EpollFlags::EPOLLOUT)]);
        }
    }
}
