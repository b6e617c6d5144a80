//! What is to happen later. Pure: time is an argument.
//!
//! A timer is not moved when its client sends something. When it fires, the server checks
//! whether it still applies, and sets it again if it fired too early. So a client has at
//! most one timer of each kind, however often it sends. The timers of closed clients are
//! removed before they are half of all timers. So a closed client doesn't cost memory for
//! long, and the removal costs little for each client.

use super::fates::Fate;
use super::slots::Id;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Bytes without a line end become a message.
    Partial(Id),
    /// A client that says nothing is disconnected.
    Idle(Id),
    /// Checks whether a client takes what is due to it.
    Stuck(Id),
    /// A connection that is over is closed once its last bytes have arrived.
    Linger(Id),
    /// New clients are accepted again.
    Accept,
    /// A drain without a supervisor ends.
    GiveUp,
    /// Clients with the same fate are logged together.
    Log(Fate),
}

impl Timer {
    /// The client that it belongs to, if any.
    fn client(self) -> Option<Id> {
        match self {
            Timer::Partial(id) | Timer::Idle(id) | Timer::Stuck(id) | Timer::Linger(id) => Some(id),
            Timer::Accept | Timer::GiveUp | Timer::Log(_) => None,
        }
    }
}

/// All timers, the next first.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
    /// How many clients were closed since their timers were last removed.
    closed: usize,
}

/// With fewer closed clients than this, removing their timers is not worth it.
const FEW: usize = 64;
/// The timers of closed clients are removed once there is one closed client for this many
/// timers. A client has at most one timer of each of four kinds, so closed clients never
/// have more than half of all timers.
const SHARE: usize = 8;

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    /// A client was closed. Its timers are removed, sooner or later. `is_open` says which
    /// clients are left.
    pub(super) fn closed(&mut self, is_open: impl Fn(Id) -> bool) {
        self.closed += 1;
        if self.closed < FEW || self.closed < self.heap.len() / SHARE {
            return;
        }
        self.closed = 0;
        self.heap.retain(|Reverse((_, timer))| timer.client().is_none_or(&is_open));
        self.heap.shrink_to(2 * self.heap.len().max(FEW));
    }

    /// A timer that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Timer> {
        let Reverse((at, timer)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        Some(timer)
    }

    /// How long until the next.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let Reverse((at, _)) = self.heap.peek()?;
        Some(at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::Slots;
    use super::*;

    #[test]
    fn the_nearest_comes_first_and_none_too_early() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(timers.wait(start), None);
        timers.set(at(20), Timer::Accept);
        timers.set(at(10), Timer::GiveUp);
        assert_eq!(timers.wait(start), Some(Duration::from_millis(10)));
        assert_eq!(timers.wait(at(11)), Some(Duration::ZERO));
        assert_eq!(timers.due(at(9)), None);
        assert_eq!(
            [timers.due(at(30)), timers.due(at(30)), timers.due(at(30))],
            [Some(Timer::GiveUp), Some(Timer::Accept), None]
        );
    }

    #[test]
    fn closed_clients_leave_no_timers_however_many_there_were() {
        let (mut timers, mut clients, start) = (Timers::default(), Slots::new(), Instant::now());
        let far = |ms| start + Duration::from_secs(86400) + Duration::from_millis(ms);
        let stays: Vec<Id> = (0..100).map(|_| clients.insert(())).collect();
        for &id in &stays {
            timers.set(far(0), Timer::Idle(id));
        }
        timers.set(far(1), Timer::GiveUp);
        for ms in 0..450_000 {
            let id = clients.insert(());
            for timer in [Timer::Idle(id), Timer::Partial(id), Timer::Stuck(id), Timer::Linger(id)] {
                timers.set(far(ms), timer);
            }
            clients.remove(id);
            timers.closed(|id| clients.contains(id));
            assert!(timers.heap.len() <= 101 + 4 * FEW, "{} timers of 100 clients", timers.heap.len());
        }
        assert!(timers.heap.capacity() <= 1024, "room for {}", timers.heap.capacity());
        // No timer of an open client was removed.
        let mut left = Vec::new();
        while let Some(timer) = timers.due(far(1_000_000)) {
            left.extend(timer.client().filter(|&id| clients.contains(id)));
        }
        left.sort();
        assert_eq!(left, stays);
    }

    #[test]
    fn after_many_clients_close_the_memory_of_their_timers_is_released() {
        let (mut timers, mut clients, start) = (Timers::default(), Slots::new(), Instant::now());
        let crowd: Vec<Id> = (0..20_000).map(|_| clients.insert(())).collect();
        for &id in &crowd {
            timers.set(start + Duration::from_secs(86400), Timer::Idle(id));
        }
        for id in crowd {
            clients.remove(id);
            timers.closed(|id| clients.contains(id));
        }
        assert!(timers.heap.len() < FEW, "{} timers of nobody", timers.heap.len());
        assert!(timers.heap.capacity() <= 4 * FEW, "room for {}", timers.heap.capacity());
    }
}
