//! How much a socket's two queues hold (tcp(7), ioctls), and repairs of what a process may
//! have done to a listening socket that it shares.

use super::anew;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc::{self, FIONREAD, TIOCOUTQ, c_int};
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, getpeername, getsockname, setsockopt, sockopt,
};
use nix::sys::time::TimeVal;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// How many bytes have arrived but were not read yet (SIOCINQ).
///
/// # Errors
/// EINVAL for a listening socket, ENOTTY if it is not a socket.
pub fn unread(socket: impl AsFd) -> io::Result<usize> {
    nix::ioctl_read_bad!(siocinq, FIONREAD, c_int);
    let mut bytes: c_int = 0;
    #[allow(unsafe_code)]
    // SAFETY: SIOCINQ stores one int through the pointer, which outlives the call.
    unsafe { siocinq(socket.as_fd().as_raw_fd(), &raw mut bytes) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// How many bytes were sent and are not yet acknowledged by the other side's
/// kernel (SIOCOUTQ). If the end of the stream was sent, it counts as one byte.
///
/// # Errors
/// EINVAL for a listening socket, ENOTTY if it is not a socket.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<usize> {
    nix::ioctl_read_bad!(siocoutq, TIOCOUTQ, c_int);
    let mut bytes: c_int = 0;
    #[allow(unsafe_code)]
    // SAFETY: SIOCOUTQ stores one int through the pointer, which outlives the call.
    unsafe { siocoutq(socket.as_fd().as_raw_fd(), &raw mut bytes) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Makes a TCP socket accept no more data while this many bytes wait to be sent
/// (TCP_NOTSENT_LOWAT, tcp(7)), so that data for which the peer has no room stays in the
/// program that sends it. Accepted sockets inherit this.
///
/// # Errors
/// ENOPROTOOPT for another kind of socket.
pub fn limit_unsent(socket: impl AsFd, bytes: c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<c_int>()).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    #[allow(unsafe_code)]
    // SAFETY: setsockopt reads one int, which outlives the call.
    let set =
        unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, (&raw const bytes).cast(), length) };
    Errno::result(set)?;
    Ok(())
}

/// Begins to connect to that address, and never waits: the socket is writable once
/// [`is_connected`] can say how it went.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM; or the address can't be reached: ECONNREFUSED, ENETUNREACH.
pub fn begin_to_connect(at: SocketAddr) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(at)) {
        // After EINTR it goes on as after EINPROGRESS (connect(2)).
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(socket),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether that socket is connected, once it is writable.
///
/// # Errors
/// Why it is not: ECONNREFUSED, ETIMEDOUT and so on.
pub fn is_connected(socket: impl AsFd) -> io::Result<()> {
    let fd = socket.as_fd();
    match socket::getsockopt(&fd, sockopt::SocketError)? {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let peer: SockaddrStorage = getpeername(fd.as_raw_fd())?;
    // If nobody listens at a port that the kernel gives to clients, a socket can connect to itself.
    if getsockname::<SockaddrStorage>(fd.as_raw_fd())? == peer {
        return Err(Errno::ECONNREFUSED.into());
    }
    Ok(())
}

/// How full a queue of a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// How much is in it.
    pub now: u64,
    /// How much fits.
    pub most: u64,
}

/// How many new clients wait at a listening TCP socket. Of such a socket, TCP_INFO reports
/// its backlog and the most that it may be (net/ipv4/tcp.c, `tcp_get_info`).
///
/// # Errors
/// EOPNOTSUPP for another kind of socket.
pub fn backlog(socket: impl AsFd) -> io::Result<Fill> {
    #[allow(unsafe_code)]
    // SAFETY: it consists of integers, for all of which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    Ok(Fill { now: info.tcpi_unacked.into(), most: info.tcpi_sacked.into() })
}

/// How much memory the datagrams take that a UDP socket has received and nobody has read
/// yet (SO_MEMINFO, since Linux 4.12; net/core/sock.c, `sk_get_meminfo`).
///
/// # Errors
/// ENOPROTOOPT: the kernel has no such option.
pub fn datagrams(socket: impl AsFd) -> io::Result<Fill> {
    /// Of nine words (linux/sock_diag.h).
    const RMEM_ALLOC: usize = 0;
    const RCVBUF: usize = 1;
    let mut words = [0_u32; 9];
    option(socket, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut words)?;
    Ok(Fill { now: words[RMEM_ALLOC].into(), most: words[RCVBUF].into() })
}

/// Reads an option. If the kernel knows less of it than `into` has room for, the rest stays.
fn option<T: Copy>(socket: impl AsFd, level: c_int, name: c_int, into: &mut T) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    #[allow(unsafe_code)]
    // SAFETY: getsockopt stores at most `length` bytes, and T is made of integers here.
    let read = unsafe { libc::getsockopt(fd, level, name, std::ptr::from_mut(into).cast(), &raw mut length) };
    Errno::result(read)?;
    Ok(())
}

/// Whether a program shut down receiving on the socket, or both directions (shutdown(2)).
///
/// # Errors
/// ENOMEM from poll(2).
pub fn receives_no_more(socket: impl AsFd) -> io::Result<bool> {
    // By libc, because nix has no name for POLLRDHUP.
    let mut polled = libc::pollfd { fd: socket.as_fd().as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    loop {
        #[allow(unsafe_code)]
        // SAFETY: poll changes one pollfd, which outlives the call.
        match Errno::result(unsafe { libc::poll(&raw mut polled, 1, 0) }) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return Ok(polled.revents & (libc::POLLRDHUP | libc::POLLHUP) != 0),
        }
    }
}

/// Whether a program shut down sending on a UDP socket (shutdown(2)). The only way to find
/// out is to send: an empty datagram, to a socket of this process's own.
///
/// # Errors
/// EMFILE, ENFILE.
pub fn sends_no_more(socket: impl AsFd) -> io::Result<bool> {
    let bound: SockaddrStorage = getsockname(socket.as_fd().as_raw_fd())?;
    let ip = match (bound.as_sockaddr_in(), bound.as_sockaddr_in6()) {
        (Some(at), _) if at.ip().is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        (Some(at), _) => IpAddr::V4(at.ip()),
        (None, Some(at)) if at.ip().is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        (None, Some(at)) => IpAddr::V6(at.ip()),
        (None, None) => return Ok(false),
    };
    let nowhere = match UdpSocket::bind(SocketAddr::new(ip, 0)) {
        Ok(nowhere) => SockaddrStorage::from(nowhere.local_addr()?),
        Err(e) if matches!(Errno::from_raw(e.raw_os_error().unwrap_or(0)), Errno::EMFILE | Errno::ENFILE) => {
            return Err(e);
        }
        // Its address does not exist just now (a scope, an interface), so nothing can be sent anyway.
        Err(_) => return Ok(false),
    };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(socket::sendto(socket.as_fd().as_raw_fd(), &[], &nowhere, flags) == Err(Errno::EPIPE))
}

/// Lets a UDP socket receive from everybody again, if a program connected it to
/// one peer (connect(2)). Returns whether that was the case.
///
/// # Errors
/// None that can happen to a UDP socket.
pub fn disconnect(socket: impl AsFd) -> io::Result<bool> {
    let fd = socket.as_fd().as_raw_fd();
    if getpeername::<SockaddrStorage>(fd).is_err() {
        return Ok(false);
    }
    let nobody = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr>()).map_err(io::Error::other)?;
    #[allow(unsafe_code)]
    // SAFETY: connect reads `length` bytes of `nobody`, which outlives the call.
    Errno::result(unsafe { libc::connect(fd, &raw const nobody, length) })?;
    Ok(true)
}

/// Resets what a program may have set on a listening socket and left to the
/// next one: status flags and who gets its signals, timeouts, what closing
/// waits for, a filter.
///
/// # Errors
/// None that can happen with a socket that is held.
pub fn restore(socket: impl AsFd, nonblocking: bool) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    anew::set_status(socket.as_fd(), if nonblocking { OFlag::O_NONBLOCK } else { OFlag::empty() })?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 0))?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(0, 0))?;
    setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 })?;
    let unused: c_int = 0;
    #[allow(unsafe_code)]
    // SAFETY: fcntl takes a number; setsockopt reads one int, which outlives the call.
    unsafe {
        Errno::result(libc::fcntl(fd, libc::F_SETOWN, 0))?;
        let length = libc::socklen_t::try_from(size_of::<c_int>()).map_err(io::Error::other)?;
        // ENOENT: there is no filter. EPERM: it is locked (SO_LOCK_FILTER), and nothing helps then.
        let _detached =
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, (&raw const unused).cast(), length);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_udp_socket_that_was_shut_down_or_connected_is_noticed() {
        for (how, received, sent) in [
            (std::net::Shutdown::Read, true, false),
            (std::net::Shutdown::Write, false, true),
            (std::net::Shutdown::Both, true, true),
        ] {
            for at in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
                let socket = UdpSocket::bind(at).expect("a free port");
                assert!(!receives_no_more(&socket).expect("polled") && !sends_no_more(&socket).expect("sent"), "{at}");
                let how = match how {
                    std::net::Shutdown::Read => socket::Shutdown::Read,
                    std::net::Shutdown::Write => socket::Shutdown::Write,
                    std::net::Shutdown::Both => socket::Shutdown::Both,
                };
                // It shuts down, and yet fails with "not connected".
                let _enotconn = socket::shutdown(socket.as_raw_fd(), how);
                assert_eq!(receives_no_more(&socket).expect("polled"), received, "{at} {how:?}");
                assert_eq!(sends_no_more(&socket).expect("sent"), sent, "{at} {how:?}");
            }
        }
        let (one, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let at = one.local_addr().unwrap();
        assert!(!disconnect(&one).unwrap());
        one.connect("127.0.0.1:9").unwrap();
        assert!(disconnect(&one).unwrap());
        other.send_to(b"x", at).ok();
    }

    #[test]
    fn clients_that_wait_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let before = backlog(&listener).expect("a TCP socket");
        let _clients: Vec<_> = (0..3).map(|_| TcpStream::connect(listener.local_addr().expect("bound"))).collect();
        let after = backlog(&listener).expect("a TCP socket");
        assert_eq!((before.now, after.now), (0, 3));
        assert!(after.most >= 3, "{after:?}");
        let _first = listener.accept().expect("one waits");
        assert_eq!(backlog(&listener).expect("a TCP socket").now, 2);
        backlog(UdpSocket::bind("127.0.0.1:0").expect("a free port")).unwrap_err();
    }

    #[test]
    fn datagrams_that_wait_are_counted() {
        let [one, other] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a free port"));
        assert_eq!(datagrams(&one).expect("a UDP socket").now, 0);
        other.send_to(&[0; 1000], one.local_addr().expect("bound")).expect("room");
        let fill = datagrams(&one).expect("a UDP socket");
        assert!(fill.now >= 1000 && fill.most > fill.now, "{fill:?}");
    }

    #[test]
    fn both_queues_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
        let (mut far, _) = listener.accept().expect("connected");
        near.write_all(b"12345").expect("room");
        far.peek(&mut [0; 5]).expect("on its way");
        assert_eq!(unread(&far).expect("a socket"), 5);
        far.read_exact(&mut [0; 5]).expect("there");
        assert_eq!(unread(&far).expect("a socket"), 0);
        assert_eq!(unacknowledged(&far).expect("a socket"), 0);
    }
}
