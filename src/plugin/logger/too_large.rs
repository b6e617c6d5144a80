//! A file that can grow no further: the process's limit (RLIMIT_FSIZE), or its
//! file system's. It is waited out as a full disk is, but another file has room.

use super::destination::FileDestination;
use super::file::is_too_large;
use super::orders::Halt;
use super::save::RETRY;
use super::there::There;
use crate::link::batch::Promised;
use std::io;
use std::time::{Duration, Instant};

impl FileDestination {
    /// Rotates a file that can grow no further, if that is what the error says
    /// and the settings allow it by now. Returns whether it did.
    pub(super) fn rotate_if_too_large(&mut self, error: &io::Error) -> Result<bool, Halt> {
        if !is_too_large(error) || !self.settings.rotate.is_on() {
            return Ok(false);
        }
        let len = self.file_len()?;
        // A new file is no larger than an empty one.
        if len == 0 || !self.may_rotate(len) {
            return Ok(false);
        }
        let before = self.file.id();
        self.rotate()?;
        Ok(self.file.id() != before)
    }

    /// Whether the last rotation, or a failed one, is long enough ago.
    fn may_rotate(&mut self, len: u64) -> bool {
        let least = self.settings.rotate.least();
        let is_old = self.age(len) >= least;
        is_old && self.rotations.retry_at.is_none_or(|at| at <= Instant::now())
    }

    /// Waits until a batch that was promised fits, with `left` bytes still to be
    /// written: because the limit was raised, or in another file. What the file
    /// has of the batch is taken out of it meanwhile, so no half line stays.
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
            // From where it ends by now: a person may have cut it, to make it go on.
            let len = self.file_len()?;
            match self.file.has_room_below_limit(len, promise.length.max(left as u64)) {
                Ok(_) => return Ok(()),
                Err(still) => error = still,
            }
        }
    }

    /// Takes the beginning of a batch out of the file.
    pub(super) fn cut_out(&mut self, promise: &mut Promised<'_>) -> Result<(), Halt> {
        loop {
            let (at, done) = match self.look(promise)? {
                There::Begun { at, done } if done > 0 => (at, done),
                // It is saved whole, so its first lines would be there twice.
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
