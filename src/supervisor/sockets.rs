//! Listening sockets: bound once, held for as long as a child names them, so
//! that a restart refuses no one.

use super::store::{Store, socket_name};
use crate::config::model::Address;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind, connect, listen,
    setsockopt, socket, sockopt,
};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// New clients that wait while nobody accepts; the kernel cuts it to
/// `/proc/sys/net/core/somaxconn` (listen(2)).
const BACKLOG: i32 = 4096;

/// Every socket that is held, by its address.
#[derive(Debug, Default)]
pub struct Sockets {
    held: BTreeMap<Address, Held>,
}

#[derive(Debug)]
struct Held {
    socket: OwnedFd,
    /// It is a socket unit's: the service manager has it too, and its name.
    lent: bool,
}

impl Sockets {
    /// The socket bound to that address.
    pub fn get(&self, address: &Address) -> Option<&OwnedFd> {
        self.held.get(address).map(|held| &held.socket)
    }

    /// Those that shall outlive this process, by their names in the store.
    pub fn stored(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let own = self.held.iter().filter(|(_, held)| !held.lent);
        own.map(|(address, held)| (socket_name(address), held.socket.as_fd()))
    }

    /// Those of them that a restart takes over: a Unix socket's name goes at the
    /// end, for nobody may start again.
    pub fn stored_at_the_end(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let nameless = self.held.iter().filter(|(address, held)| !held.lent && !matches!(address, Address::Unix(_)));
        nameless.map(|(address, held)| (socket_name(address), held.socket.as_fd()))
    }

    /// Binds those addresses that are not held yet and that the service manager
    /// has no socket for, all or none: the new ones are given back, to be [kept](Sockets::keep) when everything else is
    /// ready too.
    ///
    /// # Errors
    /// `cannot listen on ADDRESS: cause` for the first that failed.
    pub fn bind_new<'a>(
        &self,
        addresses: impl IntoIterator<Item = &'a Address>,
        store: &Store,
    ) -> Result<Sockets, String> {
        let mut new = Sockets::default();
        for address in addresses {
            if !self.held.contains_key(address) && !new.held.contains_key(address) {
                let (socket, lent) = match store.socket(address) {
                    Some(handed) => handed,
                    None => (open(address).map_err(|e| self.why_not(address, &e))?, false),
                };
                new.held.insert(address.clone(), Held { socket, lent });
            }
        }
        Ok(new)
    }

    /// Why it can't listen there; its own socket on the same port is a reason
    /// that nobody else could name.
    fn why_not(&self, address: &Address, error: &io::Error) -> String {
        let port = |address: &Address| match address {
            Address::Tcp(at) | Address::Udp(at) => Some((address.scheme(), at.port())),
            Address::Unix(_) => None,
        };
        let own = self.held.keys().find(|held| port(held).is_some() && port(held) == port(address));
        match own.filter(|_| error.kind() == io::ErrorKind::AddrInUse) {
            Some(own) => format!(
                "cannot listen on {address}: this daemon itself holds {own} until a reload is done; \
                 reload once without either, then with the new one"
            ),
            None => format!("cannot listen on {address}: {error}"),
        }
    }

    /// Holds these too.
    pub fn keep(&mut self, mut new: Sockets) {
        self.held.append(&mut new.held);
    }

    /// Closes those that nobody names any more; a Unix socket's name goes with it.
    pub fn retain(&mut self, named: impl Fn(&Address) -> bool) {
        self.held.retain(|address, held| {
            let keep = named(address);
            if !keep {
                remove_name(address, held);
            }
            keep
        });
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.held.iter().for_each(|(address, held)| remove_name(address, held));
    }
}

fn remove_name(address: &Address, held: &Held) {
    if let (Address::Unix(path), false) = (address, held.lent) {
        if let Err(error) = std::fs::remove_file(path) {
            log::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

fn open(address: &Address) -> io::Result<OwnedFd> {
    match address {
        Address::Tcp(at) => open_net(*at, SockType::Stream),
        Address::Udp(at) => open_net(*at, SockType::Datagram),
        Address::Unix(path) => open_unix(path),
    }
}

fn open_net(at: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if at.is_ipv6() {
        // [::] and 0.0.0.0 are two addresses, whatever net.ipv6.bindv6only says.
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if kind == SockType::Stream {
        // Connections of an earlier daemon in TIME_WAIT are no hindrance (socket(7)).
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    bind_to(&fd, &SockaddrStorage::from(at))?;
    if kind == SockType::Stream {
        listen(&fd, Backlog::new(BACKLOG)?)?;
    }
    Ok(fd)
}

fn open_unix(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let address = UnixAddr::new(path)?;
    clear_stale(path, &address)?;
    bind_to(&fd, &address)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

fn bind_to(fd: &OwnedFd, address: &dyn SockaddrLike) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    Ok(bind(fd.as_raw_fd(), address)?)
}

/// Removes a socket's name that nobody listens on any more.
///
/// # Errors
/// EADDRINUSE where somebody does, or where the name is no socket.
pub fn clear_stale(path: &Path, address: &UnixAddr) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(Errno::EADDRINUSE.into());
    }
    // One that is too busy to accept is alive: not waited for (EAGAIN, unix(7)).
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => std::fs::remove_file(path),
        Err(Errno::ENOENT) => Ok(()),
        _ => Err(Errno::EADDRINUSE.into()),
    }
}
