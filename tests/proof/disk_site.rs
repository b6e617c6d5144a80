//! A daemon whose message file is on a disk that something happens to, with
//! clients under way all the time.

use crate::daemon::{Daemon, free_port, kill, state, wait_for};
use crate::load::checker::{self, Format, Verdict};
use crate::load::generator::{self, Outcome, Plan};
use crate::load::rotated;
use crate::strace::Strace;
use crate::trial::{Tried, add, faults};
use nix::libc::{SIGCONT, SIGKILL, SIGSTOP};
use plumbd::control::Request;
use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// How many clients there are, and how many messages each has under way.
const CONNECTIONS: u32 = 8;
const DEPTH: u32 = 3;
/// This many messages are under way at a time, or in one batch.
pub(crate) const UNDER_WAY: u32 = CONNECTIONS * DEPTH;
/// The length of a message.
const LENGTH: usize = 128;

/// The outcome of one site.
#[derive(Debug)]
pub(crate) struct Kept(Verdict);

/// The result of a trial. `what` was done to these sites, each of which had all of
/// its messages; `more` was seen besides.
pub(crate) fn tried(what: &str, kept: &[Kept], more: &str, control: &str) -> Tried {
    let mut total = Verdict::default();
    kept.iter().for_each(|kept| add(&mut total, &kept.0));
    let separator = if more.is_empty() { "" } else { "; " };
    Tried {
        count: format!("{what}; {} messages echoed", total.echoed),
        outcome: format!("{}; {} not echoed were saved{separator}{more}", faults(&total), total.unechoed),
        control: format!("{control}; {DOCTORED}"),
    }
}

/// What [`assert_doctored_is_found`] shows for each file.
const DOCTORED: &str = "of each file a copy with a line less, a line twice, a byte changed, two lines of a client exchanged, the end cut off: found out";

/// A daemon under load.
pub(crate) struct Site {
    pub(crate) daemon: Daemon,
    pub(crate) file: PathBuf,
    stop: Arc<AtomicBool>,
    load: Option<JoinHandle<Outcome>>,
}

impl Site {
    /// A daemon in that folder, with clients. `more` is added to the logger's part of the
    /// configuration.
    pub(crate) fn new(folder: &Path, echo_after: &str, more: &str) -> Site {
        Site::under_load_when_up(Site::without_load(folder, echo_after, more))
    }

    /// A daemon with more settings of the logger.
    pub(crate) fn with_settings(folder: &Path, echo_after: &str, settings: &str) -> Site {
        Site::under_load_when_up(Site::spawn(folder, echo_after, "", settings))
    }

    fn under_load_when_up((site, port): (Site, u16)) -> Site {
        site.daemon.wait_state(plumbd::control::status::DaemonState::Running);
        let site = site.under_load(port);
        site.wait_progress();
        site
    }

    /// A daemon that need not be up yet, and its port.
    pub(crate) fn without_load(folder: &Path, echo_after: &str, more: &str) -> (Site, u16) {
        Site::spawn(folder, echo_after, more, "")
    }

    fn spawn(folder: &Path, echo_after: &str, more: &str, settings: &str) -> (Site, u16) {
        let port = free_port();
        let file = folder.join("messages.log");
        let config = format!(
            r#"
            [daemon]
            log_level = "info"
            [children.echo]
            plugin = "echo"
            listen = ["tcp://127.0.0.1:{port}"]
            settings = {{ echo_after = "{echo_after}", partial_after = "60s" }}
            [children.logger]
            plugin = "logger"
            {more}
            [children.logger.settings]
            file = "{}"
            {settings}
            [[links]]
            from = "echo"
            to = "logger"
            "#,
            file.display()
        );
        let daemon = Daemon::spawn(&config);
        (Site { daemon, file, stop: Arc::default(), load: None }, port)
    }

    /// Starts its clients, which go on until the end.
    pub(crate) fn under_load(mut self, port: u16) -> Site {
        let plan =
            Plan { connections: CONNECTIONS, depth: DEPTH, length: LENGTH, reconnect: false, ..Plan::usual(port) };
        let stop = Arc::clone(&self.stop);
        self.load = Some(std::thread::spawn(move || generator::run(&plan, &stop).unwrap()));
        self
    }

    /// How many messages echo has taken from its clients.
    pub(crate) fn taken(&self) -> u64 {
        self.daemon.child("echo").metrics["messages"]
    }

    /// Waits until more was taken than can be under way, so that echoes must have been sent.
    #[track_caller]
    pub(crate) fn wait_progress(&self) {
        let before = self.taken();
        wait_for(&format!("echoes go back\nlog:\n{}", self.daemon.log()), || {
            (self.taken() > before + 2 * u64::from(UNDER_WAY)).then_some(())
        });
    }

    /// Checks that its clients wait: since then, no more was taken than can be under way.
    #[track_caller]
    pub(crate) fn assert_waiting(&self, since: u64) {
        let more = self.taken() - since;
        assert!(more <= u64::from(UNDER_WAY), "{more} messages were taken meanwhile");
    }

    /// Waits until status and log report trouble with the logger. Returns how many messages echo
    /// had taken then.
    #[track_caller]
    pub(crate) fn wait_told(&self, trouble: &str) -> u64 {
        wait_for(&format!("a problem: {trouble}\nlog:\n{}", self.daemon.log()), || {
            self.problem().filter(|problem| problem.contains(trouble))
        });
        self.daemon.wait_log(trouble);
        self.taken()
    }

    /// Waits until the status reports no trouble any more, and echoes are sent.
    #[track_caller]
    pub(crate) fn wait_passed(&self) {
        wait_for(&format!("no problem\nlog:\n{}", self.daemon.log()), || self.problem().is_none().then_some(()));
        self.wait_progress();
    }

    pub(crate) fn problem(&self) -> Option<String> {
        self.daemon.child("logger").problem
    }

    pub(crate) fn logger(&self) -> i32 {
        self.daemon.child_pid_when_up("logger")
    }

    pub(crate) fn kill_logger(&self) {
        kill(self.daemon.child_pid("logger"), SIGKILL);
    }

    pub(crate) fn reopen(&self) {
        self.daemon.done(&Request::Reopen);
    }

    /// Waits until the file's name belongs to another file than `before`.
    #[track_caller]
    pub(crate) fn wait_new_file(&self, before: u64) {
        wait_for("a new file", || self.inode().is_some_and(|inode| inode != before).then_some(()));
    }

    /// The inode number of the file that has the name.
    pub(crate) fn inode(&self) -> Option<u64> {
        std::fs::metadata(&self.file).ok().map(|metadata| metadata.ino())
    }

    /// Files beside the message file whose names begin with this, the oldest first.
    pub(crate) fn beside(&self, begin: &str) -> Vec<PathBuf> {
        let all = self.file.parent().unwrap().read_dir().unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<PathBuf> =
            all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(begin)).collect();
        all.sort();
        all
    }

    /// Makes system calls of the logger fail in that way, until the return value is dropped.
    pub(crate) fn inject(&self, call: &str, fault: &str) -> Strace {
        Strace::inject(self.logger(), call, fault)
    }

    /// Ends it. Checks that every client got all of its echoes, that none was disconnected, and
    /// that what was sent is in `taken` (what outsiders took from the file), then in the rotated
    /// parts and the file.
    #[track_caller]
    pub(crate) fn end(mut self, taken: &[u8], live: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Kept {
        let (outcome, rest) = self.over();
        let log = self.daemon.log();
        assert!(outcome.wrong.is_empty(), "echoes differ: {:?}", outcome.wrong);
        assert_eq!((outcome.disconnected, outcome.refused, outcome.unanswered()), (0, 0, 0), "log:\n{log}");
        let all = [taken, &live(rest)].concat();
        let verdict = check(&all, &outcome);
        assert!(verdict.is_clean() && verdict.echoed == outcome.echoed(), "{verdict}\nlog:\n{log}");
        assert_doctored_is_found(all, &outcome);
        Kept(verdict)
    }

    /// Ends a site whose protection was taken away. Returns what the checker finds.
    #[track_caller]
    pub(crate) fn end_found_out(mut self) -> String {
        let (outcome, all) = self.over();
        let verdict = check(&all, &outcome);
        assert!(!verdict.is_clean(), "it was not found out: {verdict}\nlog:\n{}", self.daemon.log());
        let Verdict { echoed, lost, doubled, torn, forged, .. } = verdict;
        format!("of {} echoed messages {lost} lost, {doubled} doubled; {torn} torn, {forged} forged", echoed + lost)
    }

    /// Stops its clients, then the daemon. Returns what they got, and what is in the rotated parts
    /// and the file.
    fn over(&mut self) -> (Outcome, Vec<u8>) {
        self.wait_progress();
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.load.take().unwrap().join().unwrap();
        self.daemon.stop();
        let mut all = Vec::new();
        rotated::open(&self.file).unwrap().read_to_end(&mut all).unwrap();
        (outcome, all)
    }

    /// Kills the logger, and does `change` before the next one starts.
    pub(crate) fn kill_logger_and(&self, change: impl FnOnce()) {
        let (supervisor, logger) = (self.daemon.pid(), self.logger());
        self.daemon.signal(SIGSTOP);
        wait_for("the supervisor is stopped", || (state(supervisor) == Some('T')).then_some(()));
        kill(logger, SIGKILL);
        wait_for("the logger is dead", || (state(logger) == Some('Z')).then_some(()));
        change();
        self.daemon.signal(SIGCONT);
        wait_for("another logger", || self.daemon.child("logger").pid.filter(|&pid| pid != logger));
    }

    /// Makes the ledger a fresh one, and removes the intent file. Returns whether they
    /// had a batch that is in the file and was not consumed yet.
    fn forget(&self) -> bool {
        let held = std::fs::read_dir(format!("/proc/{}/fd", self.daemon.pid())).unwrap().map(|fd| fd.unwrap().path());
        let is_ledger = |fd: &PathBuf| {
            std::fs::read_link(fd).is_ok_and(|to| to.to_str().is_some_and(|to| to.starts_with("/memfd:plumbd-ledger")))
        };
        let ledgers: Vec<PathBuf> = held.filter(is_ledger).collect();
        assert_eq!(ledgers.len(), 1);
        let ledger = File::options().read(true).write(true).open(&ledgers[0]).unwrap();
        // doc/law-of-a-link.md, "Ledger": its phase, and where in the file the batch begins.
        let word = |number: u64| {
            let mut bytes = [0; 8];
            ledger.read_exact_at(&mut bytes, number * 8).unwrap();
            bytes
        };
        let saved = word(1) == *b"prepared" && u64::from_ne_bytes(word(9)) < self.file.metadata().unwrap().len();
        ledger.write_all_at(&[0; 4096], 0).unwrap();
        std::fs::remove_file(self.file.with_file_name(".messages.log.intent")).unwrap();
        saved
    }
}

/// The control for kills of the logger: the content of ledger and intent file
/// does not outlive it.
pub(crate) fn forgetful() -> String {
    const UNDER_WAY: u32 = 3;
    const AT_ONCE: &str = r#"
        backoff = { first = "0ms", factor = 1.0, max = "1ms", reset_after = "0s" }
        start_limit = { burst = 1000000, within = "1s" }
    "#;
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", AT_ONCE);
    let (mut kills, mut under_way) = (0, 0);
    while under_way < UNDER_WAY {
        assert!(kills < 2000, "no kill falls on a batch under way");
        site.wait_progress();
        site.kill_logger_and(|| under_way += u32::from(site.forget()));
        kills += 1;
    }
    let found = site.end_found_out();
    format!("{kills} kills with ledger and intent file wiped after each, {UNDER_WAY} of them within a batch: {found}")
}

/// The control for failing writes: a logger that takes a failed write for a successful one.
pub(crate) fn heedless() -> String {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "saved", "");
    // pwrite returns that 16 MiB were written, and writes nothing.
    let injection = site.inject("pwrite64", "retval=16777216");
    site.wait_progress();
    drop(injection);
    format!("a logger that takes a failed write for a successful one: {}", site.end_found_out())
}

fn check(all: &[u8], outcome: &Outcome) -> Verdict {
    checker::check(BufReader::new(Cursor::new(all)), Format::Text, &outcome.connections).unwrap()
}

/// Checks that the checker notices each change: with a line missing, a line twice, a byte
/// changed, two lines of one client exchanged, or its end cut off, the file does not pass.
fn assert_doctored_is_found(all: Vec<u8>, outcome: &Outcome) {
    let ends: Vec<usize> = memchr::memchr_iter(b'\n', &all).map(|at| at + 1).collect();
    let middle = ends.len() / 2;
    let (line, next) = (ends[middle - 1]..ends[middle], ends[middle]);
    let mut changed = all.clone();
    changed[line.end - 3] ^= 1;
    let other = same_client_after(&all, &line);
    let doctored = [
        [&all[..line.start], &all[line.end..]].concat(),
        [&all[..next], &all[line.start..]].concat(),
        changed,
        [&all[..line.start], &all[other.clone()], &all[line.end..other.start], &all[line], &all[other.end..]].concat(),
        all[..all.len() - 1].to_vec(),
    ];
    for file in doctored {
        let verdict = check(&file, outcome);
        assert!(!verdict.is_clean(), "a doctored file passes: {verdict}");
    }
}

/// The next line of the same client. In the middle of a file, every client has more lines to come.
fn same_client_after(all: &[u8], line: &Range<usize>) -> Range<usize> {
    // `TIME PEER MESSAGE`
    let peer = |line: &[u8]| line.split(|&byte| byte == b' ').nth(1).unwrap().to_vec();
    let of = peer(&all[line.clone()]);
    let mut start = line.end;
    loop {
        let end = start + memchr::memchr(b'\n', &all[start..]).expect("a later line of the same client") + 1;
        if peer(&all[start..end]) == of {
            return start..end;
        }
        start = end;
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
