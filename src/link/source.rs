//! One inbound link of a sink: its intake, the replies to its source, and what
//! the current batch takes from it.

use super::batch::{Destination, Message};
use super::handover::{Inbound, Protocol};
use super::intake::{Intake, Taking};
use super::lines::{next_line, same_lines};
use super::messages::{Next, hides_records, next_behind_torn, next_message};
use super::record::{Ack, Flags};
use super::replies::Replies;
use crate::sys::inherited;

/// An inbound link.
#[derive(Debug)]
pub struct Source {
    /// Takes its bytes.
    pub intake: Intake,
    /// Sends acknowledgements to its source.
    pub replies: Option<Replies>,
    /// How many bytes its queue can hold, and staging too.
    pub capacity: usize,
    /// Whether there may be bytes in its queue.
    pub ready: bool,
    /// What the current batch takes from it, or if there is none, what the last one took.
    pub part: Option<Part>,
}

/// One link's part of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// What it takes from the intake.
    pub taking: Taking,
    /// How many bytes that takes out of staging.
    pub bytes: usize,
    /// How many messages that is, and what they need.
    pub tally: Tally,
}

/// What a part consists of, in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// How many messages.
    pub messages: u64,
    /// How many bytes these have.
    pub bytes: u64,
    /// How many messages are left out because their last record never came.
    pub incomplete: u64,
    /// How many bytes are not part of any record.
    pub garbage: u64,
    /// Whether one of the messages must be on the disk before it is acknowledged.
    pub sync: bool,
}

const NOTHING: Ack = Ack { epoch: 0, sequence: 0 };

impl Source {
    /// Takes up a link.
    ///
    /// # Errors
    /// Its ledger makes no sense, or a descriptor is not what it should be.
    pub fn open(inbound: &Inbound) -> Result<Source, String> {
        let intake = Intake::open(inbound)?;
        let take =
            |fd| inherited(fd).map_err(|e| format!("cannot take descriptor {fd} (link from {}): {e}", inbound.from));
        let replies = inbound.replies.map(take).transpose()?.map(Replies::new);
        let capacity = intake.capacity().unwrap_or(0);
        Ok(Source { intake, replies, capacity, ready: true, part: None })
    }

    /// Step 3: gives the destination the messages of the link that have been read, until it
    /// has no room for one. If so, returns how much room that one needs.
    pub(super) fn gather<D: Destination>(&mut self, to: &mut D, now: i64, joined: &mut Vec<u8>) -> Option<usize> {
        self.part = None;
        if !self.has_work() {
            return None;
        }
        let mut taking = Taking { upto: 0, whole: true, last: NOTHING };
        let mut tally = Tally::default();
        let needs = match self.intake.protocol {
            Protocol::Lines => gather_lines(&self.intake, to, now, &mut taking, &mut tally),
            Protocol::Records => gather_records(&self.intake, to, joined, &mut taking, &mut tally),
        };
        taking.whole = needs.is_none();
        if self.intake.changes(&taking) {
            self.part = Some(Part { taking, bytes: self.intake.takes(&taking), tally });
        }
        needs
    }

    /// Whether a batch would find something to do here even if no more bytes came.
    pub fn has_work(&self) -> bool {
        self.intake.has_more() || self.intake.ended() && !self.intake.unread().is_empty()
    }

    /// The last message of the batch that is to be acknowledged, if any.
    pub fn awaited(&self) -> Option<Ack> {
        self.part.map(|part| part.taking.last).filter(|last| last.epoch != 0)
    }

    /// Whether a part of a message is there, so that the rest is about to come.
    pub fn is_in_a_message(&self) -> bool {
        self.intake.protocol == Protocol::Records && !self.intake.unread().is_empty()
    }

    /// Whether the link has ended and nothing is left to save.
    pub fn is_finished(&self) -> bool {
        self.intake.ended() && self.intake.unread().is_empty()
    }
}

fn gather_lines<D: Destination>(
    intake: &Intake,
    to: &mut D,
    now: i64,
    taking: &mut Taking,
    tally: &mut Tally,
) -> Option<usize> {
    let (unread, last) = (intake.unread(), intake.ended());
    loop {
        let rest = &unread[taking.upto..];
        if let Some(lines) = same_lines(rest, to.room_for_lines()) {
            to.put_lines(lines);
            let count = memchr::memchr_iter(b'\n', lines).count();
            taking.upto += lines.len();
            tally.messages += count as u64;
            tally.bytes += (lines.len() - count) as u64;
            continue;
        }
        let line = next_line(rest, last)?;
        let message = Message {
            time: now,
            child: &intake.from,
            stream: intake.stream,
            peer: None,
            bytes: line.bytes,
            more: line.more,
        };
        if let Err(needs) = to.put(&message) {
            return Some(needs);
        }
        taking.upto += line.len;
        tally.messages += 1;
        tally.bytes += line.bytes.len() as u64;
    }
}

fn gather_records<D: Destination>(
    intake: &Intake,
    to: &mut D,
    joined: &mut Vec<u8>,
    taking: &mut Taking,
    tally: &mut Tally,
) -> Option<usize> {
    let (unread, last) = (intake.unread(), intake.ended());
    loop {
        let rest = &unread[taking.upto..];
        let next = match next_message(rest, joined, last) {
            // The last question comes last because it takes a system call.
            None if hides_records(rest) && intake.is_all_there() => next_behind_torn(rest, joined),
            next => next,
        };
        match next? {
            Next::Message { head, sync, bytes, len } => {
                let more = head.flags.has(Flags::MORE);
                let message = Message {
                    time: head.time,
                    child: &intake.from,
                    stream: intake.stream,
                    peer: Some(head.peer),
                    bytes,
                    more,
                };
                if let Err(needs) = to.put(&message) {
                    return Some(needs);
                }
                taking.upto += len;
                if !head.flags.has(Flags::QUIET) {
                    taking.last = Ack { epoch: head.epoch, sequence: head.sequence };
                }
                tally.messages += 1;
                tally.bytes += bytes.len() as u64;
                tally.sync |= sync;
            }
            Next::Incomplete(len) => {
                taking.upto += len;
                tally.incomplete += 1;
            }
            Next::Garbage(len) => {
                taking.upto += len;
                tally.garbage += len as u64;
            }
        }
    }
}
