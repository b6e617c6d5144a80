//! Saying something to whoever started this process: sd_notify(3), for the
//! supervisor towards systemd and for plugins towards the supervisor.

use nix::time::{ClockId, clock_gettime};
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `NAME=value` lines as one datagram to $NOTIFY_SOCKET, which is a path
/// or, after an `@`, a name in the abstract namespace (unix(7)). Without the
/// variable there is nobody to tell, and that is no error.
///
/// # Errors
/// Nobody listens there, or not for this process.
pub fn send(lines: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(name) => send_to(&name, lines),
        None => Ok(()),
    }
}

fn send_to(name: &OsStr, lines: &str) -> io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(lines.as_bytes(), &address)?;
    Ok(())
}

/// `MONOTONIC_USEC=` for now, which goes with `RELOADING=1` in one datagram.
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

    fn arrives_at(socket: &UnixDatagram, name: &OsStr) {
        send_to(name, "READY=1\nSTATUS=fine").unwrap();
        let mut bytes = [0; 64];
        let len = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], b"READY=1\nSTATUS=fine");
    }

    #[test]
    fn a_path_and_an_abstract_name_are_both_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        arrives_at(&UnixDatagram::bind(&path).unwrap(), path.as_os_str());

        let name = format!("plumbd-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        arrives_at(&UnixDatagram::bind_addr(&address).unwrap(), OsStr::new(&format!("@{name}")));
    }

    #[test]
    fn nobody_there_is_an_error() {
        assert!(send_to(OsStr::new("/nonexistent/notify"), "READY=1").is_err());
    }
}
