//! Messages to the service manager that started the supervisor, sent in order and
//! without ever waiting for it (sd_notify(3)).

use crate::sys::notify::{self, Sent};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How soon to try again while the manager takes nothing.
const AGAIN: Duration = Duration::from_millis(200);
/// Feeding the watchdog is tried again at least this many times within the watchdog's
/// time, and at least as often as sending everything else.
const FEEDS: u32 = 10;
/// How soon to try again at the end, when there is nothing else to do.
const LAST_AGAIN: Duration = Duration::from_millis(10);
/// When this many messages wait, further ones are dropped.
const MOST: usize = 1024;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    waiting: VecDeque<(String, Option<OwnedFd>)>,
    again: Option<Instant>,
    watchdog: Option<Watchdog>,
    /// How the children were when that was last looked at, in a line.
    pub(crate) summary: Option<String>,
}

/// The service manager's watchdog (sd_watchdog_enabled(3)), fed at half its time.
#[derive(Debug)]
struct Watchdog {
    within: Duration,
    next: Instant,
    /// Whether the manager did not take the last message.
    missed: bool,
}

impl Manager {
    /// The service manager; if it has a watchdog, it wants to hear from the loop `within` this
    /// time.
    pub fn new(within: Option<Duration>) -> Manager {
        let watchdog = within.map(|within| Watchdog { within, next: Instant::now(), missed: false });
        Manager { watchdog, ..Manager::default() }
    }

    /// Whether there is one.
    pub(crate) fn is_there(&self) -> bool {
        notify::is_heard()
    }

    /// Sends it `NAME=value` lines, now or as soon as it takes them. Returns `false` if they
    /// will not be sent, because too much waits already; that is logged.
    pub fn tell(&mut self, lines: &str) -> bool {
        self.send(lines, None)
    }

    /// Sends it lines as [`tell`](Manager::tell) does, with a descriptor.
    pub fn hand(&mut self, lines: &str, fd: BorrowedFd<'_>) -> bool {
        self.send(lines, Some(fd))
    }

    /// Sends what is due: the watchdog's message, and those that wait.
    pub fn on_time(&mut self, now: Instant) {
        self.feed(now);
        if self.again.is_some_and(|at| at <= now) {
            self.flush();
        }
    }

    fn feed(&mut self, now: Instant) {
        let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.next <= now) else { return };
        watchdog.missed = match notify::try_send("WATCHDOG=1", None) {
            Ok(Sent::Taken) => false,
            Ok(Sent::NotNow) => true,
            Err(error) => {
                // The service manager may be back in a moment.
                if !watchdog.missed {
                    log::warn!("cannot feed the watchdog: {error}; trying again");
                }
                true
            }
        };
        let wait = if watchdog.missed { AGAIN.min(watchdog.within / FEEDS) } else { watchdog.within / 2 };
        watchdog.next = now + wait;
    }

    fn send(&mut self, lines: &str, fd: Option<BorrowedFd<'_>>) -> bool {
        self.flush();
        if self.waiting.is_empty() && attempt(lines, fd) {
            return true;
        }
        if self.waiting.len() >= MOST {
            log::error!("cannot tell the service manager {}: it takes nothing", lines.escape_debug());
            return false;
        }
        let kept = match fd.map(|fd| fd.try_clone_to_owned()).transpose() {
            Ok(fd) => {
                self.waiting.push_back((lines.to_owned(), fd));
                true
            }
            Err(error) => {
                log::error!("cannot keep {} for the service manager: {error}", lines.escape_debug());
                false
            }
        };
        self.again.get_or_insert(Instant::now() + AGAIN);
        kept
    }

    fn flush(&mut self) {
        // If the manager misses the watchdog's message, it ends this process. So that message
        // goes ahead of all that wait, however little the manager takes.
        if let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.missed) {
            let now = Instant::now();
            watchdog.next = now;
            self.feed(now);
        }
        while let Some((lines, fd)) = self.waiting.front() {
            if !attempt(lines, fd.as_ref().map(AsFd::as_fd)) {
                self.again = Some(Instant::now() + AGAIN);
                return;
            }
            self.waiting.pop_front();
        }
        self.again = None;
    }

    /// Sends the rest before the process ends; this takes no longer than `bound`.
    pub fn finish(&mut self, bound: Duration) {
        let until = Instant::now() + bound;
        self.flush();
        while !self.waiting.is_empty() && Instant::now() < until {
            std::thread::sleep(LAST_AGAIN);
            self.flush();
        }
        if let Some((lines, _)) = self.waiting.front() {
            log::error!(
                "cannot tell the service manager {} and {} more: it takes nothing",
                lines.escape_debug(),
                self.waiting.len() - 1
            );
        }
    }

    /// When [`Manager::on_time`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        [self.again, self.watchdog.as_ref().map(|watchdog| watchdog.next)].into_iter().flatten().min()
    }
}

/// Sends a message. Returns whether it is done with: taken, or refused for good.
fn attempt(lines: &str, fd: Option<BorrowedFd<'_>>) -> bool {
    match notify::try_send(lines, fd) {
        Ok(Sent::Taken) => true,
        Ok(Sent::NotNow) => false,
        Err(error) => {
            log::warn!("cannot notify the service manager: {error}");
            true
        }
    }
}
