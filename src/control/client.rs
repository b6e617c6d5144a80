//! The operator's side: connect, ask, hand on each answer.

use super::{Request, Response};
use crate::config::system::cause as words;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

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
pub fn ask(
    path: &Path,
    request: &Request,
    mut each: impl FnMut(Response) -> Result<(), String>,
) -> Result<u8, Failure> {
    let line = request.line().map_err(Failure::Broken)?;
    let stream = UnixStream::connect(path).map_err(|cause| Failure::Unreachable { path: path.to_owned(), cause })?;
    let broken = |error: io::Error| Failure::Broken(format!("cannot talk to the daemon: {}", words(&error)));
    (&stream).write_all(&line).map_err(broken)?;
    let mut answers = BufReader::new(&stream);
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
