//! The control socket: operators' connections, with one request each.
//!
//! Only root and the daemon's own user are served. The kernel says who a client is
//! (SO_PEERCRED, unix(7)), and the socket's mode 0600 keeps the others out as well.

use crate::control::{Decoder, Request, Response};
use crate::supervisor::kept::names::{Found, Names};
use crate::supervisor::kept::unix_name::{self, Name};
use crate::supervisor::poll::{Poll, Token, Watched};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Instant;

/// At most this many connections may have sent no request yet; beyond that the oldest is closed.
const MOST: usize = 64;
/// A client that reads nothing is disconnected once this much waits for it.
const UNREAD_MAX: usize = 4 << 20;
/// How many operators may wait to be accepted.
const BACKLOG: i32 = 128;

/// The control socket and its connections.
#[derive(Debug)]
pub struct Server {
    poll: Poll,
    listener: Watched<UnixListener>,
    name: Name,
    connections: BTreeMap<u32, Connection>,
    next: u32,
    closed: bool,
}

#[derive(Debug)]
struct Connection {
    stream: Watched<UnixStream>,
    decoder: Decoder,
    out: Vec<u8>,
    asked: bool,
    last: bool,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Its request: report when it can be read.
    Read,
    /// Room for more of its answer: report when it can be written.
    Write,
    /// Its answer: report only when it hangs up.
    Answer,
    /// Nothing: it is closed.
    Gone,
}

impl Server {
    /// Takes over the socket that was made at that path, with mode 0600, in place of one on
    /// which nobody listened. Connections wait until [`listen`](Server::listen).
    ///
    /// # Errors
    /// `cannot listen on PATH: cause`, for example because another daemon listens there.
    pub(crate) fn at(path: &Path, names: &mut Names, poll: &Poll) -> Result<Server, String> {
        let cannot = |e: io::Error| match e.kind() {
            ErrorKind::AddrInUse => format!(
                "cannot listen on {}: another plumbd runs there (or the path is no socket): \
                 stop it with `plumbd shutdown --control {}`, or set daemon.control to another path",
                path.display(),
                path.display()
            ),
            _ => format!("cannot listen on {}: {e}", path.display()),
        };
        let Found::New(socket, name) = names.take(path).map_err(cannot)? else {
            return Err(cannot(ErrorKind::AddrInUse.into()));
        };
        let watched = unix_name::listen_now(&socket, BACKLOG).and_then(|()| {
            let listener = UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            poll.watch(listener, EpollFlags::empty(), Token::Control)
        });
        match watched {
            Ok(listener) => {
                let (poll, connections) = (poll.clone(), BTreeMap::new());
                Ok(Server { poll, listener, name, connections, next: 0, closed: false })
            }
            Err(error) => {
                name.remove();
                Err(cannot(error))
            }
        }
    }

    /// Sets whether new connections are reported from now on.
    pub fn listen(&self, yes: bool) {
        let flags = if yes { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        if let Err(error) = self.listener.watch_for(flags) {
            log::error!("cannot watch the control socket: {error}");
        }
    }

    /// Whether that is its path, and its name is still there.
    pub fn is_at(&self, path: &Path) -> bool {
        self.name.path() == path && self.name.is_there()
    }

    /// Listens where `other` does from now on; its own connections stay.
    pub fn move_to(&mut self, mut other: Server) {
        std::mem::swap(&mut self.listener, &mut other.listener);
        std::mem::swap(&mut self.name, &mut other.name);
        // `other` now has the old name, which is removed when it is dropped.
        self.listen(true);
    }

    /// Accepts one new connection, if there is one.
    ///
    /// # Errors
    /// From accept(2), EMFILE and ENFILE among them, or from epoll_ctl(2).
    pub fn accept(&mut self) -> io::Result<()> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) =>
            {
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
        if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
            log::warn!(
                "control: refused process {} of user {}: only root and the daemon's own user may connect",
                peer.pid(),
                peer.uid()
            );
            return Ok(());
        }
        stream.set_nonblocking(true)?;
        let mut idle = self.connections.iter().filter(|(_, c)| !c.asked).map(|(&id, _)| id);
        if let (Some(oldest), true) = (idle.next(), idle.count() + 1 >= MOST) {
            log::warn!("control: closed a connection that has asked for nothing, because there were {MOST} of them");
            self.connections.remove(&oldest);
        }
        self.next = self.next.wrapping_add(1);
        let stream = self.poll.watch(stream, EpollFlags::EPOLLIN, Token::Connection(self.next))?;
        let connection = Connection { stream, decoder: Decoder::default(), out: Vec::new(), asked: false, last: false };
        self.connections.insert(self.next, connection);
        Ok(())
    }

    /// Reads from a connection. Returns the request once it is complete. Anything that is not
    /// a request is refused and logged, and ends the connection.
    pub fn read(&mut self, id: u32) -> Option<Request> {
        let connection = self.connections.get_mut(&id)?;
        let mut bytes = [0u8; 4096];
        match connection.stream.read(&mut bytes) {
            Ok(0) => {
                self.connections.remove(&id);
                return None;
            }
            Ok(n) => connection.decoder.feed(&bytes[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return None,
            Err(_) => {
                self.connections.remove(&id);
                return None;
            }
        }
        match connection.decoder.next_request()? {
            Ok(request) => {
                connection.asked = true;
                Some(request)
            }
            Err(why) => {
                log::warn!("control: {why}");
                connection.asked = true;
                self.answer(id, &Response::Err(why));
                self.answer(id, &Response::Exit(1));
                None
            }
        }
    }

    /// Sends a response; [`Response::Exit`] is the last one.
    pub fn answer(&mut self, id: u32, response: &Response) {
        self.send(id, &response.line(), matches!(response, Response::Exit(_)));
    }

    /// Sends the lines of several answers at once; whether the last one is the last word.
    pub fn send(&mut self, id: u32, lines: &[u8], last: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.last |= last;
        connection.out.extend_from_slice(lines);
        self.write(id);
    }

    /// How many bytes wait for that connection to read; `None`: it is gone.
    pub fn unread(&self, id: u32) -> Option<usize> {
        self.connections.get(&id).map(|connection| connection.out.len())
    }

    /// Writes as much as the connection takes now.
    pub fn write(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        while !connection.out.is_empty() {
            match connection.stream.write(&connection.out) {
                Ok(n) => {
                    connection.out.drain(..n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock && connection.out.len() < UNREAD_MAX => return,
                Err(_) => {
                    self.connections.remove(&id);
                    return;
                }
            }
        }
        if connection.last && !self.closed {
            self.connections.remove(&id);
        }
    }

    /// Waits until one of these connections takes more, until that time. Writes what they take.
    /// Returns whether one did.
    pub fn write_later(&mut self, ids: &[u32], until: Instant) -> bool {
        let streams = ids.iter().filter_map(|id| self.connections.get(id)).map(|connection| &connection.stream);
        let mut fds: Vec<PollFd> = streams.map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLOUT)).collect();
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || fds.is_empty() {
            return false;
        }
        let ready = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        ids.iter().for_each(|&id| self.write(id));
        // Another signal may come just now.
        !matches!(ready, Ok(0))
    }

    /// Forgets a connection that hung up.
    pub fn forget(&mut self, id: u32) {
        self.connections.remove(&id);
    }

    /// What that connection waits for.
    pub fn interest(&self, id: u32) -> Interest {
        match self.connections.get(&id) {
            None => Interest::Gone,
            Some(c) if !c.out.is_empty() => Interest::Write,
            Some(c) if c.asked => Interest::Answer,
            Some(_) => Interest::Read,
        }
    }

    /// The connection's watch.
    pub fn stream(&self, id: u32) -> Option<&Watched<UnixStream>> {
        self.connections.get(&id).map(|c| &c.stream)
    }

    /// Removes the socket's name, and returns the process aside that [does](Name::remove) it,
    /// if there is one. Connections stay open: operators who wait for the end see it when this
    /// process is gone.
    pub fn close(&mut self) -> Option<Pid> {
        if std::mem::replace(&mut self.closed, true) { None } else { self.name.remove() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}
