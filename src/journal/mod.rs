//! The daemon's log: its own entries and its children's lines, a line each.
//!
//! It goes to standard error or to the system's log, never blocks the
//! supervisor, and loses nothing silently: what can't go now waits in a bounded
//! backlog; what does not fit there is counted, and the count is logged as
//! soon as something goes again.
//!
//! | where | an entry |
//! |---|---|
//! | standard error | `2026-11-22T15:04:05.123Z INFO echo: message` |
//! | standard error, read by systemd's journal | `<6>echo: message` |
//! | syslog | `echo: message`, tagged `plumbd[PID]`, with its priority |
//!
//! The supervisor calls [`start`] once, logs with the macros of the `log` crate
//! (`target: NAME` for an entry about a child), hands its children's lines to
//! [`child_line`], and in its loop waits for what [`waiting`] says, then calls
//! [`flush`]. A plugin calls [`plugin::start`] instead.

mod backlog;
mod entry;
mod lines;
mod output;
pub mod plugin;

pub use lines::LineSplitter;

use backlog::Backlog;
use entry::{Entry, Priority, Style};
use log::{LevelFilter, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use output::{Output, Sent};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Standard error; in the form of sd-daemon(3) where systemd's journal reads it.
    Stderr,
    /// The system's log, through /dev/log.
    Syslog,
}

/// What the log waits for before more of it can go.
#[derive(Debug)]
pub enum Waiting {
    /// Nothing: all of it is out.
    Nothing,
    /// Until this descriptor can be written (POLLOUT). It stays open as long as the process lives.
    Writable(BorrowedFd<'static>),
    /// There is nothing to poll (the disk is full, no syslog daemon runs): try again at this time.
    Until(Instant),
}

/// How long to wait where there is nothing to poll.
const RETRY: Duration = Duration::from_secs(1);

static JOURNAL: OnceLock<Journal> = OnceLock::new();

/// Starts the log of this process, once, after it daemonized.
///
/// # Errors
/// A log was started already, or standard error can't be duplicated (EBADF,
/// EMFILE). That no syslog daemon runs is no error: entries wait for one.
pub fn start(target: Target, level: LevelFilter) -> Result<(), String> {
    let output = match target {
        Target::Stderr => Output::stderr().map_err(|e| format!("cannot log to standard error: {e}"))?,
        Target::Syslog => Output::syslog().map_err(|e| format!("cannot log to syslog: {e}"))?,
    };
    let journal = JOURNAL.get_or_init(|| Journal::new(output));
    log::set_logger(journal).map_err(|_| "cannot start the log: it was started before".to_owned())?;
    set_level(level);
    Ok(())
}

/// Whether a syslog daemon listens now. Where none does, entries wait for one.
pub fn syslog_listens() -> bool {
    output::syslog_listens()
}

/// What is logged from now on.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Logs a line that a child wrote, without its newline.
///
/// It may begin with `<N>`, its priority (sd-daemon(3)); without one it is
/// information. Control characters and bytes that are not UTF-8 become `\xNN`,
/// so that no child can forge an entry or steer a terminal. A line above 8 KiB
/// becomes several entries.
pub fn child_line(child: &str, line: &[u8]) {
    let (priority, text) = entry::priority_of(line);
    if priority.level() > log::max_level() {
        return;
    }
    if let Some(journal) = JOURNAL.get() {
        for text in entry::escaped_parts(text) {
            journal.add(&Entry { priority, child, text: &text });
        }
    }
}

/// Writes what can be written now, and returns what the rest waits for.
pub fn flush() -> Waiting {
    JOURNAL.get().map_or(Waiting::Nothing, |journal| journal.flush(Instant::now()))
}

/// What the log waits for; see [`flush`].
pub fn waiting() -> Waiting {
    JOURNAL.get().map_or(Waiting::Nothing, Journal::waiting)
}

/// Writes the rest before the process ends, for no longer than `bound`.
pub fn finish(bound: Duration) {
    if let Some(journal) = JOURNAL.get() {
        journal.finish(Instant::now() + bound);
    }
}

/// The log of a process.
#[derive(Debug)]
struct Journal {
    output: Output,
    style: Style,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    backlog: Backlog,
    blocked: Blocked,
}

/// Why the backlog does not go out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Blocked {
    /// It does.
    #[default]
    No,
    /// The other side has no room.
    Full,
    /// Nothing to poll; not before that time.
    Until(Instant),
}

impl Journal {
    fn new(output: Output) -> Journal {
        let style = output.style();
        Journal { output, style, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, entry: &Entry<'_>) {
        let now = Instant::now();
        let mut state = self.state();
        state.backlog.push(entry.render(&self.style), |dropped| self.note(dropped));
        // Once it is full, the loop says when to go on: a busy child must not
        // cost a failing system call a line.
        let go = match state.blocked {
            Blocked::No => true,
            Blocked::Full => false,
            Blocked::Until(then) => now >= then,
        };
        if go {
            self.send(&mut state, now);
        }
    }

    fn note(&self, dropped: u64) -> Vec<u8> {
        let text = if dropped == 1 {
            "1 log entry was dropped".to_owned()
        } else {
            format!("{dropped} log entries were dropped")
        };
        Entry { priority: Priority::WARNING, child: entry::OWN, text: &text }.render(&self.style)
    }

    fn send(&self, state: &mut State, now: Instant) {
        state.blocked = Blocked::No;
        while let Some(bytes) = state.backlog.front(|dropped| self.note(dropped)) {
            match self.output.send(bytes) {
                Sent::Bytes(n) => state.backlog.went(n),
                Sent::Full => {
                    state.blocked = Blocked::Full;
                    return;
                }
                Sent::Later => {
                    state.blocked = Blocked::Until(now + RETRY);
                    return;
                }
                Sent::Never => {
                    if !state.backlog.drop_front() {
                        return;
                    }
                }
            }
        }
    }

    fn waiting(&'static self) -> Waiting {
        match self.state().blocked {
            Blocked::No => Waiting::Nothing,
            Blocked::Full => Waiting::Writable(self.output.as_fd()),
            Blocked::Until(then) => Waiting::Until(then),
        }
    }

    fn flush(&'static self, now: Instant) -> Waiting {
        self.send(&mut self.state(), now);
        self.waiting()
    }

    fn finish(&'static self, deadline: Instant) {
        loop {
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            match self.flush(now) {
                // Where nothing tells when there is room again, a moment more would not help.
                Waiting::Nothing | Waiting::Until(_) => return,
                _ if left.is_zero() => return,
                Waiting::Writable(fd) => {
                    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                    // Interrupted or not: the loop asks the time and tries again.
                    let _events = poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout);
                }
            }
        }
    }
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let child = entry::child_of(record.target());
        let priority = Priority::from(record.level());
        for line in record.args().to_string().lines() {
            for text in entry::escaped_parts(line.as_bytes()) {
                self.add(&Entry { priority, child, text: &text });
            }
        }
    }

    fn flush(&self) {
        self.send(&mut self.state(), Instant::now());
    }
}

#[cfg(test)]
mod tests;
