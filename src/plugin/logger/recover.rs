//! Completes a batch that an earlier logger had under way in the message file.
//! doc/law-of-a-link.md has tables of the cases.

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
    /// Steps 6 and 7 of a batch of an earlier logger, in whichever file it was promised to.
    /// Its bytes are in the intent file. It is always synced, because the
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

    /// How much of the batch is in the file. All of that is written there again. If
    /// an earlier logger was killed after an fdatasync that failed, and before it could
    /// record that, the next fdatasync would report success for bytes that the disk
    /// does not have (fsync(2)), unless they are written again.
    fn progress_anew(&mut self, promise: &mut Promised<'_>) -> Result<u64, Halt> {
        loop {
            let done = self.progress(promise)?;
            let there = &self.promised(promise)[..usize::try_from(done).unwrap_or(usize::MAX)];
            let error = match overwrite(self.file.file(), there, promise.offset) {
                Ok(()) => return Ok(done),
                Err(error) => error,
            };
            let trouble = format!("cannot write to {} again: {error}", self.file.path().display());
            // An append-only file (chattr +a), or a limit below its length.
            if error.kind() == ErrorKind::PermissionDenied || is_too_large(&error) {
                log::warn!("{trouble}");
                return Ok(done);
            }
            if !self.make_room(&error) {
                self.orders.endure(&trouble, RETRY)?;
            }
        }
    }

    /// The intent file is gone, and with it the bytes of a batch that began there. The part
    /// of the batch that is in the file is moved away, because the batch is taken again.
    pub(super) fn cut_back(&mut self, began: u64) -> Result<(), Halt> {
        if let Some(moved) = self.move_tail(|file, watcher| file.move_tail(began, watcher))? {
            log::warn!(
                "the intent file of {} is gone; its batch is taken again, and the part that was already saved is now in {}",
                self.file.path().display(),
                moved.display()
            );
        }
        Ok(())
    }
}

/// Writes bytes again at the place where the file already has them. The file is open with
/// O_APPEND, which would put them at its end, so that flag is cleared meanwhile.
fn overwrite(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    // Another process may have truncated it meanwhile, and there must be no gap.
    if bytes.is_empty() || file.metadata()?.len() < at + bytes.len() as u64 {
        return Ok(());
    }
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags - OFlag::O_APPEND))?;
    let written = file.write_all_at(bytes, at);
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    written
}
