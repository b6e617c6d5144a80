//! The ledger of a link: what its sink was doing.

use crate::sys::map;
use std::io;
use std::os::fd::OwnedFd;

/// How many bytes of an unfinished message a sink may set aside (a carry):
/// more than the longest message takes as records.
pub const CARRY_MAX: usize = super::record::MESSAGE_MAX + super::record::MESSAGE_MAX / 16;

/// Makes a fresh ledger: a memory file of zeros, so it takes no memory yet.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn create() -> io::Result<OwnedFd> {
    map::memory_file(c"plumbd-ledger", map::PAGE + 2 * CARRY_MAX)
}
