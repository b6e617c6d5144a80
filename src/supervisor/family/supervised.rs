//! One child in the supervisor: its part of the configuration, its machine, and what
//! remains when its process ends.

use crate::config::model::{Child, Program, Ready};
use crate::control::status::{ChildState, Ended, LastExit};
use crate::journal::{self, LineSplitter};
use crate::plugin::{self, Metric, Plugin};
use crate::supervisor::clock::{Moment, Wall};
use crate::supervisor::family::checks::Check;
use crate::supervisor::family::child::{Machine, State};
use crate::supervisor::family::ends::LastEnds;
use crate::supervisor::family::health::{Health, Phase};
use crate::supervisor::family::held_back::HeldBack;
use crate::supervisor::family::notify;
use crate::supervisor::family::spawn::{Holdings, LOG_CAPACITY};
use crate::supervisor::kept::shared_memory::{Region, SharedMemory};
use crate::supervisor::poll::{Id, Poll, Token, Watched};
use crate::sys::cause::cause;
use crate::sys::descendants::Process;
use crate::sys::map::{self, PAGE, SharedMap, memory_file};
use crate::sys::pipe::{self, Pipe};
use crate::sys::process::{self, Exit};
use crate::sys::rate::{self, Rates};
use nix::sys::epoll::EpollFlags;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// One child.
#[derive(Debug)]
pub struct Supervised {
    /// Its part of the configuration.
    pub config: Rc<Child>,
    /// Its state machine.
    pub machine: Machine,
    /// What it is given at each start.
    pub holdings: Holdings,
    /// Cuts what it writes to its log pipe into lines.
    pub lines: LineSplitter,
    /// When an incomplete line is logged, if nothing more arrives.
    pub prompt_at: Option<Instant>,
    /// The pipe that reports its exec, until the result is known.
    pub exec: Option<Watched<OwnedFd>>,
    /// Its process has executed its program.
    pub(crate) has_executed: bool,
    /// The pipe on which it says that it is ready, until it has.
    pub ready: Option<Watched<OwnedFd>>,
    /// What is known of something that the system lacks for it.
    pub(crate) held_back: HeldBack,
    /// Whether a notification from a process that is not its own was logged since its start.
    pub told_of_strangers: bool,
    /// The problem that it reports (X_PLUMBD_PROBLEM=).
    pub says: Option<String>,
    /// What was wrong with it when an event last said so.
    pub(crate) noted: Option<String>,
    /// Whether it is well.
    pub(crate) health: Health,
    /// The check of it that is under way, or whose process is not gone yet.
    pub(crate) check: Option<Check>,
    /// The number of its last start ([`mark`](crate::supervisor::family::mark)).
    pub number: u64,
    /// When its process was started the last time.
    pub started: Option<Instant>,
    /// The number of the first log entry that can be its last process's.
    pub(crate) logged_before: u64,
    /// When its state changed.
    pub since: Moment,
    /// When it ended the last time.
    pub ended: Option<Moment>,
    /// Its last ends.
    pub(crate) last_ends: LastEnds,
    /// Its deadline, as noted in [`Children`](super::children::Children).
    pub timer: Option<Instant>,
    page: Option<SharedMap>,
}

impl Supervised {
    /// A child that is down. Its notifications are received from
    /// [`listen`](Supervised::listen) on.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn new(prepared: Prepared, id: Id, poll: &Poll) -> Result<Supervised, String> {
        let Prepared { config, at_hand, notify, settings, metrics, shared } = prepared;
        let log = log_pipe(id, poll).map_err(|e| cannot_prepare(&config, &e))?;
        let (metrics, page) = metrics.unzip();
        Ok(Supervised {
            machine: Machine::new(config.policy.clone()),
            holdings: Holdings { log, notify, settings, metrics, shared, at_hand },
            lines: LineSplitter::default(),
            prompt_at: None,
            exec: None,
            has_executed: false,
            ready: None,
            held_back: HeldBack::default(),
            told_of_strangers: false,
            says: None,
            noted: None,
            health: Health::new(&config.name, Instant::now()),
            check: None,
            number: 0,
            started: None,
            logged_before: 0,
            since: Moment::now(),
            ended: None,
            last_ends: LastEnds::default(),
            timer: None,
            page,
            config,
        })
    }

    /// Takes over what a new configuration says about it, before its next start.
    pub fn change(&mut self, prepared: Prepared) {
        let Prepared { config, at_hand, notify, settings, metrics, shared } = prepared;
        self.machine.change(config.policy.clone());
        journal::keep(&config.name, config.log_keep);
        self.config = config;
        (self.holdings.metrics, self.page) = metrics.unzip();
        (self.holdings.notify, self.holdings.settings) = (notify, settings);
        (self.holdings.shared, self.holdings.at_hand) = (shared, at_hand);
        self.listen();
    }

    /// Has the loop report its notifications.
    pub fn listen(&self) {
        let watched = self.holdings.notify.as_ref().map_or(Ok(()), |socket| socket.watch_for(EpollFlags::EPOLLIN));
        if let Err(error) = watched {
            log::error!(target: &self.config.name, "cannot watch its notifications: {error}");
        }
    }

    /// Makes the socket for its notifications, if it needs one and has none: a reload may
    /// have added `watchdog`.
    pub(crate) fn make_notify(&mut self, id: Id, poll: &Poll) -> io::Result<()> {
        if self.holdings.notify.is_none() && notifies(&self.config) {
            self.holdings.notify = Some(poll.watch(notify::Socket::new()?, EpollFlags::EPOLLIN, Token::Notify(id))?);
        }
        Ok(())
    }

    /// How far its process has got, as seen by its checks.
    pub(crate) fn phase(&self) -> Phase {
        match self.machine.state {
            State::Up { .. } => Phase::Up,
            State::Starting { .. } if self.config.policy.ready == Ready::Health && self.has_executed => Phase::Starting,
            _ => Phase::Down,
        }
    }

    /// When something about it is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.machine.deadline(), self.health.deadline()].into_iter().flatten().min()
    }

    /// What it says is wrong with it or, if it says nothing, what its machine says.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.says.as_deref().or(self.machine.problem.as_deref())
    }

    /// Clears what it shared with other instances, after its process was reaped.
    pub fn clear_shared(&self) {
        let cleared = self.holdings.shared.as_ref().map_or(Ok(()), Region::clear);
        if let Err(error) = cleared {
            let why = cause(&error);
            log::error!(target: &self.config.name, "cannot clear what it shared with other instances: {why}; its next process will");
        }
    }

    /// The values of its counters.
    pub fn metrics(&self) -> BTreeMap<String, u64> {
        let Some((metrics, page)) = self.counters() else { return BTreeMap::new() };
        let words = page.words(metrics.len());
        metrics.iter().zip(words).map(|(one, word)| (one.name.to_owned(), word.load(Ordering::Relaxed))).collect()
    }

    /// How much those of its counters that have rates rise per second.
    pub fn rates(&self) -> BTreeMap<&'static str, Rates> {
        let Some((metrics, page)) = self.counters() else { return BTreeMap::new() };
        let rated = metrics.iter().enumerate().filter(|(_, metric)| metric.has_rate);
        let now = rate::now();
        rated.map(|(slot, metric)| (metric.name, plugin::start::rates(page, slot, now))).collect()
    }

    /// Its plugin's row of counters, and the page that has them.
    fn counters(&self) -> Option<(&'static [Metric], &SharedMap)> {
        let plugin = self.plugin()?;
        Some((plugin.metrics, self.page.as_ref()?))
    }

    /// Its plugin, if it is one.
    pub fn plugin(&self) -> Option<&'static Plugin> {
        match &self.config.program {
            Program::Plugin(name) => plugin::find(name),
            Program::Command(_) => None,
        }
    }

    /// Why it is not ready, if its start has taken longer than it may. It goes on
    /// trying, but nothing needs to wait for it.
    pub fn stuck(&self) -> Option<&str> {
        let says = self.says.as_deref().filter(|_| matches!(self.machine.state, State::Starting { .. }))?;
        (self.started?.elapsed() >= self.machine.policy.ready_timeout).then_some(says)
    }

    /// Whether that is root, the configured user, or the user that its process has become.
    pub fn is_user(&self, uid: u32) -> bool {
        let own = self.config.user.as_ref().map_or_else(|| nix::unistd::geteuid().as_raw(), |who| who.uid);
        uid == 0 || uid == own || self.machine.pid().and_then(Process::user) == Some(uid)
    }

    /// Its state, as operators see it.
    pub fn state(&self) -> ChildState {
        match self.machine.state {
            State::Down | State::Waiting => ChildState::Down,
            State::Starting { .. } => ChildState::Starting,
            State::Up { .. } => ChildState::Up,
            State::Stopping { .. } => ChildState::Stopping,
            State::Backoff { .. } => ChildState::Backoff,
            State::Failed => ChildState::Failed,
        }
    }

    /// How and when it ended the last time.
    pub fn last_exit(&self, wall: &Wall) -> Option<LastExit> {
        let how = ended(self.machine.last_exit?);
        Some(LastExit { how, at: wall.time(self.ended?), asked: self.machine.asked })
    }
}

/// How a process ended, as operators see it.
pub(crate) fn ended(exit: Exit) -> Ended {
    match exit {
        Exit::Code(code) => Ended::Code(code),
        Exit::Signal(number) => Ended::Signal(process::signal_name(number)),
    }
}

/// What a child is given from its next start on, according to its part of a
/// configuration. It is made beforehand, because once the configuration is in force,
/// nothing may fail any more.
#[derive(Debug)]
pub struct Prepared {
    config: Rc<Child>,
    at_hand: bool,
    /// Watched for no event until the child has it.
    notify: Option<Watched<notify::Socket>>,
    settings: OwnedFd,
    metrics: Option<(OwnedFd, SharedMap)>,
    shared: Option<Region>,
}

impl Prepared {
    /// For the child of that number; `at_hand` says whether its executable is at hand.
    ///
    /// # Errors
    /// `cannot prepare child "NAME": cause`: EMFILE, ENFILE, ENOMEM, ENOSPC.
    pub fn new(
        config: Rc<Child>,
        at_hand: bool,
        id: Id,
        poll: &Poll,
        memory: &mut SharedMemory,
    ) -> Result<Prepared, String> {
        let cannot = |error: io::Error| cannot_prepare(&config, &error);
        let plugin = match &config.program {
            Program::Plugin(name) => plugin::find(name),
            Program::Command(_) => None,
        };
        let notify = if notifies(&config) {
            let socket = notify::Socket::new().map_err(cannot)?;
            Some(poll.watch(socket, EpollFlags::empty(), Token::Notify(id)).map_err(cannot)?)
        } else {
            None
        };
        let settings = serde_json::to_vec(&config.settings).map_err(io::Error::from);
        let settings = settings.and_then(|json| map::sealed_file(c"plumbd-settings", &json)).map_err(cannot)?;
        let metrics = plugin.map(|_| metrics_page()).transpose().map_err(cannot)?;
        let shared = memory.region(&config).map_err(cannot)?;
        Ok(Prepared { config, at_hand, notify, settings, metrics, shared })
    }
}

/// Whether it is given a socket for notifications.
fn notifies(config: &Child) -> bool {
    let is_plugin = matches!(config.program, Program::Plugin(_));
    is_plugin || config.policy.ready == Ready::Notify || config.health.watchdog.is_some()
}

/// Makes a page of counters.
fn metrics_page() -> io::Result<(OwnedFd, SharedMap)> {
    let file = memory_file(c"plumbd-metrics", PAGE)?;
    map::seal_size(&file)?;
    let page = SharedMap::new(&file, PAGE)?;
    Ok((file, page))
}

fn log_pipe(id: Id, poll: &Poll) -> io::Result<Watched<Pipe>> {
    let log = Pipe::new(LOG_CAPACITY)?;
    pipe::set_nonblocking(&log.read, true)?;
    poll.watch_part(log, |log| log.read.as_fd(), EpollFlags::EPOLLIN, Token::Log(id))
}

fn cannot_prepare(config: &Child, error: &io::Error) -> String {
    format!("cannot prepare child \"{}\": {error}", config.name)
}
