//! What happens when a client does nothing for too long.
//!
//! A client that takes nothing can't be closed gracefully. It is *owed* what was sent but not
//! acknowledged by its kernel, and what is due to it. A client that is owed something and
//! takes none of it for `send_timeout` is cut off. A drain waits for all clients, so its
//! timeout is shorter. It begins with the drain for clients that are owed something
//! then, even if they wait for the sink to save more, and with the first echo for the
//! others.

use super::client::{Output, Taking};
use super::fates::Fate;
use super::framing::Next;
use super::server::{SEND_TIMEOUTS, Server};
use super::settings::Settings;
use super::slots::Id;
use super::timers::Timer;
use std::time::Duration;

/// How long a client may take nothing while a drain waits for it.
const STUCK_FOR: Duration = Duration::from_secs(2);
/// How long a client may take nothing after the supervisor died, because its successor waits
/// for the drain.
const STUCK_ORPHANED_FOR: Duration = Duration::from_secs(1);
/// How often a client is checked within its timeout. So it is closed at most a quarter of
/// the timeout too late.
const LOOKS: u32 = 4;
/// The longest that a connection that is over is kept for its last bytes.
pub(super) const LINGER_FOR: Duration = Duration::from_secs(1);
/// When to check for the first time whether they have arrived. Each later check comes after
/// twice as long.
const LINGER_STEP: Duration = Duration::from_millis(10);

/// How long clients may do nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// Silence after bytes without a line end, which then become a message.
    pub(super) partial: Duration,
    /// Silence after which a client is disconnected.
    pub(super) idle: Option<Duration>,
    /// How long a client may take nothing of what it is owed before it is cut off.
    pub(super) send: Option<Duration>,
}

impl Timeouts {
    pub(super) fn new(settings: &Settings) -> Timeouts {
        let limited = |ms| Some(Duration::from_millis(ms)).filter(|timeout| !timeout.is_zero());
        Timeouts {
            partial: Duration::from_millis(settings.partial_after_ms),
            idle: limited(settings.idle_timeout_ms),
            send: limited(settings.send_timeout_ms),
        }
    }
}

impl Server {
    /// A timer fired.
    pub(super) fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Partial(id) => self.on_partial(id),
            Timer::Idle(id) => self.on_idle(id),
            Timer::Stuck(id) => self.on_stuck(id),
            Timer::Linger(id) => {
                self.linger(id);
                self.linger_on(id);
            }
            Timer::Accept => self.acceptor.retry(),
            Timer::GiveUp => self.give_up(),
            Timer::Log(fate) => self.log_together(fate),
        }
    }

    /// A client may have been silent after bytes without a line end.
    fn on_partial(&mut self, id: Id) {
        let Some(client) = self.clients.get(id) else { return };
        client.partial_timer = false;
        if client.lists.in_line() || client.reading.is_readable() {
            // Whole messages come first, and so does anything that it may have sent since. The
            // timer is set again when that is read.
            return;
        }
        let silent = self.clock.now >= client.heard + self.timeouts.partial;
        self.frame(id, if silent { Next::Idle } else { Next::MayCome });
        self.settle(id);
    }

    /// A client may have been silent for the whole of `idle_timeout`.
    fn on_idle(&mut self, id: Id) {
        let Some(timeout) = self.timeouts.idle else { return };
        let Some(client) = self.clients.get(id) else { return };
        let now = self.clock.now;
        let silent = now >= client.heard + timeout;
        // A client that is not being read may have sent something.
        if silent && client.stream.held() == 0 && !client.reading.is_readable() {
            client.reading.cut();
            return self.settle(id);
        }
        let again = if silent { now + timeout } else { client.heard + timeout };
        self.timers.set(again, Timer::Idle(id));
    }

    /// How long a client may take nothing of what it is owed; `None` means forever.
    fn send_timeout(&self) -> Option<Duration> {
        let usual = self.timeouts.send;
        match self.is_draining() {
            false => usual,
            true => {
                let most = if self.is_orphaned() { STUCK_ORPHANED_FOR } else { STUCK_FOR };
                Some(usual.map_or(most, |usual| usual.min(most)))
            }
        }
    }

    /// From now on, checks whether a client takes what it is owed. Bytes that were sent
    /// earlier count too if it takes them from now on.
    pub(super) fn watch_taking(&mut self, id: Id) {
        let Some(timeout) = self.send_timeout() else { return };
        let Some(client) = self.clients.get(id) else { return };
        let (now, check_at) = (self.clock.now, self.clock.now + timeout / LOOKS);
        client.taking = Some(Taking { up_to: client.taken(), since: now, check_at });
        self.timers.set(check_at, Timer::Stuck(id));
    }

    /// A client may have taken nothing for too long.
    fn on_stuck(&mut self, id: Id) {
        let Some(timeout) = self.send_timeout() else { return };
        let Some(client) = self.clients.get(id) else { return };
        let now = self.clock.now;
        // A timer for an earlier check may come before the one that counts.
        let Some(mut taking) = client.taking.filter(|taking| now >= taking.check_at) else { return };
        client.taking = None;
        let taken = client.taken();
        if !client.is_owed(taken) {
            return;
        }
        if taken > taking.up_to {
            (taking.up_to, taking.since) = (taken, now);
        } else if now >= taking.since + timeout {
            let fate = if self.is_draining() { Fate::TookNothingAtTheEnd } else { Fate::TookNothing };
            if fate == Fate::TookNothing {
                self.metrics.add(SEND_TIMEOUTS, 1);
            }
            return self.cut_off(id, fate);
        }
        taking.check_at = (now + timeout / LOOKS).min(taking.since + timeout);
        client.taking = Some(taking);
        self.timers.set(taking.check_at, Timer::Stuck(id));
    }

    /// Sets the next check of a connection that is over but not closed yet.
    pub(super) fn linger_on(&mut self, id: Id) {
        let Some(Output::Over(until)) = self.clients.get(id).map(|client| client.output) else { return };
        let now = self.clock.now;
        let so_far = (now + LINGER_FOR).saturating_duration_since(until);
        self.timers.set((now + so_far.max(LINGER_STEP)).min(until), Timer::Linger(id));
    }
}
