//! Ends: of one connection, and of all when told to stop.
//!
//! To close a socket whose input was not read resets the connection, and a
//! reset can destroy echoes that are still on their way. So a connection that
//! this side ends says first that nothing more comes, throws away what the
//! client still sends, and is closed when the client's side has everything.
//!
//! A client that takes nothing can't be ended in order. It is *owed* what was sent and its
//! kernel has not acknowledged, and what is due to it. One that is owed something and takes
//! none of it for `send_timeout` is cut off. In a drain all wait for it, so there it is a
//! shorter time, which begins with the drain for all that are owed something by then, also
//! for those of which more waits for the sink, and with the first echo for the others.

use super::client::{Input, Output, receive};
use super::fates::Fate;
use super::framing::Next;
use super::server::{SEND_TIMEOUTS, Server};
use super::table::Token;
use super::timers::Timer;
use crate::sys::socket;
use log::info;
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A client that takes nothing for so long, while all wait for the end, is given up.
const STUCK_FOR: Duration = Duration::from_secs(2);
/// The same where the supervisor is dead: the next one waits too.
const STUCK_ORPHANED_FOR: Duration = Duration::from_secs(1);
/// So often is it looked in that time whether it took something: it is closed after the
/// time and a quarter of it at most.
const LOOKS: u32 = 4;
/// A connection that is over is kept for its last bytes so long at most,
const LINGER_FOR: Duration = Duration::from_secs(1);
/// and looked at after so long, and again each time twice as long has passed.
const LINGER_STEP: Duration = Duration::from_millis(10);
/// A drain after the supervisor's death takes so long at most.
const ORPHANED_FOR: Duration = Duration::from_secs(10);
/// So many reads of unwanted input at once.
const DISCARD_AT_ONCE: usize = 16;

impl Server {
    /// Lets nobody in, takes what has arrived by now, and ends when every echo
    /// of it is sent.
    ///
    /// # Errors
    /// From epoll_ctl(2): never for what is watched.
    pub(super) fn drain(&mut self) -> Result<(), String> {
        if self.orphaned() {
            self.timers.set(self.now + ORPHANED_FOR, Timer::GiveUp);
        }
        if self.draining {
            return Ok(());
        }
        self.draining = true;
        // At once: if the supervisor is dead, the next one wants the addresses.
        self.door.shut(&self.epoll).map_err(|e| format!("cannot close the listening sockets: {e}"))?;
        info!("stops: {} clients get the echoes of what they sent", self.clients.len());
        for token in self.clients.tokens() {
            let Some(client) = self.clients.get(token) else { continue };
            // The timer that runs, if one does, is for a longer time.
            client.stuck_at = None;
            if client.is_owed(client.taken()) {
                self.watch_taking(token);
            }
            let Some(client) = self.clients.get(token) else { continue };
            if client.input == Input::Open {
                client.input = match socket::unread(&client.socket) {
                    Ok(0) | Err(_) => Input::Cut,
                    Ok(arrived) => Input::LastCall(arrived),
                };
            }
            self.frame(token, Next::MayCome);
            self.settle(token);
        }
        Ok(())
    }

    /// A timer's time has come.
    pub(super) fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Partial(token) => self.on_partial(token),
            Timer::Idle(token) => self.on_idle(token),
            Timer::Stuck(token) => self.on_stuck(token),
            Timer::Linger(token) => {
                self.linger(token);
                self.linger_on(token);
            }
            Timer::Accept => self.try_the_door(),
            Timer::GiveUp => self.given_up = true,
            Timer::Tell(fate) => self.tell_together(fate),
        }
    }

    /// A client may have been silent for the whole of `idle_timeout`.
    fn on_idle(&mut self, token: Token) {
        let (now, timeout) = (self.now, self.idle_timeout());
        let Some(client) = self.clients.get(token) else { return };
        let silent = now >= client.heard + timeout;
        // One that is not read for now may have sent something.
        if silent && client.stream.held() == 0 && !client.readable {
            client.input = Input::Cut;
            return self.settle(token);
        }
        let again = if silent { now + timeout } else { client.heard + timeout };
        self.timers.set(again, Timer::Idle(token));
    }

    /// How long a client may take nothing of what is due to it; `None`: for ever.
    fn send_timeout(&self) -> Option<Duration> {
        let usual = Some(Duration::from_millis(self.settings.send_timeout_ms)).filter(|timeout| !timeout.is_zero());
        match self.draining {
            false => usual,
            true => {
                let most = if self.orphaned() { STUCK_ORPHANED_FOR } else { STUCK_FOR };
                Some(usual.map_or(most, |usual| usual.min(most)))
            }
        }
    }

    /// Looks from now on whether a client takes what it is owed. What counts is what it takes
    /// from here: of what was sent before, it may not have taken all, and takes that first.
    pub(super) fn watch_taking(&mut self, token: Token) {
        let Some(timeout) = self.send_timeout() else { return };
        let Some(client) = self.clients.get(token) else { return };
        (client.taken, client.took) = (client.taken(), self.now);
        let look_at = self.now + timeout / LOOKS;
        client.stuck_at = Some(look_at);
        self.timers.set(look_at, Timer::Stuck(token));
    }

    /// A client may have taken nothing for too long.
    fn on_stuck(&mut self, token: Token) {
        let Some(timeout) = self.send_timeout() else { return };
        let Some(client) = self.clients.get(token) else { return };
        if client.stuck_at.is_none_or(|at| self.now < at) {
            // One for another time has taken its place.
            return;
        }
        client.stuck_at = None;
        let taken = client.taken();
        if !client.is_owed(taken) {
            return;
        }
        if taken > client.taken {
            (client.taken, client.took) = (taken, self.now);
        } else if self.now >= client.took + timeout {
            return match self.draining {
                true => self.cut_off(token, Fate::TookNothingAtTheEnd),
                false => {
                    self.metrics.add(SEND_TIMEOUTS, 1);
                    self.cut_off(token, Fate::TookNothing)
                }
            };
        }
        let next = (self.now + timeout / LOOKS).min(client.took + timeout);
        client.stuck_at = Some(next);
        self.timers.set(next, Timer::Stuck(token));
    }

    /// Everything was sent: says so to the client, and closes when it arrived.
    pub(super) fn say_goodbye(&mut self, token: Token) {
        let until = self.now + LINGER_FOR;
        let Some(client) = self.clients.get(token) else { return };
        if shutdown(client.socket.as_raw_fd(), Shutdown::Write).is_err() {
            return self.close(token);
        }
        client.output = Output::Over(until);
        self.settle(token);
        self.linger(token);
        self.linger_on(token);
    }

    /// Looks again later at one that is still there.
    fn linger_on(&mut self, token: Token) {
        let Some(Output::Over(until)) = self.clients.get(token).map(|client| client.output) else { return };
        let so_far = (self.now + LINGER_FOR).saturating_duration_since(until);
        self.timers.set((self.now + so_far.max(LINGER_STEP)).min(until), Timer::Linger(token));
    }

    /// Throws away what a client sends after the end, and closes when it is
    /// time.
    pub(super) fn linger(&mut self, token: Token) {
        let Some(client) = self.clients.get(token) else { return };
        let Output::Over(until) = client.output else { return };
        let mut ended = self.now >= until;
        for _ in 0..DISCARD_AT_ONCE {
            match receive(&client.socket, &mut self.scratch) {
                Ok(0) => ended = true,
                Ok(_) => continue,
                Err(Errno::EAGAIN) => {}
                Err(_) => ended = true,
            }
            break;
        }
        if matches!(socket::unacknowledged(&client.socket), Ok(0) | Err(_)) {
            return self.close(token);
        }
        if ended {
            // The kernel goes on without it, for no longer than this process would have.
            let timeout = u32::try_from(self.settings.send_timeout_ms).unwrap_or(u32::MAX);
            let _broken = setsockopt(&client.socket, sockopt::TcpUserTimeout, &timeout);
            self.close(token);
        }
    }
}
