//! The law of a link in code: the steps of a batch in their order, and what a new sink
//! does about a batch that was under way. The numbers of the steps are those in
//! doc/law-of-a-link.md.
//!
//! [`Intakes`] does the part of each step that concerns the links; a [`Destination`] does
//! the part that concerns the place where messages go. So a sink is a destination and a
//! loop.

use super::handover::Inbound;
use super::intake::Tools;
use super::intent::{FileId, Promise};
use super::ledger::{self, Phase};
use super::record::{Ack, Peer};
use super::source::Source;
use crate::sys::stream::Stream;
use std::io;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A message and what is known about it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// When it was received: microseconds since 1970-01-01 UTC.
    pub time: i64,
    /// The child that sent it to the sink.
    pub child: &'a str,
    /// Which of the child's outputs it comes from.
    pub stream: Stream,
    /// The sender, as that child reports it; `None`: the child wrote the message itself.
    pub peer: Option<Peer>,
    /// The message itself.
    pub bytes: &'a [u8],
    /// Whether it is a part of a longer message, and not the last part.
    pub more: bool,
}

/// Where a batch begins. The ledgers keep this, but only the destination knows what the
/// numbers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: FileId,
    /// The offset in it.
    pub offset: u64,
}

/// A batch that is promised, or about to be, with the links that are part of it.
#[derive(Debug)]
pub struct Promised<'a> {
    promise: Promise,
    sources: &'a [Source],
}

impl Promised<'_> {
    /// Notes in the ledgers that the batch was promised anew, to another place. If the
    /// promise itself is lost later on, the ledgers still say where the batch begins.
    pub fn note_place(&self) {
        let Promise { batch, offset, file, .. } = self.promise;
        for source in self.sources {
            source.intake.moved(batch, offset, file);
        }
    }

    /// Whether a message in it must be on the disk before it is acknowledged.
    pub fn asks_for_sync(&self) -> bool {
        self.sources.iter().filter_map(|source| source.part).any(|part| part.tally.sync)
    }
}

impl Deref for Promised<'_> {
    type Target = Promise;

    fn deref(&self) -> &Promise {
        &self.promise
    }
}

impl DerefMut for Promised<'_> {
    fn deref_mut(&mut self) -> &mut Promise {
        &mut self.promise
    }
}

/// What a destination knows about a promised batch when a sink starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No batch is promised. If one was prepared, not a byte of it was saved.
    Nothing,
    /// Promises were lost, so there may be a part of a batch that no promise explains.
    Lost,
    /// This batch is promised, and all its bytes are there to be saved.
    Promised(Promise),
}

/// Where the messages of a sink go. Each method is one step of a batch, and
/// returns only once the step is done: if there is trouble, it waits until that passes, or
/// gives up.
pub trait Destination {
    /// Why it gives up.
    type Halt: From<String>;

    /// Step 3 begins, with an empty batch. `now` is the batch's time.
    fn begin(&mut self, now: i64);

    /// Step 3: renders one message into the batch.
    ///
    /// # Errors
    /// The batch has no room for the message. The error is how much room it needs.
    fn put(&mut self, message: &Message<'_>) -> Result<(), usize>;

    /// How many bytes of whole lines the batch can take just as they are, in one
    /// piece; 0 if each message must be rendered separately.
    fn room_for_lines(&self) -> usize;

    /// Step 3: takes whole lines, each of which is a message, just as they are.
    fn put_lines(&mut self, lines: &[u8]);

    /// How many bytes the batch has.
    fn length(&self) -> u64;

    /// Called for a message that needs this much room. If even an empty batch has less, makes
    /// room and returns true; then the batch must be rendered again.
    ///
    /// # Errors
    /// It gives up.
    fn grow(&mut self, needs: usize) -> Result<bool, Self::Halt>;

    /// Finds room for the batch before anything is promised. `None`: there is not enough
    /// room, so a smaller batch must be rendered.
    ///
    /// # Errors
    /// It gives up.
    fn reserve(&mut self) -> Result<Option<Place>, Self::Halt>;

    /// Waits a while because a link can't be prepared. Nothing has been promised yet.
    ///
    /// # Errors
    /// It gives up.
    fn endure(&mut self, trouble: &str, error: &io::Error) -> Result<(), Self::Halt>;

    /// Step 5: promises the batch. `false`: there is not enough room, and
    /// nothing is promised.
    ///
    /// # Errors
    /// It gives up. The batch may be promised.
    fn intend(&mut self, batch: &Promised<'_>) -> Result<bool, Self::Halt>;

    /// Step 6: saves the batch.
    ///
    /// # Errors
    /// It gives up. A part of the batch may be saved.
    fn save(&mut self, batch: &mut Promised<'_>) -> Result<(), Self::Halt>;

    /// Step 7: syncs the batch, if that is asked for. `false`: it is gone from the place where
    /// it was saved, and has been promised anew to another place, where it must be saved.
    ///
    /// # Errors
    /// It gives up. The batch stays promised.
    fn confirm(&mut self, batch: &mut Promised<'_>) -> Result<bool, Self::Halt>;

    /// Withdraws the promise of a batch after it gave up saving it. `false`: the promise
    /// stands, because a part of the batch may be saved, and the next sink completes it.
    fn withdraw(&mut self, batch: &Promise) -> bool;

    /// Step 10: the batch is saved and consumed, so it is no longer promised.
    ///
    /// # Errors
    /// It gives up. The next sink sees from a link that the batch is done.
    fn close(&mut self) -> Result<(), Self::Halt>;

    /// The name of the destination, which the ledgers keep with each batch.
    fn name(&self) -> &Path;

    /// The highest batch id that it knows; 0: none.
    fn last_batch(&self) -> u64;

    /// What an earlier sink had promised.
    ///
    /// # Errors
    /// It gives up.
    fn found(&mut self) -> Result<Found, Self::Halt>;

    /// Whether a recovery has completed that batch.
    fn is_settled(&self, batch: u64) -> bool;

    /// Steps 6 and 7 for a batch of an earlier sink.
    ///
    /// # Errors
    /// It gives up.
    fn complete(&mut self, batch: &mut Promised<'_>) -> Result<(), Self::Halt>;

    /// Removes the saved parts of batches whose promises are lost. These batches will be
    /// taken from the links again.
    ///
    /// # Errors
    /// It gives up.
    fn take_back(&mut self, lost: &[ledger::Batch]) -> Result<(), Self::Halt>;

    /// Called when each batch is saved as a whole or not at all. If a batch was found,
    /// remembers that it is settled.
    ///
    /// # Errors
    /// It gives up.
    fn settle(&mut self, batch: Option<u64>) -> Result<(), Self::Halt>;

    /// Called when recovery ends: nothing is promised any more.
    ///
    /// # Errors
    /// It gives up.
    fn rest(&mut self) -> Result<(), Self::Halt>;
}

/// All inbound links of a sink.
#[derive(Debug)]
pub struct Intakes {
    /// The links.
    pub sources: Vec<Source>,
    /// The tools that they share.
    pub tools: Tools,
    /// Space in which a message of several records is put together.
    joined: Vec<u8>,
    /// Decides which link comes first in the batch.
    turn: usize,
    last_batch: u64,
    /// The sink's process id, which is part of its batch ids.
    process: u32,
}

impl Intakes {
    /// Takes up all links.
    ///
    /// # Errors
    /// One of them can't be taken up.
    pub fn open(inbound: &[Inbound]) -> Result<Intakes, String> {
        let sources = inbound.iter().map(Source::open).collect::<Result<Vec<_>, _>>()?;
        let capacity = sources.iter().map(|source| source.capacity).max().unwrap_or(0);
        let tools = Tools::new(capacity).map_err(|e| format!("cannot open an intake: {e}"))?;
        Ok(Intakes { sources, tools, joined: Vec::new(), turn: 0, last_batch: 0, process: std::process::id() })
    }

    /// Whether there may be something to save right now.
    pub fn is_busy(&self) -> bool {
        self.sources.iter().any(|source| source.ready || source.has_work())
    }

    /// Whether all links have ended and nothing is left to save.
    pub fn are_finished(&self) -> bool {
        self.sources.iter().all(Source::is_finished)
    }

    /// Saves as much of what the links have as fits in one batch. Returns whether there was
    /// anything.
    ///
    /// # Errors
    /// The destination gives up, or a link is broken.
    pub fn batch<D: Destination>(&mut self, to: &mut D) -> Result<bool, D::Halt> {
        // 1 stage, 2 peek
        for source in &mut self.sources {
            if source.ready || source.intake.has_more() {
                source.ready = false;
                let fill = source.intake.fill(&self.tools);
                fill.map_err(|e| format!("cannot take from the link from {}: {e}", source.intake.origin()))?;
            }
        }
        loop {
            // 3 render
            self.gather(to)?;
            if self.sources.iter().all(|source| source.part.is_none()) {
                return Ok(false);
            }
            // 4 prepare to 7 sync
            if self.prepare_and_save(to)? {
                break;
            }
            // There is not enough room: try a smaller batch.
        }
        // 8 acknowledge: it is saved, even if the next sink has to consume it
        for source in &mut self.sources {
            if let (Some(last), Some(replies)) = (source.awaited(), &mut source.replies) {
                replies.send(last);
            }
        }
        // 9 consume
        for source in &mut self.sources {
            if let Some(part) = source.part {
                let consumed = source.intake.consume(&part.taking, &self.tools);
                consumed.map_err(|e| format!("cannot consume from the link from {}: {e}", source.intake.origin()))?;
            }
        }
        // 10 close
        if to.length() > 0 {
            to.close()?;
        }
        Ok(true)
    }

    /// Step 3 for each link, beginning with another link each time.
    fn gather<D: Destination>(&mut self, to: &mut D) -> Result<(), D::Halt> {
        let now = now();
        self.turn = self.turn.wrapping_add(1);
        loop {
            to.begin(now);
            let mut starved = None;
            let count = self.sources.len();
            for i in 0..count {
                let source = &mut self.sources[(self.turn + i) % count];
                let needs = source.gather(to, now, &mut self.joined);
                if source.part.is_none() {
                    starved = starved.max(needs);
                }
            }
            match starved {
                // The message would not fit even into an empty batch.
                Some(needs) if to.grow(needs)? => {}
                _ => return Ok(()),
            }
        }
    }

    /// Steps 4 to 7. `false`: there is not enough room, and nothing happened.
    fn prepare_and_save<D: Destination>(&mut self, to: &mut D) -> Result<bool, D::Halt> {
        self.last_batch = batch_id(self.last_batch, self.process);
        let Some(Place { file, offset }) = to.reserve()? else {
            return Ok(false);
        };
        let promise = Promise { batch: self.last_batch, file, offset, length: to.length() };
        let mut batch = Promised { promise, sources: &self.sources };
        // 4 prepare
        let prepared = ledger::Batch { id: promise.batch, take: 0, last: Ack { epoch: 0, sequence: 0 }, offset, file };
        for source in &self.sources {
            let Some(part) = &source.part else { continue };
            // Nothing has been promised yet, so it can wait until the trouble passes.
            while let Err(error) = source.intake.prepare(&part.taking, &prepared) {
                to.endure(&format!("cannot prepare the link from {}: {error}", source.intake.origin()), &error)?;
            }
        }
        if promise.length == 0 {
            // There is nothing to save, so each link is consumed separately.
            return Ok(true);
        }
        // 5 intend: the point of no return
        match to.intend(&batch) {
            Ok(true) => {}
            Ok(false) => {
                self.forget();
                return Ok(false);
            }
            Err(halt) => return Err(self.withdraw(to, &batch, halt)),
        }
        loop {
            // 6 save
            if let Err(halt) = to.save(&mut batch) {
                return Err(self.withdraw(to, &batch, halt));
            }
            // 7 sync
            if to.confirm(&mut batch)? {
                return Ok(true);
            }
        }
    }

    /// The destination gave up. If it has no part of the batch, the next sink saves the batch
    /// to its own destination.
    fn withdraw<D: Destination>(&self, to: &mut D, batch: &Promise, halt: D::Halt) -> D::Halt {
        if to.withdraw(batch) {
            self.forget();
        }
        halt
    }

    fn forget(&self) {
        for source in self.sources.iter().filter(|source| source.part.is_some()) {
            source.intake.withdraw();
        }
    }

    /// What a sink does first of all: brings the destination and every link to a state in
    /// which nothing is under way. doc/law-of-a-link.md has the cases as tables.
    ///
    /// # Errors
    /// The destination gives up, or a link is refused.
    pub fn recover<D: Destination>(&mut self, to: &mut D) -> Result<(), D::Halt> {
        let found = match to.found()? {
            // The disk has gone back in time, as can happen if it was taken away and mounted
            // again. That batch was done long ago.
            Found::Promised(promise) if self.knows_later(to, promise.batch) => {
                self.take_back(to)?;
                Found::Nothing
            }
            found => found,
        };
        // This must be asked before a link forgets that batch in favour of its current one.
        let is_done = matches!(found, Found::Promised(promise) if self.is_saved(to, promise.batch));
        // Links whose batch is saved come first. Only the last few settled batches are
        // remembered, so settling another one may forget theirs. If a link is refused, that
        // is reported later, when the destination has no half of a batch any more.
        let mut refused = Ok(());
        for at in 0..self.sources.len() {
            if self.is_prepared_and_saved(to, at) {
                refused = refused.and(self.sources[at].intake.recover(true, &self.tools));
            }
        }
        match found {
            // It is saved, synced if that was asked for, and consumed by a link, so its file
            // may have been moved or compressed since.
            Found::Promised(promise) if is_done => to.settle(Some(promise.batch))?,
            Found::Promised(promise) => {
                log::info!("completing a batch of {} bytes", promise.length);
                to.complete(&mut self.promised(promise))?;
                to.settle(Some(promise.batch))?;
            }
            Found::Lost => {
                self.take_back(to)?;
                to.settle(None)?;
            }
            Found::Nothing => to.settle(None)?,
        }
        refused?;
        for at in 0..self.sources.len() {
            let is_saved = self.is_prepared_and_saved(to, at);
            self.sources[at].intake.recover(is_saved, &self.tools)?;
        }
        to.rest()?;
        for source in &mut self.sources {
            let named = source.intake.set_path(to.name());
            named.map_err(|e| format!("cannot take up the link from {}: {e}", source.intake.origin()))?;
            if let (Some(replies), Some(done)) = (&mut source.replies, source.intake.done()) {
                replies.send(done);
            }
        }
        let known = self.sources.iter().map(|source| source.intake.done_batch());
        self.last_batch = known.chain([to.last_batch()]).max().unwrap_or(0);
        Ok(())
    }

    /// A batch that an earlier sink has promised.
    pub fn promised(&self, promise: Promise) -> Promised<'_> {
        Promised { promise, sources: &self.sources }
    }

    /// Called if the promise of a batch is lost, and with it the rendered bytes. The whole
    /// batch is still in staging, so its saved part is removed, and it is taken again.
    ///
    /// # Errors
    /// The destination gives up.
    pub fn take_back<D: Destination>(&self, to: &mut D) -> Result<(), D::Halt> {
        let prepared = self.sources.iter().filter_map(|source| match source.intake.phase() {
            Phase::Prepared(batch) => Some(batch),
            Phase::Consuming { .. } | Phase::Idle => None,
        });
        let lost: Vec<_> = prepared.filter(|batch| !self.is_saved(to, batch.id)).collect();
        to.take_back(&lost)
    }

    fn is_prepared_and_saved<D: Destination>(&self, to: &D, at: usize) -> bool {
        matches!(self.sources[at].intake.phase(), Phase::Prepared(batch) if self.is_saved(to, batch.id))
    }

    /// Whether that batch is saved, which is so if it was settled or if a link has consumed its
    /// part of it.
    fn is_saved<D: Destination>(&self, to: &D, id: u64) -> bool {
        let is_done = |source: &Source| {
            source.intake.done_batch() == id
                || matches!(source.intake.phase(), Phase::Consuming { batch, .. } if batch.id == id)
        };
        to.is_settled(id) || self.sources.iter().any(is_done)
    }

    /// Whether any link has seen a later batch. Batches are promised one at a time, so
    /// an earlier one must be done.
    fn knows_later<D: Destination>(&self, to: &D, id: u64) -> bool {
        // A link that had another destination knows nothing about this one.
        let is_here = |source: &&Source| source.intake.path().ok().flatten().is_none_or(|path| path == to.name());
        self.sources.iter().filter(is_here).any(|source| {
            let under_way = match source.intake.phase() {
                Phase::Prepared(batch) | Phase::Consuming { batch, .. } => batch.id,
                Phase::Idle => 0,
            };
            under_way.max(source.intake.done_batch()) > id
        })
    }
}

/// Microseconds since 1970-01-01 UTC.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// An id for a batch of that process. It is higher than all earlier ones.
fn batch_id(last: u64, process: u32) -> u64 {
    // After the highest possible id, the time alone still gives a different one. The process
    // id makes it unlikely that two sinks that had the same file give the same id.
    let process = u64::from(process % 1000);
    u64::try_from(now()).unwrap_or(0).saturating_mul(1000).saturating_add(process).max(last.wrapping_add(1))
}

#[cfg(test)]
mod tests;
