//! Listening sockets: bound once, held for as long as a child names them, so
//! that a restart refuses no one.

use super::store::{Handed, Store, socket_name};
use super::unix_name::{self, Access, Name};
use crate::config::model::Address;
use crate::sys::socket as shared;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, bind, getsockname, getsockopt, listen,
    setsockopt, socket, sockopt,
};
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

/// New clients that wait while nobody accepts; the kernel cuts it to
/// `/proc/sys/net/core/somaxconn` (listen(2)).
const BACKLOG: i32 = 4096;

/// Every socket that is held, by its address.
#[derive(Debug, Default)]
pub struct Sockets {
    held: BTreeMap<Address, Held>,
    /// One was bound anew or listens again: the store is to know.
    renewed: bool,
}

#[derive(Debug)]
struct Held {
    socket: OwnedFd,
    /// A Unix socket's name in the file system, where it is this daemon's own.
    name: Option<Name>,
    /// It is a socket unit's: the service manager has it too, and its name.
    lent: bool,
    /// It came from the store and is not [kept](Sockets::keep) yet: a start or a reload
    /// that fails leaves its name, because clients that wait go to the next daemon.
    taken_up: bool,
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

    /// The socket for a child that is about to start, as it was when it was
    /// bound. A socket can't be opened anew, so all instances of a child share
    /// one description, with each other and with those before them: what
    /// somebody did to it is undone here.
    ///
    /// `alone`: no other instance runs. Else status flags and options stay as
    /// they are, as it may rely on what it set itself.
    ///
    /// # Errors
    /// `cannot listen on ADDRESS: cause`.
    pub fn put_right(&mut self, address: &Address, nonblocking: bool, alone: bool) -> io::Result<&OwnedFd> {
        let why = |e: io::Error| io::Error::other(format!("cannot listen on {address}: {}", cause(&e)));
        self.revive(address).map_err(why)?;
        let held = self.held.get(address).ok_or_else(|| io::Error::other("its socket is not held"))?;
        if alone {
            shared::restore(&held.socket, nonblocking).map_err(why)?;
        }
        Ok(&held.socket)
    }

    /// Has it listen again where a program shut it down, or its name is gone.
    ///
    /// # Errors
    /// It can't be bound there again; the service manager's own is dead.
    pub fn revive(&mut self, address: &Address) -> io::Result<()> {
        let Some(held) = self.held.get_mut(address) else { return Ok(()) };
        let how = match (revive(address, held)?, held.lent) {
            (Revived::Lives, _) => return Ok(()),
            (Revived::Again, _) => "had stopped to listen; it does again",
            (Revived::Dead, true) => {
                return Err(io::Error::other("the service manager's socket was shut down; restart its socket unit"));
            }
            (Revived::Dead, false) => {
                *held = bind_again(address, held)?;
                "was shut down or lost its name; bound anew"
            }
        };
        log::warn!("the socket of {address} {how}");
        self.renewed = true;
        Ok(())
    }

    /// Whether one was renewed since this was asked.
    pub fn take_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
    }

    /// Has all listen again, for the next daemon.
    pub fn revive_all(&mut self) {
        let addresses: Vec<Address> = self.held.keys().cloned().collect();
        for address in addresses {
            if let Err(error) = self.revive(&address) {
                log::warn!("cannot listen on {address}: {}", cause(&error));
            }
        }
    }

    /// Those that shall outlive this process, by their names in the store. A
    /// dead one would only be in the way.
    pub fn stored(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let own = self.held.iter().filter(|(address, held)| !held.lent && is_alive(address, held));
        own.map(|(address, held)| (held.name_in_store(address), held.socket.as_fd()))
    }

    /// Those of them that a restart takes over: a Unix socket's name goes at the
    /// end, for nobody may start again.
    pub fn stored_at_the_end(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let nameless = self
            .held
            .iter()
            .filter(|(address, held)| !held.lent && !matches!(address, Address::Unix(_)) && is_alive(address, held));
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
                new.revive(address).map_err(|e| self.why_not(address, &e))?;
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
        new.held.values_mut().for_each(|held| held.taken_up = false);
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
        let own = self.held.values().filter(|held| !held.taken_up);
        own.filter_map(|held| held.name.as_ref()).for_each(Name::remove);
    }
}

fn hold(address: &Address, store: &Store) -> io::Result<Held> {
    match store.socket(address)? {
        Some(Handed { socket, name, lent }) => Ok(Held { socket, name, lent, taken_up: true }),
        None => open(address),
    }
}

/// Without "(os error N)".
fn cause(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

/// What became of a socket that was to be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Revived {
    /// Nobody had touched it.
    Lives,
    /// It can be used again.
    Again,
    /// It is of no use to anybody.
    Dead,
}

/// Whether clients reach it.
fn is_alive(address: &Address, held: &Held) -> bool {
    let listens = || getsockopt(&held.socket, sockopt::AcceptConn).unwrap_or(false);
    let shut = || shared::receives_no_more(&held.socket).unwrap_or(false);
    match address {
        Address::Tcp(_) => listens(),
        Address::Unix(_) => listens() && !shut() && (held.lent || held.name.as_ref().is_some_and(Name::is_there)),
        Address::Udp(_) => !shut() && !shared::sends_no_more(&held.socket).unwrap_or(false),
    }
}

fn revive(address: &Address, held: &Held) -> io::Result<Revived> {
    let mut again = false;
    match address {
        Address::Tcp(_) => {
            let listens = getsockopt(&held.socket, sockopt::AcceptConn)?;
            if !listens || !held.lent {
                // One that listens has its backlog put right.
                again = !listens;
                if listen(&held.socket, Backlog::new(BACKLOG)?).is_err() {
                    return Ok(Revived::Dead);
                }
            }
        }
        Address::Unix(_) => {
            if !held.lent {
                // Shut down or not, this succeeds.
                listen(&held.socket, Backlog::new(BACKLOG)?)?;
            }
        }
        Address::Udp(_) => {
            again = shared::disconnect(&held.socket)?;
            if again && port_of(&held.socket) == 0 {
                return Ok(Revived::Dead);
            }
        }
    }
    Ok(match (is_alive(address, held), again) {
        (false, _) => Revived::Dead,
        (true, true) => Revived::Again,
        (true, false) => Revived::Lives,
    })
}

fn port_of(socket: &OwnedFd) -> u16 {
    let bound = getsockname::<SockaddrStorage>(socket.as_raw_fd()).ok();
    let v4 = bound.as_ref().and_then(|at| at.as_sockaddr_in()).map(|at| at.port());
    v4.or_else(|| bound.as_ref()?.as_sockaddr_in6().map(|at| at.port())).unwrap_or(0)
}

/// Another socket in place of a dead one, whose address it takes over.
fn bind_again(address: &Address, dead: &Held) -> io::Result<Held> {
    match address {
        Address::Tcp(_) => open(address),
        Address::Udp(at) => {
            // A process that still has the dead one keeps its address in use;
            // of two, the one that was bound last receives.
            setsockopt(&dead.socket, sockopt::ReuseAddr, &true)?;
            let socket = open_net(*at, SockType::Datagram, true)?;
            setsockopt(&socket, sockopt::ReuseAddr, &false)?;
            Ok(Held { socket, name: None, lent: false, taken_up: false })
        }
        Address::Unix(path) => {
            let own = dead.name.as_ref().filter(|name| name.is_there());
            let before = own.and_then(|_| std::fs::symlink_metadata(path).ok());
            let held = open(address)?;
            if let Some(before) = before {
                give(path, &before);
            }
            Ok(held)
        }
    }
}

/// Gives the name of a new socket the owner, group and mode of the one before, which an
/// administrator may have chosen. It listens even if that fails.
fn give(path: &Path, before: &Metadata) {
    let cannot = |what: &str, error: &io::Error| {
        log::warn!("cannot give {} the {what} that it had: {}", path.display(), cause(error));
    };
    let is = match std::fs::symlink_metadata(path) {
        Ok(is) => is,
        Err(error) => return cannot("owner and mode", &error),
    };
    // A sandbox may refuse chown(2) altogether, so it is called only for what differs.
    let owner = (is.uid() != before.uid()).then_some(before.uid());
    let group = (is.gid() != before.gid()).then_some(before.gid());
    for (what, owner, group) in [("owner", owner, None), ("group", None, group)] {
        if owner.is_none() && group.is_none() {
            continue;
        }
        if let Err(error) = lchown(path, owner, group) {
            cannot(what, &error);
        }
    }
    if let Err(error) = std::fs::set_permissions(path, before.permissions()) {
        cannot("mode", &error);
    }
}

fn open(address: &Address) -> io::Result<Held> {
    let (socket, name) = match address {
        Address::Tcp(at) => (open_net(*at, SockType::Stream, true)?, None),
        Address::Udp(at) => (open_net(*at, SockType::Datagram, false)?, None),
        Address::Unix(path) => {
            let (socket, name) = unix_name::listen_at(path, Access::Umask, BACKLOG)?;
            (socket, Some(name))
        }
    };
    Ok(Held { socket, name, lent: false, taken_up: false })
}

fn open_net(at: SocketAddr, kind: SockType, reuse: bool) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if at.is_ipv6() {
        // [::] and 0.0.0.0 are two addresses, whatever net.ipv6.bindv6only says.
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if reuse {
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
    Ok(bind(fd.as_raw_fd(), address)?)
}
