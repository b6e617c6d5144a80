//! What outlives the supervisor: the service manager's descriptor store.
//!
//! Under systemd each listening socket and each link is handed to the service
//! manager (`FDSTORE=1`, sd_pid_notify_with_fds(3)). If this supervisor is killed, the
//! next one gets them back by their names: no client is refused, and what was in a pipe
//! is still there. Only the read end of a pipe is stored; a write end is opened from it
//! (proc(5)). So a reader still sees the end of its input when all writers are gone, and
//! can end.
//!
//! | name | what it is |
//! |---|---|
//! | `listen/ADDRESS` | a listening socket |
//! | `listen/unix%3APATH#DEVICE-INODE` | a listening socket with a name in the file system, and which file that was |
//! | `link/PROTOCOL/FROM/TO/queue` | the read end of a link's queue; FROM is `*` if several links may share it, and `CHILD#stderr` if it is a child's standard error |
//! | `link/PROTOCOL/FROM/TO/staging`, `.../ledger` | the other two parts of a link to a sink with an intake |
//!
//! The sockets of a socket unit (systemd.socket(5)) arrive in the same way, with names of
//! their own: they are matched by address, and remain the manager's.

use crate::config::model::{Address, HostPort};
use crate::link::Kept;
use crate::link::handover::Protocol;
use crate::link::ledger::View;
use crate::supervisor::kept::unix_name::Inode;
use crate::supervisor::manager::Manager;
use crate::sys::pipe;
use crate::sys::stream::Stream;
use crate::sys::{listen_fds, notify};
use nix::net::if_::if_indextoname;
use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const QUEUE: &str = "queue";
const STAGING: &str = "staging";
const LEDGER: &str = "ledger";

/// What follows the source's name if the link is its standard error.
const STDERR: &str = "#stderr";

/// The number of bytes that is assumed for a link that can't be looked into just now.
const UNKNOWN: usize = 1;

/// The longest name that systemd takes (fdname_is_valid in its fd-util.c).
const NAME_MAX: usize = 255;

/// A socket that the service manager handed to this process.
#[derive(Debug)]
pub struct Handed {
    /// The socket.
    pub socket: OwnedFd,
    /// Whether it remains the manager's own, along with its name if it is a Unix socket.
    pub lent: bool,
}

/// A link that no configuration has any more and that holds bytes.
#[derive(Debug)]
pub struct Waiting<'a> {
    /// The source's name, or `*` if there may be several.
    pub from: &'a str,
    /// Which of the source's outputs it is.
    pub stream: Stream,
    /// The sink's name.
    pub to: &'a str,
    /// How many bytes it holds.
    pub bytes: usize,
}

impl Waiting<'_> {
    /// `FROM -> TO`, or `FROM (stderr) -> TO`.
    pub fn title(&self) -> String {
        format!("{} -> {}", self.stream.of(self.from), self.to)
    }
}

/// The service manager's store, as far as this process knows it.
#[derive(Debug, Default)]
pub struct Store {
    /// What an earlier supervisor left and nothing has taken up yet.
    left: BTreeMap<String, OwnedFd>,
    /// Sockets of a socket unit.
    lent: BTreeMap<Address, OwnedFd>,
    /// What the manager keeps: for each name the inode of its kernel object.
    kept: BTreeMap<String, u64>,
    /// The room that was last reported as too small.
    room_told: usize,
}

impl Store {
    /// Takes what the service manager hands to this process.
    ///
    /// # Errors
    /// Announced descriptors are missing.
    pub fn open() -> Result<Store, String> {
        let mut store = Store::default();
        for (name, fd) in listen_fds::take()? {
            if name.starts_with("listen/") || name.starts_with("link/") {
                store.kept.insert(name.clone(), inode(fd.as_fd()));
                store.left.insert(name, fd);
                continue;
            }
            match address_of(&fd) {
                Some(address) => {
                    store.lent.insert(address, fd);
                }
                None => log::warn!(
                    "closed \"{name}\" from the service manager, which is not a socket that a child could listen on"
                ),
            }
        }
        Ok(store)
    }

    /// The socket for that address, if the manager handed one.
    ///
    /// # Errors
    /// EMFILE.
    pub fn socket(&self, address: &Address) -> io::Result<Option<Handed>> {
        if let Some(socket) = self.left.get(&socket_name(address, None)) {
            return Ok(Some(Handed { socket: socket.try_clone()?, lent: false }));
        }
        let lent = self.lent.get(address).map(OwnedFd::try_clone).transpose()?;
        Ok(lent.map(|socket| Handed { socket, lent: true }))
    }

    /// Whether that address belongs to a socket unit.
    pub fn is_lent(&self, address: &Address) -> bool {
        self.lent.contains_key(address)
    }

    /// The Unix sockets that an earlier supervisor left for that address, each with the inode
    /// of its name.
    pub fn left_at<'a>(&'a self, address: &Address) -> impl Iterator<Item = (Inode, &'a OwnedFd)> + use<'a> {
        let begin = format!("{}#", socket_name(address, None));
        self.left.iter().filter_map(move |(name, socket)| Some((Inode::parse(name.strip_prefix(&begin)?)?, socket)))
    }

    /// The sockets of a socket unit that no child listens on.
    pub fn idle<'a>(&'a self, used: impl Fn(&Address) -> bool + 'a) -> impl Iterator<Item = &'a Address> {
        self.lent.keys().filter(move |address| !used(address))
    }

    /// The link of that name as an earlier supervisor left it. Its staging and
    /// ledger count only together.
    ///
    /// # Errors
    /// EMFILE.
    pub fn link(&self, link: &str) -> io::Result<Option<Kept>> {
        let part = |part: &str| self.left.get(&format!("{link}/{part}")).map(OwnedFd::try_clone).transpose();
        let Some(queue) = part(QUEUE)? else { return Ok(None) };
        Ok(Some(Kept { queue, intake: part(STAGING)?.zip(part(LEDGER)?) }))
    }

    /// The links that were left and not taken up and that hold bytes.
    pub fn waiting(&self) -> Vec<Waiting<'_>> {
        let links = self.left.keys().filter_map(|name| name.strip_suffix(QUEUE)?.strip_suffix('/'));
        let waiting = links.map(|link| {
            let (from, stream, to) = ends(link);
            Waiting { from, stream, to, bytes: self.bytes_left(link).unwrap_or(UNKNOWN) }
        });
        waiting.filter(|link| link.bytes > 0).collect()
    }

    fn bytes_left(&self, link: &str) -> io::Result<usize> {
        let part = |part: &str| self.left.get(&format!("{link}/{part}"));
        let queued = part(QUEUE).map_or(Ok(0), pipe::bytes_in)?;
        let staged = part(STAGING).map_or(Ok(0), pipe::bytes_in)?;
        let carried = part(LEDGER).map_or(0, |fd| View::of(fd).carried());
        Ok(queued + staged + carried)
    }

    /// Holds a part of a link that the configuration no longer has, until one has it again.
    pub fn leave(&mut self, name: String, fd: OwnedFd) {
        self.left.insert(name, fd);
    }

    /// Has the manager keep these, and what was left with bytes in it, and nothing else.
    /// What was left with bytes is held by this process too, even without a manager.
    pub fn keep(&mut self, wanted: &BTreeMap<String, BorrowedFd<'_>>, manager: &mut Manager) {
        self.left.retain(|name, _| !wanted.contains_key(name));
        let empty: Vec<String> = self
            .left
            .keys()
            // A link whose size can't be found out is kept.
            .filter(|name| name.rsplit_once('/').is_none_or(|(link, _)| matches!(self.bytes_left(link), Ok(0))))
            .cloned()
            .collect();
        for name in empty {
            self.left.remove(&name);
        }
        if !notify::is_heard() {
            return;
        }
        let gone: Vec<String> = self
            .kept
            .iter()
            .filter(|&(name, &object)| match wanted.get(name) {
                Some(fd) => inode(*fd) != object,
                None => !self.left.contains_key(name),
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            // If this can't be sent now, it is sent the next time.
            if manager.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}")) {
                self.kept.remove(&name);
            }
        }
        let mut new: Vec<_> = wanted.iter().filter(|(name, _)| !self.kept.contains_key(*name)).collect();
        // Queues last, so that if there is not room for all, no queue is kept without the rest.
        new.sort_by_key(|(name, _)| name.ends_with(QUEUE));
        for (name, fd) in new {
            if name.len() > NAME_MAX {
                log::warn!("cannot have the service manager keep {name}: its name is too long");
                continue;
            }
            // FDPOLL=0, so that a pipe without a writer is not discarded.
            if manager.hand(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), *fd) {
                self.kept.insert(name.clone(), inode(*fd));
            }
        }
        // Since version 254, systemd says how many it keeps.
        let room = std::env::var("FDSTORE").ok().and_then(|room| room.parse::<usize>().ok());
        if let Some(room) = room.filter(|&room| room < self.kept.len() && self.room_told != room) {
            self.room_told = room;
            log::error!(
                "the service manager keeps only {room} of {} descriptors: a crash would lose the others; \
                 raise FileDescriptorStoreMax=",
                self.kept.len()
            );
        }
    }
}

/// The name of a socket in the store, with the inode of its name in the file system.
pub fn socket_name(address: &Address, inode: Option<Inode>) -> String {
    let address = escape(&address.to_string());
    inode.map_or_else(|| format!("listen/{address}"), |inode| format!("listen/{address}#{inode}"))
}

/// The beginning of the names of a link's parts in the store; `from` is `None` if several
/// sources may share its queue.
pub fn link_name(protocol: Protocol, from: Option<(&str, Stream)>, to: &str) -> String {
    let protocol = match protocol {
        Protocol::Lines => "lines",
        Protocol::Records => "records",
    };
    let from = match from {
        None => "*".to_owned(),
        Some((from, Stream::Stdout)) => from.to_owned(),
        Some((from, Stream::Stderr)) => format!("{from}{STDERR}"),
    };
    format!("link/{protocol}/{from}/{to}")
}

/// The parts of a link, with their names in the store.
pub fn parts<'a>(
    link: &str,
    queue: &'a OwnedFd,
    intake: Option<(&'a OwnedFd, &'a OwnedFd)>,
) -> Vec<(String, BorrowedFd<'a>)> {
    let (staging, ledger) = intake.unzip();
    let all = [(QUEUE, Some(queue)), (STAGING, staging), (LEDGER, ledger)];
    all.into_iter().filter_map(|(part, fd)| Some((format!("{link}/{part}"), fd?.as_fd()))).collect()
}

/// The source, its output, and the sink in a link's name in the store.
fn ends(link: &str) -> (&str, Stream, &str) {
    let mut words = link.split('/').skip(2);
    let mut word = || words.next().unwrap_or_default();
    let (from, to) = (word(), word());
    match from.strip_suffix(STDERR) {
        Some(from) => (from, Stream::Stderr, to),
        None => (from, Stream::Stdout, to),
    }
}

/// Escapes a text for the store, whose names are printable ASCII without a colon; `#` ends
/// an address.
fn escape(text: &str) -> String {
    let plain = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && !b":%#".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn inode(fd: BorrowedFd<'_>) -> u64 {
    nix::sys::stat::fstat(fd).map_or(0, |stat| stat.st_ino)
}

/// The address of a socket, as a configuration would write it.
fn address_of(fd: &OwnedFd) -> Option<Address> {
    let kind = getsockopt(fd, sockopt::SockType).ok()?;
    let bound: SockaddrStorage = getsockname(fd.as_raw_fd()).ok()?;
    let v4 = bound.as_sockaddr_in().map(|at| SocketAddr::V4((*at).into()));
    let v6 = bound.as_sockaddr_in6().map(|at| SocketAddr::V6((*at).into()));
    match (v4.or(v6), kind) {
        (Some(at), SockType::Stream) => Some(Address::Tcp(host_of(at))),
        (Some(at), SockType::Datagram) => Some(Address::Udp(host_of(at))),
        (None, SockType::Stream) => Some(Address::Unix(bound.as_unix_addr()?.path()?.to_owned())),
        _ => None,
    }
}

/// The address with the name of its interface, if it has one.
fn host_of(at: SocketAddr) -> HostPort {
    let scope = if let SocketAddr::V6(at) = at { at.scope_id() } else { 0 };
    let name = || if_indextoname(scope).ok()?.into_string().ok();
    let zone = (scope != 0).then(|| name().unwrap_or_else(|| scope.to_string()));
    HostPort { at: SocketAddr::new(at.ip(), at.port()), zone }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_in_the_store() {
        let address = Address::Tcp("[::1]:7007".parse::<SocketAddr>().unwrap().into());
        assert_eq!(socket_name(&address, None), "listen/tcp%3A//[%3A%3A1]%3A7007");
        let unix = Address::Unix("/run/caf\u{e9} #100%".into());
        assert_eq!(socket_name(&unix, Inode::parse("1a-2f3")), "listen/unix%3A/run/caf%C3%A9 %23100%25#1a-2f3");
        let output = |stream| Some(("echo.0", stream));
        assert_eq!(link_name(Protocol::Records, output(Stream::Stdout), "logger"), "link/records/echo.0/logger");
        assert_eq!(link_name(Protocol::Lines, output(Stream::Stderr), "logger"), "link/lines/echo.0#stderr/logger");
        assert_eq!(ends(&link_name(Protocol::Lines, None, "x")), ("*", Stream::Stdout, "x"));
        for stream in [Stream::Stdout, Stream::Stderr] {
            assert_eq!(ends(&link_name(Protocol::Lines, output(stream), "logger")), ("echo.0", stream, "logger"));
        }
    }

    #[test]
    fn the_address_of_a_socket_is_found() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = tcp.local_addr().unwrap();
        assert_eq!(address_of(&tcp.into()), Some(Address::Tcp(at.into())));
        let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let at = udp.local_addr().unwrap();
        assert_eq!(address_of(&udp.into()), Some(Address::Udp(at.into())));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(address_of(&unix.into()), Some(Address::Unix(path)));
        assert_eq!(address_of(&std::fs::File::open("/dev/null").unwrap().into()), None);
    }
}
