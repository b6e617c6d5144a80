//! The operator's side: connect, ask, hand on each answer.

use super::{Request, Response};
use crate::config::system::cause as words;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why there is no answer, or not a whole one.
#[derive(Debug)]
pub enum Failure {
    /// Nobody listens there, or not for this user.
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// From connect(2).
        cause: io::Error,
    },
    /// The daemon was there, but the talk broke off.
    Broken(String),
}

impl Failure {
    /// Whether no daemon runs there: no socket, or one that nobody listens on.
    pub fn no_daemon(&self) -> bool {
        matches!(self, Failure::Unreachable { cause, .. }
            if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable { path, cause } => {
                write!(f, "cannot reach the daemon at {}: {}", path.display(), words(cause))?;
                if self.no_daemon() { f.write_str("; is it running?") } else { Ok(()) }
            }
            Failure::Broken(why) => f.write_str(why),
        }
    }
}

/// Asks the daemon at this socket, hands each answer to `each` as it comes,
/// and returns the exit status that the daemon gave.
///
/// Waits for as long as the daemon takes: a stop or a reload is bounded by the
/// daemon's own deadlines. `each` may end the talk early with a status of its own.
///
/// # Errors
/// See [`Failure`].
pub fn ask(path: &Path, request: &Request, each: impl FnMut(Response) -> Result<(), String>) -> Result<u8, Failure> {
    let unreachable = |cause| Failure::Unreachable { path: path.to_owned(), cause };
    talk(&UnixStream::connect(path).map_err(unreachable)?, request, each)
}

/// The same, for what the daemon answers at once: who waits longer than
/// `patience` for a line of it is told that it does not answer.
///
/// # Errors
/// See [`Failure`].
pub fn ask_within(
    patience: Duration,
    path: &Path,
    request: &Request,
    each: impl FnMut(Response) -> Result<(), String>,
) -> Result<u8, Failure> {
    let unreachable = |cause| Failure::Unreachable { path: path.to_owned(), cause };
    let stream = connect_now(path).map_err(unreachable)?;
    stream
        .set_read_timeout(Some(patience))
        .and_then(|()| stream.set_write_timeout(Some(patience)))
        .map_err(unreachable)?;
    talk(&stream, request, each)
}

/// Connects, or fails at once where too many wait already, which connect(2)
/// would wait for without bound.
fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn talk(
    stream: &UnixStream,
    request: &Request,
    mut each: impl FnMut(Response) -> Result<(), String>,
) -> Result<u8, Failure> {
    let line = request.line().map_err(Failure::Broken)?;
    let broken = |error: io::Error| match error.kind() {
        // A timeout of the socket's, see socket(7).
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Failure::Broken("cannot talk to the daemon: it runs, but does not answer".to_owned())
        }
        _ => Failure::Broken(format!("cannot talk to the daemon: {}", words(&error))),
    };
    let mut to = stream;
    to.write_all(&line).map_err(broken)?;
    let mut answers = BufReader::new(stream);
    let mut answer = Vec::new();
    loop {
        answer.clear();
        answers.read_until(b'\n', &mut answer).map_err(broken)?;
        if answer.is_empty() {
            return Err(Failure::Broken("cannot tell the outcome: the daemon closed the connection".to_owned()));
        }
        match serde_json::from_slice(&answer) {
            Ok(Response::Exit(status)) => {
                // The daemon closes the connection; after a shutdown, that is
                // when it is gone.
                let mut rest = Vec::new();
                let _end = answers.read_to_end(&mut rest);
                return Ok(status);
            }
            Ok(response) => each(response).map_err(Failure::Broken)?,
            Err(error) => return Err(Failure::Broken(format!("cannot read the daemon's answer: {error}"))),
        }
    }
}
