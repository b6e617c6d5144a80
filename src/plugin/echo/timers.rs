//! What is to happen later. Pure: time is an argument.
//!
//! A timer is not moved when its client speaks: when it comes, the server looks
//! whether it is still meant, and sets it again if it came too early. So a client
//! has at most one of a kind, however often it speaks. Those of closed clients
//! are cleared out before they can be half of all: a client that is gone costs no
//! memory for long, and clearing costs little a client.

use super::fates::Fate;
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
    /// It is looked at whether a client takes what is due to it.
    Stuck(Token),
    /// A connection that is over is closed once its last bytes arrived.
    Linger(Token),
    /// New clients are let in again.
    Accept,
    /// A drain without a supervisor ends.
    GiveUp,
    /// Clients with that fate are told together.
    Tell(Fate),
}

impl Timer {
    /// Whose it is.
    fn client(self) -> Option<Token> {
        match self {
            Timer::Partial(token) | Timer::Idle(token) | Timer::Stuck(token) | Timer::Linger(token) => Some(token),
            Timer::Accept | Timer::GiveUp | Timer::Tell(_) => None,
        }
    }
}

/// All timers, the next first.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
    /// How many clients were closed since their timers were last cleared out.
    closed: usize,
}

/// Fewer closed clients are not worth clearing out after.
const FEW: usize = 64;
/// They are cleared out once there is a closed client for this many timers. Each
/// has at most one of four kinds, so theirs are never more than all others.
const SHARE: usize = 8;

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    /// A client was closed: its timers go, sooner or later. `is_open` says which
    /// clients are left.
    pub(super) fn closed(&mut self, is_open: impl Fn(Token) -> bool) {
        self.closed += 1;
        if self.closed < FEW || self.closed < self.heap.len() / SHARE {
            return;
        }
        self.closed = 0;
        self.heap.retain(|Reverse((_, timer))| timer.client().is_none_or(&is_open));
        self.heap.shrink_to(2 * self.heap.len().max(FEW));
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
    use super::super::table::Table;
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
    fn closed_clients_leave_no_timers_however_many_there_were() {
        let (mut timers, mut clients, start) = (Timers::default(), Table::new(), Instant::now());
        let far = |ms| start + Duration::from_secs(86400) + Duration::from_millis(ms);
        let stays: Vec<Token> = (0..100).map(|_| clients.insert(|_| ())).collect();
        for &token in &stays {
            timers.set(far(0), Timer::Idle(token));
        }
        timers.set(far(1), Timer::GiveUp);
        for ms in 0..450_000 {
            let token = clients.insert(|_| ());
            for timer in [Timer::Idle(token), Timer::Partial(token), Timer::Stuck(token), Timer::Linger(token)] {
                timers.set(far(ms), timer);
            }
            clients.remove(token);
            timers.closed(|token| clients.contains(token));
            assert!(timers.heap.len() <= 101 + 4 * FEW, "{} timers of 100 clients", timers.heap.len());
        }
        assert!(timers.heap.capacity() <= 1024, "room for {}", timers.heap.capacity());
        // None that is still meant is gone.
        let mut left = Vec::new();
        while let Some(timer) = timers.due(far(1_000_000)) {
            left.extend(timer.client().filter(|&token| clients.contains(token)));
        }
        left.sort();
        assert_eq!(left, stays);
    }

    #[test]
    fn after_a_crowd_the_room_for_its_timers_is_given_back() {
        let (mut timers, mut clients, start) = (Timers::default(), Table::new(), Instant::now());
        let crowd: Vec<Token> = (0..20_000).map(|_| clients.insert(|_| ())).collect();
        for &token in &crowd {
            timers.set(start + Duration::from_secs(86400), Timer::Idle(token));
        }
        for token in crowd {
            clients.remove(token);
            timers.closed(|token| clients.contains(token));
        }
        assert!(timers.heap.len() < FEW, "{} timers of nobody", timers.heap.len());
        assert!(timers.heap.capacity() <= 4 * FEW, "room for {}", timers.heap.capacity());
    }

    #[test]
    fn a_far_timer_is_waited_for_in_steps() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        timers.set(start + Duration::from_secs(3600), Timer::Accept);
        assert_eq!(timers.wait(start), Some(u16::MAX));
    }
}
