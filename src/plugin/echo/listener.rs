//! The door: which clients come in, and when nobody does for now.

use super::settings::Settings;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, setsockopt, sockopt};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A listening socket that the supervisor holds.
#[derive(Debug)]
pub(super) enum Listener {
    /// IPv4, or IPv6 (which may take IPv4 clients too).
    Tcp(TcpListener),
}

impl Listener {
    /// What kind of socket it is.
    ///
    /// # Errors
    /// Where it is no kind that is served, or the kernel refuses an option.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Listener> {
        let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        let inet = address.as_sockaddr_in().is_some() || address.as_sockaddr_in6().is_some();
        if !inet || getsockopt(&fd, sockopt::SockType)? != SockType::Stream {
            return Err(io::Error::other(format!("no TCP socket (address family {:?})", address.family())));
        }
        let listener = TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        // Accepted sockets inherit both: an echo is not held back for more to
        // join it, and a client that vanished is found out in the end.
        setsockopt(&listener, sockopt::TcpNoDelay, &true)?;
        setsockopt(&listener, sockopt::KeepAlive, &true)?;
        Ok(Listener::Tcp(listener))
    }

    fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        match self {
            Listener::Tcp(listener) => listener.accept().map(|(socket, peer)| (socket.into(), plain(peer))),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// An IPv4 client of an IPv6 socket is shown, counted and matched as what it is.
fn plain(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// What came of letting one in.
#[derive(Debug)]
pub(super) enum Accepted {
    /// A client.
    Client(OwnedFd, SocketAddr),
    /// One that may not come in; it is closed already.
    Refused,
    /// One that is gone again.
    Vanished,
    /// Nobody waits.
    Nobody,
    /// No descriptors or memory: let nobody in for a while.
    Exhausted(io::Error),
}

/// All listening sockets, and the rules for who comes in.
#[derive(Debug)]
pub(super) struct Door {
    listeners: Vec<Listener>,
    first_token: u64,
    open: bool,
    allow: Vec<IpNet>,
    per_address: usize,
    from: HashMap<IpAddr, usize>,
}

impl Door {
    /// A closed door. Events of listener `n` come with the token `first_token + n`.
    pub(super) fn new(listeners: Vec<Listener>, first_token: u64, settings: &Settings) -> Door {
        Door {
            listeners,
            first_token,
            open: false,
            allow: settings.allow.clone(),
            per_address: settings.max_connections_per_address,
            from: HashMap::new(),
        }
    }

    /// Watches the listening sockets. Of several instances that share them one
    /// is woken for a client, not all (EPOLLEXCLUSIVE, epoll_ctl(2)).
    ///
    /// # Errors
    /// ENOMEM, ENOSPC from epoll_ctl(2).
    pub(super) fn open(&mut self, epoll: &Epoll) -> io::Result<()> {
        if !self.open {
            for (token, listener) in (self.first_token..).zip(&self.listeners) {
                epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE, token))?;
            }
            self.open = true;
        }
        Ok(())
    }

    /// Leaves new clients in the backlog, or to other instances.
    ///
    /// # Errors
    /// From epoll_ctl(2): never for what is watched.
    pub(super) fn close(&mut self, epoll: &Epoll) -> io::Result<()> {
        if self.open {
            for listener in &self.listeners {
                epoll.delete(listener)?;
            }
            self.open = false;
        }
        Ok(())
    }

    /// How many listening sockets there are.
    pub(super) fn listeners(&self) -> usize {
        self.listeners.len()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Lets one in at listener `n`.
    ///
    /// # Errors
    /// Where the listening socket is no good any more.
    pub(super) fn accept(&mut self, n: usize) -> io::Result<Accepted> {
        let (socket, peer) = match self.listeners[n].accept() {
            Ok(accepted) => accepted,
            Err(error) => return failed(error),
        };
        let welcome = self.allow.iter().any(|net| net.contains(&peer.ip()));
        if !welcome || !self.enter(peer.ip()) {
            return Ok(Accepted::Refused);
        }
        Ok(Accepted::Client(socket, peer))
    }

    fn enter(&mut self, from: IpAddr) -> bool {
        if self.per_address == 0 {
            return true;
        }
        let count = self.from.entry(from).or_default();
        let room = *count < self.per_address;
        *count += usize::from(room);
        room
    }

    /// A client from there is gone.
    pub(super) fn left(&mut self, from: IpAddr) {
        if self.per_address == 0 {
            return;
        }
        if let Some(count) = self.from.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                self.from.remove(&from);
            }
        }
    }
}

/// accept(2): which errors are about the client that came, which about this
/// process, and which about the listening socket.
fn failed(error: io::Error) -> io::Result<Accepted> {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::EAGAIN => Ok(Accepted::Nobody),
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => Ok(Accepted::Exhausted(error)),
        Errno::ECONNABORTED
        | Errno::EPERM
        | Errno::EPROTO
        | Errno::ENETDOWN
        | Errno::ENOPROTOOPT
        | Errno::EHOSTDOWN
        | Errno::ENONET
        | Errno::EHOSTUNREACH
        | Errno::EOPNOTSUPP
        | Errno::ENETUNREACH
        | Errno::ETIMEDOUT => Ok(Accepted::Vanished),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn door(settings: &Settings) -> (Door, SocketAddr) {
        let listener = TcpListener::bind("[::]:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let listener = Listener::new(listener.into()).expect("a TCP socket");
        (Door::new(vec![listener], 100, settings), SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn come(door: &mut Door, to: SocketAddr) -> (TcpStream, Accepted) {
        let client = TcpStream::connect(to).expect("listening");
        (client, door.accept(0).expect("a listening socket"))
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_is_an_ipv4_client() {
        let settings = Settings { allow: vec!["127.0.0.0/8".parse().expect("a network")], ..Settings::default() };
        let (mut door, to) = door(&settings);
        let (client, accepted) = come(&mut door, to);
        let Accepted::Client(socket, peer) = accepted else { panic!("{accepted:?}") };
        assert_eq!(peer, client.local_addr().expect("connected"));
        assert!(TcpStream::from(socket).nodelay().expect("a TCP socket"), "inherited");
        assert!(matches!(door.accept(0), Ok(Accepted::Nobody)));
    }

    #[test]
    fn others_than_the_allowed_are_refused() {
        let settings = Settings { allow: vec!["10.0.0.0/8".parse().expect("a network")], ..Settings::default() };
        let (mut door, to) = door(&settings);
        assert!(matches!(come(&mut door, to).1, Accepted::Refused));
    }

    #[test]
    fn clients_from_one_address_are_counted() {
        let settings = Settings { max_connections_per_address: 2, ..Settings::default() };
        let (mut door, to) = door(&settings);
        let welcome: Vec<_> = (0..3).map(|_| matches!(come(&mut door, to).1, Accepted::Client(..))).collect();
        assert_eq!(welcome, [true, true, false]);
        door.left(to.ip());
        assert!(matches!(come(&mut door, to).1, Accepted::Client(..)));
        door.left(to.ip());
        door.left(to.ip());
        assert!(door.from.is_empty());
    }

    #[test]
    fn a_socket_of_another_kind_is_an_error() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        assert!(Listener::new(udp.into()).expect_err("no TCP").to_string().starts_with("no TCP socket"));
    }
}
