//! Listening sockets, which are bound once and held for as long as a child names them, so
//! that no client is refused during a restart.

use crate::config::model::{Address, HostPort};
use crate::supervisor::kept::holder;
use crate::supervisor::kept::names::{Found, Names, Wanted};
use crate::supervisor::kept::store::{Handed, Store, socket_name};
use crate::supervisor::kept::unix_name::{self, Access, Inode, Name};
use crate::sys::cause::cause;
use crate::sys::socket::{self as shared, Fill};
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

/// How many new clients may wait while nobody accepts them; the kernel limits this to
/// `/proc/sys/net/core/somaxconn` (listen(2)).
const BACKLOG: i32 = 4096;

/// Every socket that is held, by its address.
#[derive(Debug, Default)]
pub struct Sockets {
    held: BTreeMap<Address, Held>,
    /// Whether one was bound anew or listens again, which the store must be told.
    renewed: bool,
}

/// What waits at a listening socket, as far as the kernel shows it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Waiting {
    /// New clients.
    pub clients: Option<Fill>,
    /// Datagrams.
    pub bytes: Option<Fill>,
}

#[derive(Debug)]
struct Held {
    socket: OwnedFd,
    /// A Unix socket's name in the file system, if it is this daemon's own.
    name: Option<Name>,
    /// Whether it belongs to a socket unit: the service manager has it too, and owns its name.
    lent: bool,
    /// Whether it came from the store and is not [kept](Sockets::keep) yet: if a start or a
    /// reload fails, its name stays, because waiting clients go to the next daemon.
    taken_up: bool,
}

impl Held {
    /// Whether only a process aside may check if its name is still there.
    fn is_far(&self) -> bool {
        self.name.as_ref().is_some_and(|name| !name.is_local())
    }

    fn name_in_store(&self, address: &Address) -> String {
        socket_name(address, self.name.as_ref().map(Name::inode))
    }

    /// Whether its name is gone or refers to something else, so that nobody can connect.
    fn has_lost_its_name(&self) -> bool {
        self.name.as_ref().is_some_and(Name::is_lost)
    }
}

impl Sockets {
    /// The socket for a child that is about to start, in the state in which it was bound. A
    /// socket can't be opened anew, so all instances of a child, also earlier ones, share one
    /// description. This undoes what they did to it.
    ///
    /// `alone`: no other instance runs. Otherwise status flags and options stay as they are,
    /// because the other instance may rely on what it has set.
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

    /// Makes it listen again if a program shut it down or its name is gone.
    ///
    /// # Errors
    /// It can't be bound there again, or it is the service manager's own and dead.
    pub fn revive(&mut self, address: &Address) -> io::Result<()> {
        let Some(held) = self.held.get_mut(address) else { return Ok(()) };
        let how = match (revive(address, held)?, held.lent) {
            (Revived::Lives, _) => return Ok(()),
            (Revived::Again, _) => "had stopped listening; it listens again",
            (Revived::Dead, true) => {
                return Err(io::Error::other("the service manager's socket was shut down; restart its socket unit"));
            }
            (Revived::Dead, false) => {
                *held = bind_again(address, held)?;
                "was shut down or had lost its name; it is bound anew"
            }
        };
        log::warn!("the socket of {address} {how}");
        self.renewed = true;
        Ok(())
    }

    /// Whether one was renewed since the last call.
    pub fn take_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
    }

    /// Makes all of them listen again, for the next daemon.
    pub fn revive_all(&mut self) {
        let addresses: Vec<Address> = self.held.keys().cloned().collect();
        for address in addresses {
            if let Err(error) = self.revive(&address) {
                log::warn!("cannot listen on {address}: {}", cause(&error));
            }
        }
    }

    /// The sockets that are to outlive this process, by their names in the store. Dead ones
    /// are left out, as they would only be in the way.
    pub fn stored(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let own = self.held.iter().filter(|(address, held)| !held.lent && is_alive(address, held));
        own.map(|(address, held)| (held.name_in_store(address), held.socket.as_fd()))
    }

    /// Those of them that a restart takes over. A Unix socket is not among them: its name is
    /// removed at the end, because there may be no restart.
    pub fn stored_at_the_end(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let nameless = self
            .held
            .iter()
            .filter(|(address, held)| !held.lent && !matches!(address, Address::Unix(_)) && is_alive(address, held));
        nameless.map(|(address, held)| (held.name_in_store(address), held.socket.as_fd()))
    }

    /// Unix sockets to which nobody can connect, because their names are gone or refer to
    /// something else. [`Sockets::bind_new`] binds them anew.
    pub fn lost(&self) -> impl Iterator<Item = &Address> {
        self.held.iter().filter(|(_, held)| held.has_lost_its_name()).map(|(address, _)| address)
    }

    /// How much waits at that address.
    pub fn waiting(&self, address: &Address) -> Waiting {
        let Some(held) = self.held.get(address) else { return Waiting::default() };
        match address {
            Address::Tcp(_) => Waiting { clients: shared::backlog(&held.socket).ok(), bytes: None },
            Address::Udp(_) => Waiting { clients: None, bytes: shared::datagrams(&held.socket).ok() },
            // The command that shows the status finds that out.
            Address::Unix(_) => Waiting::default(),
        }
    }

    /// Why nobody can connect to that address, as far as this is known at once.
    pub fn problem(&self, address: &Address) -> Option<String> {
        let is_lost = self.held.get(address).is_some_and(Held::has_lost_its_name);
        is_lost.then(|| format!("nobody can connect to {address}: its name is gone; a reload makes it again"))
    }

    /// The names that only a process aside may look at.
    pub(crate) fn far_names(&self) -> Vec<(PathBuf, Inode)> {
        let far = self.held.values().filter(|held| held.is_far()).filter_map(|held| held.name.as_ref());
        far.map(|name| (name.path().to_owned(), name.inode())).collect()
    }

    /// Notes which of these names a process aside has seen to be gone.
    pub(crate) fn set_lost(&mut self, lost: impl Fn(&Path, Inode) -> Option<bool>) {
        for name in self.held.values_mut().filter_map(|held| held.name.as_mut()) {
            if let Some(lost) = lost(name.path(), name.inode()) {
                name.set_lost(lost);
            }
        }
    }

    /// Removes and returns those that were bound in place of some in `others`.
    pub fn take_in_place_of(&mut self, others: &Sockets) -> Sockets {
        let (again, new) = std::mem::take(&mut self.held).into_iter().partition(|(at, _)| others.held.contains_key(at));
        self.held = new;
        let mut taken = Sockets::default();
        taken.held = again;
        taken
    }

    /// The addresses to which they are bound.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.held.keys()
    }

    /// Binds one more address, if that can be done at once. It can't for a Unix socket, whose
    /// name is first made by a process aside, even in place of one that was shut down, if its
    /// folder may not answer.
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
    /// From bind(2), or from making its name.
    pub(crate) fn bind_first(&mut self, address: &Address, store: &Store, names: &mut Names) -> io::Result<()> {
        if let Some(held) = hold(address, store, None, names)? {
            self.held.insert(address.clone(), held);
            self.revive(address).inspect_err(|_| {
                self.held.remove(address);
            })?;
        }
        Ok(())
    }

    /// The names that a process aside must make or look at before these addresses are
    /// [bound](Sockets::bind_new).
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

    /// Binds those addresses that are not held yet, unless the service manager has a socket
    /// for them, and those that were [lost](Sockets::lost), all or none. Returns the new
    /// sockets, which the caller [keeps](Sockets::keep) when everything else is ready too.
    ///
    /// # Errors
    /// `cannot listen on ADDRESS: cause` for the first one that failed.
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

    /// Why it can't listen there. If this daemon's own socket on the same port is the reason,
    /// this says so, as nothing else would.
    fn why_not(&self, address: &Address, error: &io::Error) -> String {
        let port = |address: &Address| match address {
            Address::Tcp(host) | Address::Udp(host) => Some((address.scheme(), host.at.port())),
            Address::Unix(_) => None,
        };
        let own = self.held.keys().find(|held| port(held).is_some() && port(held) == port(address));
        match own.filter(|_| error.kind() == io::ErrorKind::AddrInUse) {
            Some(own) => format!(
                "cannot listen on {address}: this daemon itself holds {own} until a reload is done; \
                 reload once with neither address, then with the new one"
            ),
            None => holder::refusal(address, error, None),
        }
    }

    /// Whether one is held for exactly that address.
    pub(crate) fn has(&self, address: &Address) -> bool {
        self.held.contains_key(address)
    }

    /// Closes all sockets at the end. Returns the processes aside that
    /// [remove](Name::remove) their names.
    pub fn close(&mut self) -> Vec<Pid> {
        let removing = self.own_names().filter_map(Name::remove).collect();
        self.held.clear();
        removing
    }

    /// The names that are removed when all sockets are closed.
    fn own_names(&self) -> impl Iterator<Item = &Name> {
        self.held.values().filter(|held| !held.taken_up).filter_map(|held| held.name.as_ref())
    }

    /// Adds these, in place of those that they were bound to replace.
    pub fn keep(&mut self, mut new: Sockets) {
        new.held.values_mut().for_each(|held| held.taken_up = false);
        self.held.append(&mut new.held);
    }

    /// Closes the sockets that are not `named` any more, and removes their names.
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

/// Makes a socket for that address, or takes it from the store. `None`: the one that is held
/// already is fine.
fn hold(address: &Address, store: &Store, before: Option<&Held>, names: &mut Names) -> io::Result<Option<Held>> {
    let path = match (address, store.socket(address)?) {
        (_, Some(Handed { socket, lent })) => {
            if let (Address::Unix(path), true) = (address, names.is_missing(address)) {
                // Only the manager can give its socket a new name.
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
                log::warn!("{address}: the name of its socket was gone: made a new one");
            }
            unix_name::listen_now(&socket, BACKLOG).inspect_err(|_| {
                name.remove();
            })?;
            (socket, name, false)
        }
    };
    Ok(Some(Held { socket, name: Some(name), lent: false, taken_up }))
}

/// Whether a socket can be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Revived {
    /// It was fine all the time.
    Lives,
    /// It was not, but can be used again now.
    Again,
    /// It can't be used any more.
    Dead,
}

/// Whether clients can reach it.
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
                // If it listens already, this restores its backlog.
                again = !listens;
                if listen(&held.socket, Backlog::new(BACKLOG)?).is_err() {
                    return Ok(Revived::Dead);
                }
            }
        }
        Address::Unix(_) => {
            if !held.lent {
                // This succeeds whether it was shut down or not.
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

/// Binds another socket in place of a dead one, whose address it takes over.
fn bind_again(address: &Address, dead: &Held) -> io::Result<Held> {
    match address {
        Address::Tcp(_) => open(address),
        Address::Udp(host) => {
            // A process that still has the dead one keeps its address in use. Of two
            // sockets with one address, the one that was bound last receives.
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

/// Gives the name of a new socket the owner, group and mode of the previous one, which an
/// administrator may have chosen. The socket listens even if that fails.
fn give(name: &Name, before: &Metadata) {
    let cannot = |what: &str, error: &io::Error| {
        log::warn!("cannot give {} the {what} that it had: {}", name.path().display(), cause(error));
    };
    // By its descriptor, because its name may refer to another file the next moment.
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
    let fd = bind_net(host, kind, reuse)?;
    if kind == SockType::Stream {
        listen(&fd, Backlog::new(BACKLOG)?)?;
    }
    Ok(fd)
}

/// Tries to bind that address and lets go of it. With SO_REUSEADDR, a socket that does not
/// listen is in nobody's way (socket(7)). Nothing is tried for other sockets than TCP, which
/// would be.
///
/// # Errors
/// From bind(2).
pub(crate) fn try_to_bind(address: &Address) -> io::Result<()> {
    match address {
        Address::Tcp(host) => bind_net(host, SockType::Stream, true).map(drop),
        Address::Udp(_) | Address::Unix(_) => Ok(()),
    }
}

fn bind_net(host: &HostPort, kind: SockType, reuse: bool) -> io::Result<OwnedFd> {
    let at = on_interface(host)?;
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if at.is_ipv6() {
        // [::] and 0.0.0.0 are two addresses, whatever net.ipv6.bindv6only says.
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if reuse {
        // So that connections of an earlier daemon in TIME_WAIT don't prevent it (socket(7)).
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    bind_to(&fd, &SockaddrStorage::from(at))?;
    Ok(fd)
}

/// The address with the current number of its interface.
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
