//! Ends: of one connection, and of all when told to stop.
//!
//! To close a socket whose input was not read resets the connection, and a
//! reset can destroy echoes that are still on their way. So a connection that
//! this side ends says first that nothing more comes, throws away what the
//! client still sends, and is closed when the client's side has everything.

use super::client::{Input, Output, receive};
use super::framing::Next;
use super::server::Server;
use super::table::Token;
use super::timers::Timer;
use crate::sys::socket;
use log::{info, warn};
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A client that takes nothing for so long, while all wait for the end, is given up.
pub(super) const STUCK_FOR: Duration = Duration::from_secs(2);
/// A connection that is over is kept for its last bytes so long at most,
const LINGER_FOR: Duration = Duration::from_secs(1);
/// and looked at so often.
const LINGER_STEP: Duration = Duration::from_millis(10);
/// A drain after the supervisor's death takes so long at most.
const ORPHANED_FOR: Duration = Duration::from_secs(10);
/// So many reads of unwanted input at once.
const DISCARD_AT_ONCE: usize = 16;

impl Server {
    /// Lets nobody in, takes what has arrived by now, and ends when every echo
    /// of it is sent.
    pub(super) fn drain(&mut self) {
        if self.orphaned() {
            self.timers.set(self.now + ORPHANED_FOR, Timer::GiveUp);
        }
        if self.draining {
            return;
        }
        self.draining = true;
        info!("stops: {} clients get the echoes of what they sent", self.clients.len());
        for token in self.clients.tokens() {
            let Some(client) = self.clients.get(token) else { continue };
            client.took = self.now;
            if client.input == Input::Open {
                client.input = match socket::unread(&client.socket) {
                    Ok(0) | Err(_) => Input::Cut,
                    Ok(arrived) => Input::LastCall(arrived),
                };
            }
            self.frame(token, Next::MayCome);
            self.settle(token);
        }
    }

    /// A timer's time has come.
    pub(super) fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Partial(token) => self.on_partial(token),
            Timer::Idle(token) => self.on_idle(token),
            Timer::Stuck(token) => self.on_stuck(token),
            Timer::Linger(token) => {
                self.linger(token);
                if self.clients.get(token).is_some() {
                    self.timers.set(self.now + LINGER_STEP, Timer::Linger(token));
                }
            }
            Timer::Accept => self.try_the_door(),
            Timer::GiveUp => self.given_up = true,
        }
    }

    /// A client may have been silent for the whole of `idle_timeout`.
    fn on_idle(&mut self, token: Token) {
        let (now, timeout) = (self.now, self.idle_timeout());
        let Some(client) = self.clients.get(token) else { return };
        let silent = now >= client.heard + timeout;
        if silent && client.stream.held() == 0 {
            client.input = Input::Cut;
            return self.settle(token);
        }
        let again = if silent { now + timeout } else { client.heard + timeout };
        self.timers.set(again, Timer::Idle(token));
    }

    /// A client may have taken nothing for too long.
    fn on_stuck(&mut self, token: Token) {
        let now = self.now;
        let Some(client) = self.clients.get(token) else { return };
        client.stuck_timer = false;
        if client.output == Output::Blocked && now >= client.took + STUCK_FOR {
            warn!("gives up on {}: it takes no echoes", client.peer);
            return self.hang_up(token);
        }
        self.settle(token);
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
        if self.clients.get(token).is_some() {
            self.timers.set(self.now + LINGER_STEP, Timer::Linger(token));
        }
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
        if ended || matches!(socket::unacknowledged(&client.socket), Ok(0) | Err(_)) {
            self.close(token);
        }
    }
}
