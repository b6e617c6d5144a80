//! The control socket: operators' connections, one request each.
//!
//! Only root and the daemon's own user are served, by the kernel's word
//! (SO_PEERCRED, unix(7)); the socket's mode 0600 says the same.

use super::sockets::clear_stale;
use crate::control::{Decoder, Request, Response};
use nix::sys::socket::{UnixAddr, getsockopt, sockopt};
use nix::sys::stat::{Mode, umask};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// More connections than this, and the oldest that waits for nothing goes.
const MOST: usize = 64;
/// A client that reads nothing is let go once this much waits for it.
const UNREAD_MAX: usize = 4 << 20;

/// The control socket and its connections.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// The name's own device and inode, so that another's is not taken for it.
    name: Option<(u64, u64)>,
    connections: BTreeMap<u32, Connection>,
    next: u32,
    closed: bool,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
    asked: bool,
    last: bool,
}

/// What a connection wants of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Tell when it can be read.
    Read,
    /// Tell when it can be written.
    Write,
    /// It waits for its answer: tell only when it hangs up.
    Answer,
    /// It is over: forget it.
    Gone,
}

impl Server {
    /// Binds the socket, with mode 0600, in place of one that nobody listens on.
    ///
    /// # Errors
    /// `cannot listen on PATH: cause`; another daemon there is one.
    pub fn bind(path: &Path) -> Result<Server, String> {
        let listener = Server::open(path).map_err(|e| match e.kind() {
            ErrorKind::AddrInUse => format!(
                "cannot listen on {}: another plumbd runs there (or the path is no socket): \
                 stop it with `plumbd shutdown --control {}`, or set daemon.control to another path",
                path.display(),
                path.display()
            ),
            _ => format!("cannot listen on {}: {e}", path.display()),
        })?;
        let name = inode(path);
        Ok(Server { listener, path: path.to_owned(), name, connections: BTreeMap::new(), next: 0, closed: false })
    }

    fn open(path: &Path) -> io::Result<UnixListener> {
        clear_stale(path, &UnixAddr::new(path)?)?;
        // One thread, so nobody else creates a file meanwhile.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Whether that is its path, and its name is still there.
    pub fn is_at(&self, path: &Path) -> bool {
        self.path == path && inode(path) == self.name
    }

    /// Listens where `other` does from now on; its connections stay.
    pub fn move_to(&mut self, mut other: Server) {
        self.remove_name();
        std::mem::swap(&mut self.listener, &mut other.listener);
        self.path = std::mem::take(&mut other.path);
        self.name = other.name;
        // Its name is this one's now.
        other.closed = true;
    }

    fn remove_name(&self) {
        // Somebody may have removed it, and another daemon have its own there.
        if inode(&self.path) != self.name {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }

    /// Takes one new connection; `None`: no more now.
    ///
    /// # Errors
    /// From accept(2), EMFILE and ENFILE among them.
    pub fn accept(&mut self) -> io::Result<Option<u32>> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
        if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
            log::warn!(
                "control: refused process {} of user {}: only root and the daemon's own user may",
                peer.pid(),
                peer.uid()
            );
            return Ok(None);
        }
        stream.set_nonblocking(true)?;
        if self.connections.len() >= MOST {
            let idle = self.connections.iter().find(|(_, c)| !c.asked).map(|(&id, _)| id);
            if let Some(id) = idle {
                self.connections.remove(&id);
            }
        }
        self.next = self.next.wrapping_add(1);
        let connection = Connection { stream, decoder: Decoder::default(), out: Vec::new(), asked: false, last: false };
        self.connections.insert(self.next, connection);
        Ok(Some(self.next))
    }

    /// Reads what came on a connection; a request, once it is whole. What is
    /// none is refused, logged, and ends the connection.
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

    /// Answers; [`Response::Exit`] is the last word.
    pub fn answer(&mut self, id: u32, response: &Response) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.last |= matches!(response, Response::Exit(_));
        connection.out.extend_from_slice(&response.line());
        self.write(id);
    }

    /// Writes what the connection takes now.
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

    /// The connection, to be watched.
    pub fn stream(&self, id: u32) -> Option<&UnixStream> {
        self.connections.get(&id).map(|c| &c.stream)
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Server {
    /// Gives the socket's name up. Connections stay: those who wait for the
    /// end see it when this process is gone.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.remove_name();
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|data| (data.dev(), data.ino()))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}
