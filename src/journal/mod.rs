//! The daemon's log: its own entries and its children's lines, one line each.
//!
//! It is written to standard error or to the system's log, never blocks the
//! supervisor or a child, and loses nothing silently. Entries that can't be written now
//! wait in a bounded backlog. Entries that do not fit there are counted, and the count is
//! logged as soon as writing works again. The log can't be flooded either: repeated
//! lines, and lines past a child's share, are counted and summed up (`flood`).
//!
//! | where | an entry |
//! |---|---|
//! | standard error | `2026-11-22T15:04:05.123Z INFO echo: message` |
//! | standard error, read by systemd's journal | `<6>echo: message` |
//! | syslog | `echo: message`, tagged `plumbd[PID]`, with its priority |
//!
//! The supervisor calls [`start`] once, logs with the macros of the `log` crate
//! (`target: NAME` for an entry about a child), and hands its children's lines to
//! [`child_line`]. Its loop waits for what [`waiting`] returns, until [`deadline`] at
//! most, then calls [`flush`]. A plugin calls [`plugin::start`] instead.

mod backlog;
mod entry;
mod flood;
mod lines;
mod output;
pub(crate) mod plugin;
pub(crate) mod ring;
mod syslog;

pub use entry::escaped_parts;
pub use flood::LogLimit;
pub use lines::{LONGEST, LineSplitter, Piece};

use crate::sys::cause;
use crate::sys::text::counted;
use backlog::Backlog;
use entry::{Entry, Priority, Style};
use flood::{Common, Flow, Sum};
use log::{LevelFilter, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use output::{Output, RETRY, Sent};
use ring::{Cursor, Rings};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Standard error; in the form of sd-daemon(3) if systemd's journal reads it.
    Stderr,
    /// The system's log, through /dev/log, under this facility: a name of
    /// [`FACILITIES`].
    Syslog(&'static str),
}

/// The facilities of syslog(3), and what each is for.
pub const FACILITIES: [(&str, &str); 19] = [
    ("auth", "security and authorization"),
    ("authpriv", "security and authorization, in private"),
    ("cron", "clock daemons"),
    ("daemon", "daemons without a facility of their own"),
    ("ftp", "file transfer"),
    ("lpr", "printers"),
    ("mail", "mail"),
    ("news", "news"),
    ("syslog", "the syslog daemon itself"),
    ("user", "programs of users"),
    ("uucp", "UUCP"),
    ("local0", "local use"),
    ("local1", "local use"),
    ("local2", "local use"),
    ("local3", "local use"),
    ("local4", "local use"),
    ("local5", "local use"),
    ("local6", "local use"),
    ("local7", "local use"),
];

/// What the log waits for before it can write more.
#[derive(Debug)]
pub enum Waiting {
    /// Nothing: everything is written.
    Nothing,
    /// Until this descriptor can be written (POLLOUT). It stays open as long as the process lives.
    Writable(BorrowedFd<'static>),
    /// There is nothing to poll (the disk is full, no syslog daemon runs): try again at this time.
    Until(Instant),
}

/// The prefix of an entry that continues the line of the entry before it.
const CONTINUED: &str = "... ";

static JOURNAL: OnceLock<Journal> = OnceLock::new();

/// Starts the log of this process. Called once, after daemonizing.
///
/// # Errors
/// A log was started already, or standard error can't be duplicated (EBADF,
/// EMFILE). It is no error if no syslog daemon runs: entries wait for one.
pub fn start(target: Target, level: LevelFilter) -> Result<(), String> {
    let output = match target {
        Target::Stderr => Output::stderr().map_err(|e| format!("cannot log to standard error: {e}"))?,
        Target::Syslog(facility) => {
            let facility = facility.parse().map_err(|()| format!("cannot log to syslog: no facility {facility}"))?;
            Output::syslog(facility).map_err(|e| format!("cannot log to syslog: {e}"))?
        }
    };
    let journal = JOURNAL.get_or_init(|| Journal::new(output));
    log::set_logger(journal).map_err(|_| "cannot start the log: it was started before".to_owned())?;
    set_level(level);
    Ok(())
}

/// Whether what this process writes to standard error goes to systemd's journal.
pub fn is_on_stderr() -> bool {
    output::stderr_is_journal()
}

/// Whether a syslog daemon listens now. If none does, entries wait for one.
pub fn syslog_listens() -> bool {
    syslog::listens()
}

/// Sets the level of what is logged from now on.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Logs a line that a child wrote, or a piece of one, or only counts it if it exceeds the
/// child's limit (`None`: no limit). Returns whether it was logged.
///
/// Control characters and bytes that are not UTF-8 become `\xNN`, so that no
/// child can forge an entry or control a terminal. A line above 7 KiB becomes
/// several entries; all but the first begin with `... `.
pub fn child_line(child: &str, limit: Option<LogLimit>, piece: Piece<'_>) -> bool {
    match JOURNAL.get() {
        Some(journal) => journal.child_line(child, limit, piece),
        None => true,
    }
}

/// Keeps the last entries of that child in memory from now on, so many bytes of them.
pub fn keep(child: &str, bytes: u64) {
    if let Some(journal) = JOURNAL.get() {
        journal.state().rings.keep(child, bytes);
    }
}

/// Forgets what is kept of that child.
pub fn forget(child: &str) {
    if let Some(journal) = JOURNAL.get() {
        journal.state().rings.forget(child);
    }
}

/// The number that the next entry will have.
pub fn next_seq() -> u64 {
    JOURNAL.get().map_or(0, |journal| journal.state().rings.next())
}

/// The last line that a child wrote, from the entry of that number on.
pub fn last_line(child: &str, from: u64) -> Option<String> {
    JOURNAL.get()?.state().rings.last_line(child, from).map(|kept| kept.text.to_string())
}

/// A reader of the last `lines` entries (`None`: of all that are kept) of the children that are
/// `wanted`, and of what comes after them if it `follows`.
pub fn cursor(wanted: &dyn Fn(&str) -> bool, lines: Option<usize>, follows: bool) -> Cursor {
    JOURNAL.get().map(|journal| journal.state().rings.cursor(wanted, lines, follows)).unwrap_or_default()
}

/// Reads on until `each` returns false. Returns whether all that there is was read.
pub fn read(cursor: &mut Cursor, wanted: &dyn Fn(&str) -> bool, each: impl FnMut(ring::Piece<'_>) -> bool) -> bool {
    JOURNAL.get().is_none_or(|journal| journal.state().rings.read(cursor, wanted, each))
}

/// Writes what can be written now, and returns what the rest waits for.
pub fn flush() -> Waiting {
    JOURNAL.get().map_or(Waiting::Nothing, |journal| journal.flush(Instant::now()))
}

/// What the log waits for; see [`flush`].
pub fn waiting() -> Waiting {
    JOURNAL.get().map_or(Waiting::Nothing, Journal::waiting)
}

/// When [`flush`] will have something to sum up, even if nothing else happens.
pub fn deadline() -> Option<Instant> {
    JOURNAL.get().and_then(|journal| journal.state().sum_at)
}

/// How many entries are not written: they still wait, or were dropped.
pub fn unsent() -> u64 {
    JOURNAL.get().map_or(0, |journal| journal.state().backlog.unsent())
}

/// Sums up, and writes the rest before the process ends; takes no longer than `bound`.
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
    /// By the child's name; the supervisor's own entries under [`entry::OWN`].
    speakers: HashMap<String, Speaker>,
    common: Common,
    rings: Rings,
    /// The earliest time at which a speaker has something to sum up.
    sum_at: Option<Instant>,
}

/// What was logged lately about a child and by it, counted apart so that neither hides
/// the other.
#[derive(Debug, Default)]
struct Speaker {
    about: Flow,
    by: Flow,
}

/// Why the backlog can't be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Blocked {
    /// It can.
    #[default]
    No,
    /// The reader's side has no room.
    Full,
    /// There is nothing to poll; it is tried again at that time.
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

    fn child_line(&self, child: &str, limit: Option<LogLimit>, piece: Piece<'_>) -> bool {
        let Piece { priority, text, continues } = piece;
        let now = Instant::now();
        let parts = parts(text, continues);
        let mut state = self.state();
        parts.iter().for_each(|part| state.rings.push(child, priority, part.clone(), true));
        if priority.level() > log::max_level() {
            return true;
        }
        let goes = state.speak(child, now, |speaker, common| {
            let goes = limit.is_none_or(|limit| speaker.by.admit_share(common, limit, priority, text, now));
            (goes, speaker.by.deadline())
        });
        if goes {
            parts.iter().for_each(|part| self.add(&mut state, &Entry { priority, child, text: part }, now));
        }
        goes
    }

    fn own_line(&self, priority: Priority, child: &str, line: &[u8]) {
        let now = Instant::now();
        let mut state = self.state();
        let goes = state.speak(child, now, |speaker, _| {
            let goes = speaker.about.admit(priority, line, now);
            (goes, speaker.about.deadline())
        });
        if goes {
            self.add_own(&mut state, priority, child, line, now);
        }
    }

    /// Sums up what was counted if it is time; at the `end`, everything.
    fn sum_up(&self, state: &mut State, now: Instant, end: bool) {
        if !end && state.sum_at.is_none_or(|at| now < at) {
            return;
        }
        let mut sums = Vec::new();
        for (child, speaker) in &mut state.speakers {
            for flow in [&mut speaker.about, &mut speaker.by] {
                sums.extend(flow.sums(now, end).into_iter().map(|sum| (child.clone(), sum)));
            }
        }
        let deadlines = state.speakers.values().flat_map(|speaker| [speaker.about.deadline(), speaker.by.deadline()]);
        state.sum_at = deadlines.flatten().min();
        for (child, sum) in sums {
            let (priority, text) = match sum {
                Sum::Again { priority, line, times, within } => {
                    let times = counted(times, "more time", "more times");
                    let mut text = format!("{times} in {}: ", seconds(within)).into_bytes();
                    text.extend_from_slice(&line);
                    (priority, text)
                }
                Sum::LeftOut { lines, within } => {
                    let lines = counted(lines, "more line", "more lines");
                    let text = format!("{lines} in {} not logged, because of log_limit", seconds(within));
                    (Priority::WARNING, text.into_bytes())
                }
            };
            self.add_own(state, priority, &child, &text, now);
        }
    }

    /// What the daemon itself says.
    fn add_own(&self, state: &mut State, priority: Priority, child: &str, line: &[u8], now: Instant) {
        for part in parts(line, false) {
            self.add(state, &Entry { priority, child, text: &part }, now);
            state.rings.push(child, priority, part, false);
        }
    }

    fn add(&self, state: &mut State, entry: &Entry<'_>, now: Instant) {
        state.backlog.push(entry.render(&self.style), |dropped| self.note(dropped));
        // If it is blocked, the loop says when to go on, so that a busy child does not
        // cost a failing system call for each line.
        let go = match state.blocked {
            Blocked::No => true,
            Blocked::Full => false,
            Blocked::Until(then) => now >= then,
        };
        if go {
            self.send(state, now);
        }
    }

    fn note(&self, dropped: u64) -> Vec<u8> {
        let text = format!("{} could not be logged", counted(dropped, "entry", "entries"));
        Entry { priority: Priority::WARNING, child: entry::OWN, text: &text }.render(&self.style)
    }

    fn send(&self, state: &mut State, now: Instant) {
        state.blocked = Blocked::No;
        let mut anew = false;
        while let Some(bytes) = state.backlog.front(|dropped| self.note(dropped)) {
            match self.output.send(bytes) {
                Sent::Bytes(n) => {
                    anew = false;
                    state.backlog.went(n);
                }
                Sent::Full => {
                    state.blocked = Blocked::Full;
                    return;
                }
                // A reader that disconnects at once counts as absent.
                Sent::Anew if anew => {
                    state.blocked = Blocked::Until(now + RETRY);
                    return;
                }
                Sent::Anew => {
                    anew = true;
                    state.backlog.anew();
                }
                Sent::Later(pause) => {
                    state.blocked = Blocked::Until(now + pause);
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
        let mut state = self.state();
        self.sum_up(&mut state, now, false);
        if !matches!(state.blocked, Blocked::Until(then) if now < then) {
            self.send(&mut state, now);
        }
        drop(state);
        self.waiting()
    }

    fn finish(&'static self, deadline: Instant) {
        self.sum_up(&mut self.state(), Instant::now(), true);
        loop {
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            self.send(&mut self.state(), now);
            match self.waiting() {
                Waiting::Nothing => return,
                _ if left.is_zero() => return,
                // Nothing can be written before the deadline.
                Waiting::Until(then) if then >= deadline => return,
                Waiting::Until(then) => std::thread::sleep(then.saturating_duration_since(now)),
                Waiting::Writable(fd) => {
                    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                    // Even if interrupted: the loop checks the time and tries again.
                    let _events = poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout);
                }
            }
        }
    }
}

impl State {
    /// Lets `say` use the speaker of that name, and notes when it has something to sum up.
    fn speak(
        &mut self,
        name: &str,
        now: Instant,
        say: impl FnOnce(&mut Speaker, &mut Common) -> (bool, Option<Instant>),
    ) -> bool {
        if !self.speakers.contains_key(name) {
            // The configuration adds and removes names, so idle ones are forgotten.
            self.speakers.retain(|_, speaker| !(speaker.about.is_idle(now) && speaker.by.is_idle(now)));
            self.speakers.insert(name.to_owned(), Speaker::default());
        }
        let (goes, sum_at) = self.speakers.get_mut(name).map_or((true, None), |speaker| say(speaker, &mut self.common));
        self.sum_at = [self.sum_at, sum_at].into_iter().flatten().min();
        goes
    }
}

/// A line as the text of entries.
fn parts(line: &[u8], continues: bool) -> Vec<String> {
    let mut parts = escaped_parts(line);
    for (place, part) in parts.iter_mut().enumerate() {
        if continues || place > 0 {
            part.insert_str(0, CONTINUED);
        }
    }
    parts
}

/// Formats as `5 s` or `0.3 s`.
fn seconds(time: Duration) -> String {
    format!("{} s", (time.as_secs_f64() * 10.0).round() / 10.0)
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
        for line in cause::plain(&record.args().to_string()).lines() {
            self.own_line(priority, child, line.as_bytes());
        }
    }

    fn flush(&self) {
        self.send(&mut self.state(), Instant::now());
    }
}

#[cfg(test)]
mod tests;
