//! Why an address can't be bound, and which process has it (proc_net(5), proc_pid_fd(5)).

use crate::config::model::Address;
use crate::supervisor::kept::sockets::try_to_bind;
use crate::sys::cause::cause;
use crate::sys::descendants::{self, Process};
use crate::sys::text::plain;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// A process that has an address, but belongs to another user.
pub const UNSEEN: &str = "a process that this user may not see";

/// The process that has that address, in words; `None`: nobody is seen to have it.
pub fn of(address: &Address) -> Option<String> {
    all_of(address).map(|all| named(&all))
}

fn named(all: &[Process]) -> String {
    // Its name is chosen by its user, and is shown on terminals.
    let named = |process: &Process| format!("{} (process {})", plain(&process.name()), process.pid);
    all.first().map_or_else(|| UNSEEN.to_owned(), named)
}

/// All processes that have the socket of that address and may be seen; `None`: there is no
/// such socket.
fn all_of(address: &Address) -> Option<Vec<Process>> {
    let inode = match address {
        Address::Tcp(at) => by_ip(at.at, ["/proc/net/tcp", "/proc/net/tcp6"], Some(LISTENS)),
        Address::Udp(at) => by_ip(at.at, ["/proc/net/udp", "/proc/net/udp6"], None),
        Address::Unix(path) => by_name(path),
    }?;
    let mut all = descendants::all().unwrap_or_default();
    all.retain(|process| sockets_of(process.pid).contains(&inode));
    Some(all)
}

/// Why a daemon could not listen there now; `None` if nothing is seen that would prevent it,
/// or if the daemon with that process id itself has the address.
pub fn obstacle(address: &Address, daemon: Option<Pid>) -> Option<String> {
    let error = match (try_to_bind(address), address) {
        (Err(error), _) => error,
        (Ok(()), Address::Tcp(_)) => return None,
        (Ok(()), _) => io::ErrorKind::AddrInUse.into(),
    };
    if error.kind() != io::ErrorKind::AddrInUse {
        return Some(refusal(address, &error, None));
    }
    let all = all_of(address)?;
    if all.iter().any(|process| Some(process.pid) == daemon) {
        return None;
    }
    Some(refusal(address, &Errno::EADDRINUSE.into(), Some(named(&all))))
}

/// `cannot listen on ADDRESS: cause`, with who is the reason and what can be done.
pub fn refusal(address: &Address, error: &io::Error, holder: Option<String>) -> String {
    /// Without CAP_NET_BIND_SERVICE, lower ports can't be bound (capabilities(7)).
    const FIRST_FREE: u16 = 1024;
    let port = match address {
        Address::Tcp(host) | Address::Udp(host) => Some(host.at.port()),
        Address::Unix(_) => None,
    };
    let by = holder.as_ref().map_or(String::new(), |holder| format!(" by {holder}"));
    let advice = match (error.kind(), port) {
        (io::ErrorKind::AddrInUse, Some(_)) if holder.is_some() => "; stop it, or take another port",
        (io::ErrorKind::AddrInUse, None) if holder.is_some() => "; stop it, or take another name",
        (io::ErrorKind::AddrNotAvailable, Some(_)) => "; no interface of this machine has that address",
        (io::ErrorKind::PermissionDenied, Some(..FIRST_FREE)) => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, which the drop-in port-below-1024.conf gives to the service"
        }
        _ => "",
    };
    format!("cannot listen on {address}: {}{by}{advice}", cause(error))
}

/// TCP_LISTEN (the kernel's include/net/tcp_states.h).
const LISTENS: &str = "0A";

/// The inode of a socket with that port whose address is the same, or if either is "any".
fn by_ip(at: SocketAddr, tables: [&str; 2], state: Option<&str>) -> Option<u64> {
    let texts = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let rows = texts.iter().flat_map(|text| text.lines().skip(1)).filter_map(row);
    let mut fit = rows.filter(|row| {
        let one_is_all = row.at.ip().is_unspecified() || at.ip().is_unspecified();
        // A UDP socket of the other family, or one that is connected, is not in the way.
        let is_in_the_way = match state {
            Some(state) => row.state == state,
            None => row.at.is_ipv4() == at.is_ipv4() && !row.is_connected(),
        };
        is_in_the_way
            && row.at.port() == at.port()
            && (one_is_all || row.at.ip().to_canonical() == at.ip().to_canonical())
    });
    fit.next().map(|row| row.inode)
}

struct Row<'a> {
    at: SocketAddr,
    /// Its port is 0 if it is not connected.
    peer: SocketAddr,
    state: &'a str,
    inode: u64,
}

impl Row<'_> {
    fn is_connected(&self) -> bool {
        self.peer.port() != 0
    }
}

/// `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode ...`
fn row(line: &str) -> Option<Row<'_>> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let end = |word: &str| {
        let (ip, port) = word.split_once(':')?;
        Some(SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?))
    };
    let (at, peer) = (end(words.get(1)?)?, end(words.get(2)?)?);
    Some(Row { at, peer, state: words.get(3)?, inode: words.get(9)?.parse().ok()? })
}

/// Parses an address: words of four bytes as they are in memory, each written as a number
/// in this machine's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let words: Option<Vec<u32>> =
        (0..hex.len() / 8).map(|i| u32::from_str_radix(hex.get(i * 8..i * 8 + 8)?, 16).ok()).collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let v4 = <[u8; 4]>::try_from(&*bytes).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
    v4.or_else(|_| <[u8; 16]>::try_from(&*bytes).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))).ok()
}

fn by_name(path: &Path) -> Option<u64> {
    let all = unix_listeners().into_iter();
    all.filter(|(_, name)| name == path).map(|(inode, _)| inode).next_back()
}

/// A socket, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its address and, if it is connected, the other end's.
    pub name: String,
    /// Whether it is connected.
    pub is_connected: bool,
}

/// Every TCP, UDP and Unix socket in the network namespace of that
/// process, by its inode.
pub fn sockets(pid: i32) -> HashMap<u64, Socket> {
    let mut found = HashMap::new();
    for (table, scheme) in [("tcp", "tcp"), ("tcp6", "tcp"), ("udp", "udp"), ("udp6", "udp")] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for row in text.lines().skip(1).filter_map(row) {
            let name = match row.is_connected() {
                true => format!("{scheme} {} with {}", row.at, row.peer),
                false => format!("{scheme}://{}", row.at),
            };
            found.insert(row.inode, Socket { name, is_connected: row.is_connected() });
        }
    }
    let text = unix_table(&format!("/proc/{pid}/net/unix"));
    found.extend(text.lines().skip(1).filter_map(unix_socket));
    found
}

/// A table of Unix sockets. Their names may be any bytes.
fn unix_table(path: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// A row of proc_net_unix(5): `Num RefCount Protocol Flags Type St Inode Path`
fn unix_socket(line: &str) -> Option<(u64, Socket)> {
    /// SS_CONNECTED (the kernel's include/uapi/linux/net.h).
    const CONNECTED: &str = "03";
    let mut rest = line;
    let mut word = || {
        let (word, after) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
        rest = after;
        word
    };
    let words: [&str; 7] = std::array::from_fn(|_| word());
    let (state, inode) = (words[5], words[6].parse().ok()?);
    // An accepted connection has the name of the socket that listens. Without one it may be a pair
    // of socketpair(2).
    let (path, is_connected) = if rest.is_empty() { ("(no name)", false) } else { (rest, state == CONNECTED) };
    Some((inode, Socket { name: format!("unix:{path}"), is_connected }))
}

/// The inode and the name of every Unix socket that listens.
pub fn unix_listeners() -> Vec<(u64, PathBuf)> {
    /// __SO_ACCEPTCON: it listens, and is no connection to it.
    const LISTENS: u32 = 1 << 16;
    let text = unix_table("/proc/net/unix");
    // `Num RefCount Protocol Flags Type St Inode Path`
    let row = |line: &str| {
        let (rest, at) = line.split_once(" /")?;
        let words: Vec<&str> = rest.split_ascii_whitespace().collect();
        let flags = u32::from_str_radix(words.get(3)?, 16).ok()?;
        let inode = words.get(6)?.parse().ok()?;
        (flags & LISTENS != 0).then(|| (inode, Path::new("/").join(at)))
    };
    text.lines().filter_map(row).collect()
}

/// The inodes of the sockets that a process has open; none if that may not be seen.
pub fn sockets_of(pid: Pid) -> BTreeSet<u64> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inode = |target: PathBuf| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    entries.filter_map(|entry| inode(std::fs::read_link(entry.path()).ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn the_process_that_listens_is_found_for_each_kind_of_address() {
        let own = Some(format!(" (process {})", std::process::id()));
        let is_own = |address: &Address| {
            let found = of(address).unwrap_or_default();
            assert!(found.ends_with(own.as_deref().unwrap()), "{address}: {found}");
        };
        for at in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let tcp = TcpListener::bind(at).unwrap();
            is_own(&Address::Tcp(tcp.local_addr().unwrap().into()));
            let udp = UdpSocket::bind(at).unwrap();
            is_own(&Address::Udp(udp.local_addr().unwrap().into()));
        }
        let any = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = any.local_addr().unwrap().port();
        is_own(&Address::Tcp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port).into()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a socket");
        let _unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        is_own(&Address::Unix(path));
        assert_eq!(of(&Address::Unix("/none".into())), None);
    }

    #[test]
    fn every_socket_of_a_process_is_described() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(at).unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a socket");
        let _unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let own = sockets_of(nix::unistd::getpid());
        let all = sockets(nix::unistd::getpid().as_raw());
        let mut names: Vec<(&str, bool)> =
            own.iter().filter_map(|inode| all.get(inode)).map(|one| (one.name.as_str(), one.is_connected)).collect();
        names.sort_unstable();
        for expected in [
            (format!("tcp://{at}"), false),
            (format!("tcp {} with {at}", client.local_addr().unwrap()), true),
            (format!("udp://{}", udp.local_addr().unwrap()), false),
            (format!("unix:{}", path.display()), false),
        ] {
            assert!(names.contains(&(expected.0.as_str(), expected.1)), "{expected:?} in {names:?}");
        }
    }

    #[test]
    fn the_name_of_a_unix_socket_is_the_rest_of_its_line() {
        let row =
            |rest: &str| unix_socket(&format!("0000000000000000: 00000002 00000000 00010000 0001 03 1343547{rest}"));
        let name = |rest| row(rest).map(|(inode, socket)| (inode, socket.name, socket.is_connected)).unwrap();
        assert_eq!(name(" a"), (1_343_547, "unix:a".to_owned(), true));
        assert_eq!(name(" /a b"), (1_343_547, "unix:/a b".to_owned(), true));
        assert_eq!(name(""), (1_343_547, "unix:(no name)".to_owned(), false));
        assert!(unix_socket("Num       RefCount Protocol Flags    Type St Inode Path").is_none());
    }

    #[test]
    fn what_prevents_a_daemon_from_listening_is_told_with_what_can_be_done() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(taken.local_addr().unwrap().into());
        let why = obstacle(&address, None).unwrap();
        let own = format!(" (process {}); stop it, or take another port", std::process::id());
        assert!(why.starts_with(&format!("cannot listen on {address}: Address already in use by ")), "{why}");
        assert!(why.ends_with(&own), "{why}");
        assert_eq!(obstacle(&address, Some(nix::unistd::getpid())), None, "that daemon may go on with it");
        drop(taken);
        assert_eq!(obstacle(&address, None), None);
        assert_eq!(obstacle(&address, None), None, "a try leaves nothing behind");
        let elsewhere = Address::Tcp("192.0.2.1:7007".parse::<SocketAddr>().unwrap().into());
        assert_eq!(
            obstacle(&elsewhere, None).unwrap(),
            "cannot listen on tcp://192.0.2.1:7007: Cannot assign requested address; no interface of this machine has \
             that address"
        );
        let low = Address::Tcp("127.0.0.1:7".parse::<SocketAddr>().unwrap().into());
        assert_eq!(
            refusal(&low, &Errno::EACCES.into(), None),
            "cannot listen on tcp://127.0.0.1:7: Permission denied; ports below 1024 need CAP_NET_BIND_SERVICE, which \
             the drop-in port-below-1024.conf gives to the service"
        );
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = Address::Udp(udp.local_addr().unwrap().into());
        assert!(obstacle(&address, None).unwrap().ends_with(&own));
        drop(udp);
        assert_eq!(obstacle(&address, None), None);
    }
}
