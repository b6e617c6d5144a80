//! The loop, and what each event leads to.

use super::Options;
use crate::config::model::{Model, Program};
use crate::config::{Loaded, order};
use crate::journal::{self, Waiting};
use crate::notify;
use crate::plugin;
use crate::supervisor::change::steps::Phase;
use crate::supervisor::clock::{Moment, Wall};
use crate::supervisor::family::child::Event;
use crate::supervisor::family::children::Leaving;
use crate::supervisor::family::logs::LOG_ROUND;
use crate::supervisor::family::predecessor;
use crate::supervisor::family::strays::Strays;
use crate::supervisor::family::supervised::Supervised;
use crate::supervisor::kept::links::Links;
use crate::supervisor::kept::names::Wanted;
use crate::supervisor::kept::shared_memory::SharedMemory;
use crate::supervisor::kept::sockets::Sockets;
use crate::supervisor::kept::store::Store;
use crate::supervisor::looks::Looks;
use crate::supervisor::manager::Manager;
use crate::supervisor::operators::ready::Ready;
use crate::supervisor::operators::requests::Waiter;
use crate::supervisor::operators::server::{Interest, Server};
use crate::supervisor::poll::{Id, Poll, Token};
use crate::sys::descendants::Process;
use crate::sys::map::give_back;
use crate::sys::process;
use crate::sys::signals::{self, Came, Signals};
use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGXFSZ};
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// After EMFILE and its like, nobody is accepted for this long.
const SHORT_OF_DESCRIPTORS: Duration = Duration::from_secs(1);

/// How long the service manager may take to hear the last of it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The supervisor.
pub struct Supervisor {
    pub(crate) loaded: Loaded,
    pub(crate) needs: order::Needs,
    pub(crate) children: BTreeMap<Id, Box<Supervised>>,
    pub(crate) by_name: HashMap<String, Id>,
    pub(crate) by_pid: HashMap<Pid, Id>,
    /// Children whose process is reaped while others that it had started are not gone yet.
    pub(crate) leaving: Vec<Leaving>,
    pub(crate) strays: Strays,
    pub(crate) looks: Looks,
    pub(crate) next_id: Id,
    pub(crate) links: Links,
    pub(crate) sockets: Sockets,
    /// What instances of one child share.
    pub(crate) memory: SharedMemory,
    pub(crate) store: Store,
    pub(crate) manager: Manager,
    pub(crate) server: Server,
    pub(crate) poll: Poll,
    pub(crate) signals: Signals,
    pub(crate) null: OwnedFd,
    /// The soft limit on descriptors that programs get, as it was for this process.
    pub(crate) soft_descriptors: u64,
    pub(crate) timers: BTreeSet<(Instant, Id)>,
    /// Something changed that [`Supervisor::advance`] may have been waiting for.
    pub(crate) dirty: bool,
    /// Look again then, for what no event tells.
    pub(crate) look_at: Option<Instant>,
    pub(crate) accept_at: Option<Instant>,
    pub(crate) journal_watched: Option<BorrowedFd<'static>>,
    /// Children that wrote more to the log than is logged, not read until then.
    pub(crate) quiet: Vec<Id>,
    pub(crate) quiet_until: Option<Instant>,
    /// When a child has paused in a line.
    pub(crate) prompts_at: Option<Instant>,
    pub(crate) phase: Phase,
    pub(crate) waiters: Vec<Waiter>,
    /// The connection of the operator who asked for the reload under way.
    pub(crate) follower: Option<u32>,
    pub(crate) ready: Ready,
    /// [`Options::renew`].
    pub(crate) renew: Box<dyn FnMut()>,
    /// Each child has been up once, or is known not to be.
    pub(crate) has_started: bool,
    /// A start that fails ends it.
    pub(crate) must_start: bool,
    /// Why it ends, where a start failed that had to succeed.
    pub(crate) failed_start: Option<String>,
    pub(crate) since: Moment,
    pub(crate) wall: Wall,
    pub(crate) reloads: u64,
    /// Set at the end: what [`Supervisor::run`] returns.
    pub(crate) end: Option<Result<(), String>>,
}

impl Supervisor {
    /// Does everything that can fail before the first child is started.
    pub(crate) fn open(options: Options) -> Result<Supervisor, String> {
        let Options { loaded, daemonized, renew } = options;
        let at = |what: &'static str| move |e: std::io::Error| format!("cannot {what}: {e}");
        // Before anything else is opened: they have the first numbers.
        let store = Store::open()?;
        let soft_descriptors = process::raise_descriptor_limit().map_err(at("raise the limit on descriptors"))?;
        process::become_subreaper().map_err(at("become the subreaper"))?;
        let caught: Vec<i32> =
            [SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGCHLD].into_iter().chain(signals::accidental()).collect();
        let mut signals = Signals::catch(&caught).map_err(at("catch signals"))?;
        let null = std::fs::File::open("/dev/null").map_err(at("open /dev/null"))?.into();
        let poll = Poll::new().map_err(at("make an epoll instance"))?;
        let control = &loaded.model.daemon.control;
        let mut names = Wanted { control: Some(control.clone()), ..Wanted::default() }.make()?;
        let server = Server::at(control, &mut names, &poll)?;
        server.listen(true);
        poll.add(&signals, EpollFlags::EPOLLIN, Token::Signals).map_err(at("watch signals"))?;

        let origin = names.origin().map_err(|e| format!("cannot look at the folder of {}: {e}", control.display()))?;
        let mut strays = Strays::new(origin)?;
        if strays.can_look() {
            predecessor::end(strays.own(), &loaded.model, &mut signals)?;
        }
        let listens = || loaded.model.children.iter().flat_map(|child| &child.listen);
        let mut names = Sockets::default().wanted(listens(), &store).make()?;
        let mut bound = Sockets::default();
        for address in listens().collect::<BTreeSet<_>>() {
            if let Err(error) = bound.bind_first(address, &store, &mut names) {
                // Its child is held back, and says so.
                log::debug!("cannot listen on {address} yet: {error}");
            }
        }
        for address in store.idle(|address| listens().any(|used| used == address)) {
            log::warn!("the service manager listens on {address} for this daemon, but no child does");
        }
        let mut links = Links::default();
        let made = links.make_new(&loaded.model, &store)?;
        links.keep(made, &loaded.model);

        let mut supervisor = Supervisor {
            needs: order::needs(&loaded.model),
            children: BTreeMap::new(),
            by_name: HashMap::new(),
            by_pid: HashMap::new(),
            leaving: Vec::new(),
            looks: Looks::default(),
            strays,
            next_id: 0,
            links,
            sockets: Sockets::default(),
            memory: SharedMemory::default(),
            store,
            manager: Manager::new(notify::watchdog()),
            server,
            poll,
            signals,
            null,
            soft_descriptors,
            timers: BTreeSet::new(),
            dirty: true,
            look_at: None,
            accept_at: None,
            journal_watched: None,
            quiet: Vec::new(),
            quiet_until: None,
            prompts_at: None,
            phase: Phase::Starting,
            waiters: Vec::new(),
            follower: None,
            ready: Ready::default(),
            renew,
            has_started: false,
            must_start: daemonized,
            failed_start: None,
            since: Moment::now(),
            wall: Wall::new(),
            reloads: 0,
            end: None,
            loaded,
        };
        for child in supervisor.loaded.model.children.clone() {
            let at_hand = supervisor.loaded.is_at_hand(&child);
            let (id, child) = supervisor.prepare_new(child, at_hand)?;
            supervisor.add(id, child);
            supervisor.set_pending(id);
        }
        // Nothing fails from here on.
        supervisor.sockets.keep(bound);
        // Before the first child can write anything.
        supervisor.keep_in_store();
        for (from, to, bytes) in supervisor.store.waiting() {
            log::warn!(
                "the last supervisor left {bytes} bytes in the link {from} -> {to}, which is not in the configuration: \
                 they wait for a reload that has it again"
            );
        }
        Ok(supervisor)
    }

    /// The loop.
    pub(crate) fn run(mut self, ready: &mut Ready) -> Result<(), String> {
        self.ready = std::mem::take(ready);
        log::info!("supervises {} children, configured by {}", self.children.len(), self.loaded.name);
        let (mut events, mut given_back) = (Vec::new(), false);
        loop {
            while self.dirty && self.end.is_none() {
                self.dirty = false;
                self.advance();
            }
            self.flush_log();
            if let Some(end) = self.end.take() {
                self.manager.finish(LAST_WORDS);
                *ready = std::mem::take(&mut self.ready);
                return end;
            }
            if self.has_started && !given_back {
                given_back = true;
                // It runs for years, and does so little that a tenth of the start's memory is enough.
                if let Err(error) = give_back() {
                    log::debug!("cannot give back the memory that the start needed: {error}");
                }
            }
            let timeout = self.timeout();
            // A deadline counts once all that came before it was looked at: this process may be
            // halted at any place here (SIGTSTP, SIGSTOP, a suspended machine), for any time.
            let now = Instant::now();
            self.poll.wait(&mut events, timeout).map_err(|e| format!("cannot wait for events: {e}"))?;
            for (token, flags) in events.drain(..) {
                self.event(token, flags);
            }
            self.deadlines(now);
        }
    }

    /// Until the nearest deadline.
    fn timeout(&self) -> Option<Duration> {
        let journal = match journal::waiting() {
            Waiting::Until(at) => Some(at),
            Waiting::Nothing | Waiting::Writable(_) => None,
        };
        let child = self.timers.first().map(|&(at, _)| at);
        let deadlines =
            [child, self.look_at, self.accept_at, self.quiet_until, self.prompts_at, journal, journal::deadline()];
        let nearest = deadlines.into_iter().chain([self.manager.deadline(), self.looks.deadline()]).flatten().min();
        nearest.map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn event(&mut self, token: Token, flags: EpollFlags) {
        match token {
            Token::Signals => self.on_signals(),
            Token::Control => self.on_control(),
            Token::Connection(id) => self.on_connection(id, flags),
            Token::Exec(id) => self.on_exec(id),
            Token::Log(id) => {
                self.read_log(id, LOG_ROUND);
            }
            Token::Notify(id) => {
                self.on_notify(id);
            }
            Token::Ready(id) => self.on_ready(id),
            Token::Look(id) => self.on_look(id),
            Token::Journal => {}
        }
    }

    fn on_signals(&mut self) {
        let all: Vec<Came> = self.signals.came().collect();
        let mut before = 0;
        for came in all {
            let first = std::mem::replace(&mut before, came.number) != came.number;
            match came.number {
                // Each counts: the second one ends at once.
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
                // A log that is at a limit of its size (RLIMIT_FSIZE) is one reason for it.
                SIGXFSZ if came.sender.is_none() => {}
                // A child can have the kernel send any signal to whomever it may signal
                // (F_SETOWN, F_SETSIG: fcntl(2)).
                _ if came.sender.is_none() => log::debug!("{}: ignored", told(came)),
                _ => log::warn!("{}: ignored", told(came)),
            }
        }
    }

    fn deadlines(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                break;
            }
            self.step(id, Event::Tick);
        }
        self.hung_looks(now);
        self.listen_again(now);
        self.show_prompts(now);
        self.manager.on_time(now);
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.dirty = true;
            self.left();
        }
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept_at = None;
            self.server.listen(true);
        }
    }

    fn on_control(&mut self) {
        match self.server.accept() {
            Ok(()) => {}
            Err(error) => {
                log::error!("control: cannot accept: {error}");
                self.server.listen(false);
                self.accept_at = Some(Instant::now() + SHORT_OF_DESCRIPTORS);
            }
        }
    }

    fn on_connection(&mut self, id: u32, flags: EpollFlags) {
        match self.server.interest(id) {
            Interest::Read if flags.contains(EpollFlags::EPOLLIN) => {
                if let Some(request) = self.server.read(id) {
                    self.request(id, request);
                }
            }
            Interest::Write if flags.contains(EpollFlags::EPOLLOUT) => self.server.write(id),
            Interest::Gone => return,
            Interest::Read | Interest::Write | Interest::Answer => {
                if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                    self.server.forget(id);
                }
            }
        }
        self.rewatch_connection(id);
    }

    /// After something was said to a connection, or by it.
    pub(crate) fn rewatch_connection(&mut self, id: u32) {
        let flags = match self.server.interest(id) {
            Interest::Read => EpollFlags::EPOLLIN,
            Interest::Write => EpollFlags::EPOLLOUT,
            Interest::Answer => EpollFlags::empty(),
            Interest::Gone => return,
        };
        if let Some(stream) = self.server.stream(id) {
            if let Err(error) = stream.watch_for(flags) {
                log::error!("control: cannot watch a connection: {error}");
                self.server.forget(id);
            }
        }
    }

    pub(crate) fn set_pending(&mut self, id: Id) {
        if let Some(child) = self.children.get_mut(&id) {
            child.pending = true;
            child.held_down = false;
            child.to_stop = false;
            self.dirty = true;
        }
    }

    /// Passes SIGUSR1 on to the children that have a handler for it, but for plugins
    /// that have nothing to reopen; returns
    /// their names, and what went wrong. One that starts just now has no handler
    /// before it has opened anything.
    pub(crate) fn reopen(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut told, mut failed) = (Vec::new(), Vec::new());
        for (id, child) in &self.children {
            let Some(pid) = child.machine.pid() else { continue };
            if let Program::Plugin(name) = child.config.program {
                if !plugin::find(name).is_some_and(|plugin| plugin.reopens) {
                    continue;
                }
            }
            if self.leaving.iter().any(|leaving| leaving.id == *id) {
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

    /// Has the service manager keep sockets and links for a supervisor that
    /// comes after this one was killed.
    pub(crate) fn keep_in_store(&mut self) {
        let wanted = self.sockets.stored().chain(self.links.stored(|_| true)).collect();
        self.store.keep(&wanted, &mut self.manager);
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
