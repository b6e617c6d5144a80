//! The intake of a link: bytes out of its queue, none consumed before it is
//! saved. doc/law-of-a-link.md has the steps by number.

use super::handover::{Inbound, Protocol};
use super::intent::FileId;
use super::ledger::{Batch, Ledger, Phase};
use super::record::Ack;
use super::words::kill_point;
use crate::sys::inherited;
use crate::sys::pipe::{self, Moved, Pipe};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// More than any pipe holds: as much as there is, and room for.
const ALL: usize = 1 << 30;

/// What all intakes of a sink share.
#[derive(Debug)]
pub struct Tools {
    /// A private pipe: bytes are read from here, while staging keeps them.
    scratch: Pipe,
    scratch_read: File,
    /// Where consumed bytes go.
    null: File,
}

impl Tools {
    /// For intakes of at most `capacity` bytes.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM, or /dev/null is not there.
    pub fn new(capacity: usize) -> io::Result<Tools> {
        let scratch = Pipe::new(capacity)?;
        let scratch_read = File::from(scratch.read.try_clone()?);
        Ok(Tools { scratch, scratch_read, null: OpenOptions::new().write(true).open("/dev/null")? })
    }
}

/// What a batch takes of what is [`Intake::unread`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taking {
    /// This many bytes, from the first on, are rendered or passed over.
    pub upto: usize,
    /// Whether all was looked at. If so, what is left is a message that is not whole
    /// yet, and is carried over. Otherwise the next batch takes it.
    pub whole: bool,
    /// The last message; zeros: none, or none that is acknowledged.
    pub last: Ack,
}

/// A link at its sink.
#[derive(Debug)]
pub struct Intake {
    /// The source's name.
    pub from: String,
    /// How messages stand in the queue.
    pub protocol: Protocol,
    queue: OwnedFd,
    staging: Pipe,
    ledger: Ledger,
    /// From `start` to `end`: the carry, then what staging holds at its head.
    window: Vec<u8>,
    start: usize,
    end: usize,
    carried: usize,
    staged: usize,
    ended: bool,
}

impl Intake {
    /// Takes up a link. A batch of another incarnation is in
    /// [`Intake::phase`], to be dealt with before all else.
    ///
    /// # Errors
    /// Its ledger makes no sense.
    pub fn open(inbound: &Inbound) -> Result<Intake, String> {
        let from = &inbound.from;
        let [read, write] = inbound.staging;
        let take = |fd| inherited(fd).map_err(|e| format!("cannot take descriptor {fd} (link from {from}): {e}"));
        // It owns all descriptors from here on, even if something is wrong with them.
        let (queue, ledger) = (take(inbound.queue)?, take(inbound.ledger)?);
        let staging = Pipe { read: take(read)?, write: take(write)? };
        let ledger = Ledger::open(ledger).map_err(|e| format!("{e} (link from {from})"))?;
        Ok(Intake {
            from: from.clone(),
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

    /// What was under way.
    pub fn phase(&self) -> Phase {
        self.ledger.phase()
    }

    /// The message file that the last batch is for, where that is known.
    ///
    /// # Errors
    /// From pread(2).
    pub fn path(&self) -> io::Result<Option<PathBuf>> {
        self.ledger.path()
    }

    /// The message file of the batches to come.
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
    /// None that can happen to a pipe that is held.
    pub fn capacity(&self) -> io::Result<usize> {
        pipe::capacity(&self.staging.write)
    }

    /// The queue's read end, to be polled.
    pub fn queue(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }

    /// Settles a batch of another incarnation: it is in the message file
    /// (`saved`), or was never intended. Then takes up what was carried over.
    ///
    /// # Errors
    /// The ledger and staging contradict each other, or cannot be read.
    pub fn recover(&mut self, saved: bool, tools: &Tools) -> Result<(), String> {
        let from = self.from.clone();
        let what = |e: io::Error| format!("cannot take up the link from {from}: {e}");
        self.staged = pipe::bytes_in(&self.staging.read).map_err(what)?;
        let staged = self.staged as u64;
        // Checked before a byte is consumed: a ledger that can't be right must not cost one.
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

    /// Steps 1 and 2: gets more bytes to look at, if all that are known were taken.
    /// Notices the end of the link too.
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
        // A pipe of packets (pipe(2), O_DIRECT) gives one a read.
        (&tools.scratch_read).read_exact(&mut self.window[self.end..end])?;
        self.end = end;
        Ok(())
    }

    /// The bytes to look at: what was carried over, then what staging holds.
    pub fn unread(&self) -> &[u8] {
        &self.window[self.start..self.end]
    }

    /// Whether all that was written is known: the queue is empty, and what
    /// staging holds was looked at, all of it.
    pub fn is_all_there(&self) -> bool {
        self.unread().len() - self.carried == self.staged && pipe::bytes_in(&self.queue).is_ok_and(|bytes| bytes == 0)
    }

    /// Whether bytes are known that no batch has looked at yet.
    pub fn has_more(&self) -> bool {
        self.unread().len() > self.carried || self.staged > 0
    }

    /// Whether nobody can write to the queue any more, and all of it was staged.
    pub fn ended(&self) -> bool {
        self.ended && self.staged == 0
    }

    /// Whether a batch that takes this would change anything.
    pub fn changes(&self, taking: &Taking) -> bool {
        taking.upto > 0 || taking.whole && self.unread().len() > self.carried
    }

    /// Step 4.
    ///
    /// # Errors
    /// What is carried over can't be written: nothing happened.
    pub fn prepare(&self, taking: &Taking, batch: &Batch) -> io::Result<()> {
        let (take, carry) = self.split(taking);
        let same = if taking.upto == 0 { self.carried } else { 0 };
        self.ledger.prepare(&Batch { take: take as u64, last: taking.last, ..*batch }, carry, same)
    }

    /// A batch that is prepared begins at another place now.
    pub fn moved(&self, batch: u64, offset: u64, file: FileId) {
        if matches!(self.phase(), Phase::Prepared(prepared) if prepared.id == batch) {
            self.ledger.moved(offset, file);
        }
    }

    /// Step 9.
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

    /// The batch that was prepared is given up.
    pub fn withdraw(&self) {
        self.ledger.forget();
    }

    /// How many bytes of staging a batch takes.
    pub fn takes(&self, taking: &Taking) -> usize {
        self.split(taking).0
    }

    /// How many bytes of staging it takes, and what it carries over.
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

    /// Takes this many bytes out of staging. If it is killed in the middle, phase
    /// CONSUMING and what staging still holds say how far it came.
    fn discard(&mut self, bytes: u64, tools: &Tools) -> io::Result<()> {
        let mut left = usize::try_from(bytes).map_err(io::Error::other)?;
        while left > 0 {
            kill_point();
            // In tests, a few at a time, so that it is killed in between too.
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
    fn a_ledger_that_takes_more_than_staging_has_consumes_nothing() {
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
    fn not_all_is_there_while_staging_holds_what_was_not_looked_at() {
        for (scratch, all) in [(4096, false), (1 << 16, true)] {
            let link = Link::to_intake(1 << 16, Protocol::Records).unwrap();
            let staging = link.intake.unwrap();
            let give = OwnedFd::into_raw_fd;
            let mut intake = Intake::open(&Inbound {
                from: "source".to_owned(),
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
