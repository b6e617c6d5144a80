//! Listening sockets: bound once, held for as long as a child names them, so
//! that a restart refuses no one.

use super::store::{Handed, Store, socket_name};
use super::unix_name::{self, Access, Name};
use crate::config::model::Address;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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
    /// A Unix socket's name in the file system, where it is this daemon's own.
    name: Option<Name>,
    /// It is a socket unit's: the service manager has it too, and its name.
    lent: bool,
}

impl Held {
    fn name_in_store(&self, address: &Address) -> String {
        socket_name(address, self.name.as_ref().map(Name::inode))
    }
}

impl Sockets {
    /// The socket bound to that address.
    pub fn get(&self, address: &Address) -> Option<&OwnedFd> {
        self.held.get(address).map(|held| &held.socket)
    }

    /// Those that shall outlive this process, by their names in the store.
    pub fn stored(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let own = self.held.iter().filter(|(_, held)| !held.lent);
        own.map(|(address, held)| (held.name_in_store(address), held.socket.as_fd()))
    }

    /// Those of them that a restart takes over: a Unix socket's name goes at the
    /// end, for nobody may start again.
    pub fn stored_at_the_end(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let nameless = self.held.iter().filter(|(address, held)| !held.lent && !matches!(address, Address::Unix(_)));
        nameless.map(|(address, held)| (held.name_in_store(address), held.socket.as_fd()))
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
                let held = hold(address, store).map_err(|e| self.why_not(address, &e))?;
                new.held.insert(address.clone(), held);
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
            if let (Some(name), false) = (&held.name, keep) {
                name.remove();
            }
            keep
        });
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.held.values().filter_map(|held| held.name.as_ref()).for_each(Name::remove);
    }
}

fn hold(address: &Address, store: &Store) -> io::Result<Held> {
    match store.socket(address)? {
        Some(Handed { socket, name, lent }) => Ok(Held { socket, name, lent }),
        None => open(address),
    }
}

fn open(address: &Address) -> io::Result<Held> {
    let (socket, name) = match address {
        Address::Tcp(at) => (open_net(*at, SockType::Stream)?, None),
        Address::Udp(at) => (open_net(*at, SockType::Datagram)?, None),
        Address::Unix(path) => {
            let (socket, name) = unix_name::listen_at(path, Access::Umask, BACKLOG)?;
            (socket, Some(name))
        }
    };
    Ok(Held { socket, name, lent: false })
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

fn bind_to(fd: &OwnedFd, address: &dyn SockaddrLike) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    Ok(bind(fd.as_raw_fd(), address)?)
}
