//! The link to the sink: messages go into its queue, acknowledgements come back.

use super::acknowledgements::{Acknowledged, Acknowledgements};
use super::outbox::{Form, Outbox, Settled};
use super::server::Token;
use super::settings::EchoAfter;
use crate::link::handover::{Outbound, Protocol};
use crate::link::record::Flags;
use crate::plugin::start;
use crate::sys::pipe;
use crate::sys::poll::Poll;
use log::warn;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::EpollFlags;
use std::io::{self, Stdout};
use std::os::fd::AsFd;

/// The events that the queue is watched for. It is a one-shot watch, because the sink's
/// splice(2) wakes everything that watches the pipe, for any event (fs/splice.c,
/// wakeup_pipe_writers), except a watch whose event was already reported (fs/eventpoll.c,
/// ep_poll_callback).
const ROOM: EpollFlags = EpollFlags::EPOLLOUT.union(EpollFlags::EPOLLONESHOT);

/// The link to the sink.
#[derive(Debug)]
pub(super) struct Sink {
    /// The name of the sink, or "the log".
    name: String,
    /// What goes there, and which echoes wait for it.
    pub(super) outbox: Outbox,
    queue: Stdout,
    /// The queue is full, and epoll reports when it is not.
    blocked: bool,
    acknowledgements: Option<Acknowledgements>,
}

impl Sink {
    /// Takes the link that the supervisor gave. Without a link, stdout is the log.
    ///
    /// # Errors
    /// Echoes are to wait for acknowledgements, but the sink sends none.
    pub(super) fn open(link: Option<Outbound>, echo_after: EchoAfter, epoch: u64) -> Result<Sink, String> {
        let (form, replies, name) = match link {
            Some(link) if link.protocol == Protocol::Records => {
                let flags = match echo_after {
                    EchoAfter::Queued => Flags::QUIET,
                    EchoAfter::Saved => Flags::default(),
                    EchoAfter::Synced => Flags::SYNC,
                };
                (Form::Records { epoch, flags }, link.replies, link.to)
            }
            Some(link) => (Form::Lines, None, link.to),
            None => (Form::Lines, None, "the log".to_owned()),
        };
        let settled = match echo_after {
            EchoAfter::Queued => Settled::Written,
            EchoAfter::Saved | EchoAfter::Synced => Settled::Acknowledged,
        };
        if settled == Settled::Acknowledged && replies.is_none() {
            return Err(format!(
                "cannot serve with echo_after = \"saved\" or \"synced\": {name:?} does not acknowledge"
            ));
        }
        Ok(Sink {
            name,
            outbox: Outbox::new(form, settled),
            queue: io::stdout(),
            blocked: false,
            acknowledgements: replies.map(|fd| Acknowledgements::new(start::take(fd), epoch)),
        })
    }

    /// The longest message that it takes, at most `asked`. The queue must have room for
    /// several whole messages, so that a message that is only half in it never blocks itself.
    pub(super) fn max_message(&self, asked: usize) -> usize {
        let most = pipe::capacity(&self.queue).map_or(usize::MAX, |capacity| capacity / 4);
        if asked > most {
            warn!("max_message is {most} bytes, not {asked}: the link holds only {} bytes", most * 4);
        }
        asked.min(most).max(1)
    }

    /// Watches the link.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC from epoll_ctl(2).
    pub(super) fn watch(&self, poll: &Poll<Token>) -> io::Result<()> {
        if let Some(acknowledgements) = &self.acknowledgements {
            poll.add(acknowledgements, EpollFlags::EPOLLIN, Token::Acknowledgements)?;
        }
        match poll.add(&self.queue, ROOM, Token::Queue) {
            // It is a regular file, which is always writable.
            Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => Ok(()),
            other => other,
        }
    }

    /// Writes as much as the queue takes.
    ///
    /// # Errors
    /// No process reads it any more, or it is unusable.
    pub(super) fn write(&mut self, poll: &Poll<Token>) -> Result<(), String> {
        while let (Some(bytes), false) = (self.outbox.next_write(), self.blocked) {
            // Only a queue of records is non-blocking.
            if self.outbox.has_lines() && !is_writable(&self.queue) {
                self.wait_for_room(poll)?;
                break;
            }
            match nix::unistd::write(&self.queue, bytes) {
                Ok(count) => self.outbox.wrote(count),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait_for_room(poll)?,
                Err(Errno::EPIPE) => return Err(self.nobody_reads()),
                Err(error) => return Err(format!("cannot write to {:?}: {error}", self.name)),
            }
        }
        Ok(())
    }

    fn wait_for_room(&mut self, poll: &Poll<Token>) -> Result<(), String> {
        self.blocked = true;
        let watched = poll.modify(&self.queue, ROOM, Token::Queue);
        watched.map_err(|e| format!("cannot watch the queue to {:?}: {e}", self.name))
    }

    /// The queue has room again.
    ///
    /// # Errors
    /// No process reads it any more.
    pub(super) fn on_queue(&mut self, flags: EpollFlags) -> Result<(), String> {
        if flags.contains(EpollFlags::EPOLLERR) {
            return Err(self.nobody_reads());
        }
        self.blocked = false;
        Ok(())
    }

    /// Takes the acknowledgements that have arrived.
    ///
    /// # Errors
    /// No process can acknowledge any more.
    pub(super) fn on_acknowledgements(&mut self) -> Result<(), String> {
        let Some(acknowledgements) = &mut self.acknowledgements else { return Ok(()) };
        match acknowledgements.read() {
            Ok(Acknowledged::UpTo(sequence)) => self.outbox.acknowledge(sequence),
            Ok(Acknowledged::Nothing) => {}
            Ok(Acknowledged::End) => {
                return Err(format!("cannot go on: nobody acknowledges for {:?} any more", self.name));
            }
            Err(error) => return Err(format!("cannot read acknowledgements of {:?}: {error}", self.name)),
        }
        Ok(())
    }

    /// The error of a write that nobody can read. It does not occur while the supervisor
    /// lives, because it holds the other end of the queue.
    fn nobody_reads(&self) -> String {
        format!("cannot go on: nobody reads what goes to {:?} any more", self.name)
    }
}

/// Whether a pipe takes PIPE_BUF bytes now (poll(2)). A write may still block if another
/// source writes first.
fn is_writable(pipe: impl AsFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(ready) => ready > 0,
        // The write will show it.
        Err(_) => true,
    }
}
