//! What carries a connection's bytes. Nothing here blocks.
//!
//! Apart from its system call, a read or a write costs only a match on the kind of transport.

use crate::sys::socket;
use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How many bytes the kernel takes from a client that is not read. It may count twice as
/// many, for overhead (SO_RCVBUF, socket(7)). Without this, it would start with half as
/// much, and grow to megabytes.
pub(super) const UNREAD: usize = 128 * 1024;
/// How many bytes the kernel takes for a client whose own kernel has no room. It may take up
/// to a segment more.
const UNSENT: i32 = 64 * 1024;
/// How often a client that vanished is probed. The probes take as long as the silence before
/// them.
const PROBES: u32 = 4;

/// The options of every TCP connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// In seconds; 0 means off.
    keepalive: u32,
}

impl Options {
    pub(super) fn new(keepalive: Duration) -> Options {
        let seconds = keepalive.as_millis().div_ceil(1000);
        Options { keepalive: u32::try_from(seconds).unwrap_or(u32::MAX) }
    }

    /// Sets them on a connection, or on a listening socket, from which accepted sockets
    /// inherit them. Echoes are not held back until more bytes join them; urgent data stays in
    /// its place among the other bytes; the kernel's buffers are bounded; a client that
    /// vanished is noticed.
    ///
    /// TCP_USER_TIMEOUT is not set, because it would also close a client that merely reads
    /// nothing, whatever `send_timeout` says, and at the first unanswered probe (tcp(7)).
    ///
    /// # Errors
    /// EINVAL for a connection that is already reset.
    pub(super) fn set(self, socket: impl AsFd) -> io::Result<()> {
        setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
        setsockopt(&socket, sockopt::OobInline, &true)?;
        setsockopt(&socket, sockopt::RcvBuf, &UNREAD)?;
        socket::limit_unsent(&socket, UNSENT)?;
        setsockopt(&socket, sockopt::KeepAlive, &(self.keepalive > 0))?;
        if self.keepalive > 0 {
            setsockopt(&socket, sockopt::TcpKeepIdle, &self.keepalive)?;
            setsockopt(&socket, sockopt::TcpKeepInterval, &self.keepalive.div_ceil(PROBES))?;
            setsockopt(&socket, sockopt::TcpKeepCount, &PROBES)?;
        }
        Ok(())
    }
}

/// The outcome of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// This many bytes.
    Bytes(usize),
    /// There is nothing to read now.
    Nothing,
    /// The client has ended its side, and nothing is left.
    End,
    /// The connection broke, and nothing is left.
    Broken,
}

/// The connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

/// A connection's transport.
#[derive(Debug)]
pub(super) enum Transport {
    /// TCP.
    Tcp(OwnedFd),
}

impl Transport {
    /// Reads once.
    pub(super) fn read(&mut self, room: &mut [u8]) -> Read {
        match self {
            Transport::Tcp(socket) => receive(socket, room, MsgFlags::MSG_DONTWAIT),
        }
    }

    /// What a read would return, without taking a byte. The count is always 1.
    pub(super) fn peek(&mut self) -> Read {
        match self {
            Transport::Tcp(socket) => receive(socket, &mut [0], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK),
        }
    }

    /// Writes once, and returns how many bytes were taken: none while there is no room.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let Transport::Tcp(socket) = self;
        loop {
            match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => return Ok(sent),
                Err(Errno::EAGAIN) => return Ok(0),
                Err(Errno::EINTR) => {}
                Err(_) => return Err(Broken),
            }
        }
    }

    /// Sends the end (FIN).
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn finish(&mut self) -> Result<(), Broken> {
        match self {
            Transport::Tcp(socket) => shutdown(socket.as_raw_fd(), Shutdown::Write).map_err(|_| Broken),
        }
    }

    /// How many bytes have arrived but were not read yet; 0 if it broke.
    pub(super) fn pending(&self) -> usize {
        match self {
            Transport::Tcp(socket) => socket::unread(socket).unwrap_or(0),
        }
    }

    /// How many of the sent bytes the client's kernel has not acknowledged; 0 if it broke. A
    /// kernel acknowledges only what it has room for, so it soon stops if its program does
    /// not read.
    pub(super) fn unacknowledged(&self) -> usize {
        match self {
            Transport::Tcp(socket) => socket::unacknowledged(socket).unwrap_or(0),
        }
    }

    /// Makes a later close drop what the kernel still holds and reset the connection.
    pub(super) fn reset_when_closed(&self) {
        let Transport::Tcp(socket) = self;
        // An error means that it is already broken, which has the same effect.
        let _broken = setsockopt(socket, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 });
    }

    /// After a close, the kernel keeps sending what it still holds. This makes it give up
    /// when the client acknowledges nothing for this many milliseconds; 0 means the kernel's
    /// default.
    pub(super) fn give_up_when_closed(&self, milliseconds: u32) {
        let Transport::Tcp(socket) = self;
        // An error means that it broke, so nothing is left to be sent.
        let _broken = setsockopt(socket, sockopt::TcpUserTimeout, &milliseconds);
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Transport::Tcp(socket) => socket.as_fd(),
        }
    }
}

/// recv(2).
fn receive(socket: &OwnedFd, room: &mut [u8], flags: MsgFlags) -> Read {
    loop {
        match recv(socket.as_raw_fd(), room, flags) {
            Ok(0) => return Read::End,
            Ok(count) => return Read::Bytes(count),
            Err(Errno::EAGAIN) => return Read::Nothing,
            Err(Errno::EINTR) => {}
            Err(_) => return Read::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write};
    use std::net::{TcpListener, TcpStream};

    fn connected() -> (Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
        (Transport::Tcp(listener.accept().expect("it waits").0.into()), client)
    }

    #[test]
    fn a_peek_returns_what_a_read_would() {
        let (mut transport, mut client) = connected();
        assert_eq!((transport.peek(), transport.read(&mut [0; 8])), (Read::Nothing, Read::Nothing));
        client.write_all(b"abc").expect("room");
        while transport.pending() < 3 {}
        assert_eq!((transport.peek(), transport.read(&mut [0; 8])), (Read::Bytes(1), Read::Bytes(3)));
        client.shutdown(std::net::Shutdown::Write).expect("connected");
        while transport.peek() == Read::Nothing {}
        assert_eq!((transport.peek(), transport.read(&mut [0; 8])), (Read::End, Read::End));
    }

    #[test]
    fn a_connection_reset_at_close_is_broken_at_the_other_end() {
        let (mut transport, client) = connected();
        assert_eq!(transport.write(b"abc"), Ok(3));
        let mut other = Transport::Tcp(client.into());
        while other.pending() < 3 {}
        transport.reset_when_closed();
        drop(transport);
        while other.peek() != Read::Broken && other.read(&mut [0; 8]) != Read::Broken {}
        assert_eq!(other.write(b"x"), Err(Broken));
    }

    #[test]
    fn the_end_comes_after_all_that_was_written() {
        let (mut transport, mut client) = connected();
        assert_eq!(transport.write(b"abc"), Ok(3));
        transport.finish().expect("connected");
        let mut all = Vec::new();
        client.read_to_end(&mut all).expect("an end");
        assert_eq!(all, b"abc");
    }
}
