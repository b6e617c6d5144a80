//! Listening sockets: bound once, held for as long as a child names them, so
//! that a restart refuses no one.

use crate::config::model::{Address, HostPort};
use crate::supervisor::kept::names::{Found, Names, Wanted};
use crate::supervisor::kept::store::{Handed, Store, socket_name};
use crate::supervisor::kept::unix_name::{self, Access, Inode, Name};
use crate::sys::cause::cause;
use crate::sys::socket as shared;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, bind, getsockname, getsockopt, listen,
    setsockopt, socket, sockopt,
};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

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
    /// Whether only a process aside can see if its name is still there.
    fn is_far(&self) -> bool {
        self.name.as_ref().is_some_and(|name| !name.is_local())
    }

    fn name_in_store(&self, address: &Address) -> String {
        socket_name(address, self.name.as_ref().map(Name::inode))
    }

    /// Whether its name is gone or another's, so that nobody can connect.
    fn has_lost_its_name(&self) -> bool {
        self.name.as_ref().is_some_and(Name::is_lost)
    }
}

impl Sockets {
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

    /// Unix sockets that nobody can connect to, because their names are gone or another's.
    /// [`Sockets::bind_new`] binds them anew.
    pub fn lost(&self) -> impl Iterator<Item = &Address> {
        self.held.iter().filter(|(_, held)| held.has_lost_its_name()).map(|(address, _)| address)
    }

    /// Why nobody can connect to that address, as far as this is known at once.
    pub fn problem(&self, address: &Address) -> Option<String> {
        let is_lost = self.held.get(address).is_some_and(Held::has_lost_its_name);
        is_lost.then(|| format!("nobody can connect to {address}: its name is gone; a reload makes it again"))
    }

    /// The names that only a process aside can look at.
    pub(crate) fn far_names(&self) -> Vec<(PathBuf, Inode)> {
        let far = self.held.values().filter(|held| held.is_far()).filter_map(|held| held.name.as_ref());
        far.map(|name| (name.path().to_owned(), name.inode())).collect()
    }

    /// A process aside saw whether one of them is gone.
    pub(crate) fn set_lost(&mut self, lost: impl Fn(&Path, Inode) -> Option<bool>) {
        for name in self.held.values_mut().filter_map(|held| held.name.as_mut()) {
            if let Some(lost) = lost(name.path(), name.inode()) {
                name.set_lost(lost);
            }
        }
    }

    /// Takes out those that were bound in place of some in `others`.
    pub fn take_in_place_of(&mut self, others: &Sockets) -> Sockets {
        let (again, new) = std::mem::take(&mut self.held).into_iter().partition(|(at, _)| others.held.contains_key(at));
        self.held = new;
        let mut taken = Sockets::default();
        taken.held = again;
        taken
    }

    /// Where they are bound.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.held.keys()
    }

    /// Binds one more address, if that can be done at once: the name of a Unix socket is
    /// made aside first, also in place of one that was shut down, if its folder may not
    /// answer.
    ///
    /// # Errors
    /// From bind(2); `WouldBlock` for a Unix socket.
    pub(crate) fn bind(&mut self, address: &Address, store: &Store) -> io::Result<()> {
        if self.held.get(address).is_some_and(|held| !held.is_far() || is_alive(address, held)) {
            return Ok(());
        }
        if matches!(address, Address::Unix(_)) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.bind_first(address, store, &mut Names::default())?;
        if let Some(held) = self.held.get_mut(address) {
            held.taken_up = false;
        }
        self.renewed = true;
        Ok(())
    }

    /// Binds one more address before anything is started.
    ///
    /// # Errors
    /// From bind(2), or making its name.
    pub(crate) fn bind_first(&mut self, address: &Address, store: &Store, names: &mut Names) -> io::Result<()> {
        if let Some(held) = hold(address, store, None, names)? {
            self.held.insert(address.clone(), held);
            self.revive(address).inspect_err(|_| {
                self.held.remove(address);
            })?;
        }
        Ok(())
    }

    /// What is to be made or looked at aside before these are [bound](Sockets::bind_new).
    pub(crate) fn wanted<'a>(&self, addresses: impl IntoIterator<Item = &'a Address>, store: &Store) -> Wanted {
        let mut wanted = Wanted::default();
        for address in addresses {
            let Address::Unix(path) = address else { continue };
            let held = self.held.get(address);
            if held.is_some_and(|held| !held.is_far() && !held.has_lost_its_name()) {
                continue;
            }
            if store.is_lent(address) {
                wanted.lent.insert(path.clone());
                continue;
            }
            wanted.listeners.insert(path.clone());
            let own = held.filter(|held| is_alive(address, held)).and_then(|held| held.name.as_ref());
            let left = store.left_at(address).map(|(inode, _)| inode);
            wanted.known.extend(own.map(Name::inode).into_iter().chain(left).map(|inode| (path.clone(), inode)));
        }
        wanted
    }

    /// Binds those addresses that are not held yet and that the service manager
    /// has no socket for, and those that were [lost](Sockets::lost), all or none: the new
    /// ones are given back, to be [kept](Sockets::keep) when everything else is ready too.
    ///
    /// # Errors
    /// `cannot listen on ADDRESS: cause` for the first that failed.
    pub(crate) fn bind_new<'a>(
        &self,
        addresses: impl IntoIterator<Item = &'a Address>,
        store: &Store,
        names: &mut Names,
    ) -> Result<Sockets, String> {
        let mut new = Sockets::default();
        let mut seen = BTreeSet::new();
        for address in addresses {
            let before = self.held.get(address);
            let is_wanted = before.is_none_or(|held| held.is_far() || names.has(address));
            if is_wanted && seen.insert(address) {
                let Some(held) = hold(address, store, before, names).map_err(|e| self.why_not(address, &e))? else {
                    continue;
                };
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
            Address::Tcp(host) | Address::Udp(host) => Some((address.scheme(), host.at.port())),
            Address::Unix(_) => None,
        };
        let own = self.held.keys().find(|held| port(held).is_some() && port(held) == port(address));
        match own.filter(|_| error.kind() == io::ErrorKind::AddrInUse) {
            Some(own) => format!(
                "cannot listen on {address}: this daemon itself holds {own} until a reload is done; \
                 reload once without either, then with the new one"
            ),
            None => format!("cannot listen on {address}: {}", cause(error)),
        }
    }

    /// Closes all at the end, and returns the processes aside that [remove](Name::remove)
    /// their names.
    pub fn close(&mut self) -> Vec<Pid> {
        let removing = self.own_names().filter_map(Name::remove).collect();
        self.held.clear();
        removing
    }

    /// The names that go with it.
    fn own_names(&self) -> impl Iterator<Item = &Name> {
        self.held.values().filter(|held| !held.taken_up).filter_map(|held| held.name.as_ref())
    }

    /// Holds these too, in place of those that they were bound for.
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
        self.close();
    }
}

/// `None`: what is held already is right.
fn hold(address: &Address, store: &Store, before: Option<&Held>, names: &mut Names) -> io::Result<Option<Held>> {
    let path = match (address, store.socket(address)?) {
        (_, Some(Handed { socket, lent })) => {
            if let (Address::Unix(path), true) = (address, names.is_missing(address)) {
                // Only the manager can give its socket another name.
                let path = path.display();
                log::error!("nobody can connect to unix:{path}: its name was removed; restart its socket unit");
            }
            return Ok(Some(Held { socket, name: None, lent, taken_up: true }));
        }
        (Address::Unix(path), None) => path,
        (Address::Tcp(_) | Address::Udp(_), None) => return open(address).map(Some),
    };
    let (socket, name, taken_up) = match names.take(path)? {
        Found::Known(_) if before.is_some() => return Ok(None),
        Found::Known(name) => {
            let left = store.left_at(address).find(|(inode, _)| *inode == name.inode());
            let (_, socket) = left.ok_or_else(|| io::Error::other("its socket is not in the store"))?;
            (socket.try_clone()?, name, true)
        }
        Found::New(socket, name) => {
            if before.is_some() || store.left_at(address).next().is_some() {
                log::warn!("{address}: the name that its socket had is gone: a new one is made");
            }
            unix_name::listen_now(&socket, BACKLOG).inspect_err(|_| {
                name.remove();
            })?;
            (socket, name, false)
        }
    };
    Ok(Some(Held { socket, name: Some(name), lent: false, taken_up }))
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
        Address::Udp(host) => {
            // A process that still has the dead one keeps its address in use;
            // of two, the one that was bound last receives.
            setsockopt(&dead.socket, sockopt::ReuseAddr, &true)?;
            let socket = open_net(host, SockType::Datagram, true)?;
            setsockopt(&socket, sockopt::ReuseAddr, &false)?;
            Ok(Held { socket, name: None, lent: false, taken_up: false })
        }
        Address::Unix(_) if dead.is_far() => {
            Err(io::Error::other("it was shut down, and its folder may not answer; a reload binds it again"))
        }
        Address::Unix(path) => {
            let own = dead.name.as_ref().filter(|name| name.is_there());
            let before = own.and_then(|_| std::fs::symlink_metadata(path).ok());
            let held = open(address)?;
            if let (Some(before), Some(name)) = (before, &held.name) {
                give(name, &before);
            }
            Ok(held)
        }
    }
}

/// Gives the name of a new socket the owner, group and mode of the one before, which an
/// administrator may have chosen. It listens even if that fails.
fn give(name: &Name, before: &Metadata) {
    let cannot = |what: &str, error: &io::Error| {
        log::warn!("cannot give {} the {what} that it had: {}", name.path().display(), cause(error));
    };
    // By its descriptor: its name may be another file's the next moment.
    let (file, is) = match name.open().and_then(|file| file.metadata().map(|is| (file, is))) {
        Ok(found) => found,
        Err(error) => return cannot("owner and mode", &error),
    };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // A sandbox may refuse chown(2) altogether, so it is called only for what differs.
    let owner = (is.uid() != before.uid()).then_some(before.uid());
    let group = (is.gid() != before.gid()).then_some(before.gid());
    for (what, owner, group) in [("owner", owner, None), ("group", None, group)] {
        if owner.is_none() && group.is_none() {
            continue;
        }
        if let Err(error) = chown(&path, owner, group) {
            cannot(what, &error);
        }
    }
    if let Err(error) = std::fs::set_permissions(&path, before.permissions()) {
        cannot("mode", &error);
    }
}

fn open(address: &Address) -> io::Result<Held> {
    let (socket, name) = match address {
        Address::Tcp(host) => (open_net(host, SockType::Stream, true)?, None),
        Address::Udp(host) => (open_net(host, SockType::Datagram, false)?, None),
        Address::Unix(path) => {
            let (socket, name) = unix_name::listen_at(path, Access::Umask, BACKLOG)?;
            (socket, Some(name))
        }
    };
    Ok(Held { socket, name, lent: false, taken_up: false })
}

fn open_net(host: &HostPort, kind: SockType, reuse: bool) -> io::Result<OwnedFd> {
    let at = on_interface(host)?;
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

/// The address with the number of its interface, which may come and go.
fn on_interface(host: &HostPort) -> io::Result<SocketAddr> {
    let (SocketAddr::V6(mut at), Some(zone)) = (host.at, &host.zone) else { return Ok(host.at) };
    let number = zone.parse().or_else(|_| if_nametoindex(zone.as_str()));
    let gone = |_| io::Error::new(io::ErrorKind::AddrNotAvailable, format!("there is no interface {zone}"));
    at.set_scope_id(number.map_err(gone)?);
    Ok(at.into())
}

fn bind_to(fd: &OwnedFd, address: &dyn SockaddrLike) -> io::Result<()> {
    Ok(bind(fd.as_raw_fd(), address)?)
}
