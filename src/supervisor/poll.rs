//! What the loop waits for: epoll(7), and which descriptor is whose.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::os::fd::AsFd;
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
            Token::Journal => (7, 0),
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
            _ => Token::Journal,
        }
    }
}

/// A set of watched descriptors.
#[derive(Debug)]
pub struct Poll {
    epoll: Epoll,
}

impl Poll {
    /// An empty one.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new() -> io::Result<Poll> {
        Ok(Poll { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    /// Watches a descriptor.
    ///
    /// # Errors
    /// ENOSPC past /proc/sys/fs/epoll/max_user_watches, ENOMEM.
    pub fn add(&self, fd: impl AsFd, flags: EpollFlags, token: Token) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(flags, token.pack()))?)
    }

    /// Watches it for something else.
    ///
    /// # Errors
    /// ENOENT where it is not watched.
    pub fn change(&self, fd: impl AsFd, flags: EpollFlags, token: Token) -> io::Result<()> {
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(flags, token.pack()))?)
    }

    /// Watches it no more. To be called before it is closed: a process between
    /// fork and exec may hold it too, and then closing it here ends nothing
    /// (epoll(7), question 6).
    pub fn remove(&self, fd: impl AsFd) {
        // ENOENT: it was not watched, as wanted.
        let _removed = self.epoll.delete(fd);
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
