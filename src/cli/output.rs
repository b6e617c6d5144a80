//! Answers go to standard output.

use super::Failure;
use crate::sys::cause::{self, cause};
use std::io::{self, ErrorKind, Write};

/// Whether anybody still reads standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// As far as we know.
    There,
    /// Gone, as with `plumbd status | head -1`. That is no failure.
    Gone,
}

/// Prints as it is.
///
/// # Errors
/// Standard output can't be written, as on a full disk.
pub(super) fn print(text: impl AsRef<[u8]>) -> Result<Reader, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::from(format!("cannot write to standard output: {}", cause(&error)))),
    }
}

/// Says something on standard error, as it is and with a newline; where nobody
/// hears it the exit status still tells.
pub(super) fn tell(text: &str) {
    let _unheard = writeln!(io::stderr().lock(), "{}", cause::plain(text));
}

/// Whether colours are wanted where they can be (no-color.org), and understood.
pub(super) fn colours() -> bool {
    let unset = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    unset && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}
