//! The configuration as it is meant: valid by construction.
//!
//! Only [`super::check_text`] makes these values, so code that has a [`Model`] need not
//! check again whether a link's ends exist or an address is bound twice.

use crate::journal::LogLimit;
use crate::link::handover::Protocol;
pub use crate::schema::address::{Address, HostPort};
use crate::sys::process::Exit;
use crate::sys::stream::Stream;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::net::SocketAddr;
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
    /// The facility in the system's log: a name of [`crate::journal::FACILITIES`].
    pub syslog_facility: &'static str,
    /// What is logged.
    pub log_level: log::LevelFilter,
    /// How long a drain may take.
    pub stop_timeout: Duration,
    /// What is run at which event, of the daemon or of any child.
    pub on: Hooks,
    /// The environment of these programs, except for what is added at each start.
    pub environment: Vec<(String, String)>,
    /// What its hooks need and the system lacks, as for a child. They are left out of `on`.
    pub lacks: Vec<String>,
    /// The lines of its keys.
    pub lines: Lines,
}

/// `on`: the program that is run at each event, by the event's name. Its first word is an
/// absolute path.
pub type Hooks = BTreeMap<&'static str, Vec<String>>;

/// `daemon.log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// To syslog if the daemon daemonized, otherwise to standard error.
    Auto,
    /// To standard error, one entry per line.
    Stderr,
    /// To the system's log, through /dev/log.
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
    /// The rules by which the supervisor starts and stops it.
    pub policy: Policy,
    /// Instances, by name, that must be ready before this one starts.
    pub after: Vec<String>,
    /// The user that it runs as; `None`: the supervisor's.
    pub user: Option<Identity>,
    /// Its working directory; `None`: the supervisor's.
    pub directory: Option<PathBuf>,
    /// Its file mode creation mask.
    pub umask: u32,
    /// Its whole environment, except for what the supervisor adds at the start (plumbd-plugin(7)).
    pub environment: Vec<(String, String)>,
    /// Names passed on from the supervisor's own environment.
    pub pass_environment: Vec<String>,
    /// Resource limits of setrlimit(2), each with the value of both its soft and its hard limit.
    pub limits: Vec<(Resource, u64)>,
    /// How many bytes of its last log entries are kept in memory.
    pub log_keep: u64,
    /// How much of what it writes is logged; `None`: all of it.
    pub log_limit: Option<LogLimit>,
    /// What shows whether it is well.
    pub health: Health,
    /// What is run at which of its events.
    pub on: Hooks,
    /// Given to the plugin as JSON; checked by the plugin's own rules.
    pub settings: serde_json::Value,
    /// The lines of its keys.
    pub lines: Lines,
    /// What it needs and the system lacks, worded like problems of the file. Only a check for
    /// [`super::Which::OfTheFile`] fills this in. Such a child must not be started, because
    /// what could not be found is left out of it, even its user.
    pub lacks: Vec<String>,
}

/// When a child is started and stopped. A reload changes this without a new process,
/// except for `ready`, which a process learns when it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// When the child is started again.
    pub restart: Restart,
    /// How long to wait before that.
    pub backoff: Backoff,
    /// How often it may be started.
    pub start_limit: StartLimit,
    /// How it reports that it is ready.
    pub ready: Ready,
    /// How long it may take to become ready.
    pub ready_timeout: Duration,
    /// The signal that asks it to stop.
    pub stop_signal: Signal,
    /// Which processes get that signal.
    pub stop_to: StopTo,
    /// How long it may take to stop before it gets SIGKILL.
    pub stop_timeout: Duration,
    /// Which ends are not failures.
    pub success: Success,
}

impl Policy {
    /// The keys in which this policy and `new` differ.
    pub fn differing(&self, new: &Policy) -> Vec<&'static str> {
        // Each is named, so that the compiler notices if one is forgotten.
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

/// What shows whether a child is well. A reload changes this without a new process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// `health`: what is checked again and again.
    pub check: Option<Check>,
    /// How often it must send WATCHDOG=1 while it is up; `None`: it need not.
    pub watchdog: Option<Duration>,
    /// How long it may take nothing of the bytes that wait for it; `None`: any time.
    pub stalled: Option<Duration>,
}

/// `health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is checked.
    pub probe: Probe,
    /// The time from the beginning of one check to the beginning of the next.
    pub every: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// How many failures in a row make the child unhealthy; at least 1.
    pub failures: u32,
    /// How long after the start of its process no failure counts.
    pub start: Duration,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Runs this program, which succeeds with exit status 0. The first word is an absolute path.
    Command(Vec<String>),
    /// Connects to this address.
    Tcp(SocketAddr),
    /// Connects to this address and asks for this path.
    Http {
        /// The address of the server.
        at: SocketAddr,
        /// The URL as the file has it, without a fragment.
        url: String,
    },
}

/// The line of each key of a table, from 1. The keys of a table within it are called
/// `table.key`.
///
/// Any two values are equal, because the place of a key does not change its meaning.
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
    /// The line of that key, or for a `table.key` without a line of its own, that of `table`.
    /// `None` if the file does not give the key.
    pub fn of(&self, key: &str) -> Option<usize> {
        let table = key.split_once('.').map(|(table, _)| table);
        self.0.get(key).or_else(|| self.0.get(table?)).copied()
    }
}

/// What a child runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A built-in plugin, by its name in the table of plugins.
    Plugin(&'static str),
    /// Any program and its arguments; the first is an absolute path.
    Command(Vec<String>),
}

/// `restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// However it ended.
    Always,
    /// Only after an end that `success` does not list.
    OnFailure,
    /// Not at all.
    Never,
}

/// `backoff`: how long to wait before each restart in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The wait before the first restart. Zero: no wait, and 100 ms before the second.
    pub first: Duration,
    /// Each wait is this many times the one before; at least 1.
    pub factor: f64,
    /// The longest wait.
    pub max: Duration,
    /// If the child was up for this long, the row is over.
    pub reset_after: Duration,
}

/// `start_limit`: after more than `burst` starts `within` that time, the child is failed.
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
    /// As soon as exec succeeded.
    Exec,
    /// When it sends READY=1 to $NOTIFY_SOCKET (sd_notify(3)).
    Notify,
    /// When it writes a newline to $PLUMBD_READY_FD.
    Fd,
    /// When a check of its health succeeds for the first time.
    Health,
}

/// `stop_to`: which processes get `stop_signal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopTo {
    /// The whole process group.
    Group,
    /// Only the process that was started.
    Leader,
}

/// `success`: ends that are not failures.
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
    /// Which of the source's outputs it is.
    pub stream: Stream,
    /// The sink's name.
    pub to: String,
    /// The line of its table in the file, from 1; 0 for the built-in configuration.
    pub line: usize,
    /// How many bytes the queue is to hold.
    pub capacity: usize,
    /// How the link carries messages.
    pub protocol: Protocol,
}

impl Link {
    /// `FROM -> TO`, or `FROM (stderr) -> TO`.
    pub fn title(&self) -> String {
        format!("{} -> {}", self.stream.of(&self.from), self.to)
    }
}

/// The name that an instance has in the file: `NAME` for `NAME.0`, and for `NAME`.
pub fn base_name(instance: &str) -> &str {
    instance.split_once('.').map_or(instance, |(base, _)| base)
}

impl Child {
    /// The name in the file and the number, from 0, if this is one of several instances.
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
