//! How the server ends: a stop drains it.

use super::framing::Next;
use super::server::{Server, State};
use super::timers::Timer;
use crate::sys::text::counted;
use log::info;
use nix::unistd::getppid;
use std::time::Duration;

/// The longest that a drain may take after the supervisor's death.
const ORPHANED_FOR: Duration = Duration::from_secs(10);

impl Server {
    /// Accepts no more clients, takes only what has already arrived, and ends when all of it
    /// has been echoed.
    pub(super) fn drain(&mut self) {
        if self.is_orphaned() {
            self.timers.set(self.clock.now + ORPHANED_FOR, Timer::GiveUp);
        }
        if self.is_draining() {
            return;
        }
        self.state = State::Draining;
        // This can't wait: if the supervisor is dead, its successor needs the addresses.
        self.acceptor.shut(&self.poll);
        let clients =
            counted(self.clients.len(), "client gets the echoes of what it", "clients get the echoes of what they");
        info!("stops: {clients} sent");
        for id in self.clients.ids() {
            let Some(client) = self.clients.get(id) else { continue };
            // A timer that is already running would be too late.
            client.taking = None;
            if client.is_owed(client.taken()) {
                self.watch_taking(id);
            }
            let Some(client) = self.clients.get(id) else { continue };
            if client.reading.is_open() {
                client.reading.stop_after(client.transport.pending());
            }
            self.frame(id, Next::MayCome);
            self.settle(id);
        }
    }

    /// A drain without a supervisor has taken too long.
    pub(super) fn give_up(&mut self) {
        self.state = State::GivenUp;
    }

    pub(super) fn is_draining(&self) -> bool {
        self.state != State::Serving
    }

    /// Whether nothing is left to do.
    pub(super) fn is_drained(&self) -> bool {
        self.is_draining() && self.clients.len() == 0 && self.sink.outbox.is_empty()
    }

    /// Whether the supervisor that started this process is dead.
    pub(super) fn is_orphaned(&self) -> bool {
        getppid() != self.supervisor
    }
}
