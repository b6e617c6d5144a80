//! One inbound link of the logger: what a batch takes of it.

use super::lines::{next_line, same_lines};
use super::messages::{Next, next_message};
use super::output::Output;
use super::render::{Message, Renderer};
use crate::link::handover::Protocol;
use crate::link::intake::{Intake, Taking};
use crate::link::record::{Ack, Flags};
use crate::link::replies::Replies;
use std::time::Duration;

/// A batch's output ends once it has so many bytes.
pub const BATCH_BYTES: usize = 1 << 20;

/// A batch takes much where it is such a part of what a queue can hold.
const MUCH: usize = 8;

/// An inbound link.
#[derive(Debug)]
pub struct Source {
    /// Its bytes.
    pub intake: Intake,
    /// Where its source waits for acknowledgements.
    pub replies: Option<Replies>,
    /// How many bytes its queue can hold.
    pub capacity: usize,
    /// Whether its queue may have something.
    pub ready: bool,
    /// What the batch under way takes of it.
    pub taking: Option<Taking>,
    /// What that comes to.
    pub tally: Tally,
}

/// What a batch takes of a link, in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages whose last record never came.
    pub incomplete: u64,
    /// Bytes that are no record.
    pub garbage: u64,
    /// Whether one of them is to be on the disk before it is acknowledged.
    pub sync: bool,
}

/// What all sources of a batch share.
#[derive(Debug)]
pub struct Press {
    /// How messages are rendered.
    pub renderer: Renderer,
    /// Where one of several records is put together.
    pub joined: Vec<u8>,
    /// The batch's time: that of lines, in microseconds since 1970.
    pub now: i64,
}

const NOTHING: Ack = Ack { epoch: 0, sequence: 0 };

impl Source {
    /// Step 3: renders what is known of the link, as far as the output goes.
    /// Returns how much room the next message needs where it ended for that.
    pub fn gather(&mut self, press: &mut Press, out: &mut Output<'_>) -> Option<usize> {
        self.taking = None;
        if !self.has_work() {
            return None;
        }
        let mut taking = Taking { upto: 0, whole: true, last: NOTHING };
        let mut tally = Tally::default();
        let needs = match self.intake.protocol {
            Protocol::Lines => gather_lines(&self.intake, press, out, &mut taking, &mut tally),
            Protocol::Records => gather_records(&self.intake, press, out, &mut taking, &mut tally),
        };
        taking.whole = needs.is_none();
        self.taking = self.intake.changes(&taking).then_some(taking);
        self.tally = tally;
        needs
    }

    /// Whether a batch would find something to do with it, without more coming.
    pub fn has_work(&self) -> bool {
        self.intake.has_more() || self.intake.ended() && !self.intake.unread().is_empty()
    }

    /// How long more may gather behind what the batch takes, which came within
    /// that time: until its queue is half full at that pace, and not at all
    /// where much came already.
    pub fn room_to_gather(&self, time: Duration) -> Duration {
        match self.taking.map_or(0, |taking| taking.upto) {
            0 => Duration::MAX,
            came if came >= self.capacity / MUCH => Duration::ZERO,
            came => time.mul_f64(self.capacity as f64 / 2.0 / came as f64),
        }
    }

    /// Whether its end came and nothing is left to save.
    pub fn is_finished(&self) -> bool {
        self.intake.ended() && self.intake.unread().is_empty()
    }
}

fn gather_lines(
    intake: &Intake,
    press: &mut Press,
    out: &mut Output<'_>,
    taking: &mut Taking,
    tally: &mut Tally,
) -> Option<usize> {
    let (unread, last) = (intake.unread(), intake.ended());
    loop {
        let rest = &unread[taking.upto..];
        let room = out.room().min(BATCH_BYTES.saturating_sub(out.len()));
        let same = if press.renderer.is_raw() { same_lines(rest, room) } else { None };
        if let Some(lines) = same {
            out.put(lines);
            let count = memchr::memchr_iter(b'\n', lines).count();
            taking.upto += lines.len();
            tally.messages += count as u64;
            tally.bytes += (lines.len() - count) as u64;
            continue;
        }
        let Some(line) = next_line(rest, last) else { return None };
        let needs = press.renderer.room_for(line.bytes.len(), &intake.from);
        if out.len() >= BATCH_BYTES || out.room() < needs {
            return Some(needs);
        }
        let message = Message { time: press.now, child: &intake.from, peer: None, bytes: line.bytes, more: line.more };
        press.renderer.render(&message, out);
        taking.upto += line.len;
        tally.messages += 1;
        tally.bytes += line.bytes.len() as u64;
    }
}

fn gather_records(
    intake: &Intake,
    press: &mut Press,
    out: &mut Output<'_>,
    taking: &mut Taking,
    tally: &mut Tally,
) -> Option<usize> {
    let (unread, last) = (intake.unread(), intake.ended());
    let Press { renderer, joined, .. } = press;
    while let Some(next) = next_message(&unread[taking.upto..], joined, last) {
        match next {
            Next::Message { head, sync, bytes, len } => {
                let needs = renderer.room_for(bytes.len(), &intake.from);
                if out.len() >= BATCH_BYTES || out.room() < needs {
                    return Some(needs);
                }
                let more = head.flags.has(Flags::MORE);
                let message = Message { time: head.time, child: &intake.from, peer: Some(head.peer), bytes, more };
                renderer.render(&message, out);
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
    None
}
