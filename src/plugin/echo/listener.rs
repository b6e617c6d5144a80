//! The door: which clients come in, and when nobody does for now.

use super::addresses::Addresses;
use super::fates::Fate;
use super::settings::Settings;
use crate::sys::socket;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, setsockopt, sockopt};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// How much the kernel takes of a client that is not read: it may count twice as many
/// bytes, for what goes along (SO_RCVBUF, socket(7)). Its default without this is half
/// as much to begin with, and grows to megabytes.
const UNREAD: usize = 128 * 1024;
/// How much the kernel takes for a client whose own has no room: a segment more at most.
const UNSENT: i32 = 64 * 1024;
/// A vanished client is asked so often, in as long again as it was silent.
const PROBES: u32 = 4;

/// The options of every connection's socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// Seconds; 0: none.
    keepalive: u32,
}

impl Options {
    pub(super) fn new(settings: &Settings) -> Options {
        let seconds = settings.keepalive_ms.div_ceil(1000);
        Options { keepalive: u32::try_from(seconds).unwrap_or(u32::MAX) }
    }

    /// An echo is not held back for more to join it; urgent data stands where it was
    /// sent, as bytes like any other; the kernel's part is bounded; a client that
    /// vanished is found out.
    ///
    /// Not TCP_USER_TIMEOUT, which would also close a client that only reads nothing,
    /// whatever `send_timeout` says, and at the first probe without an answer (tcp(7)).
    fn set(self, socket: impl AsFd) -> io::Result<()> {
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

/// A listening socket that the supervisor holds: IPv4, or IPv6 (which may take IPv4
/// clients too).
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    options: Options,
    /// Those that came before it had the options have not inherited them. They are let
    /// in before all others: until nobody waits, each is given its own.
    inherits: bool,
}

impl Listener {
    /// What kind of socket it is.
    ///
    /// # Errors
    /// Where it is no kind that is served, or the kernel refuses an option.
    pub(super) fn new(fd: OwnedFd, options: Options) -> io::Result<Listener> {
        let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        let inet = address.as_sockaddr_in().is_some() || address.as_sockaddr_in6().is_some();
        if !inet || getsockopt(&fd, sockopt::SockType)? != SockType::Stream {
            return Err(io::Error::other(format!("no TCP socket (address family {:?})", address.family())));
        }
        let socket = TcpListener::from(fd);
        socket.set_nonblocking(true)?;
        // Accepted sockets inherit them.
        options.set(&socket)?;
        Ok(Listener { socket, options, inherits: false })
    }

    fn accept(&mut self) -> io::Result<(OwnedFd, SocketAddr)> {
        let (client, peer) = self.socket.accept().inspect_err(|error| {
            self.inherits |= error.kind() == io::ErrorKind::WouldBlock;
        })?;
        if !self.inherits {
            // It is gone again already.
            self.options.set(&client).map_err(|_| Errno::ECONNABORTED)?;
        }
        Ok((client.into(), plain(peer)))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
    /// One that may not come in, and why; it is closed already.
    Refused(SocketAddr, Fate),
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
    addresses: Addresses,
}

impl Door {
    /// A closed door. Events of listener `n` come with the token `first_token + n`.
    pub(super) fn new(listeners: Vec<Listener>, first_token: u64, allow: Vec<IpNet>, addresses: Addresses) -> Door {
        Door { listeners, first_token, open: false, allow, addresses }
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

    /// Closes the listening sockets for good: another process that has them goes on, and
    /// if none has, their addresses are free.
    ///
    /// # Errors
    /// As [`Door::close`].
    pub(super) fn shut(&mut self, epoll: &Epoll) -> io::Result<()> {
        self.close(epoll)?;
        self.listeners.clear();
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
        if !self.allow.iter().any(|net| net.contains(&peer.ip())) {
            return Ok(Accepted::Refused(peer, Fate::NotAllowed));
        }
        if !self.addresses.enter(peer.ip()) {
            return Ok(Accepted::Refused(peer, Fate::TooManyOfItsAddress));
        }
        Ok(Accepted::Client(socket, peer))
    }

    /// A client from there is gone.
    pub(super) fn left(&mut self, from: IpAddr) {
        self.addresses.left(from);
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
    use nix::sys::epoll::EpollCreateFlags;
    use std::net::TcpStream;

    fn door(settings: &Settings) -> (Door, SocketAddr) {
        let listener = TcpListener::bind("[::]:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let listener = Listener::new(listener.into(), Options::new(settings)).expect("a TCP socket");
        (behind(listener, settings), SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn behind(listener: Listener, settings: &Settings) -> Door {
        let addresses = Addresses::new(settings.max_connections_per_address, settings.ipv6_prefix, None);
        Door::new(vec![listener], 100, settings.allow.clone(), addresses)
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
        assert!(TcpStream::from(socket).nodelay().expect("a TCP socket"));
        assert!(matches!(door.accept(0), Ok(Accepted::Nobody)));
    }

    fn options(socket: &OwnedFd) -> (bool, bool, usize, Option<(u32, u32, u32)>) {
        let get = |_| {
            let idle = getsockopt(socket, sockopt::TcpKeepIdle).expect("a TCP socket");
            let interval = getsockopt(socket, sockopt::TcpKeepInterval).expect("a TCP socket");
            (idle, interval, getsockopt(socket, sockopt::TcpKeepCount).expect("a TCP socket"))
        };
        (
            getsockopt(socket, sockopt::TcpNoDelay).expect("a TCP socket"),
            getsockopt(socket, sockopt::OobInline).expect("a socket"),
            getsockopt(socket, sockopt::RcvBuf).expect("a socket"),
            getsockopt(socket, sockopt::KeepAlive).expect("a socket").then_some(()).map(get),
        )
    }

    #[test]
    fn clients_that_came_before_and_after_have_the_same_options() {
        for (keepalive_ms, probes) in [(60_000, Some((60, 15, 4))), (1, Some((1, 1, 4))), (0, None)] {
            let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let to = socket.local_addr().expect("bound");
            // One before this one may have set it otherwise.
            setsockopt(&socket, sockopt::KeepAlive, &true).expect("a socket");
            let before = [TcpStream::connect(to), TcpStream::connect(to)];
            let settings = Settings { keepalive_ms, ..Settings::default() };
            let listener = Listener::new(socket.into(), Options::new(&settings)).expect("a TCP socket");
            let mut door = behind(listener, &settings);
            let mut came = Vec::new();
            for _ in &before {
                let Ok(Accepted::Client(socket, _)) = door.accept(0) else { panic!("one waits") };
                came.push(options(&socket));
            }
            assert!(matches!(door.accept(0), Ok(Accepted::Nobody)));
            let (_client, after) = come(&mut door, to);
            let Accepted::Client(socket, _) = after else { panic!("{after:?}") };
            came.push(options(&socket));
            assert_eq!(came, vec![(true, true, came[0].2, probes); 3]);
            assert!((UNREAD..=2 * UNREAD).contains(&came[0].2), "{} bytes", came[0].2);
        }
    }

    #[test]
    fn a_door_that_is_shut_frees_the_address() {
        let (mut door, to) = door(&Settings::default());
        let (_client, accepted) = come(&mut door, to);
        let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
        door.open(&epoll).expect("watched");
        door.shut(&epoll).expect("not watched");
        assert!(TcpStream::connect(to).is_err());
        let again = TcpListener::bind(("::", to.port())).expect("free, beside a client that stays");
        drop((again, accepted));
    }

    #[test]
    fn others_than_the_allowed_are_refused() {
        let settings = Settings { allow: vec!["10.0.0.0/8".parse().expect("a network")], ..Settings::default() };
        let (mut door, to) = door(&settings);
        assert!(matches!(come(&mut door, to).1, Accepted::Refused(_, Fate::NotAllowed)));
    }

    #[test]
    fn clients_from_one_address_are_counted() {
        let settings = Settings { max_connections_per_address: 2, ..Settings::default() };
        let (mut door, to) = door(&settings);
        let welcome: Vec<_> = (0..3).map(|_| matches!(come(&mut door, to).1, Accepted::Client(..))).collect();
        assert_eq!(welcome, [true, true, false]);
        door.left(to.ip());
        assert!(matches!(come(&mut door, to).1, Accepted::Client(..)));
    }

    #[test]
    fn a_socket_of_another_kind_is_an_error() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        assert!(
            Listener::new(udp.into(), Options { keepalive: 0 })
                .expect_err("no TCP")
                .to_string()
                .starts_with("no TCP socket")
        );
    }
}
