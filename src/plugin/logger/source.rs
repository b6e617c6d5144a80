//! One inbound link of the logger: what a batch takes of it.

use super::lines::{next_line, same_lines};
use super::messages::{Next, hides_records, next_behind_torn, next_message};
use super::output::Output;
use super::render::{Message, Renderer};
use crate::link::handover::Protocol;
use crate::link::intake::{Intake, Taking};
use crate::link::record::{Ack, Flags};
use crate::link::replies::Replies;
use std::time::Duration;

/// A batch's output ends once it has so many bytes.
pub const BATCH_BYTES: usize = 1 << 20;

/// A batch takes much where it is such a part of what a queue can hold: more
/// came meanwhile, and half of it besides must still leave room.
const MUCH: usize = 8;

/// How long more may gather where so many bytes came within that time: until a
/// queue of that capacity is half full at that pace, and not at all where much
/// came already.
pub fn room_to_gather(came: usize, capacity: usize, time: Duration) -> Duration {
    match came {
        0 => Duration::MAX,
        came if came >= capacity / MUCH => Duration::ZERO,
        came => time.mul_f64(capacity as f64 / 2.0 / came as f64),
    }
}

/// An inbound link.
#[derive(Debug)]
pub struct Source {
    /// Its bytes.
    pub intake: Intake,
    /// Where its source waits for acknowledgements.
    pub replies: Option<Replies>,
    /// How many bytes its queue can hold, which is as many as staging can.
    pub capacity: usize,
    /// How many bytes of its queue the batch under way takes.
    pub came: usize,
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
        (self.taking, self.came) = (None, 0);
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
        self.came = self.taking.map_or(0, |taking| self.intake.takes(&taking));
        self.tally = tally;
        needs
    }

    /// Whether a batch would find something to do with it, without more coming.
    pub fn has_work(&self) -> bool {
        self.intake.has_more() || self.intake.ended() && !self.intake.unread().is_empty()
    }

    /// Whether the batch under way has a message of it that is acknowledged.
    pub fn is_awaited(&self) -> bool {
        self.taking.is_some_and(|taking| taking.last.epoch != 0)
    }

    /// Whether a message is half there, of which the rest comes at once.
    pub fn is_in_a_message(&self) -> bool {
        self.intake.protocol == Protocol::Records && !self.intake.unread().is_empty()
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
        let same = if press.renderer.is_raw() { same_lines(rest, out.left()) } else { None };
        if let Some(lines) = same {
            out.put(lines);
            let count = memchr::memchr_iter(b'\n', lines).count();
            taking.upto += lines.len();
            tally.messages += count as u64;
            tally.bytes += (lines.len() - count) as u64;
            continue;
        }
        let line = next_line(rest, last)?;
        let needs = press.renderer.room_for(line.bytes.len(), &intake.from);
        if out.is_full() || out.room() < needs {
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
    loop {
        let rest = &unread[taking.upto..];
        let next = match next_message(rest, joined, last) {
            // Asked for only then, because it takes a system call.
            None if hides_records(rest) && intake.is_all_there() => next_behind_torn(rest, joined),
            next => next,
        };
        match next? {
            Next::Message { head, sync, bytes, len } => {
                let needs = renderer.room_for(bytes.len(), &intake.from);
                if out.is_full() || out.room() < needs {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_gathers_as_leaves_half_of_a_queue() {
        let room = |came, time| room_to_gather(came, 1 << 20, Duration::from_millis(time));
        assert_eq!(room(0, 1), Duration::MAX);
        assert_eq!(room(64 << 10, 1), Duration::from_millis(8));
        assert_eq!(room(127 << 10, 2).as_millis(), 8);
        assert_eq!(room(128 << 10, 1), Duration::ZERO);
        assert_eq!(room_to_gather(1, 0, Duration::from_millis(1)), Duration::ZERO);
    }
}
