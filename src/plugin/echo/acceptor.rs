//! Which clients are accepted: the listening sockets, the limits, and what happens while
//! descriptors or memory are short.

use super::addresses::Addresses;
use super::fates::Fate;
use super::peer::Peer;
use super::server::Token;
use super::transport::{Options, Transport};
use crate::plugin::start;
use crate::sys::poll::Poll;
use ipnet::IpNet;
use log::{info, warn};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A listening socket that the supervisor holds: IPv4, or IPv6 (which may take IPv4
/// clients too).
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    options: Options,
    /// Whether accepted connections have inherited the options. Those made before the socket
    /// had the options have not. They are accepted first, so until the backlog has been empty
    /// once, the options are set on each accepted connection.
    inherits: bool,
}

impl Listener {
    /// Checks that it is a TCP socket, and sets its options.
    ///
    /// # Errors
    /// It is not a TCP socket, or the kernel refuses an option.
    pub(super) fn new(fd: OwnedFd, options: Options) -> io::Result<Listener> {
        let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        let inet = address.as_sockaddr_in().is_some() || address.as_sockaddr_in6().is_some();
        if !inet || getsockopt(&fd, sockopt::SockType)? != SockType::Stream {
            return Err(io::Error::other(format!("not a TCP socket (address family {:?})", address.family())));
        }
        let socket = TcpListener::from(fd);
        socket.set_nonblocking(true)?;
        options.set(&socket)?;
        Ok(Listener { socket, options, inherits: false })
    }

    fn accept(&mut self) -> io::Result<(Transport, Peer)> {
        let (client, address) = self.socket.accept().inspect_err(|error| {
            self.inherits |= error.kind() == io::ErrorKind::WouldBlock;
        })?;
        if !self.inherits {
            // An error means that the client is already gone.
            self.options.set(&client).map_err(|_| Errno::ECONNABORTED)?;
        }
        Ok((Transport::Tcp(client.into()), Peer::from(address)))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The outcome of accepting one client.
#[derive(Debug)]
pub(super) enum Accepted {
    /// A client, and the number of its connection.
    Client(Transport, Peer, u32),
    /// A client that was refused, and why. Its connection is already closed.
    Refused(Peer, Fate),
    /// The client is already gone.
    Vanished,
    /// No client waits, or none may be accepted now.
    Nobody,
    /// Descriptors or memory are short.
    Exhausted(io::Error),
}

/// A shortage of descriptors or memory. It is over when accept(2) reports that no client
/// waits, because accept needs a descriptor before it looks for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    /// There is none.
    None,
    /// Clients wait in the backlog for now.
    Paused,
    /// Accepting must be tried again, even if epoll reports no client.
    Retry,
    /// It was tried again. Some clients may still wait.
    Tried,
}

/// The number of clients, and its limit.
#[derive(Debug, Default)]
struct Places {
    served: usize,
    /// Clients whose connection broke. They are still read and saved, but don't count as
    /// served.
    broken: usize,
    /// The limit for each of the two. Broken ones have one too, because each keeps its
    /// descriptor until the sink takes more.
    most: usize,
}

/// Everything that decides which clients are accepted.
#[derive(Debug)]
pub(super) struct Acceptor {
    /// Empty once a stop has begun.
    listeners: Vec<Listener>,
    watched: bool,
    shortage: Shortage,
    places: Places,
    allow: Vec<IpNet>,
    addresses: Addresses,
    /// The number of the last connection.
    last: u32,
}

impl Acceptor {
    /// Serves at most `most` clients at a time. The sockets are not watched before
    /// [`Acceptor::tend`].
    pub(super) fn new(listeners: Vec<Listener>, most: usize, allow: Vec<IpNet>, addresses: Addresses) -> Acceptor {
        let places = Places { most, ..Places::default() };
        Acceptor { listeners, watched: false, shortage: Shortage::None, places, allow, addresses, last: 0 }
    }

    /// Watches the listening sockets only while clients may be accepted. Otherwise clients
    /// wait in the backlog, or other instances accept them. If several instances share
    /// the sockets, a client wakes one of them, not all (EPOLLEXCLUSIVE, epoll_ctl(2)).
    ///
    /// Returns whether [`Acceptor::accept`] must be tried on each, even if epoll reports no
    /// client.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC from epoll_ctl(2).
    pub(super) fn tend(&mut self, poll: &Poll<Token>) -> io::Result<bool> {
        let open = self.is_open();
        if open && !self.watched {
            for (n, listener) in (0..).zip(&self.listeners) {
                poll.add(listener, EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE, Token::Listener(n))?;
            }
        } else if self.watched && !open {
            self.unwatch(poll);
        }
        self.watched = open;
        let retry = open && self.shortage == Shortage::Retry;
        if retry {
            self.shortage = Shortage::Tried;
        }
        Ok(retry)
    }

    fn unwatch(&self, poll: &Poll<Token>) {
        for listener in &self.listeners {
            poll.remove(listener);
        }
    }

    /// Whether clients may be accepted now.
    fn is_open(&self) -> bool {
        let Places { served, broken, most } = self.places;
        self.shortage != Shortage::Paused && served < most && broken < most
    }

    /// How many listening sockets there are.
    pub(super) fn listeners(&self) -> u32 {
        u32::try_from(self.listeners.len()).unwrap_or(u32::MAX)
    }

    /// How many clients are served.
    pub(super) fn served(&self) -> usize {
        self.places.served
    }

    /// Accepts one client at listener `n`.
    ///
    /// # Errors
    /// The listening socket is unusable.
    pub(super) fn accept(&mut self, n: u32) -> io::Result<Accepted> {
        let open = self.is_open();
        let Some(listener) = self.listeners.get_mut(n as usize).filter(|_| open) else { return Ok(Accepted::Nobody) };
        let (transport, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                let accepted = failed(error)?;
                if matches!(accepted, Accepted::Nobody) {
                    self.end_shortage();
                }
                return Ok(accepted);
            }
        };
        if !self.allow.iter().any(|net| net.contains(&peer.ip())) {
            return Ok(Accepted::Refused(peer, Fate::NotAllowed));
        }
        if !self.addresses.enter(peer.ip()) {
            return Ok(Accepted::Refused(peer, Fate::TooManyOfItsAddress));
        }
        self.places.served += 1;
        self.last = self.last.wrapping_add(1);
        Ok(Accepted::Client(transport, peer, self.last))
    }

    /// A client is no longer served.
    pub(super) fn on_left(&mut self, peer: Peer) {
        self.addresses.left(peer.ip());
        self.places.served -= 1;
    }

    /// A client is no longer served because its connection broke, but it is not closed yet.
    pub(super) fn on_broken(&mut self) {
        self.places.broken += 1;
    }

    /// A client whose connection broke is closed.
    pub(super) fn on_broken_closed(&mut self) {
        self.places.broken -= 1;
    }

    /// Descriptors or memory are short. Clients wait in the backlog until
    /// [`Acceptor::retry`].
    pub(super) fn pause(&mut self, error: &io::Error) {
        if self.shortage == Shortage::None {
            warn!("cannot accept clients for now: {error}");
            start::notify(&format!("X_PLUMBD_PROBLEM=cannot accept clients for now: {error}"));
        }
        self.shortage = Shortage::Paused;
    }

    /// Descriptors or memory may be available again.
    pub(super) fn retry(&mut self) {
        if self.shortage != Shortage::None {
            self.shortage = Shortage::Retry;
        }
    }

    fn end_shortage(&mut self) {
        if self.shortage != Shortage::None {
            self.shortage = Shortage::None;
            info!("accepts clients again");
            start::notify("X_PLUMBD_PROBLEM=");
        }
    }

    /// Closes the listening sockets for good. This frees their addresses, unless another
    /// process holds the sockets too.
    pub(super) fn shut(&mut self, poll: &Poll<Token>) {
        self.unwatch(poll);
        self.listeners.clear();
    }
}

/// Tells apart the errors of accept(2) that concern the client, this process, or the
/// listening socket.
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
    use super::super::settings::Settings;
    use super::super::transport::UNREAD;
    use super::*;
    use nix::sys::socket::setsockopt;
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    fn options_of(settings: &Settings) -> Options {
        Options::new(Duration::from_millis(settings.keepalive_ms))
    }

    fn acceptor(settings: &Settings) -> (Acceptor, SocketAddr) {
        let listener = TcpListener::bind("[::]:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let listener = Listener::new(listener.into(), options_of(settings)).expect("a TCP socket");
        (behind(listener, settings), SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn behind(listener: Listener, settings: &Settings) -> Acceptor {
        let addresses = Addresses::new(settings.max_connections_per_address, settings.ipv6_prefix, None);
        Acceptor::new(vec![listener], settings.max_connections, settings.allow.clone(), addresses)
    }

    fn come(acceptor: &mut Acceptor, to: SocketAddr) -> (TcpStream, Accepted) {
        let client = TcpStream::connect(to).expect("listening");
        (client, acceptor.accept(0).expect("a listening socket"))
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_is_an_ipv4_client() {
        let settings = Settings { allow: vec!["127.0.0.0/8".parse().expect("a network")], ..Settings::default() };
        let (mut acceptor, to) = acceptor(&settings);
        let (client, accepted) = come(&mut acceptor, to);
        let Accepted::Client(transport, peer, 1) = accepted else { panic!("{accepted:?}") };
        assert_eq!(peer, Peer::Net(client.local_addr().expect("connected")));
        assert!(getsockopt(&transport, sockopt::TcpNoDelay).expect("a TCP socket"));
        assert!(matches!(acceptor.accept(0), Ok(Accepted::Nobody)));
    }

    fn options(socket: &Transport) -> (bool, bool, usize, Option<(u32, u32, u32)>) {
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
            // An earlier instance may have set it to something else.
            setsockopt(&socket, sockopt::KeepAlive, &true).expect("a socket");
            let before = [TcpStream::connect(to), TcpStream::connect(to)];
            let settings = Settings { keepalive_ms, ..Settings::default() };
            let listener = Listener::new(socket.into(), options_of(&settings)).expect("a TCP socket");
            let mut acceptor = behind(listener, &settings);
            let mut came = Vec::new();
            for _ in &before {
                let Ok(Accepted::Client(socket, ..)) = acceptor.accept(0) else { panic!("one waits") };
                came.push(options(&socket));
            }
            assert!(matches!(acceptor.accept(0), Ok(Accepted::Nobody)));
            let (_client, after) = come(&mut acceptor, to);
            let Accepted::Client(socket, ..) = after else { panic!("{after:?}") };
            came.push(options(&socket));
            assert_eq!(came, vec![(true, true, came[0].2, probes); 3]);
            assert!((UNREAD..=2 * UNREAD).contains(&came[0].2), "{} bytes", came[0].2);
        }
    }

    #[test]
    fn shutting_frees_the_address() {
        let (mut acceptor, to) = acceptor(&Settings::default());
        let (_client, accepted) = come(&mut acceptor, to);
        let poll = Poll::new().expect("an epoll");
        acceptor.tend(&poll).expect("watched");
        acceptor.shut(&poll);
        assert!(TcpStream::connect(to).is_err());
        let again = TcpListener::bind(("::", to.port())).expect("free, beside a client that stays");
        drop((again, accepted));
    }

    #[test]
    fn clients_that_are_not_allowed_are_refused() {
        let settings = Settings { allow: vec!["10.0.0.0/8".parse().expect("a network")], ..Settings::default() };
        let (mut acceptor, to) = acceptor(&settings);
        assert!(matches!(come(&mut acceptor, to).1, Accepted::Refused(_, Fate::NotAllowed)));
    }

    #[test]
    fn clients_from_one_address_are_counted() {
        let settings = Settings { max_connections_per_address: 2, ..Settings::default() };
        let (mut acceptor, to) = acceptor(&settings);
        let welcome: Vec<_> = (0..3).map(|_| matches!(come(&mut acceptor, to).1, Accepted::Client(..))).collect();
        assert_eq!(welcome, [true, true, false]);
        acceptor.on_left(Peer::from(to));
        assert!(matches!(come(&mut acceptor, to).1, Accepted::Client(..)));
    }

    #[test]
    fn a_socket_of_another_kind_is_an_error() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        assert!(
            Listener::new(udp.into(), options_of(&Settings::default()))
                .expect_err("no TCP")
                .to_string()
                .starts_with("not a TCP socket")
        );
    }

    #[test]
    fn broken_clients_do_not_count_as_served_but_have_the_same_limit() {
        let (mut acceptor, to) = acceptor(&Settings { max_connections: 2, ..Settings::default() });
        let peer = Peer::from(to);
        let mut clients = Vec::new();
        let mut enters = |acceptor: &mut Acceptor| {
            clients.push(TcpStream::connect(to).expect("listening"));
            matches!(acceptor.accept(0), Ok(Accepted::Client(..)))
        };
        assert!(enters(&mut acceptor) && enters(&mut acceptor) && !enters(&mut acceptor));
        acceptor.on_left(peer);
        acceptor.on_broken();
        assert!(enters(&mut acceptor) && !enters(&mut acceptor));
        acceptor.on_left(peer);
        acceptor.on_broken();
        assert_eq!((acceptor.served(), enters(&mut acceptor)), (1, false));
        acceptor.on_broken_closed();
        assert!(enters(&mut acceptor));
    }

    #[test]
    fn after_a_shortage_each_listener_is_tried_until_no_client_waits() {
        let (mut acceptor, to) = acceptor(&Settings::default());
        let poll = Poll::new().expect("an epoll");
        assert!(!acceptor.tend(&poll).expect("watched"));
        acceptor.pause(&Errno::EMFILE.into());
        let _client = TcpStream::connect(to).expect("listening");
        assert!(matches!(acceptor.accept(0), Ok(Accepted::Nobody)), "it waits");
        assert!(!acceptor.tend(&poll).expect("not watched"));
        acceptor.retry();
        assert!(acceptor.tend(&poll).expect("watched"));
        assert!(!acceptor.tend(&poll).expect("watched"), "once");
        assert!(matches!(acceptor.accept(0), Ok(Accepted::Client(..))));
        assert_eq!(acceptor.shortage, Shortage::Tried);
        assert!(matches!(acceptor.accept(0), Ok(Accepted::Nobody)));
        assert_eq!(acceptor.shortage, Shortage::None);
    }
}
