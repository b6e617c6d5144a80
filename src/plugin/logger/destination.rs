//! The message file as the destination of a sink: the steps of a batch that
//! concern it. doc/law-of-a-link.md numbers the steps.

use super::archivist::Archivist;
use super::body::Body;
use super::file::{self, MessageFile, intent_path};
use super::orders::{Flaw, Halt, Orders};
use super::removed::Watch;
use super::render::Renderer;
use super::rotation::Rotations;
use super::save::RETRY;
use super::settings::{Settings, Sync};
use super::{Desk, FORSAKEN, Pace, may_pass, wait_for};
use crate::link::batch::{Destination, Found, Message, Place, Promised};
use crate::link::intent::{self, Intent, Promise};
use crate::link::ledger;
use crate::plugin::start::Metrics;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// A batch's output ends once it has this many bytes.
pub const BATCH_BYTES: usize = 1 << 20;

/// The message file and everything that is needed to save to it.
#[derive(Debug)]
pub(super) struct FileDestination {
    pub(super) pace: Pace,
    pub(super) settings: Settings,
    pub(super) orders: Orders,
    pub(super) metrics: Metrics,
    pub(super) intent: Intent,
    pub(super) file: MessageFile,
    pub(super) watch: Watch,
    pub(super) rendering: Rendering,
    /// When the file must be synced to the disk.
    pub(super) sync_at: Option<Instant>,
    pub(super) names_checked: Instant,
    pub(super) rotations: Rotations,
    pub(super) archivist: Archivist,
}

/// The batch that is being rendered, into the intent file's body.
#[derive(Debug)]
pub(super) struct Rendering {
    renderer: Renderer,
    /// The batch's time, in microseconds since 1970.
    now: i64,
    /// How many bytes it has.
    length: usize,
    /// It ends once it has this many bytes, which are fewer than usual on a full disk.
    limit: usize,
}

impl Rendering {
    /// On a full disk, makes batches smaller than one of that length. Returns whether
    /// that was possible.
    pub(super) fn take_less(&mut self, length: u64) -> bool {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(self.limit);
        // A batch with a limit of one byte has one message.
        if length <= 1 {
            return false;
        }
        self.limit = length / 2;
        true
    }

    /// There was room for a batch, so there may be for a larger one.
    fn take_more(&mut self) {
        self.limit = (self.limit * 2).min(BATCH_BYTES);
    }
}

impl FileDestination {
    /// Opens the file, and waits for the locks.
    pub(super) fn open(mut desk: Desk) -> Result<FileDestination, Halt> {
        // The intent file comes first. The process that has it is the only writer of that
        // name, even while the file itself is being replaced.
        let at = intent_path(&desk.settings.file);
        let intent = wait_for(&mut desk.orders, &desk.settings, &at, || Intent::open(&at, desk.pace.body))?;
        file::remove_next(&desk.settings.file);
        let open = || MessageFile::open(&desk.settings.file, &desk.settings.rights());
        let file = wait_for(&mut desk.orders, &desk.settings, &desk.settings.file, open)?;
        desk.orders.set_flaw(Flaw::Access, file.lacks());
        Ok(FileDestination::at(desk, intent, file))
    }

    /// Puts together an open intent file and message file.
    pub(super) fn at(desk: Desk, intent: Intent, file: MessageFile) -> FileDestination {
        let Desk { pace, settings, text, orders, metrics } = desk;
        let renderer = Renderer::new(settings.format);
        FileDestination {
            pace,
            settings,
            orders,
            metrics,
            intent,
            file,
            watch: Watch::new(pace.watch),
            rendering: Rendering { renderer, now: 0, length: 0, limit: BATCH_BYTES },
            sync_at: None,
            names_checked: Instant::now(),
            rotations: Rotations::default(),
            archivist: Archivist::new(text),
        }
    }

    /// Gives up the file, and the locks.
    pub(super) fn close_file(self) -> Desk {
        let FileDestination { pace, settings, orders, metrics, mut archivist, .. } = self;
        let text = archivist.take_settings();
        Desk { pace, settings, text, orders, metrics }
    }

    /// Called at the end. Syncs what the settings want on the disk, even
    /// if a batch could not be saved.
    pub(super) fn leave(&mut self, outcome: Result<(), Halt>) -> Result<(), Halt> {
        if matches!(outcome, Err(Halt::Failed(_))) || self.sync_at.is_none() {
            return outcome;
        }
        if self.intent.is_closed() {
            self.sync(None)?;
        } else if let Err(error) = self.file.sync() {
            // The next logger completes what is promised, and puts the file aside.
            log::error!("cannot bring {} to the disk: {error}; it is not trusted again", self.file.path().display());
            // If a file is already noted, it is the one that the batch was promised to.
            let untrusted = self.intent.untrusted().unwrap_or(self.file.id());
            self.write_intent(|intent| intent.set_untrusted(Some(untrusted)))?;
        }
        outcome
    }

    /// Schedules a sync, because the previous logger may have been killed before it synced
    /// what it had saved, as `sync = "1s"` asks for.
    pub(super) fn owe_a_sync(&mut self) -> Result<(), Halt> {
        if self.file_len()? > 0 {
            self.sync_at = self.due();
        }
        Ok(())
    }

    /// How long until it has something to do even if nothing comes.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let forsaken = self.orders.asked_to_stop().map(|_| FORSAKEN);
        let later = [self.sync_at, self.rotations.at(), self.archivist.again_at()].into_iter().flatten().min();
        let later = later.map(|at| at.saturating_duration_since(Instant::now()));
        [later, forsaken].into_iter().flatten().min()
    }

    /// Syncs the file to the disk if that is due.
    pub(super) fn sync_if_due(&mut self) -> Result<(), Halt> {
        if self.sync_at.is_some_and(|at| at <= Instant::now()) { self.sync(None) } else { Ok(()) }
    }

    fn body(&mut self) -> (&mut Renderer, Body<'_>) {
        let Rendering { renderer, length, limit, .. } = &mut self.rendering;
        (renderer, Body::resumed(self.intent.body_mut(), *length, *limit))
    }
}

impl Destination for FileDestination {
    type Halt = Halt;

    fn begin(&mut self, now: i64) {
        (self.rendering.now, self.rendering.length) = (now, 0);
    }

    fn put(&mut self, message: &Message<'_>) -> Result<(), usize> {
        let (renderer, mut out) = self.body();
        let needs = renderer.room_for(message.bytes.len(), message.child);
        if out.is_full() || out.room() < needs {
            return Err(needs);
        }
        renderer.render(message, &mut out);
        self.rendering.length = out.len();
        Ok(())
    }

    fn room_for_lines(&self) -> usize {
        let Rendering { renderer, length, limit, .. } = &self.rendering;
        let left = self.intent.body().len().min(*limit).saturating_sub(*length);
        if renderer.is_raw() { left } else { 0 }
    }

    fn put_lines(&mut self, lines: &[u8]) {
        let (_, mut out) = self.body();
        out.put(lines);
        self.rendering.length = out.len();
    }

    fn length(&self) -> u64 {
        self.rendering.length as u64
    }

    fn grow(&mut self, needs: usize) -> Result<bool, Halt> {
        if needs <= self.intent.body().len() {
            return Ok(false);
        }
        while let Err(error) = self.intent.grow(needs) {
            let trouble = format!(
                "cannot make room in memory for a message of {needs} bytes to {}: {error}",
                self.settings.file.display()
            );
            self.orders.endure(&trouble, RETRY)?;
        }
        self.orders.endured();
        Ok(true)
    }

    fn reserve(&mut self) -> Result<Option<Place>, Halt> {
        let length = self.length();
        let offset = if length > 0 { self.reserve_at_end(length)? } else { Some(self.file_len()?) };
        let Some(offset) = offset else { return Ok(None) };
        let file = self.file.id();
        if offset == 0 && length > 0 {
            let began = self.rendering.now;
            self.write_intent(|intent| intent.set_began(file, began))?;
        }
        Ok(Some(Place { file, offset }))
    }

    fn endure(&mut self, trouble: &str, error: &io::Error) -> Result<(), Halt> {
        if !may_pass(error) {
            return Err(Halt::Failed(trouble.to_owned()));
        }
        self.orders.endure(trouble, RETRY)
    }

    fn intend(&mut self, batch: &Promised<'_>) -> Result<bool, Halt> {
        if self.promise(batch)? {
            return Ok(true);
        }
        // What the intent file has now may look like a whole promise.
        self.close_intent()?;
        Ok(false)
    }

    fn save(&mut self, batch: &mut Promised<'_>) -> Result<(), Halt> {
        self.write_rest(batch, 0)
    }

    fn confirm(&mut self, batch: &mut Promised<'_>) -> Result<bool, Halt> {
        let sync = batch.asks_for_sync() || self.settings.sync == Sync::Always;
        if sync {
            self.sync(Some(batch))?;
        }
        if self.move_if_removed(batch)? {
            return Ok(false);
        }
        if !sync && self.sync_at.is_none() {
            self.sync_at = self.due();
        }
        self.file.leave_at(batch.offset + batch.length);
        Ok(true)
    }

    fn withdraw(&mut self, batch: &Promise) -> bool {
        let is_there = self.file.id() != batch.file || self.file.size().map_or(true, |len| len != batch.offset);
        // If that can't be written, the next logger completes the batch, wherever it was
        // promised.
        !is_there && self.intent.close().is_ok()
    }

    fn close(&mut self) -> Result<(), Halt> {
        self.close_intent()?;
        self.rendering.take_more();
        Ok(())
    }

    fn name(&self) -> &Path {
        &self.settings.file
    }

    fn last_batch(&self) -> u64 {
        self.intent.last_batch()
    }

    fn found(&mut self) -> Result<Found, Halt> {
        self.put_untrusted_aside()?;
        Ok(match self.intent.found() {
            intent::Found::Writing(promise) => Found::Promised(promise),
            intent::Found::Nothing if !self.intent.is_known() => Found::Lost,
            intent::Found::Nothing | intent::Found::Idle | intent::Found::OtherBoot => Found::Nothing,
        })
    }

    fn is_settled(&self, batch: u64) -> bool {
        self.intent.is_settled(batch)
    }

    fn complete(&mut self, batch: &mut Promised<'_>) -> Result<(), Halt> {
        self.complete_anywhere(batch)
    }

    /// A batch that is older than the last one that the intent file knows was never promised,
    /// because otherwise it would have been completed. The bytes where it was to begin belong
    /// to another batch.
    fn take_back(&mut self, lost: &[ledger::Batch]) -> Result<(), Halt> {
        let (here, last) = (self.file.id(), self.intent.last_batch());
        let mine = lost.iter().filter(|batch| batch.file == here && batch.id >= last);
        match mine.map(|batch| batch.offset).min() {
            Some(began) => self.cut_back(began),
            None => Ok(()),
        }
    }

    fn settle(&mut self, batch: Option<u64>) -> Result<(), Halt> {
        if let Some(batch) = batch {
            self.write_intent(|intent| intent.settle(batch))?;
        }
        self.write_intent(|intent| intent.set_untrusted(None))
    }

    fn rest(&mut self) -> Result<(), Halt> {
        match self.intent.found() {
            intent::Found::Idle | intent::Found::Writing(_) if self.intent.is_closed() => {}
            intent::Found::Idle => self.close_intent()?,
            // If a promise is still not closed, the ledgers know that it is over.
            intent::Found::Writing(_) | intent::Found::Nothing | intent::Found::OtherBoot => {
                self.write_intent(Intent::reset)?;
            }
        }
        self.mend_tail()
    }
}
