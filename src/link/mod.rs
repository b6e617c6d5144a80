//! Links: what flows from a source to a sink, and how it survives both.
//!
//! - [`Link`]: the kernel objects, which the supervisor makes and holds;
//! - [`handover`]: which descriptors of a link a child is given, and how it learns their
//!   numbers;
//! - [`record`]: the record protocol between a source and a sink that acknowledges;
//! - [`replies`]: the acknowledgements that a sink sends;
//! - [`ledger`]: where a sink notes what it is doing, in memory that outlives it;
//! - [`intent`]: where a sink notes what it is about to save, in a file that outlives every
//!   process;
//! - [`intake`]: takes bytes out of a queue, and consumes none before it is saved;
//! - [`source`]: a link as its sink sees it; [`messages`], [`lines`]: the messages in
//!   its bytes;
//! - [`batch`]: the steps of a batch, from all links of a sink to its
//!   destination, and the recovery of a batch that was under way.

pub(crate) mod batch;
mod cell;
pub mod handover;
pub(crate) mod intake;
pub mod intent;
pub mod ledger;
pub mod lines;
pub mod messages;
pub mod record;
pub(crate) mod replies;
pub(crate) mod source;
mod words;

use crate::sys::pipe::{self, Pipe};
use handover::Protocol;
use std::io;
use std::os::fd::OwnedFd;

/// The kernel objects of one link. As long as a process holds them, what is in the link
/// survives, even if source and sink both die.
#[derive(Debug)]
pub struct Link {
    /// The source writes to it (its stdout), and the sink reads it. Several sources that feed
    /// one ordinary program share a queue.
    pub queue: Pipe,
    /// What a sink with an intake needs besides; `None` for an ordinary program.
    pub intake: Option<Intake>,
    /// Acknowledgements, from sink to source; only with records. Both ends
    /// are O_NONBLOCK.
    pub replies: Option<Pipe>,
}

/// What only the sink uses, and after it its successor.
#[derive(Debug)]
pub struct Intake {
    /// A pipe of the queue's capacity; the sink has both ends.
    pub staging: Pipe,
    /// A memory file, see [`ledger`].
    pub ledger: OwnedFd,
}

/// The parts of a link that may outlive the supervisor that made it: the read ends of
/// its queue and of staging, and the ledger. Replies need not outlive it, because a
/// restarted source waits for no old ones.
#[derive(Debug)]
pub struct Kept {
    /// The read end of the queue.
    pub queue: OwnedFd,
    /// The read end of staging, and the ledger, if the sink has an intake.
    pub intake: Option<(OwnedFd, OwnedFd)>,
}

impl Kept {
    /// Makes a whole link of it again. If its sink needs an intake and none was kept,
    /// it gets a fresh one.
    ///
    /// # Errors
    /// A write end can't be opened; EMFILE, ENFILE, ENOMEM.
    pub fn again(self, protocol: Protocol, has_intake: bool) -> io::Result<Link> {
        let reopen = |read: OwnedFd| pipe::writer_of(&read).map(|write| Pipe { read, write });
        let queue = reopen(self.queue)?;
        if !has_intake {
            return Ok(Link { queue, intake: None, replies: None });
        }
        let intake = match self.intake {
            Some((staging, ledger)) => Intake { staging: reopen(staging)?, ledger },
            None => Intake { staging: Pipe::new(pipe::capacity(&queue.write)?)?, ledger: ledger::create()? },
        };
        let replies = way_back(&queue, protocol)?;
        Ok(Link { queue, intake: Some(intake), replies })
    }
}

/// The pipe for acknowledgements, with records. In that case, the queue's write end
/// becomes O_NONBLOCK too.
fn way_back(queue: &Pipe, protocol: Protocol) -> io::Result<Option<Pipe>> {
    match protocol {
        Protocol::Lines => Ok(None),
        Protocol::Records => {
            pipe::set_nonblocking(&queue.write, true)?;
            let replies = Pipe::new(replies_capacity(pipe::capacity(&queue.write)?))?;
            pipe::set_nonblocking(&replies.read, true)?;
            pipe::set_nonblocking(&replies.write, true)?;
            Ok(Some(replies))
        }
    }
}

/// How many bytes the replies pipe holds for a queue of that capacity.
pub fn replies_capacity(queue: usize) -> usize {
    queue.min(1 << 16)
}

impl Link {
    /// A link from any source to a sink with an intake. The queue holds
    /// `capacity` bytes if the kernel grants them ([`Link::capacity`]).
    ///
    /// With records, the queue's write end is O_NONBLOCK and there are replies.
    /// A source of lines may be any program, so its stdout blocks.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn to_intake(capacity: usize, protocol: Protocol) -> io::Result<Link> {
        let queue = Pipe::new(capacity)?;
        let staging = Pipe::new(pipe::capacity(&queue.write)?)?;
        let replies = way_back(&queue, protocol)?;
        let intake = Intake { staging, ledger: ledger::create()? };
        Ok(Link { queue, intake: Some(intake), replies })
    }

    /// A link to an ordinary program, which reads the queue as its stdin.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn to_stdin(capacity: usize) -> io::Result<Link> {
        Ok(Link { queue: Pipe::new(capacity)?, intake: None, replies: None })
    }

    /// How many bytes the queue can really hold.
    ///
    /// # Errors
    /// None, for an open pipe.
    pub fn capacity(&self) -> io::Result<usize> {
        pipe::capacity(&self.queue.write)
    }
}
