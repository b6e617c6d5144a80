//! What a logger does before all else: it settles what another incarnation
//! had under way. ARCHITECTURE.md has the cases as tables.

use super::Logger;
use super::file::is_too_large;
use super::orders::Halt;
use super::save::RETRY;
use super::source::Source;
use crate::link::intent::{Found, Intent, Promise};
use crate::link::ledger::{Batch, Phase};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

impl Logger {
    /// Brings the file and every link to where nothing is under way.
    pub(super) fn recover(&mut self) -> Result<(), Halt> {
        self.put_untrusted_aside()?;
        let found = match self.intent.found() {
            // Its disk went back in time, as one does that was taken away and
            // mounted again: that batch is long done.
            Found::Writing(promise) if self.knows_later(promise.batch) => {
                self.cut_back()?;
                Found::Nothing
            }
            found => found,
        };
        // Asked before a link forgets it for the batch that it is at.
        let is_done = matches!(found, Found::Writing(promise) if self.is_saved(promise.batch));
        // First, because only the last few settled batches are known: to settle another
        // one may be to forget that one. A link that is refused is refused later, when
        // the file has no half of a batch any more.
        let mut refused = Ok(());
        for at in 0..self.sources.len() {
            if let Phase::Prepared(batch) = self.sources[at].intake.phase() {
                if self.is_saved(batch.id) {
                    refused = refused.and(self.sources[at].intake.recover(true, &self.tools));
                }
            }
        }
        match found {
            // Saved, synced as far as it was to be, and consumed by a link: its
            // file may have been moved or compressed since.
            Found::Writing(promise) if is_done => {
                self.write_intent(|intent| intent.settle(promise.batch))?;
            }
            Found::Writing(promise) => {
                log::info!("completing a batch of {} bytes", promise.length);
                self.complete(promise)?;
                self.write_intent(|intent| intent.settle(promise.batch))?;
            }
            Found::Nothing if !self.intent.is_known() => self.cut_back()?,
            Found::Nothing | Found::Idle | Found::OtherBoot => {}
        }
        self.write_intent(|intent| intent.set_untrusted(None))?;
        refused?;
        for at in 0..self.sources.len() {
            let is_saved = match self.sources[at].intake.phase() {
                Phase::Prepared(batch) => self.is_saved(batch.id),
                Phase::Consuming { .. } | Phase::Idle => false,
            };
            self.sources[at].intake.recover(is_saved, &self.tools)?;
        }
        match found {
            Found::Nothing | Found::OtherBoot => self.write_intent(Intent::reset)?,
            Found::Idle if !self.intent.is_closed() => self.close_intent()?,
            Found::Writing(_) | Found::Idle => {}
        }
        self.mend_tail()?;
        for source in &mut self.sources {
            let named = source.intake.set_path(&self.settings.file);
            named.map_err(|e| format!("cannot take up the link from {}: {e}", source.intake.from))?;
            if let (Some(replies), Some(done)) = (&mut source.replies, source.intake.done()) {
                replies.send(done);
            }
        }
        Ok(())
    }

    /// Steps 6 and 7 of a batch of another incarnation, whose bytes are in the
    /// intent file. Whether one of them was to be on the disk is not known
    /// there, so all are.
    pub(super) fn complete(&mut self, mut promise: Promise) -> Result<(), Halt> {
        if promise.file != self.file.id() {
            let trusted = self.intent.untrusted() != Some(promise.file);
            if trusted && self.complete_renamed(&mut promise)? {
                return Ok(());
            }
            self.promise_here(&mut promise)?;
        }
        loop {
            let done = self.progress_anew(&mut promise)?;
            self.save(&mut promise, done)?;
            self.sync(Some(&mut promise))?;
            if !self.move_if_removed(&mut promise)? {
                return Ok(());
            }
        }
    }

    /// How much of the batch is in the file, all of which is written there again:
    /// if another incarnation was killed between an fdatasync that failed and its
    /// note of that, the next fdatasync would call bytes saved which the disk
    /// does not have (fsync(2)), unless they were written since.
    fn progress_anew(&mut self, promise: &mut Promise) -> Result<u64, Halt> {
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

    /// The intent file is gone, and the bytes of a batch with it. All of it is
    /// in staging still, so what of it is in the file is moved away, and it is taken again.
    ///
    /// A batch that is older than one the intent file knows was never promised, or
    /// it would have been completed: what stands where it was to begin is another's.
    pub(super) fn cut_back(&mut self) -> Result<(), Halt> {
        let (here, last) = (self.file.id(), self.intent.last_batch());
        let is_lost = |batch: &Batch| batch.file == here && batch.id >= last && !self.is_saved(batch.id);
        let began = self.sources.iter().filter_map(|source| match source.intake.phase() {
            Phase::Prepared(batch) if is_lost(&batch) => Some(batch.offset),
            _ => None,
        });
        let Some(began) = began.min() else {
            return Ok(());
        };
        if let Some(moved) = self.move_tail(|file, watcher| file.move_tail(began, watcher))? {
            log::warn!(
                "the intent file of {} is gone; the batch that it was for is taken again; what was there of it is now in {}",
                self.file.path().display(),
                moved.display()
            );
        }
        Ok(())
    }

    /// Whether that batch is saved: it was settled, or another link consumed its part of it.
    pub(super) fn is_saved(&self, id: u64) -> bool {
        let is_done = |source: &Source| {
            source.intake.done_batch() == id
                || matches!(source.intake.phase(), Phase::Consuming { batch, .. } if batch.id == id)
        };
        self.intent.is_settled(id) || self.sources.iter().any(is_done)
    }

    /// Whether a link has had a batch after that one, which is promised to none
    /// before the one before it is closed.
    fn knows_later(&self, id: u64) -> bool {
        // A link that had another file knows nothing of this one.
        let is_here =
            |source: &&Source| source.intake.path().ok().flatten().is_none_or(|path| path == self.settings.file);
        self.sources.iter().filter(is_here).any(|source| {
            let under_way = match source.intake.phase() {
                Phase::Prepared(batch) | Phase::Consuming { batch, .. } => batch.id,
                Phase::Idle => 0,
            };
            under_way.max(source.intake.done_batch()) > id
        })
    }
}

/// Writes bytes over those that a file has there already. It is open with
/// O_APPEND, which would put them at its end.
fn overwrite(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    // Another may have cut it since it was looked at: no gap is to come of that.
    if bytes.is_empty() || file.metadata()?.len() < at + bytes.len() as u64 {
        return Ok(());
    }
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags - OFlag::O_APPEND))?;
    let written = file.write_all_at(bytes, at);
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    written
}
