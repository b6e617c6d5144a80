//! The configuration as it is meant: valid by construction.
//!
//! Only [`super::check_text`] makes these values, so whoever holds a [`Model`] need
//! not ask again whether a link's ends exist or an address is bound twice.

use crate::journal::LogLimit;
use crate::link::handover::Protocol;
pub use crate::schema::address::{Address, HostPort};
use crate::sys::process::Exit;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Where it was read from; `None` for the built-in one.
    pub file: Option<PathBuf>,
    /// The daemon's own part.
    pub daemon: Daemon,
    /// Every instance of every child, in the order of the file.
    pub children: Vec<Rc<Child>>,
    /// Every link between instances, in the order of the file.
    pub links: Vec<Link>,
}

/// `[daemon]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// The control socket; absolute.
    pub control: PathBuf,
    /// Where the log goes.
    pub log: LogTarget,
    /// Under which facility it goes to the system's log: a name of [`crate::journal::FACILITIES`].
    pub syslog_facility: &'static str,
    /// What is logged.
    pub log_level: log::LevelFilter,
    /// Bound on a drain.
    pub stop_timeout: Duration,
    /// Where its keys stand.
    pub lines: Lines,
}

/// `daemon.log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// syslog where it daemonized, else stderr.
    Auto,
    /// Standard error, a line an entry.
    Stderr,
    /// The system's log, through /dev/log.
    Syslog,
}

/// One instance of a child.
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    /// `NAME`, or `NAME.0` if `instances` is above 1.
    pub name: String,
    /// The line of its table in the file, from 1; 0 for the built-in configuration.
    pub line: usize,
    /// What runs.
    pub program: Program,
    /// Sockets that the supervisor binds and keeps; instances share them.
    pub listen: Vec<Address>,
    /// What the supervisor goes by while it runs.
    pub policy: Policy,
    /// Instances (by name) that are ready before this one starts.
    pub after: Vec<String>,
    /// Who it runs as; `None`: as the supervisor.
    pub user: Option<Identity>,
    /// Its working directory; `None`: the supervisor's.
    pub directory: Option<PathBuf>,
    /// Its file mode creation mask.
    pub umask: u32,
    /// Its whole environment but for what the supervisor adds at start (section 7 of the manual).
    pub environment: Vec<(String, String)>,
    /// Names passed on from the supervisor's own environment.
    pub pass_environment: Vec<String>,
    /// Resource limits: setrlimit(2) resource by lower-case name without RLIMIT_, and its soft and hard value.
    pub limits: Vec<(Resource, u64)>,
    /// How many bytes of its last log entries are kept in memory.
    pub log_keep: u64,
    /// How much of what it writes is logged; `None`: all of it.
    pub log_limit: Option<LogLimit>,
    /// Given to the plugin as JSON; checked by the plugin's own rules.
    pub settings: serde_json::Value,
    /// Where its keys stand.
    pub lines: Lines,
    /// What it lacks of the system, as problems of the file are told; only where a
    /// [start](super::Which) lets that be. Such a child is not to be started: what
    /// could not be found is left out of it, its user too.
    pub lacks: Vec<String>,
}

/// When a child is started and stopped: a reload changes it without a new process, but
/// for `ready`, which a process is told when it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// When it is started again.
    pub restart: Restart,
    /// How long after.
    pub backoff: Backoff,
    /// How often at most.
    pub start_limit: StartLimit,
    /// How it says that it is ready.
    pub ready: Ready,
    /// How long that may take.
    pub ready_timeout: Duration,
    /// What asks it to stop.
    pub stop_signal: Signal,
    /// Whom that goes to.
    pub stop_to: StopTo,
    /// How long that may take before SIGKILL.
    pub stop_timeout: Duration,
    /// Which ends are no failures.
    pub success: Success,
}

impl Policy {
    /// The keys in which this one and `new` differ.
    pub fn differing(&self, new: &Policy) -> Vec<&'static str> {
        // Named one by one, so that none is forgotten.
        let Policy { restart, backoff, start_limit, ready, ready_timeout, stop_signal, stop_to, stop_timeout, success } =
            self;
        let differ = [
            ("restart", *restart != new.restart),
            ("backoff", *backoff != new.backoff),
            ("start_limit", *start_limit != new.start_limit),
            ("ready", *ready != new.ready),
            ("ready_timeout", *ready_timeout != new.ready_timeout),
            ("stop_signal", *stop_signal != new.stop_signal),
            ("stop_to", *stop_to != new.stop_to),
            ("stop_timeout", *stop_timeout != new.stop_timeout),
            ("success", *success != new.success),
        ];
        differ.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

/// On which line of the file each key of a table stands, from 1; keys of a
/// table within it are `table.key`.
///
/// Any two are equal: where something stands is no part of what it says.
#[derive(Debug, Clone, Default)]
pub struct Lines(BTreeMap<String, usize>);

impl PartialEq for Lines {
    fn eq(&self, _other: &Lines) -> bool {
        true
    }
}

impl Eq for Lines {}

impl FromIterator<(String, usize)> for Lines {
    fn from_iter<T: IntoIterator<Item = (String, usize)>>(lines: T) -> Lines {
        Lines(lines.into_iter().collect())
    }
}

impl Lines {
    /// The line of that key; for `table.key` that of `table`, where it is
    /// written in one. `None` where the file does not give it.
    pub fn of(&self, key: &str) -> Option<usize> {
        let table = key.split_once('.').map(|(table, _)| table);
        self.0.get(key).or_else(|| self.0.get(table?)).copied()
    }
}

/// What a child runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A built-in plugin, by the name in the table of plugins.
    Plugin(&'static str),
    /// Any program and its arguments; the first is an absolute path.
    Command(Vec<String>),
}

/// `restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// However it ended.
    Always,
    /// After an exit status other than 0, or a signal.
    OnFailure,
    /// Not at all.
    Never,
}

/// `backoff`: how long to wait before the n-th start in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Before the first; zero: at once, and 100 ms before the second.
    pub first: Duration,
    /// By what each is longer than the one before; at least 1.
    pub factor: f64,
    /// No longer than this.
    pub max: Duration,
    /// Up for this long: the row is over.
    pub reset_after: Duration,
}

/// `start_limit`: more than `burst` starts `within` that time, and the child is failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartLimit {
    /// How many starts; at least 1.
    pub burst: u32,
    /// In what time.
    pub within: Duration,
}

/// `ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// When exec succeeded.
    Exec,
    /// READY=1 to $NOTIFY_SOCKET (sd_notify(3)).
    Notify,
    /// A newline on $PLUMBD_READY_FD.
    Fd,
}

/// `stop_to`: whom `stop_signal` goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopTo {
    /// The whole process group.
    Group,
    /// The process that was started, alone.
    Leader,
}

/// `success`: ends that are no failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Success {
    /// Exit statuses.
    pub codes: Vec<u8>,
    /// Signals that it was killed by.
    pub signals: Vec<Signal>,
}

impl Success {
    /// Whether that end is one of them.
    pub fn covers(&self, exit: Exit) -> bool {
        match exit {
            Exit::Code(code) => self.codes.iter().any(|&known| i32::from(known) == code),
            Exit::Signal(number) => self.signals.iter().any(|&known| known as i32 == number),
        }
    }
}

/// Who a child runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User's name, for initgroups(3) and $USER.
    pub user: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The user's home, for $HOME.
    pub home: PathBuf,
    /// The user's shell, for $SHELL.
    pub shell: PathBuf,
}

/// A resource of setrlimit(2).
pub type Resource = nix::sys::resource::Resource;

/// A link between two instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The source's name.
    pub from: String,
    /// The sink's name.
    pub to: String,
    /// The line of its table in the file, from 1; 0 for the built-in configuration.
    pub line: usize,
    /// Bytes that the queue shall hold.
    pub capacity: usize,
    /// How messages stand in the queue.
    pub protocol: Protocol,
}

/// The name in the file of an instance: `NAME` of `NAME.0`, and of `NAME`.
pub fn base_name(instance: &str) -> &str {
    instance.split_once('.').map_or(instance, |(base, _)| base)
}

impl Child {
    /// The name in the file and the number, from 0, of one of several instances.
    pub fn instance(&self) -> Option<(&str, usize)> {
        let (base, number) = self.name.split_once('.')?;
        Some((base, number.parse().ok()?))
    }
}

impl Model {
    /// The child of that name.
    pub fn child(&self, name: &str) -> Option<&Rc<Child>> {
        self.children.iter().find(|c| c.name == name)
    }
}
