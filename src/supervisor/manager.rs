//! What the supervisor says to the service manager that started it, in order
//! and without ever waiting for it (sd_notify(3)).

use crate::sys::notify::{self, Sent};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How soon it is tried again while the manager takes nothing.
const AGAIN: Duration = Duration::from_millis(200);
/// The watchdog's feed is tried again this many times within the watchdog's
/// time, or as often as everything else.
const FEEDS: u32 = 10;
/// How soon at the end, when nothing else is to be done.
const LAST_AGAIN: Duration = Duration::from_millis(10);
/// Once this many messages wait, the manager is told nothing more.
const MOST: usize = 1024;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    waiting: VecDeque<(String, Option<OwnedFd>)>,
    again: Option<Instant>,
    watchdog: Option<Watchdog>,
}

/// The service manager's watchdog (sd_watchdog_enabled(3)), fed at half its time.
#[derive(Debug)]
struct Watchdog {
    within: Duration,
    next: Instant,
    /// The manager did not take the last one.
    missed: bool,
}

impl Manager {
    /// One that wants to hear that the loop goes round, `within` this time.
    pub fn new(within: Option<Duration>) -> Manager {
        let watchdog = within.map(|within| Watchdog { within, next: Instant::now(), missed: false });
        Manager { watchdog, ..Manager::default() }
    }

    /// Tells it `NAME=value` lines, now or as soon as it takes them. `false`: it
    /// will not be told, because too much waits already; that is logged.
    pub fn tell(&mut self, lines: &str) -> bool {
        self.send(lines, None)
    }

    /// The same with a descriptor.
    pub fn hand(&mut self, lines: &str, fd: BorrowedFd<'_>) -> bool {
        self.send(lines, Some(fd))
    }

    /// Tells it what is due by now: that the loop goes round, and what waits.
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
                // Whoever listened may be there again in a moment.
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
            log::error!("the service manager takes nothing: it is not told {}", lines.escape_debug());
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
        // A manager that misses this ends the process, so it goes ahead of all
        // that waits, however little the manager takes.
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

    /// Tells it the rest before the process ends, for no longer than `bound`.
    pub fn finish(&mut self, bound: Duration) {
        let until = Instant::now() + bound;
        self.flush();
        while !self.waiting.is_empty() && Instant::now() < until {
            std::thread::sleep(LAST_AGAIN);
            self.flush();
        }
        if let Some((lines, _)) = self.waiting.front() {
            log::error!(
                "the service manager takes nothing: it is not told {} and {} more",
                lines.escape_debug(),
                self.waiting.len() - 1
            );
        }
    }

    /// When it is [time](Manager::on_time).
    pub fn deadline(&self) -> Option<Instant> {
        [self.again, self.watchdog.as_ref().map(|watchdog| watchdog.next)].into_iter().flatten().min()
    }
}

/// Whether it is done with: taken, or refused for good.
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
