//! Sends notifications to the process that started this one, as sd_notify(3) does: from
//! the supervisor to systemd, and from plugins to the supervisor.

use crate::sys::cause;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::time::{ClockId, clock_gettime};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::time::Duration;

/// Kept from the first message on, because a process that has run out of descriptors must
/// still be able to report that, and to feed its watchdog.
static SOCKET: OnceLock<UnixDatagram> = OnceLock::new();

/// Whether anyone wants to be notified.
pub fn is_heard() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// How often a message is tried if this machine is short of memory or descriptors, and the
/// pause after each try.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Sends `NAME=value` lines as one datagram to $NOTIFY_SOCKET, which is a path
/// or, after an `@`, a name in the abstract namespace (unix(7)). Without the
/// variable there is nobody to notify, and that is no error. If memory or descriptors are
/// short, it tries again for a second, because a program that is ready but could not
/// report that would be killed.
///
/// # Errors
/// Nobody listens there, or this process may not send there; or the shortage lasts.
pub fn send(lines: &str) -> io::Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    for _ in 1..TRIES {
        match send_to(&name, lines, None, MsgFlags::empty()) {
            Err(error) if passes(&error) => std::thread::sleep(PAUSE),
            sent => return sent,
        }
    }
    send_to(&name, lines, None, MsgFlags::empty())
}

/// The result of sending without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It was delivered, or there is nobody to notify.
    Taken,
    /// The receiver's queue is full (unix(7), max_dgram_qlen), or this
    /// machine is short of memory or descriptors.
    NotNow,
}

/// [`send`] without waiting, and with a descriptor if one is given.
///
/// # Errors
/// As [`send`].
pub fn try_send(lines: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<Sent> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(Sent::Taken) };
    match send_to(&name, lines, fd, MsgFlags::MSG_DONTWAIT) {
        Ok(()) => Ok(Sent::Taken),
        Err(error) if passes(&error) => Ok(Sent::NotNow),
        Err(error) => Err(error),
    }
}

/// Whether a later try may succeed.
fn passes(error: &io::Error) -> bool {
    use Errno::{EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, ETOOMANYREFS};
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(EAGAIN | EMFILE | ENFILE | ENOBUFS | ENOMEM | ETOOMANYREFS))
}

fn send_to(name: &OsStr, lines: &str, fd: Option<BorrowedFd<'_>>, how: MsgFlags) -> io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(name)?,
    };
    let socket = socket()?;
    let lines = cause::plain(lines);
    let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let with: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &[ControlMessage::ScmRights(&fds)] };
    let lines = [IoSlice::new(lines.as_bytes())];
    loop {
        match sendmsg(socket.as_raw_fd(), &lines, with, MsgFlags::MSG_NOSIGNAL | how, Some(&address)) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn socket() -> io::Result<&'static UnixDatagram> {
    match SOCKET.get() {
        Some(socket) => Ok(socket),
        None => {
            let socket = UnixDatagram::unbound()?;
            Ok(SOCKET.get_or_init(|| socket))
        }
    }
}

/// How often the service manager wants to hear `WATCHDOG=1`
/// (sd_watchdog_enabled(3)); `None`: not at all.
pub fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().ok());
    // Without $WATCHDOG_PID it is meant for any process that reads it.
    if number("WATCHDOG_PID").is_some_and(|pid| pid != Some(u64::from(std::process::id()))) {
        return None;
    }
    number("WATCHDOG_USEC").flatten().filter(|&micros| micros > 0).map(Duration::from_micros)
}

/// `MONOTONIC_USEC=` with the time now, which belongs in one datagram with `RELOADING=1`.
///
/// # Errors
/// None on Linux.
pub fn monotonic_usec() -> io::Result<String> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(format!("MONOTONIC_USEC={}", now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    fn arrives_at(socket: &UnixDatagram, name: &OsStr) {
        send_to(name, "READY=1\nSTATUS=fine", None, MsgFlags::empty()).unwrap();
        let mut bytes = [0; 64];
        let len = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], b"READY=1\nSTATUS=fine");
    }

    #[test]
    fn a_path_and_an_abstract_name_both_get_messages() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        arrives_at(&UnixDatagram::bind(&path).unwrap(), path.as_os_str());

        let name = format!("plumbd-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        arrives_at(&UnixDatagram::bind_addr(&address).unwrap(), OsStr::new(&format!("@{name}")));
    }

    #[test]
    fn it_is_an_error_if_nobody_listens() {
        assert!(send_to(OsStr::new("/nonexistent/notify"), "READY=1", None, MsgFlags::empty()).is_err());
    }
}
