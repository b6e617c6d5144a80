//! One batch: the steps of ARCHITECTURE.md, "The law of a link", by number.

use super::file::now;
use super::orders::Halt;
use super::output::Output;
use super::save::batch_id;
use super::settings::Sync;
use super::source::{BATCH_BYTES, Source, room_to_gather};
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
        // 3 render
        let length = self.gather()?;
        if self.sources.iter().all(|source| source.taking.is_none()) {
            return Ok(());
        }
        self.prepare_and_save(length as u64)?;
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
            self.intent.close();
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
            let mut out = Output::new(self.intent.body_mut());
            let mut needs = None;
            let count = self.sources.len();
            for i in 0..count {
                let source = &mut self.sources[(self.turn + i) % count];
                let more = source.gather(&mut self.press, &mut out);
                needs = needs.max(more);
            }
            let length = out.len();
            match needs {
                // Not even one message went: there is no room for it.
                Some(needs) if self.sources.iter().all(|source| source.taking.is_none()) => self.grow(needs)?,
                _ => return Ok(length),
            }
        }
    }

    fn grow(&mut self, body: usize) -> Result<(), Halt> {
        while let Err(error) = self.intent.grow(body.max(BATCH_BYTES)) {
            if self.make_room(&error) {
                continue;
            }
            let trouble = format!(
                "cannot make room for a message of {body} bytes beside {}: {error}",
                self.settings.file.display()
            );
            self.orders.endure(&trouble, Duration::from_millis(200))?;
        }
        self.orders.endured();
        Ok(())
    }

    fn prepare_and_save(&mut self, length: u64) -> Result<(), Halt> {
        self.last_batch = batch_id(self.last_batch);
        let offset = if length > 0 { self.reserve(length)? } else { self.file_len()? };
        let mut promise = Promise { batch: self.last_batch, file: self.file.id(), offset, length };
        // 4 prepare
        let last = Ack { epoch: 0, sequence: 0 };
        let batch = Batch { id: promise.batch, take: 0, last, offset, file: promise.file };
        for source in &self.sources {
            if let Some(taking) = &source.taking {
                let prepared = source.intake.prepare(taking, &batch);
                prepared.map_err(|e| format!("cannot prepare the link from {}: {e}", source.intake.from))?;
            }
        }
        if length == 0 {
            // Nothing to save: each link is consumed by itself.
            return Ok(());
        }
        if offset == 0 {
            self.intent.set_began(promise.file, self.press.now);
        }
        // 5 intend: the point of no return
        self.intent.promise(&promise);
        let asked = self.sources.iter().any(|source| source.taking.is_some() && source.tally.sync);
        let sync = asked || self.settings.sync == Sync::Always;
        loop {
            // 6 save
            if let Err(halt) = self.save(&mut promise, 0, None) {
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
        Ok(())
    }

    /// It shall stop while a batch does not get into the file. If no byte of it
    /// is there, it is the next one's to save, wherever that may be.
    fn withdraw(&mut self, promise: &Promise) {
        if self.file.id() == promise.file && self.file.size().is_ok_and(|len| len == promise.offset) {
            self.intent.close();
            for source in self.sources.iter().filter(|source| source.taking.is_some()) {
                source.intake.withdraw();
            }
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
