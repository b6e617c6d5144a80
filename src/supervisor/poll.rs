//! What the loop waits for: epoll(7), and which descriptor is whose.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

/// A child, by a number that is never given again.
pub type Id = u32;

/// Whose descriptor it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// Signals came.
    Signals,
    /// An operator connects.
    Control,
    /// An operator's connection.
    Connection(u32),
    /// A child's exec is decided.
    Exec(Id),
    /// A child wrote to its log pipe.
    Log(Id),
    /// A child says something about itself.
    Notify(Id),
    /// A child may be ready.
    Ready(Id),
    /// A process that looks at the system has ended.
    Look(u32),
    /// The log's output takes more.
    Journal,
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, id) = match self {
            Token::Signals => (0, 0),
            Token::Control => (1, 0),
            Token::Connection(id) => (2, id),
            Token::Exec(id) => (3, id),
            Token::Log(id) => (4, id),
            Token::Notify(id) => (5, id),
            Token::Ready(id) => (6, id),
            Token::Look(id) => (7, id),
            Token::Journal => (8, 0),
        };
        (kind << 32) | u64::from(id)
    }

    fn unpack(data: u64) -> Token {
        #[expect(clippy::cast_possible_truncation, reason = "the low half is the id")]
        let id = data as u32;
        match data >> 32 {
            0 => Token::Signals,
            1 => Token::Control,
            2 => Token::Connection(id),
            3 => Token::Exec(id),
            4 => Token::Log(id),
            5 => Token::Notify(id),
            6 => Token::Ready(id),
            7 => Token::Look(id),
            _ => Token::Journal,
        }
    }
}

/// A set of watched descriptors. Clones are the same set.
#[derive(Debug, Clone)]
pub struct Poll {
    epoll: Rc<Epoll>,
}

impl Poll {
    /// An empty one.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new() -> io::Result<Poll> {
        Ok(Poll { epoll: Rc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?) })
    }

    /// Watches a descriptor for as long as the process lives.
    ///
    /// # Errors
    /// ENOSPC past /proc/sys/fs/epoll/max_user_watches, ENOMEM.
    pub fn add(&self, fd: impl AsFd, flags: EpollFlags, token: Token) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(flags, token.pack()))?)
    }

    /// Stops watching what [`Poll::add`] began to watch.
    pub fn remove(&self, fd: impl AsFd) {
        // ENOENT: it was not watched, as wanted.
        let _removed = self.epoll.delete(fd);
    }

    /// Watches `item` until it is dropped.
    ///
    /// # Errors
    /// As [`Poll::add`].
    pub fn watch<T: AsFd>(&self, item: T, flags: EpollFlags, token: Token) -> io::Result<Watched<T>> {
        self.watch_part(item, T::as_fd, flags, token)
    }

    /// The same for an item that has several descriptors: `part` is the one to watch.
    ///
    /// # Errors
    /// As [`Poll::add`].
    pub fn watch_part<T>(
        &self,
        item: T,
        part: fn(&T) -> BorrowedFd<'_>,
        flags: EpollFlags,
        token: Token,
    ) -> io::Result<Watched<T>> {
        self.add(part(&item), flags, token)?;
        Ok(Watched { poll: self.clone(), token, part, item })
    }

    /// Waits for events, for no longer than `timeout`; `None`: for as long as it
    /// takes. It may return early, with none.
    ///
    /// # Errors
    /// None but a bug's.
    pub fn wait(&self, events: &mut Vec<(Token, EpollFlags)>, timeout: Option<Duration>) -> io::Result<()> {
        let mut timeout = match timeout {
            None => EpollTimeout::NONE,
            // Rounded up, so that the deadline has passed when it returns.
            Some(t) => EpollTimeout::try_from(t.as_millis() + u128::from(t.subsec_nanos() % 1_000_000 > 0))
                .unwrap_or(EpollTimeout::MAX),
        };
        let mut buffer = [EpollEvent::empty(); 64];
        let count = loop {
            match self.epoll.wait(&mut buffer, timeout) {
                // A signal, most likely, that its handler left in the self-pipe: it is read now.
                Err(Errno::EINTR) => timeout = EpollTimeout::ZERO,
                other => break other?,
            }
        };
        events.clear();
        events.extend(buffer[..count].iter().map(|event| (Token::unpack(event.data()), event.events())));
        Ok(())
    }
}

/// An item with a descriptor that is watched for as long as the item lives.
///
/// Dropping it stops the watch before the descriptor is closed. Closing alone
/// would not: a process between fork and exec holds a copy of every descriptor,
/// and epoll goes on reporting what it can no longer be told to forget
/// (epoll(7), question 6).
#[derive(Debug)]
pub struct Watched<T> {
    poll: Poll,
    token: Token,
    part: fn(&T) -> BorrowedFd<'_>,
    item: T,
}

impl<T> Watched<T> {
    /// Watches it for something else.
    ///
    /// # Errors
    /// None but a bug's: nothing is allocated for a change.
    pub fn watch_for(&self, flags: EpollFlags) -> io::Result<()> {
        Ok(self.poll.epoll.modify((self.part)(&self.item), &mut EpollEvent::new(flags, self.token.pack()))?)
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.poll.remove((self.part)(&self.item));
    }
}

impl<T> Deref for Watched<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.item
    }
}

impl<T> DerefMut for Watched<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pipe::Pipe;

    fn events(poll: &Poll) -> Vec<(Token, EpollFlags)> {
        let mut events = Vec::new();
        poll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        events
    }

    #[test]
    fn what_is_dropped_is_reported_no_more_though_another_process_has_a_copy() {
        let poll = Poll::new().unwrap();
        let Pipe { read, write } = Pipe::new(4096).unwrap();
        // As a process between fork and exec has it.
        let copy = read.try_clone().unwrap();
        let watched = poll.watch(read, EpollFlags::EPOLLIN, Token::Ready(7)).unwrap();
        drop(write);
        assert_eq!(events(&poll), [(Token::Ready(7), EpollFlags::EPOLLHUP)]);
        drop(watched);
        assert_eq!(events(&poll), []);
        drop(copy);
    }

    #[test]
    fn what_is_watched_for_nothing_is_quiet_until_it_is_watched_for_more() {
        let poll = Poll::new().unwrap();
        let pipe = Pipe::new(4096).unwrap();
        let watched = poll.watch_part(pipe, |pipe| pipe.read.as_fd(), EpollFlags::empty(), Token::Log(1)).unwrap();
        nix::unistd::write(&watched.write, b"x").unwrap();
        assert_eq!(events(&poll), []);
        watched.watch_for(EpollFlags::EPOLLIN).unwrap();
        assert_eq!(events(&poll), [(Token::Log(1), EpollFlags::EPOLLIN)]);
    }
}
