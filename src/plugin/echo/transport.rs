//! What carries a connection's bytes: nothing here waits.
//!
//! A match on the kind of transport is all that a read or a write costs beside its system
//! call.

use crate::sys::socket;
use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How many bytes the kernel takes from a client that is not read: it may count twice as
/// many, for overhead (SO_RCVBUF, socket(7)). Its default without this starts at half as
/// much, and grows to megabytes.
pub(super) const UNREAD: usize = 128 * 1024;
/// How many bytes the kernel takes for a client whose own kernel has no room: at most a
/// segment more.
const UNSENT: i32 = 64 * 1024;
/// How often a client that vanished is probed, in as long again as it was silent.
const PROBES: u32 = 4;

/// The options of every TCP connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// Seconds; 0: none.
    keepalive: u32,
}

impl Options {
    pub(super) fn new(keepalive: Duration) -> Options {
        let seconds = keepalive.as_millis().div_ceil(1000);
        Options { keepalive: u32::try_from(seconds).unwrap_or(u32::MAX) }
    }

    /// Sets them on a connection, or on a listening socket, from which accepted sockets
    /// inherit them. An echo is not held back for more to join it; urgent data stays in
    /// its place among the other bytes; the kernel's buffers are bounded; a client that
    /// vanished is noticed.
    ///
    /// TCP_USER_TIMEOUT is not set: it would also close a client that only reads nothing,
    /// whatever `send_timeout` says, and at the first probe without an answer (tcp(7)).
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

/// What a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// This many bytes.
    Bytes(usize),
    /// Nothing is there now.
    Nothing,
    /// The client sends no more, and nothing is left.
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

    /// What a read would come to, without taking a byte.
    pub(super) fn peek(&mut self) -> Read {
        match self {
            Transport::Tcp(socket) => receive(socket, &mut [0], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK),
        }
    }

    /// Writes once; how many of the bytes went, which is none while there is no room.
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

    /// Says that nothing more is sent.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn finish(&mut self) -> Result<(), Broken> {
        match self {
            Transport::Tcp(socket) => shutdown(socket.as_raw_fd(), Shutdown::Write).map_err(|_| Broken),
        }
    }

    /// How many bytes have arrived and were not read yet; 0 if it broke.
    pub(super) fn pending(&self) -> usize {
        match self {
            Transport::Tcp(socket) => socket::unread(socket).unwrap_or(0),
        }
    }

    /// How many of the bytes that were sent the client's kernel has not acknowledged; 0 if
    /// it broke. A kernel that has no room says so, and therefore does not acknowledge for
    /// long what its program does not read.
    pub(super) fn unacknowledged(&self) -> usize {
        match self {
            Transport::Tcp(socket) => socket::unacknowledged(socket).unwrap_or(0),
        }
    }

    /// Once it is closed, the kernel drops what it still holds, and resets the connection.
    pub(super) fn reset_when_closed(&self) {
        let Transport::Tcp(socket) = self;
        // An error means that it broke by itself, which does the same.
        let _broken = setsockopt(socket, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 });
    }

    /// Once it is closed, the kernel keeps sending what it still holds, but gives up when
    /// the client acknowledges nothing for this many milliseconds; 0: as the kernel likes.
    pub(super) fn give_up_when_closed(&self, milliseconds: u32) {
        let Transport::Tcp(socket) = self;
        // An error means that it broke: nothing is left to be sent.
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
    fn a_peek_says_what_a_read_would_come_to() {
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
    fn one_that_is_reset_when_closed_is_broken_at_the_other_end() {
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
