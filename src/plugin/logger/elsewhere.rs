//! A logger whose `file` was changed. Before it uses the new file, it settles the batches
//! that its links have under way for the previous file, and releases that file's lock. It
//! holds only one file at a time, so loggers that exchange files can't deadlock.

use super::destination::FileDestination;
use super::file::{MessageFile, find, id_at, intent_path, is_gone};
use super::orders::Halt;
use super::settings::Sync;
use super::there::There;
use super::{Desk, may_pass, wait_for};
use crate::link::batch::{Destination, Intakes, Promised};
use crate::link::intent::{FileId, Found, Header, Intent};
use crate::link::ledger::{Batch, Phase};
use crate::link::source::Source;
use crate::sys::beside::{self, Whose};
use nix::fcntl::OFlag;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait before a lock or a disk is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// The batches that the links have or had for another file.
#[derive(Debug, Default)]
struct Left {
    /// Batches that may have been promised there.
    prepared: Vec<Batch>,
    /// Batches that are saved there.
    saved: Vec<u64>,
}

impl Desk {
    /// Settles every batch that is for a file other than that of the settings.
    pub(super) fn settle_elsewhere(mut self, intakes: &mut Intakes) -> Result<Desk, Halt> {
        let mut settled: Vec<PathBuf> = vec![self.settings.file.clone()];
        while let Some(path) = other_path(intakes, &settled)? {
            self = self.settle_at(&path, intakes)?;
            settled.push(path);
        }
        Ok(self)
    }

    fn settle_at(mut self, path: &Path, intakes: &mut Intakes) -> Result<Desk, Halt> {
        let mut left = Left::of(path, intakes);
        if let Some(intent) = self.take_intent(path, &mut left)? {
            self = self.settle_in(path, intent, &mut left, intakes)?;
        }
        for source in intakes.sources.iter_mut().filter(|source| is_for(path, source)) {
            let saved = match source.intake.phase() {
                Phase::Prepared(batch) => left.saved.contains(&batch.id),
                Phase::Consuming { .. } | Phase::Idle => false,
            };
            source.intake.recover(saved, &intakes.tools)?;
        }
        self.orders.endured();
        Ok(self)
    }

    /// The intent file beside that path, locked. `None` if it is gone, or if
    /// another logger has it now and has settled everything.
    fn take_intent(&mut self, path: &Path, left: &mut Left) -> Result<Option<Intent>, Halt> {
        let at = intent_path(path);
        loop {
            let there = match id_at(path) {
                Ok(there) => there,
                Err(error) => {
                    self.endure_look(path, &error)?;
                    continue;
                }
            };
            let is_there = |batch: &Batch| Some(batch.file) == there;
            let taken = match Intent::open_existing(&at, self.pace.body) {
                // A part of the batch may be in the file.
                Err(error) if is_gone(&error) && left.prepared.iter().any(is_there) => {
                    Intent::open(&at, self.pace.body)
                }
                taken => taken,
            };
            let trouble = match taken {
                Ok(Some(intent)) => return Ok(Some(intent)),
                _ if left.prepared.is_empty() => return Ok(None),
                Ok(None) => match Header::at(&at) {
                    Ok(header) if header.batch().is_some_and(|id| left.has(id) && !header.is_settled(id)) => {
                        format!("cannot settle a batch in {}: another process is using it", path.display())
                    }
                    Ok(header) => {
                        left.settle(|id| header.is_settled(id));
                        return Ok(None);
                    }
                    Err(error) => format!("cannot look at {}: {error}", at.display()),
                },
                Err(error) if is_gone(&error) => {
                    log::warn!("{} is gone; the batch that was for it is taken again", path.display());
                    return Ok(None);
                }
                Err(error) => {
                    let trouble = format!("cannot open {}: {error}", at.display());
                    if !may_pass(&error) {
                        return Err(Halt::Failed(trouble));
                    }
                    trouble
                }
            };
            self.orders.endure(&trouble, RETRY)?;
        }
    }

    /// Settles the batch with the locked intent file of that path.
    fn settle_in(mut self, path: &Path, intent: Intent, left: &mut Left, intakes: &Intakes) -> Result<Desk, Halt> {
        left.settle(|id| intent.is_settled(id));
        let found = intent.found();
        let (file, promise) = match found {
            Found::Writing(promise) if left.has(promise.batch) => (promise.file, Some(promise)),
            Found::Writing(promise) if left.saved.contains(&promise.batch) => {
                return self.close_at(path, intent, promise.batch);
            }
            // It was not promised, or was withdrawn. If another logger has promised something
            // since, that is not this logger's concern.
            Found::Idle | Found::Writing(_) => (FileId { device: 0, inode: 0 }, None),
            // A promise that is incomplete: not a byte of its batch was saved.
            Found::Nothing if intent.is_known() => (FileId { device: 0, inode: 0 }, None),
            Found::Nothing | Found::OtherBoot => {
                let lost = left.prepared.iter().find(|batch| batch.id >= intent.last_batch() && left.has(batch.id));
                (lost.map_or(FileId { device: 0, inode: 0 }, |batch| batch.file), None)
            }
        };
        self.sync_what_is_there(path);
        // A file that was put aside because it is not trusted must not be used.
        let trusted = intent.untrusted() != Some(file);
        let found = loop {
            match find(path, file) {
                Ok(found) => break found,
                Err(error) => self.endure_look(path, &error)?,
            }
        };
        let Some(at) = found.filter(|at| trusted || at == path) else {
            if let Some(promise) = promise {
                log::warn!("{} is gone; the batch that was for it is taken again", path.display());
                return self.close_at(path, intent, promise.batch);
            }
            return Ok(self);
        };
        log::info!("settling a batch in {}, the previous message file", at.display());
        self.orders.ask_for_time();
        let own = std::mem::replace(&mut self.settings.file, at.clone());
        let rights = self.settings.rights();
        let opened = wait_for(&mut self.orders, &self.settings, &at, || MessageFile::open(&at, &rights))?;
        let mut destination = FileDestination::at(self, intent, opened);
        match promise {
            Some(promise) => {
                if destination.complete_for(&mut intakes.promised(promise), at != path)? {
                    left.saved.push(promise.batch);
                }
            }
            None => intakes.take_back(&mut destination)?,
        }
        let mut desk = destination.close_file();
        desk.settings.file = own;
        Ok(desk)
    }

    fn endure_look(&mut self, path: &Path, error: &io::Error) -> Result<(), Halt> {
        let trouble = format!("cannot look for {}: {error}", path.display());
        if !may_pass(error) {
            return Err(Halt::Failed(trouble));
        }
        self.orders.endure(&trouble, RETRY)
    }

    /// Closes a batch that will not be completed there.
    fn close_at(mut self, path: &Path, mut intent: Intent, batch: u64) -> Result<Desk, Halt> {
        while let Err(error) = intent.close() {
            let trouble = format!("cannot close batch {batch} in {}: {error}", intent_path(path).display());
            self.orders.endure(&trouble, RETRY)?;
        }
        Ok(self)
    }

    /// Syncs the previous file, because `sync = "1s"` may still require it.
    fn sync_what_is_there(&mut self, path: &Path) {
        if let Sync::EveryMs(_) = self.settings.sync {
            self.orders.ask_for_time();
            let file = beside::open(path, OFlag::O_RDONLY, Whose::Administrators);
            match file.and_then(|file| file.sync_data()) {
                Err(error) if !is_gone(&error) => {
                    log::error!("cannot bring {}, the previous message file, to the disk: {error}", path.display());
                }
                _ => {}
            }
        }
    }
}

fn other_path(intakes: &Intakes, settled: &[PathBuf]) -> Result<Option<PathBuf>, Halt> {
    for source in &intakes.sources {
        let path = source.intake.path();
        let path = path.map_err(|e| format!("cannot take up the link from {}: {e}", source.intake.origin()))?;
        if let Some(path) = path.filter(|path| !settled.contains(path)) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Whether the last batch of that link is for the file at that path.
fn is_for(path: &Path, source: &Source) -> bool {
    source.intake.path().ok().flatten().is_some_and(|named| named == path)
}

impl Left {
    fn of(path: &Path, intakes: &Intakes) -> Left {
        let mut left = Left::default();
        for source in intakes.sources.iter().filter(|source| is_for(path, source)) {
            match source.intake.phase() {
                Phase::Prepared(batch) => left.prepared.push(batch),
                Phase::Consuming { batch, .. } => left.saved.push(batch.id),
                Phase::Idle => left.saved.push(source.intake.done_batch()),
            }
        }
        left.prepared.retain(|batch| !left.saved.contains(&batch.id));
        left
    }

    fn has(&self, id: u64) -> bool {
        self.prepared.iter().any(|batch| batch.id == id) && !self.saved.contains(&id)
    }

    fn settle(&mut self, is_settled: impl Fn(u64) -> bool) {
        let settled = self.prepared.iter().map(|batch| batch.id).filter(|&id| is_settled(id));
        self.saved.extend(settled);
    }
}

impl FileDestination {
    /// Completes a batch in its file, records that, and returns whether it is saved. If the
    /// file was renamed, it must have the beginning of the batch, because another file may
    /// have its inode number now.
    fn complete_for(&mut self, promise: &mut Promised<'_>, renamed: bool) -> Result<bool, Halt> {
        self.put_untrusted_aside()?;
        let begun = |there| matches!(there, There::Begun { done, .. } if done > 0);
        let saved = !renamed || begun(self.look(promise)?);
        if saved {
            self.complete(promise)?;
            self.write_intent(|intent| intent.set_untrusted(None))?;
            let batch = promise.batch;
            self.write_intent(|intent| intent.settle(batch))?;
        } else {
            log::warn!("{} has nothing of the batch that is under way", self.file.path().display());
            self.close_intent()?;
        }
        Ok(saved)
    }
}
