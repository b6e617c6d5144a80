//! A batch that another incarnation had under way, completed in the message file.
//! doc/law-of-a-link.md has the cases as tables.

use super::destination::FileDestination;
use super::file::is_too_large;
use super::orders::Halt;
use super::save::RETRY;
use crate::link::batch::Promised;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

impl FileDestination {
    /// Steps 6 and 7 of a batch of another incarnation, whose bytes are in the intent
    /// file, in whichever file it was promised to. It is always synced, because the
    /// intent file does not say whether a message asked for that.
    pub(super) fn complete_anywhere(&mut self, promise: &mut Promised<'_>) -> Result<(), Halt> {
        if promise.file != self.file.id() {
            let trusted = self.intent.untrusted() != Some(promise.file);
            if trusted && self.complete_renamed(promise)? {
                return Ok(());
            }
            self.promise_here(promise)?;
        }
        loop {
            let done = self.progress_anew(promise)?;
            self.write_rest(promise, done)?;
            self.sync(Some(promise))?;
            if !self.move_if_removed(promise)? {
                return Ok(());
            }
        }
    }

    /// How much of the batch is in the file. All of that is written there again: if
    /// another incarnation was killed after an fdatasync that failed, and before its
    /// note of that, the next fdatasync would report success for bytes that the disk
    /// does not have (fsync(2)), unless they were written since.
    fn progress_anew(&mut self, promise: &mut Promised<'_>) -> Result<u64, Halt> {
        loop {
            let done = self.progress(promise)?;
            let there = &self.promised(promise)[..usize::try_from(done).unwrap_or(usize::MAX)];
            let error = match overwrite(self.file.file(), there, promise.offset) {
                Ok(()) => return Ok(done),
                Err(error) => error,
            };
            let trouble = format!("cannot write to {} again: {error}", self.file.path().display());
            // An append-only file (chattr +a), or a limit that is lower than it is long.
            if error.kind() == ErrorKind::PermissionDenied || is_too_large(&error) {
                log::warn!("{trouble}");
                return Ok(done);
            }
            if !self.make_room(&error) {
                self.orders.endure(&trouble, RETRY)?;
            }
        }
    }

    /// The intent file is gone, and the bytes of a batch with it, which began there.
    /// What of it is in the file is moved away, because it is taken again.
    pub(super) fn cut_back(&mut self, began: u64) -> Result<(), Halt> {
        if let Some(moved) = self.move_tail(|file, watcher| file.move_tail(began, watcher))? {
            log::warn!(
                "the intent file of {} is gone; the batch that it was for is taken again; what was there of it is now in {}",
                self.file.path().display(),
                moved.display()
            );
        }
        Ok(())
    }
}

/// Writes the same bytes again where a file has them already. The file is open with
/// O_APPEND, which would put them at its end.
fn overwrite(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    // Another process may have cut it meanwhile, and there must be no gap.
    if bytes.is_empty() || file.metadata()?.len() < at + bytes.len() as u64 {
        return Ok(());
    }
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags - OFlag::O_APPEND))?;
    let written = file.write_all_at(bytes, at);
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    written
}
