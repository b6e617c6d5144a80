//! Sends entries to a syslog daemon through /dev/log, which is a datagram socket almost
//! everywhere and a stream with some daemons. Reconnects whenever the daemon restarts.

use super::output::{RETRY, Sent, send_now};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use syslog::Facility;

/// Where a syslog daemon listens (syslog(3)).
pub(super) const PATH: &str = "/dev/log";

/// A full stream is tried again after this long.
const STREAM_RETRY: Duration = Duration::from_millis(20);

/// A syslog daemon, whether it runs or not.
#[derive(Debug)]
pub(super) struct Syslog {
    path: PathBuf,
    facility: Facility,
    /// The connection, if the daemon listens on a stream; else the datagram socket is
    /// connected, or nothing is.
    stream: Mutex<Option<OwnedFd>>,
}

impl Syslog {
    /// The daemon at that path, and the datagram socket to it. The socket stays the same
    /// across reconnects, so that it can stay in a poll set.
    ///
    /// # Errors
    /// EMFILE, ENFILE. It is no error if nobody listens.
    pub(super) fn at(path: &Path, facility: Facility) -> io::Result<(Syslog, OwnedFd)> {
        let datagram = new_socket(SockType::Datagram)?;
        Ok((Syslog { path: path.to_owned(), facility, stream: Mutex::default() }, datagram))
    }

    pub(super) fn facility(&self) -> Facility {
        self.facility
    }

    /// Sends an entry that ends with NUL, or the rest of one.
    pub(super) fn send(&self, datagram: &OwnedFd, entry: &[u8]) -> Sent {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = match &*stream {
            // On a stream, a NUL ends an entry, as in syslog(3).
            Some(stream) => send_now(stream, entry),
            None => send_now(datagram, entry.strip_suffix(b"\0").unwrap_or(entry)).map(|_| entry.len()),
        };
        match sent {
            Ok(n) => Sent::Bytes(n),
            Err(Errno::EAGAIN) if stream.is_some() => Sent::Later(STREAM_RETRY),
            Err(Errno::EAGAIN) => Sent::Full,
            Err(Errno::EMSGSIZE) => Sent::Never,
            Err(Errno::EINTR) => Sent::Later(Duration::ZERO),
            Err(Errno::ENOBUFS | Errno::ENOMEM) => Sent::Later(RETRY),
            Err(_) => {
                *stream = None;
                match self.connect(datagram) {
                    Ok(new) => {
                        *stream = new;
                        Sent::Anew
                    }
                    Err(_) => Sent::Later(RETRY),
                }
            }
        }
    }

    /// Connects the datagram socket or a new stream. This never waits.
    fn connect(&self, datagram: &OwnedFd) -> nix::Result<Option<OwnedFd>> {
        let address = UnixAddr::new(&self.path)?;
        match connect(datagram.as_raw_fd(), &address) {
            Err(Errno::EPROTOTYPE) => {
                let stream = new_socket(SockType::Stream)?;
                connect(stream.as_raw_fd(), &address)?;
                Ok(Some(stream))
            }
            other => other.map(|()| None),
        }
    }
}

/// Whether a daemon listens at [`PATH`].
pub(super) fn listens() -> bool {
    let daemon = Syslog::at(Path::new(PATH), Facility::LOG_DAEMON);
    daemon.is_ok_and(|(syslog, datagram)| syslog.connect(&datagram).is_ok())
}

fn new_socket(kind: SockType) -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    /// A folder, the path of a daemon's socket in it, and the client for that path.
    fn somewhere() -> (tempfile::TempDir, PathBuf, Syslog, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (syslog, datagram) = Syslog::at(&path, Facility::LOG_DAEMON).unwrap();
        (folder, path, syslog, datagram)
    }

    #[test]
    fn it_goes_on_with_the_next_daemon_of_either_kind() {
        let (_folder, path, syslog, datagram) = somewhere();
        assert_eq!(syslog.send(&datagram, b"nobody\0"), Sent::Later(RETRY));
        for round in 0..2 {
            let daemon = UnixDatagram::bind(&path).unwrap();
            assert_eq!(syslog.send(&datagram, b"one\0"), Sent::Anew, "round {round}");
            assert_eq!(syslog.send(&datagram, b"one\0"), Sent::Bytes(4));
            let mut got = [0; 10];
            assert_eq!(daemon.recv(&mut got).unwrap(), 3, "a datagram ends by itself");
            assert_eq!(&got[..3], b"one");
            drop(daemon);
            std::fs::remove_file(&path).unwrap();
            assert_eq!(syslog.send(&datagram, b"nobody\0"), Sent::Later(RETRY));

            let daemon = UnixListener::bind(&path).unwrap();
            assert_eq!(syslog.send(&datagram, b"two\0"), Sent::Anew);
            assert_eq!(syslog.send(&datagram, b"two\0"), Sent::Bytes(4));
            let (mut connection, _) = daemon.accept().unwrap();
            assert_eq!(connection.read(&mut got).unwrap(), 4);
            assert_eq!(&got[..4], b"two\0");
            drop((connection, daemon));
            std::fs::remove_file(&path).unwrap();
            assert_eq!(syslog.send(&datagram, b"nobody\0"), Sent::Later(RETRY));
        }
    }

    #[test]
    fn a_full_socket_of_either_kind_is_reported() {
        let (_folder, path, syslog, datagram) = somewhere();
        let fill = || loop {
            match syslog.send(&datagram, &[b'x'; 5000]) {
                Sent::Bytes(_) | Sent::Anew => {}
                other => return other,
            }
        };
        let daemon = UnixDatagram::bind(&path).unwrap();
        assert_eq!(fill(), Sent::Full);
        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        let _daemon = UnixListener::bind(&path).unwrap();
        assert_eq!(fill(), Sent::Later(STREAM_RETRY));
    }

    #[test]
    fn an_entry_that_no_daemon_takes_is_not_tried_for_ever() {
        let (_folder, path, syslog, datagram) = somewhere();
        let _daemon = UnixDatagram::bind(&path).unwrap();
        assert_eq!(syslog.send(&datagram, b"x\0"), Sent::Anew);
        assert_eq!(syslog.send(&datagram, &vec![b'x'; 16 << 20]), Sent::Never);
    }
}
