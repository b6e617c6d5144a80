//! A daemon whose message file is on a disk that something happens to, with
//! clients under way all the time.

use crate::daemon::{Daemon, free_port, kill, wait_for};
use crate::load::checker::{self, Format};
use crate::load::generator::{self, Outcome, Plan};
use crate::load::rotated;
use nix::libc::{SIGKILL, SIGTERM};
use plumbd::control::Request;
use std::io::{BufReader, Cursor, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Clients, and messages that each has under way.
const CONNECTIONS: u32 = 8;
const DEPTH: u32 = 3;
/// Bytes of a message.
const LENGTH: usize = 128;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) echoed: u64,
    pub(crate) unechoed: u64,
}

/// A daemon under load.
pub(crate) struct Site {
    pub(crate) daemon: Daemon,
    pub(crate) file: PathBuf,
    stop: Arc<AtomicBool>,
    load: Option<JoinHandle<Outcome>>,
}

impl Site {
    /// In that folder, with clients under way; `more`: of the logger's part of the configuration.
    pub(crate) fn new(folder: &Path, echo_after: &str, more: &str) -> Site {
        let (site, port) = Site::without_load(folder, echo_after, more);
        site.daemon.wait_state(plumbd::control::status::DaemonState::Running);
        let site = site.under_load(port);
        site.wait_progress();
        site
    }

    /// The same before it is up, with its port.
    pub(crate) fn without_load(folder: &Path, echo_after: &str, more: &str) -> (Site, u16) {
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
            settings = {{ file = "{}" }}
            {more}
            [[links]]
            from = "echo"
            to = "logger"
            "#,
            file.display()
        );
        let daemon = Daemon::spawn(&config);
        (Site { daemon, file, stop: Arc::default(), load: None }, port)
    }

    /// Its clients come, who go on until the end.
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

    /// Waits until more was taken than can be under way: so echoes went back.
    #[track_caller]
    pub(crate) fn wait_progress(&self) {
        let before = self.taken();
        wait_for(&format!("echoes go back\nlog:\n{}", self.daemon.log()), || {
            (self.taken() > before + 2 * u64::from(CONNECTIONS * DEPTH)).then_some(())
        });
    }

    /// Its clients wait: no more was taken since than can be under way.
    #[track_caller]
    pub(crate) fn assert_waiting(&self, since: u64) {
        let more = self.taken() - since;
        assert!(more <= u64::from(CONNECTIONS * DEPTH), "{more} messages were taken meanwhile");
    }

    /// Waits until status and log tell of a trouble with the logger; what echo had taken then.
    #[track_caller]
    pub(crate) fn wait_told(&self, trouble: &str) -> u64 {
        wait_for(&format!("a problem: {trouble}\nlog:\n{}", self.daemon.log()), || {
            self.problem().filter(|problem| problem.contains(trouble))
        });
        self.daemon.wait_log(trouble);
        self.taken()
    }

    /// Waits until the status has no trouble any more, and echoes go back.
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

    /// Waits until the file's name is that of another file than `before`.
    #[track_caller]
    pub(crate) fn wait_new_file(&self, before: u64) {
        wait_for("a new file", || self.inode().is_some_and(|inode| inode != before).then_some(()));
    }

    /// The number of the file that has the name.
    pub(crate) fn inode(&self) -> Option<u64> {
        std::fs::metadata(&self.file).ok().map(|metadata| metadata.ino())
    }

    /// Files beside the message file whose names begin so, oldest first.
    pub(crate) fn beside(&self, begin: &str) -> Vec<PathBuf> {
        let all = self.file.parent().unwrap().read_dir().unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<PathBuf> =
            all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(begin)).collect();
        all.sort();
        all
    }

    /// System calls of the logger fail like that, until the return value is dropped.
    pub(crate) fn inject(&self, call: &str, fault: &str) -> Injection {
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{fault}"));
        let pid = self.logger().to_string();
        let strace = Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, "-p", &pid])
            .spawn()
            .unwrap();
        Injection { strace }
    }

    /// Ends it: every client got all of its echoes, none was disconnected, and
    /// what is in the file and its rotated parts, behind what was in `taken`
    /// (by outsiders, from the file), is what was sent.
    #[track_caller]
    pub(crate) fn end(mut self, taken: &[u8], live: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Kept {
        self.wait_progress();
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.load.take().unwrap().join().unwrap();
        self.daemon.stop();
        let log = self.daemon.log();
        assert!(outcome.wrong.is_empty(), "echoes differ: {:?}", outcome.wrong);
        assert_eq!((outcome.disconnected, outcome.refused, outcome.unanswered()), (0, 0, 0), "log:\n{log}");
        let mut rest = Vec::new();
        rotated::open(&self.file).unwrap().read_to_end(&mut rest).unwrap();
        let all = [taken, &live(rest)].concat();
        let verdict = checker::check(BufReader::new(Cursor::new(&all)), Format::Text, &outcome.connections).unwrap();
        assert!(verdict.is_clean() && verdict.echoed == outcome.echoed(), "{verdict}\nlog:\n{log}");
        assert_doctored_is_found(all, &outcome);
        Kept { echoed: verdict.echoed, unechoed: verdict.unechoed }
    }
}

/// The control of each of these trials: with a line less, with a line twice,
/// with a byte changed, with two lines exchanged, the same file does not pass.
fn assert_doctored_is_found(all: Vec<u8>, outcome: &Outcome) {
    let ends: Vec<usize> = memchr::memchr_iter(b'\n', &all).map(|at| at + 1).collect();
    let middle = ends.len() / 2;
    let (line, next) = (ends[middle - 1]..ends[middle], ends[middle]);
    let mut changed = all.clone();
    changed[line.end - 3] ^= 1;
    let doctored = [
        [&all[..line.start], &all[line.end..]].concat(),
        [&all[..next], &all[line.start..]].concat(),
        changed,
        all[..all.len() - 1].to_vec(),
    ];
    for file in doctored {
        let verdict = checker::check(file.as_slice(), Format::Text, &outcome.connections).unwrap();
        assert!(!verdict.is_clean(), "a doctored file passes: {verdict}");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A strace that makes system calls fail. Dropped, it lets go.
pub(crate) struct Injection {
    strace: Child,
}

impl Drop for Injection {
    fn drop(&mut self) {
        kill(i32::try_from(self.strace.id()).unwrap(), SIGTERM);
        let _reaped = self.strace.wait();
    }
}
