//! Prints to standard output and standard error.

use super::Failure;
use crate::sys::cause::{self, cause};
use crate::sys::text;
use std::io::{self, ErrorKind, Write};

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
