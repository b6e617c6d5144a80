//! How long messages gather for a batch. If no client waits for them, few large batches are
//! cheaper than many small ones.

use crate::link::batch::Intakes;
use crate::link::source::Source;
use std::time::{Duration, Instant};

/// A batch that follows another within this time is part of a stream.
const STREAM: Duration = Duration::from_millis(10);
/// Gathering for less time than this is not worth a sleep.
const WORTH_IT: Duration = Duration::from_micros(100);

/// A batch is large if it has at least this fraction of a queue's capacity. More came
/// meanwhile, and gathering must still leave room.
const MUCH: usize = 8;

/// How long more may gather if this many bytes came within that time: until a
/// queue of that capacity is half full at that pace, and not at all if the batch
/// was already large.
fn room_to_gather(came: usize, capacity: usize, time: Duration) -> Duration {
    match came {
        0 => Duration::MAX,
        came if came >= capacity / MUCH => Duration::ZERO,
        came => time.mul_f64(capacity as f64 / 2.0 / came as f64),
    }
}

/// What is known about the batches so far.
#[derive(Debug)]
pub(super) struct Gathering {
    /// The longest that messages may gather.
    most: Duration,
    /// When the last batch was saved.
    batch_at: Instant,
    /// When the last batch that a client waited for was saved.
    awaited_at: Option<Instant>,
    /// How long messages may gather for the next batch.
    next: Option<Duration>,
}

impl Gathering {
    /// Nothing has been saved yet.
    pub(super) fn new(most: Duration) -> Gathering {
        Gathering { most, batch_at: Instant::now(), awaited_at: None, next: None }
    }

    /// When the last batch was saved.
    pub(super) fn batch_at(&self) -> Instant {
        self.batch_at
    }

    /// Sleeps while messages gather for the next batch. A signal cuts that short.
    pub(super) fn wait(&mut self, is_busy: bool) {
        if let (Some(time), false) = (self.next.take(), is_busy) {
            let _rest = nix::time::clock_nanosleep(
                nix::time::ClockId::CLOCK_MONOTONIC,
                nix::time::ClockNanosleepFlags::empty(),
                &time.into(),
            );
        }
    }

    /// A batch was saved. Messages may gather for the next one if it is part of a stream,
    /// no client waits for it, and no source would have to wait for room.
    pub(super) fn saved(&mut self, intakes: &Intakes, now: Instant) {
        let since_the_last = now - std::mem::replace(&mut self.batch_at, now);
        if intakes.sources.iter().any(|source| source.awaited().is_some()) {
            self.awaited_at = Some(now);
        }
        let awaited = self.awaited_at.is_some_and(|at| now - at < STREAM);
        self.next = None;
        if awaited || since_the_last >= STREAM || intakes.sources.iter().any(Source::is_in_a_message) {
            return;
        }
        let came = |source: &Source| source.part.map_or(0, |part| part.bytes);
        let rooms = intakes.sources.iter().map(|source| room_to_gather(came(source), source.capacity, since_the_last));
        self.next = rooms.chain([self.most]).min().filter(|&time| time >= WORTH_IT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_gather_until_a_queue_is_half_full() {
        let room = |came, time| room_to_gather(came, 1 << 20, Duration::from_millis(time));
        assert_eq!(room(0, 1), Duration::MAX);
        assert_eq!(room(64 << 10, 1), Duration::from_millis(8));
        assert_eq!(room(127 << 10, 2).as_millis(), 8);
        assert_eq!(room(128 << 10, 1), Duration::ZERO);
        assert_eq!(room_to_gather(1, 0, Duration::from_millis(1)), Duration::ZERO);
    }
}
