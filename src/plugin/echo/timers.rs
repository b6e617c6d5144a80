//! What is to happen later. Pure: time is an argument.
//!
//! Timers are not taken back. Whoever sets one looks, when it comes, whether
//! it is still meant, and sets it again where it came too early; so a client
//! has at most one of a kind, however often it speaks.

use super::table::Token;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Bytes without a line end become a message.
    Partial(Token),
    /// A client that says nothing is disconnected.
    Idle(Token),
    /// A client that takes no echo while all wait for the end is given up.
    Stuck(Token),
    /// A connection that is over is closed once its last bytes arrived.
    Linger(Token),
    /// New clients are let in again.
    Accept,
    /// A drain without a supervisor ends.
    GiveUp,
}

/// All timers, the next first.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    /// A timer whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<Timer> {
        let Reverse((at, timer)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        Some(timer)
    }

    /// How long until the next, in whole milliseconds, rounded up: a wait that
    /// ends early would only be waited again.
    pub(super) fn wait(&self, now: Instant) -> Option<u16> {
        let Reverse((at, _)) = self.heap.peek()?;
        let wait = at.saturating_duration_since(now) + Duration::from_nanos(999_999);
        Some(u16::try_from(wait.as_millis()).unwrap_or(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_comes_first_and_none_too_early() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(timers.wait(start), None);
        timers.set(at(20), Timer::Accept);
        timers.set(at(10), Timer::GiveUp);
        assert_eq!(timers.wait(start), Some(10));
        assert_eq!(timers.wait(at(9) + Duration::from_micros(1)), Some(1));
        assert_eq!(timers.due(at(9)), None);
        assert_eq!(
            [timers.due(at(30)), timers.due(at(30)), timers.due(at(30))],
            [Some(Timer::GiveUp), Some(Timer::Accept), None]
        );
    }

    #[test]
    fn a_far_timer_is_waited_for_in_steps() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        timers.set(start + Duration::from_secs(3600), Timer::Accept);
        assert_eq!(timers.wait(start), Some(u16::MAX));
    }
}
