//! The intake of a link takes bytes out of its queue, and consumes none before it is
//! saved. The numbers of the steps are those in doc/law-of-a-link.md.

use super::handover::{Inbound, Protocol};
use super::intent::FileId;
use super::ledger::{Batch, Ledger, Phase};
use super::record::Ack;
use super::words::kill_point;
use crate::sys::inherited;
use crate::sys::pipe::{self, Moved, Pipe};
use crate::sys::stream::Stream;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// More than any pipe holds, to move as much as there is and as there is room for.
const ALL: usize = 1 << 30;

/// The tools that all intakes of a sink share.
#[derive(Debug)]
pub struct Tools {
    /// A private pipe, from which bytes are read while staging keeps them.
    scratch: Pipe,
    scratch_read: File,
    /// /dev/null, where consumed bytes go.
    null: File,
}

impl Tools {
    /// Tools for intakes of at most `capacity` bytes.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM, or there is no /dev/null.
    pub fn new(capacity: usize) -> io::Result<Tools> {
        let scratch = Pipe::new(capacity)?;
        let scratch_read = File::from(scratch.read.try_clone()?);
        Ok(Tools { scratch, scratch_read, null: OpenOptions::new().write(true).open("/dev/null")? })
    }
}

/// Which of the [unread](Intake::unread) bytes a batch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taking {
    /// This many bytes from the first on are rendered or passed over.
    pub upto: usize,
    /// Whether all bytes were looked at. If so, what is left is a message that is not whole
    /// yet, and is carried over. Otherwise the next batch takes what is left.
    pub whole: bool,
    /// The last message that is to be acknowledged; zeros: none.
    pub last: Ack,
}

/// A link as its sink sees it.
#[derive(Debug)]
pub struct Intake {
    /// The source's name.
    pub from: String,
    /// Which of the source's outputs it is.
    pub stream: Stream,
    /// The form of messages in the queue.
    pub protocol: Protocol,
    queue: OwnedFd,
    staging: Pipe,
    ledger: Ledger,
    /// From `start` to `end`, it has the carry, then the bytes at the head of staging.
    window: Vec<u8>,
    start: usize,
    end: usize,
    carried: usize,
    staged: usize,
    ended: bool,
}

impl Intake {
    /// Takes up a link. [`Intake::phase`] shows whether an earlier sink left a batch under
    /// way, which must be dealt with first.
    ///
    /// # Errors
    /// Its ledger makes no sense.
    pub fn open(inbound: &Inbound) -> Result<Intake, String> {
        let from = inbound.stream.of(&inbound.from);
        let [read, write] = inbound.staging;
        let take = |fd| inherited(fd).map_err(|e| format!("cannot take descriptor {fd} (link from {from}): {e}"));
        // From here on it owns all descriptors, even if something is wrong with them.
        let (queue, ledger) = (take(inbound.queue)?, take(inbound.ledger)?);
        let staging = Pipe { read: take(read)?, write: take(write)? };
        let ledger = Ledger::open(ledger).map_err(|e| format!("{e} (link from {from})"))?;
        Ok(Intake {
            from: inbound.from.clone(),
            stream: inbound.stream,
            protocol: inbound.protocol,
            queue,
            staging,
            ledger,
            window: Vec::new(),
            start: 0,
            end: 0,
            carried: 0,
            staged: 0,
            ended: false,
        })
    }

    /// Where its bytes come from, as people read it: `clock`, or `clock (stderr)`.
    pub fn origin(&self) -> String {
        self.stream.of(&self.from)
    }

    /// What was under way.
    pub fn phase(&self) -> Phase {
        self.ledger.phase()
    }

    /// The message file that the last batch is for, if that is known.
    ///
    /// # Errors
    /// From pread(2).
    pub fn path(&self) -> io::Result<Option<PathBuf>> {
        self.ledger.path()
    }

    /// Sets the message file of the batches to come.
    ///
    /// # Errors
    /// From pwrite(2).
    pub fn set_path(&mut self, path: &Path) -> io::Result<()> {
        self.ledger.set_path(path)
    }

    /// The last batch that is saved and consumed; 0: none yet.
    pub fn done_batch(&self) -> u64 {
        self.ledger.done_batch()
    }

    /// The last message that is saved and consumed.
    pub fn done(&self) -> Option<Ack> {
        self.ledger.done()
    }

    /// How many bytes staging can hold.
    ///
    /// # Errors
    /// None, for an open pipe.
    pub fn capacity(&self) -> io::Result<usize> {
        pipe::capacity(&self.staging.write)
    }

    /// The queue's read end, for polling.
    pub fn queue(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }

    /// Settles a batch of an earlier sink, which is in the message file (`saved`) or
    /// was never promised. Then takes up what was carried over.
    ///
    /// # Errors
    /// The ledger and staging contradict each other, or cannot be read.
    pub fn recover(&mut self, saved: bool, tools: &Tools) -> Result<(), String> {
        let from = self.origin();
        let what = |e: io::Error| format!("cannot take up the link from {from}: {e}");
        self.staged = pipe::bytes_in(&self.staging.read).map_err(what)?;
        let staged = self.staged as u64;
        // This is checked before a byte is consumed, so that a wrong ledger costs none.
        let there = |rest: Option<u64>| {
            rest.filter(|&rest| rest <= staged).ok_or_else(|| {
                format!("cannot take up the link from {from}: its ledger contradicts what staging holds")
            })
        };
        match self.ledger.phase() {
            Phase::Prepared(batch) if saved => {
                let take = there(Some(batch.take))?;
                self.ledger.consuming(staged);
                self.discard(take, tools).map_err(what)?;
            }
            Phase::Prepared(_) => self.ledger.forget(),
            Phase::Consuming { batch, held } => {
                let consumed = held.checked_sub(staged);
                let rest = there(consumed.and_then(|consumed| batch.take.checked_sub(consumed)))?;
                self.discard(rest, tools).map_err(what)?;
            }
            Phase::Idle => {}
        }
        self.window.clear();
        self.ledger.read_carry(&mut self.window).map_err(what)?;
        (self.start, self.end, self.carried) = (0, self.window.len(), self.window.len());
        Ok(())
    }

    /// Steps 1 and 2: gets more bytes to look at, if all that were read before are taken.
    /// Also notices the end of the link.
    ///
    /// # Errors
    /// From splice(2), tee(2), read(2).
    pub fn fill(&mut self, tools: &Tools) -> io::Result<()> {
        if self.unread().len() > self.carried {
            return Ok(());
        }
        if self.staged == 0 && !self.ended {
            kill_point();
            match pipe::splice(&self.queue, &self.staging.write, ALL)? {
                Moved::Bytes(n) => self.staged = n,
                Moved::NotNow => {}
                Moved::End => self.ended = true,
            }
        }
        if self.staged > 0 {
            self.peek(tools)?;
        }
        Ok(())
    }

    fn peek(&mut self, tools: &Tools) -> io::Result<()> {
        let Moved::Bytes(doubled) = pipe::tee(&self.staging.read, &tools.scratch.write, ALL)? else {
            return Ok(());
        };
        self.window.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let end = self.end + doubled;
        if self.window.len() < end {
            self.window.resize(end, 0);
        }
        // One read might not be enough: a pipe in packet mode (pipe(2), O_DIRECT) gives one
        // packet at a time.
        (&tools.scratch_read).read_exact(&mut self.window[self.end..end])?;
        self.end = end;
        Ok(())
    }

    /// The bytes to look at: what was carried over, then what staging holds.
    pub fn unread(&self) -> &[u8] {
        &self.window[self.start..self.end]
    }

    /// Whether all that was written has been read: the queue is empty, and everything in
    /// staging was looked at.
    pub fn is_all_there(&self) -> bool {
        self.unread().len() - self.carried == self.staged && pipe::bytes_in(&self.queue).is_ok_and(|bytes| bytes == 0)
    }

    /// Whether there are bytes that no batch has looked at yet.
    pub fn has_more(&self) -> bool {
        self.unread().len() > self.carried || self.staged > 0
    }

    /// Whether no process can write to the queue any more, and nothing is left in it or in
    /// staging.
    pub fn ended(&self) -> bool {
        self.ended && self.staged == 0
    }

    /// Whether a batch that takes this would change anything.
    pub fn changes(&self, taking: &Taking) -> bool {
        taking.upto > 0 || taking.whole && self.unread().len() > self.carried
    }

    /// Notes in the ledger that this much more was taken out of the link, for whoever looks.
    pub fn count(&self, messages: u64, bytes: u64, now: u64) {
        self.ledger.count(messages, bytes, now);
    }

    /// Step 4: notes in the ledger what the batch takes.
    ///
    /// # Errors
    /// The carry can't be written. Then nothing happened.
    pub fn prepare(&self, taking: &Taking, batch: &Batch) -> io::Result<()> {
        let (take, carry) = self.split(taking);
        let same = if taking.upto == 0 { self.carried } else { 0 };
        self.ledger.prepare(&Batch { take: take as u64, last: taking.last, ..*batch }, carry, same)
    }

    /// Notes that a prepared batch now begins at another place.
    pub fn moved(&self, batch: u64, offset: u64, file: FileId) {
        if matches!(self.phase(), Phase::Prepared(prepared) if prepared.id == batch) {
            self.ledger.moved(offset, file);
        }
    }

    /// Step 9: consumes what the batch takes.
    ///
    /// # Errors
    /// From splice(2).
    pub fn consume(&mut self, taking: &Taking, tools: &Tools) -> io::Result<()> {
        let (take, carry) = self.split(taking);
        let carried = carry.len();
        self.ledger.consuming(self.staged as u64);
        self.discard(take as u64, tools)?;
        self.start += taking.upto;
        self.carried = carried;
        Ok(())
    }

    /// Gives up the batch that was prepared.
    pub fn withdraw(&self) {
        self.ledger.forget();
    }

    /// How many bytes a batch takes out of staging.
    pub fn takes(&self, taking: &Taking) -> usize {
        self.split(taking).0
    }

    /// How many bytes a batch takes out of staging, and what it carries over.
    fn split(&self, taking: &Taking) -> (usize, &[u8]) {
        let unread = self.unread();
        if taking.whole {
            (unread.len() - self.carried, &unread[taking.upto..])
        } else if taking.upto >= self.carried {
            (taking.upto - self.carried, &[])
        } else {
            (0, &unread[taking.upto..self.carried])
        }
    }

    /// Discards this many bytes of staging. If the sink is killed in the middle of this, phase
    /// CONSUMING and what staging still holds show how far it came.
    fn discard(&mut self, bytes: u64, tools: &Tools) -> io::Result<()> {
        let mut left = usize::try_from(bytes).map_err(io::Error::other)?;
        while left > 0 {
            kill_point();
            // In tests only a few at a time, so that the sink can be killed in between.
            let most = if cfg!(test) { left.min(7) } else { left };
            match pipe::splice(&self.staging.read, &tools.null, most)? {
                Moved::Bytes(n) => {
                    left -= n;
                    self.staged -= n;
                }
                Moved::NotNow | Moved::End => return Err(io::Error::other("staging holds less than its ledger says")),
            }
        }
        self.ledger.consumed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Link;
    use super::super::intent::FileId;
    use super::*;
    use std::io::Write;
    use std::os::fd::IntoRawFd;

    const NONE: Ack = Ack { epoch: 0, sequence: 0 };

    #[test]
    fn if_a_ledger_takes_more_than_staging_has_nothing_is_consumed() {
        for consuming in [false, true] {
            let link = Link::to_intake(4096, Protocol::Lines).unwrap();
            let staging = link.intake.unwrap();
            let mut write = File::from(staging.staging.write.try_clone().unwrap());
            write.write_all(b"one\n").unwrap();
            let ledger = Ledger::open(staging.ledger.try_clone().unwrap()).unwrap();
            let file = FileId { device: 1, inode: 2 };
            ledger.prepare(&Batch { id: 7, take: 5, last: NONE, offset: 0, file }, b"", 0).unwrap();
            if consuming {
                ledger.consuming(4);
            }
            let seen = staging.staging.read.try_clone().unwrap();
            let give = OwnedFd::into_raw_fd;
            let mut intake = Intake::open(&Inbound {
                from: "source".to_owned(),
                stream: Stream::Stdout,
                protocol: Protocol::Lines,
                queue: give(link.queue.read),
                staging: [give(staging.staging.read), give(staging.staging.write)],
                ledger: give(staging.ledger),
                replies: None,
            })
            .unwrap();
            let before = intake.phase();
            let why = intake.recover(true, &Tools::new(4096).unwrap()).unwrap_err();
            assert!(why.ends_with("its ledger contradicts what staging holds"), "{why}");
            assert_eq!((pipe::bytes_in(&seen).unwrap(), intake.phase()), (4, before));
        }
    }

    #[test]
    fn not_all_has_been_read_while_staging_holds_more_than_was_looked_at() {
        for (scratch, all) in [(4096, false), (1 << 16, true)] {
            let link = Link::to_intake(1 << 16, Protocol::Records).unwrap();
            let staging = link.intake.unwrap();
            let give = OwnedFd::into_raw_fd;
            let mut intake = Intake::open(&Inbound {
                from: "source".to_owned(),
                stream: Stream::Stdout,
                protocol: Protocol::Records,
                queue: give(link.queue.read),
                staging: [give(staging.staging.read), give(staging.staging.write)],
                ledger: give(staging.ledger),
                replies: None,
            })
            .unwrap();
            File::from(link.queue.write).write_all(&[b'x'; 3 * 4096]).unwrap();
            let tools = Tools::new(scratch).unwrap();
            intake.recover(false, &tools).unwrap();
            intake.fill(&tools).unwrap();
            assert_eq!(intake.is_all_there(), all, "{} of {} looked at", intake.unread().len(), intake.staged);
        }
    }
}
