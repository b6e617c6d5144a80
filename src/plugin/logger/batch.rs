//! One batch: the steps of ARCHITECTURE.md, "The law of a link", by number.

use super::file::now;
use super::orders::Halt;
use super::output::Output;
use super::save::{RETRY, batch_id};
use super::settings::Sync;
use super::source::{Source, room_to_gather};
use super::{BATCHES, BYTES, GARBAGE, INCOMPLETE, Logger, MESSAGES, STREAM, WORTH_IT};
use crate::link::intent::Promise;
use crate::link::ledger::Batch;
use crate::link::record::Ack;
use std::time::{Duration, Instant};

impl Logger {
    /// Saves what the links have, as much as goes in one batch.
    pub(super) fn batch(&mut self) -> Result<(), Halt> {
        // 1 stage, 2 peek
        for source in &mut self.sources {
            if source.ready || source.intake.has_more() {
                source.ready = false;
                let fill = source.intake.fill(&self.tools);
                fill.map_err(|e| format!("cannot take from the link from {}: {e}", source.intake.from))?;
            }
        }
        let length = loop {
            // 3 render
            let length = self.gather()?;
            if self.sources.iter().all(|source| source.taking.is_none()) {
                return Ok(());
            }
            if self.prepare_and_save(length as u64)? {
                break length;
            }
            // The disk has no room for that: the same again, but less of it.
        };
        // 8 acknowledge: what is saved is saved, whoever consumes it
        for source in &mut self.sources {
            let last = source.taking.map_or(Ack { epoch: 0, sequence: 0 }, |taking| taking.last);
            if let Some(replies) = source.replies.as_mut().filter(|_| last.epoch != 0) {
                replies.send(last);
            }
        }
        // 9 consume
        for source in &mut self.sources {
            if let Some(taking) = &source.taking {
                let consumed = source.intake.consume(taking, &self.tools);
                consumed.map_err(|e| format!("cannot consume from the link from {}: {e}", source.intake.from))?;
            }
        }
        // 10 close
        if length > 0 {
            self.close_intent()?;
            self.take_more();
        }
        self.orders.saved();
        self.count();
        self.may_gather = self.let_gather(Instant::now());
        self.check_names();
        Ok(())
    }

    /// How long the next batch may be let gather, if at all: it is one of a
    /// stream, nobody waits for it, and no source comes to wait for room.
    fn let_gather(&mut self, now: Instant) -> Option<Duration> {
        let since_the_last = now - std::mem::replace(&mut self.batch_at, now);
        if self.sources.iter().any(Source::is_awaited) {
            self.awaited_at = Some(now);
        }
        let awaited = self.awaited_at.is_some_and(|at| now - at < STREAM);
        if awaited || since_the_last >= STREAM || self.sources.iter().any(Source::is_in_a_message) {
            return None;
        }
        let rooms = self.sources.iter().map(|source| room_to_gather(source.came, source.capacity, since_the_last));
        rooms.chain([self.pace.gather]).min().filter(|&time| time >= WORTH_IT)
    }

    /// Renders into the intent file's body, each time another link first.
    fn gather(&mut self) -> Result<usize, Halt> {
        self.press.now = now();
        self.turn = self.turn.wrapping_add(1);
        loop {
            let mut out = Output::limited(self.intent.body_mut(), self.batch_bytes);
            let mut starved = None;
            let count = self.sources.len();
            for i in 0..count {
                let source = &mut self.sources[(self.turn + i) % count];
                let needs = source.gather(&mut self.press, &mut out);
                if source.taking.is_none() {
                    starved = starved.max(needs);
                }
            }
            let length = out.len();
            match starved {
                // It would never go, however empty the body is when its turn comes.
                Some(needs) if needs > self.intent.body().len() => self.grow(needs)?,
                _ => return Ok(length),
            }
        }
    }

    fn grow(&mut self, body: usize) -> Result<(), Halt> {
        while let Err(error) = self.intent.grow(body) {
            let trouble = format!(
                "cannot make room in memory for a message of {body} bytes to {}: {error}",
                self.settings.file.display()
            );
            self.orders.endure(&trouble, Duration::from_millis(200))?;
        }
        self.orders.endured();
        Ok(())
    }

    /// Steps 4 to 7. `false`: there is no room for so much, and nothing happened.
    fn prepare_and_save(&mut self, length: u64) -> Result<bool, Halt> {
        self.last_batch = batch_id(self.last_batch, self.process);
        let offset = if length > 0 { self.reserve(length)? } else { Some(self.file_len()?) };
        let Some(offset) = offset else {
            return Ok(false);
        };
        if offset == 0 && length > 0 {
            let (file, began) = (self.file.id(), self.press.now);
            self.write_intent(|intent| intent.set_began(file, began))?;
        }
        let mut promise = Promise { batch: self.last_batch, file: self.file.id(), offset, length };
        // 4 prepare
        let last = Ack { epoch: 0, sequence: 0 };
        let batch = Batch { id: promise.batch, take: 0, last, offset, file: promise.file };
        for source in &self.sources {
            if let Some(taking) = &source.taking {
                // Nothing was promised yet, so what passes can be waited for.
                while let Err(error) = source.intake.prepare(taking, &batch) {
                    let trouble = format!("cannot prepare the link from {}: {error}", source.intake.from);
                    if !super::may_pass(&error) {
                        return Err(Halt::Failed(trouble));
                    }
                    self.orders.endure(&trouble, RETRY)?;
                }
            }
        }
        if length == 0 {
            // Nothing to save: each link is consumed by itself.
            return Ok(true);
        }
        // 5 intend: the point of no return
        match self.intend(&promise) {
            Ok(true) => {}
            Ok(false) => {
                // What stands in the intent file by now may look whole.
                self.close_intent()?;
                self.forget();
                return Ok(false);
            }
            Err(halt) => {
                self.withdraw(&promise);
                return Err(halt);
            }
        }
        let asked = self.sources.iter().any(|source| source.taking.is_some() && source.tally.sync);
        let sync = asked || self.settings.sync == Sync::Always;
        loop {
            // 6 save
            if let Err(halt) = self.save(&mut promise, 0) {
                self.withdraw(&promise);
                return Err(halt);
            }
            // 7 sync
            if sync {
                self.sync(Some(&mut promise))?;
            }
            if !self.move_if_removed(&mut promise)? {
                break;
            }
        }
        if !sync && self.sync_at.is_none() {
            self.sync_at = self.due();
        }
        self.file.leave_at(promise.offset + promise.length);
        Ok(true)
    }

    /// It shall stop while a batch does not get into the file. If no byte of it
    /// is there, it is the next one's to save, wherever that may be.
    fn withdraw(&mut self, promise: &Promise) {
        let is_there = self.file.id() != promise.file || self.file.size().map_or(true, |len| len != promise.offset);
        // Where that can't be written, the next one completes it, wherever it was promised.
        if !is_there && self.intent.close().is_ok() {
            self.forget();
        }
    }

    fn forget(&self) {
        for source in self.sources.iter().filter(|source| source.taking.is_some()) {
            source.intake.withdraw();
        }
    }

    fn count(&mut self) {
        self.metrics.add(BATCHES, 1);
        for source in self.sources.iter().filter(|source| source.taking.is_some()) {
            let (tally, from) = (&source.tally, &source.intake.from);
            self.metrics.add(MESSAGES, tally.messages);
            self.metrics.add(BYTES, tally.bytes);
            if tally.incomplete > 0 {
                self.metrics.add(INCOMPLETE, tally.incomplete);
                log::warn!("{} messages from {from} were left out: their ends never came", tally.incomplete);
            }
            if tally.garbage > 0 {
                self.metrics.add(GARBAGE, tally.garbage);
                log::warn!("{} bytes from {from} were passed over: they are no records", tally.garbage);
            }
        }
    }
}
