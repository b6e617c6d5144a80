//! Operators: their connections, their requests, and those who wait for an answer.

mod amounts;
mod inspect;
mod readers;
pub(crate) mod ready;
pub(crate) mod requests;
pub(crate) mod server;
pub(crate) mod waiters;

use crate::control::{Request, Response};
use crate::supervisor::family::child::State;
use crate::supervisor::family::supervised::Supervised;
use nix::sys::epoll::EpollFlags;
use readers::Reader;
use server::{Interest, Server};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use waiters::Waiter;

/// After EMFILE and the like, no connection is accepted for this long.
const SHORT_OF_DESCRIPTORS: Duration = Duration::from_secs(1);

/// Operators' connections.
#[derive(Debug)]
pub(crate) struct Operators {
    pub(crate) server: Server,
    pub(crate) waiters: Vec<Waiter>,
    /// The connection of the operator who asked for the reload under way.
    pub(crate) follower: Option<u32>,
    /// Those who read the log or events.
    readers: Vec<Reader>,
    /// When connections are accepted again.
    accept_at: Option<Instant>,
}

impl Operators {
    /// The operators who connect to this server.
    pub(crate) fn new(server: Server) -> Operators {
        Operators { server, waiters: Vec::new(), follower: None, readers: Vec::new(), accept_at: None }
    }

    /// When [`Operators::on_time`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.accept_at
    }

    /// Accepts connections again, if it is time.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept_at = None;
            self.server.listen(true);
        }
    }

    /// Accepts a connection.
    pub(crate) fn accept(&mut self) {
        if let Err(error) = self.server.accept() {
            log::error!("control: cannot accept: {error}");
            self.server.listen(false);
            self.accept_at = Some(Instant::now() + SHORT_OF_DESCRIPTORS);
        }
    }

    /// Handles an event on a connection. Returns the request once it is complete. The caller
    /// must [watch](Operators::watch) the connection again afterwards.
    pub(crate) fn on_connection(&mut self, id: u32, flags: EpollFlags) -> Option<Request> {
        match self.server.interest(id) {
            Interest::Read if flags.contains(EpollFlags::EPOLLIN) => return self.server.read(id),
            Interest::Write if flags.contains(EpollFlags::EPOLLOUT) => self.server.write(id),
            Interest::Read | Interest::Write | Interest::Answer => {
                if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                    self.server.forget(id);
                }
            }
            Interest::Gone => {}
        }
        None
    }

    /// Watches a connection for what it waits for now, after something was read or written.
    pub(crate) fn watch(&mut self, id: u32) {
        let flags = match self.server.interest(id) {
            Interest::Read => EpollFlags::EPOLLIN,
            Interest::Write => EpollFlags::EPOLLOUT,
            Interest::Answer => EpollFlags::empty(),
            Interest::Gone => return,
        };
        if let Some(stream) = self.server.stream(id) {
            if let Err(error) = stream.watch_for(flags) {
                log::error!("control: cannot watch a connection: {error}");
                self.server.forget(id);
            }
        }
    }

    fn answer(&mut self, connection: u32, response: &Response) {
        self.server.answer(connection, response);
        self.watch(connection);
    }

    /// Sends lines of an answer.
    pub(crate) fn say(&mut self, connection: Option<u32>, text: &str) {
        if let Some(connection) = connection {
            self.answer(connection, &Response::Out(text.to_owned()));
        }
    }

    /// Tells the operator who follows the reload under way what happens in it. This is
    /// logged elsewhere.
    pub(crate) fn progress(&mut self, text: &str) {
        if let Some(connection) = self.follower {
            self.answer(connection, &Response::Progress(text.to_owned()));
        }
    }

    /// Tells operators who wait for that child, or follow a reload, that its state has
    /// changed.
    pub(crate) fn tell_of(&mut self, child: &Supervised) {
        let name = &child.config.name;
        let mut followers: BTreeSet<u32> = self.follower.into_iter().collect();
        followers.extend(self.waiters.iter().filter_map(|waiter| match waiter {
            Waiter::Children { connection, names, .. } if names.contains(name) => Some(*connection),
            _ => None,
        }));
        if followers.is_empty() {
            return;
        }
        let what = match (child.machine.state, child.machine.trouble(Instant::now())) {
            (State::Up { pid, .. }, _) => format!("{name}: up, process {pid}"),
            (State::Backoff { .. } | State::Failed, Some(why)) => format!("{name}: {}, {why}", child.state()),
            _ => format!("{name}: {}", child.state()),
        };
        for connection in followers {
            self.answer(connection, &Response::Progress(what.clone()));
        }
    }

    /// Ends an answer with an error.
    pub(crate) fn refuse(&mut self, connection: Option<u32>, why: &str) {
        self.refuse_as(connection, why, 1);
    }

    /// Ends an answer with an error and that exit status.
    pub(crate) fn refuse_as(&mut self, connection: Option<u32>, why: &str, exit: u8) {
        if let Some(connection) = connection {
            self.server.answer(connection, &Response::Err(why.to_owned()));
            self.finish(Some(connection), exit);
        }
    }

    /// Ends an answer with the exit status of the operator's command.
    pub(crate) fn finish(&mut self, connection: Option<u32>, exit: u8) {
        if self.follower == connection {
            self.follower = None;
        }
        if let Some(connection) = connection {
            self.answer(connection, &Response::Exit(exit));
        }
    }
}
