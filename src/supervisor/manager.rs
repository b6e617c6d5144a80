//! What the supervisor says to the service manager that started it, in order
//! and without ever waiting for it (sd_notify(3)).

use crate::notify::{self, Sent};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// So often it is tried again while the manager takes nothing.
const AGAIN: Duration = Duration::from_millis(200);
/// A manager that takes nothing for so many messages is not waited for with more.
const MOST: usize = 1024;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    waiting: VecDeque<(String, Option<OwnedFd>)>,
    again: Option<Instant>,
}

impl Manager {
    /// Tells it `NAME=value` lines, now or as soon as it takes them.
    pub fn tell(&mut self, lines: &str) {
        self.send(lines, None);
    }

    /// The same with a descriptor.
    pub fn hand(&mut self, lines: &str, fd: BorrowedFd<'_>) {
        self.send(lines, Some(fd));
    }

    /// Tells it only where it listens just now: what counts for this moment alone.
    pub fn tell_now(&mut self, lines: &str) {
        if self.waiting.is_empty() {
            let _not_now = attempt(lines, None);
        }
    }

    fn send(&mut self, lines: &str, fd: Option<BorrowedFd<'_>>) {
        self.flush();
        if self.waiting.is_empty() && attempt(lines, fd) {
            return;
        }
        if self.waiting.len() >= MOST {
            log::error!("the service manager takes nothing: it is not told {}", lines.escape_debug());
            return;
        }
        match fd.map(|fd| fd.try_clone_to_owned()).transpose() {
            Ok(fd) => self.waiting.push_back((lines.to_owned(), fd)),
            Err(error) => log::error!("cannot keep {} for the service manager: {error}", lines.escape_debug()),
        }
        self.again.get_or_insert(Instant::now() + AGAIN);
    }

    /// Tells it what waits.
    pub fn flush(&mut self) {
        while let Some((lines, fd)) = self.waiting.front() {
            if !attempt(lines, fd.as_ref().map(AsFd::as_fd)) {
                self.again = Some(Instant::now() + AGAIN);
                return;
            }
            self.waiting.pop_front();
        }
        self.again = None;
    }

    /// When to [flush](Manager::flush) again.
    pub fn deadline(&self) -> Option<Instant> {
        self.again
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
