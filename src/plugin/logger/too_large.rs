//! A file that can't grow any further because of the process's limit (RLIMIT_FSIZE) or its
//! file system's. The logger waits as on a full disk, but another file has room.

use super::destination::FileDestination;
use super::file::is_too_large;
use super::orders::Halt;
use super::save::RETRY;
use super::there::There;
use crate::link::batch::Promised;
use std::io;
use std::time::{Duration, Instant};

impl FileDestination {
    /// Rotates a file that can't grow any further, if that is what the error says
    /// and the settings allow a rotation now. Returns whether it did.
    pub(super) fn rotate_if_too_large(&mut self, error: &io::Error) -> Result<bool, Halt> {
        if !is_too_large(error) || !self.settings.rotate.is_on() {
            return Ok(false);
        }
        let len = self.file_len()?;
        // A new file would have no more room than an empty one.
        if len == 0 || !self.may_rotate(len) {
            return Ok(false);
        }
        let before = self.file.id();
        self.rotate()?;
        Ok(self.file.id() != before)
    }

    /// Whether the last rotation, successful or not, was long enough ago.
    fn may_rotate(&mut self, len: u64) -> bool {
        let least = self.settings.rotate.least();
        let is_old = self.age(len) >= least;
        is_old && self.rotations.retry_at.is_none_or(|at| at <= Instant::now())
    }

    /// Waits until a promised batch, with `left` bytes still to be written, fits: either the
    /// limit was raised, or another file takes it. The part of the batch that is in the file
    /// is removed first, so that no half line stays.
    pub(super) fn wait_for_larger(
        &mut self,
        promise: &mut Promised<'_>,
        error: io::Error,
        left: usize,
    ) -> Result<(), Halt> {
        self.cut_out(promise)?;
        let mut error = error;
        loop {
            let begin = self.file.id();
            let moved = self.rotate_if_too_large(&error)? || {
                let trouble = format!("cannot write to {}: {error}", self.file.path().display());
                self.orders.endure(&trouble, RETRY)?;
                if self.orders.reopen() {
                    self.reopen()?;
                }
                self.replace_if_removed()? || self.file.id() != begin
            };
            if moved {
                return self.promise_here(promise);
            }
            // Its length is read again, because a person may have truncated it to make room.
            let len = self.file_len()?;
            match self.file.has_room_below_limit(len, promise.length.max(left as u64)) {
                Ok(_) => return Ok(()),
                Err(still) => error = still,
            }
        }
    }

    /// Removes the beginning of a batch from the file.
    pub(super) fn cut_out(&mut self, promise: &mut Promised<'_>) -> Result<(), Halt> {
        loop {
            let (at, done) = match self.look(promise)? {
                There::Begun { at, done } if done > 0 => (at, done),
                // The batch will be saved whole, so its first lines would be there twice.
                There::Broken { at } => return self.move_broken(at),
                There::Begun { .. } | There::Nothing => return Ok(()),
            };
            promise.offset = at;
            self.promise_anew(promise)?;
            let cut = self.file.note_longest(at + done).and_then(|()| self.file.cut(at, at + done));
            match cut {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let trouble = format!("cannot mend the end of {}: {error}", self.file.path().display());
                    self.orders.endure(&trouble, Duration::from_millis(200))?;
                }
            }
        }
    }
}
