//! The operator's side of the control socket: connect, ask, hand on each answer.

use super::{Request, Response};
use crate::sys::beside::Folder;
use crate::sys::cause::cause as words;
use crate::sys::text::plain;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, sockopt};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// No line of an answer is as long as this, in bytes.
const LONGEST: u64 = 64 << 20;

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
    /// Nobody reads standard output any more.
    Unread,
    /// The daemon answered the connection, but the conversation broke off.
    Broken(String),
}

impl Failure {
    /// Whether no daemon runs there: there is no socket, or nobody listens on it.
    pub fn no_daemon(&self) -> bool {
        matches!(self, Failure::Unreachable { cause, .. }
            if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable { path, cause } => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                write!(f, "cannot reach the daemon at {}: {}", path.display(), words(cause))?;
                if self.no_daemon() { f.write_str("; is it running?") } else { Ok(()) }
            }
            Failure::Unread => f.write_str("nobody reads standard output any more"),
            Failure::Broken(why) => f.write_str(why),
        }
    }
}

/// Asks the daemon at this socket, hands each answer to `each` as it comes,
/// and returns the exit status that the daemon gave.
///
/// Waits as long as the daemon takes: a stop or a reload is bounded by the
/// daemon's own deadlines. An error from `each` ends the conversation early.
///
/// # Errors
/// See [`Failure`].
pub fn ask(path: &Path, request: &Request, each: impl FnMut(Response) -> Result<(), String>) -> Result<u8, Failure> {
    let unreachable = |cause| Failure::Unreachable { path: path.to_owned(), cause };
    let stream = UnixStream::connect(path).map_err(unreachable)?;
    trust(path, &stream)?;
    talk(&stream, Patience::Endless, request, each)
}

/// As [`ask`], for requests whose answers may go on for ever: also ends once nobody reads
/// standard output any more.
///
/// # Errors
/// See [`Failure`].
pub fn follow(path: &Path, request: &Request, each: impl FnMut(Response) -> Result<(), String>) -> Result<u8, Failure> {
    let unreachable = |cause| Failure::Unreachable { path: path.to_owned(), cause };
    let stream = UnixStream::connect(path).map_err(unreachable)?;
    trust(path, &stream)?;
    talk(&stream, Patience::WhileRead, request, each)
}

/// As [`ask`], for requests that the daemon answers at once: fails if the whole answer takes
/// longer than `patience`.
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
    trust(path, &stream)?;
    stream.set_write_timeout(Some(patience)).map_err(unreachable)?;
    talk(&stream, Patience::Until(Instant::now() + patience), request, each)
}

/// For how long to wait for more of an answer.
#[derive(Debug, Clone, Copy)]
enum Patience {
    /// As long as the daemon takes.
    Endless,
    /// As long as somebody reads standard output.
    WhileRead,
    /// Until then.
    Until(Instant),
}

/// The daemon's answers.
#[derive(Debug)]
struct Answers<'a> {
    stream: &'a UnixStream,
    patience: Patience,
}

impl Read for Answers<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.patience {
            Patience::Endless => {}
            Patience::WhileRead => wait_while_read(self.stream)?,
            Patience::Until(at) => {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                self.stream.set_read_timeout(Some(left))?;
            }
        }
        self.stream.read(bytes)
    }
}

/// Waits for more from the daemon.
///
/// # Errors
/// EPIPE: nobody reads standard output any more.
fn wait_while_read(stream: &UnixStream) -> io::Result<()> {
    let out = io::stdout();
    loop {
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN), PollFd::new(out.as_fd(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let [from, to] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        match (from.is_empty(), to.is_empty()) {
            (_, false) => return Err(Errno::EPIPE.into()),
            (false, true) => return Ok(()),
            (true, true) => {}
        }
    }
}

/// The process that listens on a control socket, if it is there and this user may connect.
pub fn listener(path: &Path) -> Option<Pid> {
    let stream = connect_now(path).ok()?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials).ok()?;
    Some(Pid::from_raw(peer.pid()))
}

/// Connects, or fails at once if the queue of connections is full; connect(2) would wait
/// for that without a limit.
fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Makes sure that nobody else has put a socket there. The user who called listen(2) on
/// it (SO_PEERCRED, unix(7)) must be root, this user, or the only user who can make names
/// in its folder, as with a service that runs as its own user with a folder in /run.
fn trust(path: &Path, stream: &UnixStream) -> Result<(), Failure> {
    let unknown =
        |error: io::Error| Failure::Broken(format!("cannot tell who listens at {}: {}", path.display(), words(&error)));
    let peer = getsockopt(stream, sockopt::PeerCredentials).map_err(|errno| unknown(errno.into()))?;
    let has_folder = || Folder::of(path).map(|folder| folder.is_only_of(peer.uid(), peer.gid()));
    if [0, geteuid().as_raw()].contains(&peer.uid()) || has_folder().map_err(unknown)? {
        return Ok(());
    }
    let peer = peer.uid();
    Err(Failure::Broken(format!(
        "cannot trust who listens at {}: it is a process of user {peer}, and others can put a socket there",
        path.display()
    )))
}

/// [`plain`] for every text in an answer.
fn all_plain(answer: Value) -> Value {
    match answer {
        Value::String(text) => Value::String(plain(&text)),
        Value::Array(values) => values.into_iter().map(all_plain).collect(),
        Value::Object(keys) => keys.into_iter().map(|(key, value)| (plain(&key), all_plain(value))).collect(),
        other => other,
    }
}

fn talk(
    stream: &UnixStream,
    patience: Patience,
    request: &Request,
    mut each: impl FnMut(Response) -> Result<(), String>,
) -> Result<u8, Failure> {
    let line = request.line().map_err(Failure::Broken)?;
    let broken = |error: io::Error| match error.kind() {
        // The socket's timeout, see socket(7).
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Failure::Broken("cannot talk to the daemon: it runs, but does not answer".to_owned())
        }
        io::ErrorKind::BrokenPipe if matches!(patience, Patience::WhileRead) => Failure::Unread,
        _ => Failure::Broken(format!("cannot talk to the daemon: {}", words(&error))),
    };
    let mut to = stream;
    to.write_all(&line).map_err(broken)?;
    let mut answers = BufReader::new(Answers { stream, patience });
    let mut answer = Vec::new();
    loop {
        answer.clear();
        let length = answers.by_ref().take(LONGEST).read_until(b'\n', &mut answer).map_err(broken)? as u64;
        if length == LONGEST {
            return Err(Failure::Broken("cannot read the daemon's answer: it is too long".to_owned()));
        }
        if matches!(patience, Patience::WhileRead) && !answer.ends_with(b"\n") {
            return Err(Failure::Broken("the daemon ended before it had sent everything".to_owned()));
        }
        if answer.is_empty() {
            return Err(Failure::Broken("cannot tell the outcome: the daemon closed the connection".to_owned()));
        }
        match serde_json::from_slice(&answer).map(all_plain).and_then(serde_json::from_value) {
            Ok(Response::Exit(status)) => {
                // Wait until the daemon closes the connection: after a shutdown, it is
                // gone then.
                let mut rest = Vec::new();
                let _end = answers.read_to_end(&mut rest);
                return Ok(status);
            }
            Ok(response) => each(response).map_err(Failure::Broken)?,
            Err(error) => {
                let why = plain(&error.to_string());
                return Err(Failure::Broken(format!("cannot read the daemon's answer: {why}")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_answer_controls_a_terminal() {
        let text = "\u{1b}[2J\u{1b}]0;title\u{7} \u{9b}31m \r\u{202e}\u{2066}\u{7f} caf\u{e9}\tb\nnext";
        let shown = r"\x1b[2J\x1b]0;title\x07 \xc2\x9b31m \x0d\xe2\x80\xae\xe2\x81\xa6\x7f café";
        assert_eq!(plain(text), format!("{shown}\tb\nnext"));
        let answer = json!({"status": {"children": [{"name": text, "metrics": {text: 1}}]}});
        assert!(!all_plain(answer).to_string().contains(['\u{1b}', '\u{9b}']));
    }
}
