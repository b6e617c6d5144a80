//! What a logger does before all else: it settles what another incarnation
//! had under way. ARCHITECTURE.md has the cases as tables.

use super::Logger;
use super::orders::Halt;
use super::save::RETRY;
use super::source::Source;
use super::there::There;
use crate::link::intent::{FileId, Found, Intent, Promise};
use crate::link::ledger::{Batch, Phase};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

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
        match found {
            // Saved, synced as far as it was to be, and consumed by a link: its
            // file may have been moved or compressed since.
            Found::Writing(promise) if self.is_saved(promise.batch) => {
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
            if let Some(elsewhere) = self.look_for(promise.file)?.filter(|_| trusted) {
                // A number of a file's that is gone may be another's by now:
                // only a beginning of the batch says that it is the one meant.
                match self.look(&promise, Some(&elsewhere))? {
                    // It can grow no further, so the new file gets the batch. Nobody
                    // would ever finish the half line.
                    There::Begun { at, done }
                        if done > 0
                            && done < promise.length
                            && self.file.has_room_below_limit(at, promise.length).is_err() =>
                    {
                        if let Err(error) = elsewhere.1.set_len(at) {
                            log::error!("cannot mend the end of {}: {error}", elsewhere.0.display());
                        }
                    }
                    There::Begun { at, done } if done > 0 => {
                        promise.offset = at;
                        self.save(&mut promise, done, Some(&elsewhere))?;
                        match elsewhere.1.sync_data().and_then(|()| has_name(&elsewhere.1)) {
                            Ok(true) => return Ok(()),
                            Ok(false) => log::warn!("{} was removed meanwhile", elsewhere.0.display()),
                            Err(error) => log::error!("cannot bring {} to the disk: {error}", elsewhere.0.display()),
                        }
                    }
                    _ => log::warn!("{} has nothing of the batch that is under way", elsewhere.0.display()),
                }
            }
            self.promise_here(&mut promise)?;
        }
        loop {
            let done = self.progress(&mut promise, None)?;
            self.save(&mut promise, done, None)?;
            self.sync(Some(&mut promise))?;
            if !self.move_if_removed(&mut promise)? {
                return Ok(());
            }
        }
    }

    /// That file in the folder of the message file, under whatever name. One that
    /// can't be looked at just now is not taken for one that is gone.
    fn look_for(&mut self, id: FileId) -> Result<Option<(PathBuf, File)>, Halt> {
        loop {
            let error = match self.file.sibling(id) {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            let trouble = format!("cannot look for the rest of a batch beside {}: {error}", self.file.path().display());
            if !super::may_pass(&error) {
                return Err(Halt::Failed(trouble));
            }
            self.orders.endure(&trouble, RETRY)?;
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

/// Whether a file that was found by its name still has one.
fn has_name(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() > 0)
}
