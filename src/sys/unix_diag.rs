//! How many new clients wait at Unix sockets (sock_diag(7)). No option of such a socket
//! shows that, and the netlink socket that does is one that a sandbox may refuse.

use crate::sys::socket::Fill;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

// From linux/netlink.h, linux/sock_diag.h and linux/unix_diag.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const UDIAG_SHOW_NAME: u32 = 0x1;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_RQLEN: u16 = 4;
/// The state of a socket that listens, as for TCP (net/tcp_states.h).
const LISTEN: u32 = 10;

/// A message's header, and what a socket's message begins with.
const HEADER: usize = 16;
const SOCKET: usize = 16;
/// An attribute's header.
const ATTRIBUTE: usize = 4;

/// The backlog of each Unix socket in this network namespace that has a name in a file system
/// and listens. If several have the same name, only one can be connected to: the last one that
/// was bound, which has the highest inode.
///
/// # Errors
/// The kernel has no such sockets (CONFIG_UNIX_DIAG), or a sandbox refuses them.
pub fn backlogs() -> io::Result<HashMap<PathBuf, Fill>> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::NetlinkSockDiag),
    )?;
    send(netlink.as_raw_fd(), &request(), MsgFlags::empty())?;
    let mut found = HashMap::new();
    // The kernel fills as much as fits, up to 32 KiB (net/netlink/af_netlink.c, netlink_dump).
    let mut answer = vec![0; 64 << 10];
    loop {
        // The kernel has its answers ready when it is asked.
        let length = match recv(netlink.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => length,
            Err(nix::Error::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if take(&answer[..length], &mut found)? {
            return Ok(found.into_iter().map(|(path, (_inode, fill))| (path, fill)).collect());
        }
    }
}

/// Asks for all that listen.
fn request() -> Vec<u8> {
    let mut words = Vec::new();
    words.extend(40_u32.to_ne_bytes());
    words.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    words.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // The sequence number and the sender, which nobody needs.
    words.extend([0; 8]);
    // AF_UNIX, the protocol, padding.
    words.extend([1, 0, 0, 0]);
    for word in [1_u32 << LISTEN, 0, UDIAG_SHOW_NAME | UDIAG_SHOW_RQLEN, 0, 0] {
        words.extend(word.to_ne_bytes());
    }
    words
}

/// Takes what one datagram says. Returns whether it was the last one.
fn take(mut rest: &[u8], found: &mut HashMap<PathBuf, (u32, Fill)>) -> io::Result<bool> {
    let cut = || io::Error::other("the kernel's answer has another form");
    while !rest.is_empty() {
        let length = word(rest, 0).and_then(|length| usize::try_from(length).ok()).ok_or_else(cut)?;
        let message = rest.get(..length).filter(|message| message.len() >= HEADER).ok_or_else(cut)?;
        match half(message, 4).ok_or_else(cut)? {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let error = i32::from_ne_bytes(word(message, HEADER).ok_or_else(cut)?.to_ne_bytes());
                return Err(io::Error::from_raw_os_error(error.wrapping_neg()));
            }
            _ => {
                if let Some((path, inode, fill)) = listener(message) {
                    let before = found.get(&path).map_or(0, |(inode, _)| *inode);
                    if inode >= before {
                        found.insert(path, (inode, fill));
                    }
                }
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// A socket's name, inode and backlog. `None`: it has no name in a file system.
fn listener(message: &[u8]) -> Option<(PathBuf, u32, Fill)> {
    let inode = word(message, HEADER + 4)?;
    let mut rest = message.get(HEADER + SOCKET..)?;
    let (mut path, mut fill) = (None, None);
    while rest.len() >= ATTRIBUTE {
        let length = usize::from(half(rest, 0)?);
        let value = rest.get(ATTRIBUTE..length)?;
        match half(rest, 2)? {
            // The name of an abstract one begins with a zero byte.
            UNIX_DIAG_NAME if value.first().is_some_and(|&byte| byte != 0) => {
                let name = value.split(|&byte| byte == 0).next()?;
                path = Some(PathBuf::from(OsString::from_vec(name.to_vec())));
            }
            UNIX_DIAG_RQLEN => fill = Some(Fill { now: word(value, 0)?.into(), most: word(value, 4)?.into() }),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((path?, inode, fill?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn clients_that_wait_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        // Its name is given to another one, which counts from then on.
        let old = UnixListener::bind(&path).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        assert_eq!(backlogs().unwrap()[&path].now, 1);
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let many: Vec<_> = (0..100).map(|at| UnixListener::bind(folder.path().join(at.to_string())).unwrap()).collect();
        let _clients: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let found = backlogs().unwrap();
        assert!(found[&path].now == 3 && found[&path].most >= 3, "{:?}", found[&path]);
        assert!((0..many.len()).all(|at| found[&folder.path().join(at.to_string())].now == 0));
        let _first = listener.accept().unwrap();
        assert_eq!(backlogs().unwrap()[&path].now, 2);
        drop(old);
    }

    #[test]
    fn an_answer_of_another_form_is_an_error() {
        let mut found = HashMap::new();
        for answer in [&[1][..], &[9, 0, 0, 0], &[0; 16], &[255; 64]] {
            take(answer, &mut found).unwrap_err();
        }
        assert!(found.is_empty());
    }
}
