//! Links: what flows from a source to a sink, and how it survives both.
//!
//! - [`Link`]: the kernel objects, as the supervisor makes and holds them;
//! - [`handover`]: which descriptors of a link a child is given, and how it is told;
//! - [`record`]: the record protocol between a source and a sink that acknowledges;
//! - [`replies`]: acknowledgements, as a sink sends them;
//! - [`ledger`]: what a sink was doing, in memory that outlives it;
//! - [`intent`]: what a sink is about to save, in a file that outlives every process;
//! - [`intake`]: bytes out of a queue, none consumed before it is saved;
//! - [`source`]: a link at its sink, with its intake; [`messages`], [`lines`]: what
//!   its bytes are;
//! - [`batch`]: the steps of a batch, from all links of a sink to its
//!   destination, and the recovery of one that was under way.

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

/// The kernel objects of one link. Whoever holds them keeps what flows there,
/// though source and sink both die.
#[derive(Debug)]
pub struct Link {
    /// The source writes (its stdout), the sink reads. Several sources into
    /// one ordinary sink share one.
    pub queue: Pipe,
    /// What a sink with an intake works with; `None` for an ordinary program.
    pub intake: Option<Intake>,
    /// Acknowledgements, from sink to source; with records alone. Both ends
    /// are O_NONBLOCK.
    pub replies: Option<Pipe>,
}

/// What only the sink touches, each of its incarnations in turn.
#[derive(Debug)]
pub struct Intake {
    /// A pipe of the queue's capacity; the sink has both ends.
    pub staging: Pipe,
    /// A memory file, see [`ledger`].
    pub ledger: OwnedFd,
}

/// What of a link may outlive the supervisor that made it: the read ends of
/// its queue and of staging, and the ledger. Replies need not: a source that
/// begins anew waits for no old ones.
#[derive(Debug)]
pub struct Kept {
    /// Read end of the queue.
    pub queue: OwnedFd,
    /// Read end of staging, and the ledger, where the sink has an intake.
    pub intake: Option<(OwnedFd, OwnedFd)>,
}

impl Kept {
    /// The link again, whole; with a fresh intake where its sink has one and
    /// none was kept.
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

/// The acknowledgements' way back, with records; and how the queue's write end
/// then is.
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

/// How many bytes of acknowledgements the way back of a queue can hold.
pub fn replies_capacity(queue: usize) -> usize {
    queue.min(1 << 16)
}

impl Link {
    /// A link from any source to a sink with an intake. The queue holds
    /// `capacity` bytes where the kernel grants that ([`Link::capacity`]).
    ///
    /// With records the queue's write end is O_NONBLOCK and there are replies;
    /// a source of lines may be any program, so its stdout blocks.
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

    /// How many bytes the queue really holds at most.
    ///
    /// # Errors
    /// None that can happen to a pipe that is held.
    pub fn capacity(&self) -> io::Result<usize> {
        pipe::capacity(&self.queue.write)
    }
}
