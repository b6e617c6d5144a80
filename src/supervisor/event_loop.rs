//! The loop: everything that happens is an event, and one match handles all events.

use super::Options;
use crate::config::model::{Model, Program};
use crate::config::{Loaded, order};
use crate::journal::{self, Waiting};
use crate::plugin;
use crate::supervisor::change::Changes;
use crate::supervisor::clock::{Moment, Wall};
use crate::supervisor::events::Events;
use crate::supervisor::family::child::Event;
use crate::supervisor::family::children::Children;
use crate::supervisor::family::health;
use crate::supervisor::family::logs::{LOG_ROUND, LogPipes};
use crate::supervisor::family::predecessor;
use crate::supervisor::family::strays::Strays;
use crate::supervisor::hooks::Hooks;
use crate::supervisor::kept::Kept;
use crate::supervisor::kept::names::Wanted;
use crate::supervisor::kept::store::Store;
use crate::supervisor::looks::Looks;
use crate::supervisor::manager::Manager;
use crate::supervisor::operators::Operators;
use crate::supervisor::operators::ready::Ready;
use crate::supervisor::operators::server::Server;
use crate::supervisor::poll::{Poll, Token};
use crate::sys::descendants::Process;
use crate::sys::map::give_back;
use crate::sys::notify;
use crate::sys::process;
use crate::sys::signals::{self, Came, Signals};
use crate::sys::text::counted;
use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGXFSZ};
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long the service manager may take at the end to read the last messages.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The supervisor. What one part can do alone is a method of that part; the methods of the
/// supervisor need several parts.
pub(crate) struct Supervisor {
    /// The configuration in force.
    pub(crate) loaded: Loaded,
    pub(crate) children: Children,
    pub(crate) strays: Strays,
    pub(crate) log_pipes: LogPipes,
    pub(crate) kept: Kept,
    pub(crate) changes: Changes,
    pub(crate) startup: Startup,
    pub(crate) operators: Operators,
    pub(crate) events: Events,
    pub(crate) hooks: Hooks,
    pub(crate) looks: Looks,
    pub(crate) manager: Manager,
    pub(crate) system: System,
    pub(crate) agenda: Agenda,
    pub(crate) figures: Figures,
}

/// The first start, and who waits for it.
pub(crate) struct Startup {
    /// Tells the caller that started the daemon.
    pub(crate) ready: Ready,
    /// Whether the first start is over: each child was up, or was known not to be.
    pub(crate) has_started: bool,
    /// Whether a failed first start ends the daemon.
    pub(crate) must_start: bool,
    /// Why the daemon ends, if the first start had to succeed but failed.
    pub(crate) failed_start: Option<String>,
    /// [`Options::renew`].
    pub(crate) renew: Box<dyn FnMut()>,
}

/// The kernel objects that the loop and all starts need.
pub(crate) struct System {
    pub(crate) poll: Poll,
    signals: Signals,
    /// /dev/null.
    pub(crate) null: OwnedFd,
    /// The soft limit on descriptors that programs get: the one this process had at first.
    pub(crate) soft_descriptors: u64,
}

/// What the loop has to do next.
#[derive(Debug)]
pub(crate) struct Agenda {
    /// Something changed that [`Supervisor::advance`] may have been waiting for.
    pub(crate) dirty: bool,
    /// When to look again at something that no event reports.
    look_at: Option<Instant>,
    /// What [`Supervisor::run`] returns; set at the end.
    pub(crate) end: Option<Result<(), String>>,
}

/// What the status shows about the daemon itself.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) since: Moment,
    pub(crate) wall: Wall,
    pub(crate) reloads: u64,
    /// Why the last reload failed and the configuration from before is in force.
    pub(crate) reload_failed: Option<String>,
    /// Where children listen and which files they write, as far as it was logged.
    pub(crate) places: BTreeSet<(String, String)>,
}

impl Agenda {
    /// Has the loop look again after that time, or sooner.
    pub(crate) fn look_after(&mut self, time: Duration) {
        let at = Instant::now() + time;
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }
}

impl System {
    fn open() -> Result<System, String> {
        let at = |what: &'static str| move |e: io::Error| format!("cannot {what}: {e}");
        let soft_descriptors = process::raise_descriptor_limit().map_err(at("raise the limit on descriptors"))?;
        process::become_subreaper().map_err(at("become the subreaper"))?;
        let caught: Vec<i32> =
            [SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGCHLD].into_iter().chain(signals::accidental()).collect();
        let signals = Signals::catch(&caught).map_err(at("catch signals"))?;
        let null = std::fs::File::open("/dev/null").map_err(at("open /dev/null"))?.into();
        let poll = Poll::new().map_err(at("make an epoll instance"))?;
        Ok(System { poll, signals, null, soft_descriptors })
    }
}

impl Supervisor {
    /// Does everything that can fail before the first child is started.
    pub(crate) fn open(options: Options) -> Result<Supervisor, String> {
        let Options { loaded, daemonized, renew } = options;
        // Before anything else is opened, because these descriptors have the first numbers.
        let store = Store::open()?;
        let mut system = System::open()?;
        let control = &loaded.model.daemon.control;
        let mut names = Wanted { control: Some(control.clone()), ..Wanted::default() }.make()?;
        let server = Server::at(control, &mut names, &system.poll)?;
        server.listen(true);
        let watched = system.poll.add(&system.signals, EpollFlags::EPOLLIN, Token::Signals);
        watched.map_err(|e| format!("cannot watch signals: {e}"))?;

        let origin = names.origin().map_err(|e| format!("cannot look at the folder of {}: {e}", control.display()))?;
        let mut strays = Strays::new(origin)?;
        if strays.can_look() {
            predecessor::end(strays.own(), &loaded.model, &mut system.signals)?;
        }
        let (kept, bound) = Kept::open(&loaded.model, store)?;
        let startup =
            Startup { ready: Ready::default(), has_started: false, must_start: daemonized, failed_start: None, renew };
        let mut supervisor = Supervisor {
            children: Children::new(order::needs(&loaded.model)),
            strays,
            log_pipes: LogPipes::default(),
            kept,
            changes: Changes::default(),
            startup,
            operators: Operators::new(server),
            events: Events::default(),
            hooks: Hooks::default(),
            looks: Looks::default(),
            manager: Manager::new(notify::watchdog()),
            system,
            agenda: Agenda { dirty: true, look_at: None, end: None },
            figures: Figures {
                since: Moment::now(),
                wall: Wall::new(),
                reloads: 0,
                reload_failed: None,
                places: BTreeSet::new(),
            },
            loaded,
        };
        for child in supervisor.loaded.model.children.clone() {
            let at_hand = supervisor.loaded.is_at_hand(&child);
            let (id, child) = supervisor.prepare_new(child, at_hand)?;
            supervisor.children.add(id, child);
            supervisor.step(id, Event::Await);
        }
        // Nothing fails from here on.
        supervisor.kept.sockets.keep(bound);
        // This comes before the first child can write anything.
        supervisor.kept.keep_in_store(&mut supervisor.manager);
        for lack in &supervisor.model().daemon.lacks {
            log::warn!("{lack}; until a reload, this hook does not run");
        }
        for link in supervisor.kept.store.waiting() {
            log::warn!(
                "the last supervisor left {} bytes in the link {}, which is not in the configuration: they wait until \
                 a reload configures it again",
                link.bytes,
                link.title()
            );
        }
        Ok(supervisor)
    }

    /// The loop.
    pub(crate) fn run(mut self, ready: &mut Ready) -> Result<(), String> {
        self.startup.ready = std::mem::take(ready);
        let children = counted(self.children.all().count(), "child", "children");
        let config = if self.model().file.is_some() { &*self.loaded.name } else { "the built-in configuration" };
        log::info!("supervises {children}, configured by {config}");
        self.log_places();
        let (mut events, mut given_back) = (Vec::new(), false);
        loop {
            let may_differ = self.agenda.dirty;
            while self.agenda.dirty && self.agenda.end.is_none() {
                self.agenda.dirty = false;
                self.run_hooks();
                self.advance();
            }
            if may_differ {
                self.tell_summary();
                self.kept.links.watch(&self.system.poll, Instant::now());
            }
            if let Some(wait) = self.log_pipes.flush(&self.system.poll) {
                self.agenda.look_after(wait);
            }
            if let Some(end) = self.agenda.end.take() {
                self.manager.finish(LAST_WORDS);
                *ready = std::mem::take(&mut self.startup.ready);
                return end;
            }
            if self.startup.has_started && !given_back {
                given_back = true;
                // The daemon runs for years, and needs only a tenth of the memory that the start did.
                if let Err(error) = give_back() {
                    log::debug!("cannot give back the memory that the start needed: {error}");
                }
            }
            self.run_hooks();
            self.operators.feed_readers(&self.events);
            let timeout = self.timeout();
            // A deadline counts only after all earlier events were handled, because this process
            // may be stopped anywhere here (SIGTSTP, SIGSTOP, a suspended machine) for any time.
            let now = Instant::now();
            self.system.poll.wait(&mut events, timeout).map_err(|e| format!("cannot wait for events: {e}"))?;
            for (token, flags) in events.drain(..) {
                // Events of the log and of links change nothing else.
                self.agenda.dirty |= !matches!(token, Token::Log(_) | Token::Journal | Token::Link(_));
                self.event(token, flags);
            }
            self.deadlines(now);
        }
    }

    /// The time until the nearest deadline.
    fn timeout(&self) -> Option<Duration> {
        if self.operators.has_hungry_reader() {
            return Some(Duration::ZERO);
        }
        let journal = match journal::waiting() {
            Waiting::Until(at) => Some(at),
            Waiting::Nothing | Waiting::Writable(_) => None,
        };
        let deadlines = [
            self.children.next_timer().map(|(at, _)| at),
            self.agenda.look_at,
            self.operators.deadline(),
            self.log_pipes.deadline(),
            self.manager.deadline(),
            self.looks.deadline(),
            self.hooks.deadline(),
            self.kept.links.deadline(),
            journal,
            journal::deadline(),
        ];
        deadlines.into_iter().flatten().min().map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn event(&mut self, token: Token, flags: EpollFlags) {
        match token {
            Token::Signals => self.on_signals(),
            Token::Control => self.operators.accept(),
            Token::Connection(id) => {
                if let Some(request) = self.operators.on_connection(id, flags) {
                    self.request(id, request);
                }
                self.operators.watch(id);
            }
            Token::Exec(id) => self.on_exec(id),
            Token::Log(id) => self.read_log(id, LOG_ROUND),
            Token::Notify(id) => {
                self.on_notify(id);
            }
            Token::Ready(id) => self.on_ready(id),
            Token::Look(id) => self.on_look(id),
            Token::Journal => {}
            Token::Check(id) => self.on_check(id),
            Token::Hook(id) => self.on_hook(id),
            Token::Link(queue) => self.on_link(queue, flags),
        }
    }

    fn on_signals(&mut self) {
        let all: Vec<Came> = self.system.signals.came().collect();
        let mut before = 0;
        for came in all {
            let first = std::mem::replace(&mut before, came.number) != came.number;
            match came.number {
                // Each of these counts, because the second one ends the daemon at once.
                SIGTERM | SIGINT | SIGQUIT => {
                    log::info!("{}", told(came));
                    self.asked_to_end();
                }
                _ if !first => {}
                SIGCHLD => self.reap(),
                SIGHUP => {
                    log::info!("{}", told(came));
                    self.request_reload(None);
                }
                SIGUSR1 => {
                    log::info!("{}", told(came));
                    self.reopen();
                }
                // The kernel sends it when the log is at its size limit (RLIMIT_FSIZE), for example.
                SIGXFSZ if came.sender.is_none() => {}
                // A child can have the kernel send any signal to any process that it may signal
                // (F_SETOWN, F_SETSIG: fcntl(2)).
                _ if came.sender.is_none() => log::debug!("{}: ignored", told(came)),
                _ => log::warn!("{}: ignored", told(came)),
            }
        }
    }

    fn deadlines(&mut self, now: Instant) {
        while let Some((_, id)) = self.children.next_timer().filter(|&(at, _)| at <= now) {
            self.step(id, Event::Tick);
            self.health_step(id, health::Event::Tick);
        }
        let looks = [self.agenda.look_at, self.looks.deadline()];
        self.agenda.dirty |= looks.into_iter().flatten().any(|at| at <= now);
        self.hung_looks(now);
        self.log_pipes.on_time(&mut self.children, now);
        self.manager.on_time(now);
        self.hooks.on_time(now);
        self.look_at_links(now);
        if self.agenda.look_at.is_some_and(|at| at <= now) {
            self.agenda.look_at = None;
            self.left();
        }
        self.operators.on_time(now);
    }

    /// Passes SIGUSR1 on to the children that have a handler for it, except plugins that have
    /// nothing to reopen. Returns their names, and what went wrong. A child that is just
    /// starting has no handler yet, but has not opened anything yet either.
    pub(crate) fn reopen(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut told, mut failed) = (Vec::new(), Vec::new());
        for (id, child) in self.children.iter() {
            let Some(pid) = child.machine.pid() else { continue };
            if let Program::Plugin(name) = child.config.program {
                if !plugin::find(name).is_some_and(|plugin| plugin.reopens) {
                    continue;
                }
            }
            if self.children.is_leaving(id) {
                continue;
            }
            match process::signal_if_caught(pid, Signal::SIGUSR1) {
                Ok(true) => told.push(child.config.name.clone()),
                Ok(false) => {}
                Err(error) => {
                    log::error!(target: &child.config.name, "cannot send SIGUSR1: {error}");
                    failed.push(format!("cannot send SIGUSR1 to {}: {error}", child.config.name));
                }
            }
        }
        log::info!("reopen: told {}", if told.is_empty() { "nobody".to_owned() } else { told.join(", ") });
        (told, failed)
    }

    pub(crate) fn model(&self) -> &Model {
        &self.loaded.model
    }
}

/// "SIGTERM from process 1 (systemd) of user 0".
fn told(came: Came) -> String {
    let name = process::signal_name(came.number);
    let Some(sender) = came.sender else { return name };
    let who = match Process::look(Pid::from_raw(sender.pid)) {
        _ if sender.pid == 0 => "a process of another pid namespace".to_owned(),
        Ok(Some(process)) => format!("process {} ({})", sender.pid, process.name()),
        Ok(None) | Err(_) => format!("process {}", sender.pid),
    };
    format!("{name} from {who} of user {}", sender.uid)
}
