//! The law of a link, driven: the steps of a batch, in their order, and what a
//! sink that comes back does about one that was under way.
//! doc/law-of-a-link.md has them by number.
//!
//! [`Intakes`] does what concerns the links; a [`Destination`] answers with what
//! concerns the place where messages go. So a sink is a destination and a loop.

use super::handover::Inbound;
use super::intake::Tools;
use super::intent::{FileId, Promise};
use super::ledger::{self, Phase};
use super::record::{Ack, Peer};
use super::source::Source;
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
    /// Who sent it to that child; `None`: the child itself wrote it.
    pub peer: Option<Peer>,
    /// It.
    pub bytes: &'a [u8],
    /// Whether it is a part of a longer one, and not the last.
    pub more: bool,
}

/// Where a batch begins. The ledgers keep it; what the numbers mean is up to the
/// destination.
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
    /// The batch was promised anew, to another place. If the promise itself is
    /// lost later on, the ledgers say where the batch began.
    pub fn note_place(&self) {
        let Promise { batch, offset, file, .. } = self.promise;
        for source in self.sources {
            source.intake.moved(batch, offset, file);
        }
    }

    /// Whether a message in it is to be on the disk before it is acknowledged.
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

/// What a destination knows, as a sink starts, of a batch that it has promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// None is promised. If one was prepared, not a byte of it was saved.
    Nothing,
    /// Promises were lost, so there may be a part of a batch that none explains.
    Lost,
    /// That one is promised, and all of it is there to be saved.
    Promised(Promise),
}

/// Where the messages of a sink go. Each method is one step of a batch, and
/// returns only once that is done: it waits for a trouble to pass, or gives up.
pub trait Destination {
    /// Why it gives up.
    type Halt: From<String>;

    /// Step 3 begins: no message is in the batch yet. `now`: the batch's time.
    fn begin(&mut self, now: i64);

    /// Step 3: renders one message into the batch.
    ///
    /// # Errors
    /// The batch has no room for it: how much room it needs.
    fn put(&mut self, message: &Message<'_>) -> Result<(), usize>;

    /// How many bytes of whole lines the batch can take just as they are, in one
    /// piece; 0 if each message is to be rendered by itself.
    fn room_for_lines(&self) -> usize;

    /// Step 3: takes whole lines, each of which is a message, just as they are.
    fn put_lines(&mut self, lines: &[u8]);

    /// How many bytes the batch has.
    fn length(&self) -> u64;

    /// A message needs this much room. If even an empty batch has less, makes more, and
    /// returns true: the batch is to be rendered again.
    ///
    /// # Errors
    /// It gives up.
    fn grow(&mut self, needs: usize) -> Result<bool, Self::Halt>;

    /// Finds room for the batch before anything is promised. `None`: there is only
    /// room for less, and the batch is to be rendered again.
    ///
    /// # Errors
    /// It gives up.
    fn reserve(&mut self) -> Result<Option<Place>, Self::Halt>;

    /// Waits a while because a link can't be prepared. Nothing was promised yet.
    ///
    /// # Errors
    /// It gives up.
    fn endure(&mut self, trouble: &str, error: &io::Error) -> Result<(), Self::Halt>;

    /// Step 5: promises the batch. `false`: there is only room for less, and
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

    /// Step 7: makes it last, as far as that is asked for. `false`: it is gone from where
    /// it was saved, and promised anew to another place: it is to be saved there.
    ///
    /// # Errors
    /// It gives up. The batch stays promised.
    fn confirm(&mut self, batch: &mut Promised<'_>) -> Result<bool, Self::Halt>;

    /// Takes back the promise of a batch that it gave up to save. `false`: the
    /// promise stands, because a part may be saved, and the next sink completes it.
    fn withdraw(&mut self, batch: &Promise) -> bool;

    /// Step 10: the batch is saved and consumed, so it is promised no more.
    ///
    /// # Errors
    /// It gives up. The next sink finds a link that is done with the batch.
    fn close(&mut self) -> Result<(), Self::Halt>;

    /// The name of the destination, which the ledgers keep with each batch.
    fn name(&self) -> &Path;

    /// The highest id of a batch that it knows; 0: none.
    fn last_batch(&self) -> u64;

    /// What another incarnation had promised.
    ///
    /// # Errors
    /// It gives up.
    fn found(&mut self) -> Result<Found, Self::Halt>;

    /// Whether a recovery has completed that batch.
    fn is_settled(&self, batch: u64) -> bool;

    /// Steps 6 and 7 of a batch of another incarnation.
    ///
    /// # Errors
    /// It gives up.
    fn complete(&mut self, batch: &mut Promised<'_>) -> Result<(), Self::Halt>;

    /// Removes what there is of batches that are to be taken again, from the
    /// links, because their promises are lost.
    ///
    /// # Errors
    /// It gives up.
    fn take_back(&mut self, lost: &[ledger::Batch]) -> Result<(), Self::Halt>;

    /// Each batch is saved whole now, or not at all. Remembers that this one is
    /// settled, if one was found.
    ///
    /// # Errors
    /// It gives up.
    fn settle(&mut self, batch: Option<u64>) -> Result<(), Self::Halt>;

    /// Recovery ends: nothing is promised any more.
    ///
    /// # Errors
    /// It gives up.
    fn rest(&mut self) -> Result<(), Self::Halt>;
}

/// All inbound links of a sink.
#[derive(Debug)]
pub struct Intakes {
    /// Each of them.
    pub sources: Vec<Source>,
    /// What they share.
    pub tools: Tools,
    /// Where a message of several records is put together.
    joined: Vec<u8>,
    /// Which link comes first in the batch.
    turn: usize,
    last_batch: u64,
    /// The sink's process id, which is a part of its batches' numbers.
    process: u32,
}

impl Intakes {
    /// Takes up all links.
    ///
    /// # Errors
    /// One of them can't be.
    pub fn open(inbound: &[Inbound]) -> Result<Intakes, String> {
        let sources = inbound.iter().map(Source::open).collect::<Result<Vec<_>, _>>()?;
        let capacity = sources.iter().map(|source| source.capacity).max().unwrap_or(0);
        let tools = Tools::new(capacity).map_err(|e| format!("cannot open an intake: {e}"))?;
        Ok(Intakes { sources, tools, joined: Vec::new(), turn: 0, last_batch: 0, process: std::process::id() })
    }

    /// Whether there is something to save that is known already.
    pub fn is_busy(&self) -> bool {
        self.sources.iter().any(|source| source.ready || source.has_work())
    }

    /// Whether all links have ended and nothing is left to save.
    pub fn are_finished(&self) -> bool {
        self.sources.iter().all(Source::is_finished)
    }

    /// Saves what the links have, as much as goes in one batch. Returns whether
    /// there was anything.
    ///
    /// # Errors
    /// The destination gives up, or a link is broken.
    pub fn batch<D: Destination>(&mut self, to: &mut D) -> Result<bool, D::Halt> {
        // 1 stage, 2 peek
        for source in &mut self.sources {
            if source.ready || source.intake.has_more() {
                source.ready = false;
                let fill = source.intake.fill(&self.tools);
                fill.map_err(|e| format!("cannot take from the link from {}: {e}", source.intake.from))?;
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
            // There is no room for that: the same again, but less of it.
        }
        // 8 acknowledge: what is saved is saved, whoever consumes it
        for source in &mut self.sources {
            if let (Some(last), Some(replies)) = (source.awaited(), &mut source.replies) {
                replies.send(last);
            }
        }
        // 9 consume
        for source in &mut self.sources {
            if let Some(part) = source.part {
                let consumed = source.intake.consume(&part.taking, &self.tools);
                consumed.map_err(|e| format!("cannot consume from the link from {}: {e}", source.intake.from))?;
            }
        }
        // 10 close
        if to.length() > 0 {
            to.close()?;
        }
        Ok(true)
    }

    /// Step 3, for each link; each time another one is first.
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
                // It would never go, however empty the batch is when its turn comes.
                Some(needs) if to.grow(needs)? => {}
                _ => return Ok(()),
            }
        }
    }

    /// Steps 4 to 7. `false`: there is no room for this much, and nothing happened.
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
            // Nothing was promised yet, so what passes can be waited for.
            while let Err(error) = source.intake.prepare(&part.taking, &prepared) {
                to.endure(&format!("cannot prepare the link from {}: {error}", source.intake.from), &error)?;
            }
        }
        if promise.length == 0 {
            // Nothing to save: each link is consumed by itself.
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

    /// The destination gave up. If it has nothing of the batch, that is the next
    /// sink's to save, wherever that may be.
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

    /// What a sink does before all else: brings the destination and every link to
    /// where nothing is under way. doc/law-of-a-link.md has the cases as tables.
    ///
    /// # Errors
    /// The destination gives up, or a link is refused.
    pub fn recover<D: Destination>(&mut self, to: &mut D) -> Result<(), D::Halt> {
        let found = match to.found()? {
            // Its disk went back in time, as one does that was taken away and
            // mounted again: that batch is long done.
            Found::Promised(promise) if self.knows_later(to, promise.batch) => {
                self.take_back(to)?;
                Found::Nothing
            }
            found => found,
        };
        // Asked before a link forgets it for the batch that it is at.
        let is_done = matches!(found, Found::Promised(promise) if self.is_saved(to, promise.batch));
        // First, because only the last few settled batches are known: to settle another
        // one may be to forget that one. A link that is refused is refused later, when
        // the destination has no half of a batch any more.
        let mut refused = Ok(());
        for at in 0..self.sources.len() {
            if self.is_prepared_and_saved(to, at) {
                refused = refused.and(self.sources[at].intake.recover(true, &self.tools));
            }
        }
        match found {
            // Saved, synced as far as it was to be, and consumed by a link: its
            // file may have been moved or compressed since.
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
            named.map_err(|e| format!("cannot take up the link from {}: {e}", source.intake.from))?;
            if let (Some(replies), Some(done)) = (&mut source.replies, source.intake.done()) {
                replies.send(done);
            }
        }
        let known = self.sources.iter().map(|source| source.intake.done_batch());
        self.last_batch = known.chain([to.last_batch()]).max().unwrap_or(0);
        Ok(())
    }

    /// A batch that another incarnation has promised.
    pub fn promised(&self, promise: Promise) -> Promised<'_> {
        Promised { promise, sources: &self.sources }
    }

    /// The promise of a batch is lost, and its bytes with it. All of it is in staging
    /// still: what there is of it is removed, and it is taken again.
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

    /// Whether that batch is saved: it was settled, or another link consumed its part of it.
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
        // A link that had another destination knows nothing of this one.
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

/// A number for a batch of that process that is above all those before.
fn batch_id(last: u64, process: u32) -> u64 {
    // After the highest number there is, the time alone is one that differs.
    // Two sinks seldom have the same, which may have had the same file.
    let process = u64::from(process % 1000);
    u64::try_from(now()).unwrap_or(0).saturating_mul(1000).saturating_add(process).max(last.wrapping_add(1))
}

#[cfg(test)]
mod tests;
