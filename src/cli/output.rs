//! Prints to standard output and standard error.

use super::Failure;
use crate::sys::cause::{self, cause};
use crate::sys::text;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Whether anybody still reads standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// As far as we know.
    There,
    /// Gone, as with `plumbd status | head -1`. That is not a failure.
    Gone,
}

/// Prints the text as it is.
///
/// # Errors
/// Standard output can't be written to, for example because the disk is full.
pub(super) fn print(text: impl AsRef<[u8]>) -> Result<Reader, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::from(format!("cannot write to standard output: {}", cause(&error)))),
    }
}

/// Waits for that time, or until nobody reads standard output any more.
pub(super) fn wait(time: Duration) -> Reader {
    let (out, until) = (io::stdout(), Instant::now() + time);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        // Only errors and the end are reported (poll(2)).
        match poll(&mut [PollFd::new(out.as_fd(), PollFlags::empty())], timeout) {
            Ok(0) if left.is_zero() => return Reader::There,
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Reader::Gone,
            Err(_) => std::thread::sleep(left),
        }
    }
}

/// Prints the text and a newline to standard error. If that fails, the exit status still
/// reports the outcome.
pub(super) fn tell(said: &str) {
    let _unheard = writeln!(io::stderr().lock(), "{}", cause::plain(&text::plain(said)));
}

/// Whether the user wants colours (no-color.org) and the terminal has them.
pub(super) fn colours() -> bool {
    let unset = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    unset && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}
