//! The loop, and what each event leads to.

use super::Options;
use super::change::Phase;
use super::child::Event;
use super::children::Leaving;
use super::links::Links;
use super::logs::LOG_ROUND;
use super::manager::Manager;
use super::poll::{Id, Poll, Token};
use super::predecessor;
use super::ready::Ready;
use super::requests::Waiter;
use super::server::{Interest, Server};
use super::sockets::Sockets;
use super::store::Store;
use super::strays::Strays;
use super::supervised::Supervised;
use crate::config::model::Model;
use crate::config::{Loaded, order};
use crate::journal::{self, Waiting};
use crate::notify;
use crate::sys::map::give_back;
use crate::sys::process;
use crate::sys::signals::Signals;
use jiff::Timestamp;
use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGIO, SIGTERM, SIGUSR1};
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
    pub(super) loaded: Loaded,
    pub(super) needs: order::Needs,
    pub(super) children: BTreeMap<Id, Box<Supervised>>,
    pub(super) by_name: HashMap<String, Id>,
    pub(super) by_pid: HashMap<Pid, Id>,
    /// Children whose process is reaped while others that it had started are not gone yet.
    pub(super) leaving: Vec<Leaving>,
    pub(super) strays: Strays,
    pub(super) next_id: Id,
    pub(super) links: Links,
    pub(super) sockets: Sockets,
    pub(super) store: Store,
    pub(super) manager: Manager,
    pub(super) server: Server,
    pub(super) poll: Poll,
    pub(super) signals: Signals,
    pub(super) null: OwnedFd,
    /// The soft limit on descriptors that programs get, as it was for this process.
    pub(super) soft_descriptors: u64,
    pub(super) timers: BTreeSet<(Instant, Id)>,
    /// Something changed that [`Supervisor::advance`] may have been waiting for.
    pub(super) dirty: bool,
    /// Look again then, for what no event tells.
    pub(super) look_at: Option<Instant>,
    pub(super) accept_at: Option<Instant>,
    pub(super) journal_watched: Option<BorrowedFd<'static>>,
    /// Children that wrote more to the log than is logged, not read until then.
    pub(super) quiet: Vec<Id>,
    pub(super) quiet_until: Option<Instant>,
    pub(super) phase: Phase,
    pub(super) waiters: Vec<Waiter>,
    /// The connection of the operator who asked for the reload under way.
    pub(super) follower: Option<u32>,
    pub(super) ready: Ready,
    /// Each child has been up once, or is known not to be.
    pub(super) has_started: bool,
    /// A start that fails ends it.
    pub(super) must_start: bool,
    /// Why it ends, where a start failed that had to succeed.
    pub(super) failed_start: Option<String>,
    pub(super) since: Timestamp,
    pub(super) reloads: u64,
    /// Set at the end: what [`Supervisor::run`] returns.
    pub(super) end: Option<Result<(), String>>,
}

impl Supervisor {
    /// Does everything that can fail before the first child is started.
    pub(super) fn open(options: Options) -> Result<Supervisor, String> {
        let Options { loaded, daemonized } = options;
        let at = |what: &'static str| move |e: std::io::Error| format!("cannot {what}: {e}");
        // Before anything else is opened: they have the first numbers.
        let store = Store::open()?;
        let soft_descriptors = process::raise_descriptor_limit().map_err(at("raise the limit on descriptors"))?;
        process::become_subreaper().map_err(at("become the subreaper"))?;
        let mut signals =
            Signals::catch(&[SIGHUP, SIGTERM, SIGINT, SIGUSR1, SIGCHLD, SIGIO]).map_err(at("catch signals"))?;
        let null = std::fs::File::open("/dev/null").map_err(at("open /dev/null"))?.into();
        let poll = Poll::new().map_err(at("make an epoll instance"))?;
        let server = Server::bind(&loaded.model.daemon.control, &poll)?;
        server.listen(true);
        poll.add(&signals, EpollFlags::EPOLLIN, Token::Signals).map_err(at("watch signals"))?;

        let mut strays = Strays::new(&loaded.model.daemon.control)?;
        if strays.can_look() {
            predecessor::end(strays.own(), &loaded.model, &mut signals)?;
        }
        let listens = loaded.model.children.iter().flat_map(|child| &child.listen);
        let bound = Sockets::default().bind_new(listens, &store)?;
        for address in store.idle(|address| bound.get(address).is_some()) {
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
            strays,
            next_id: 0,
            links,
            sockets: Sockets::default(),
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
            phase: Phase::Starting,
            waiters: Vec::new(),
            follower: None,
            ready: Ready::default(),
            has_started: false,
            must_start: daemonized,
            failed_start: None,
            since: Timestamp::now(),
            reloads: 0,
            end: None,
            loaded,
        };
        for child in supervisor.loaded.model.children.clone() {
            let (id, child) = supervisor.prepare_new(child)?;
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
    pub(super) fn run(mut self, ready: &mut Ready) -> Result<(), String> {
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
            self.poll.wait(&mut events, timeout).map_err(|e| format!("cannot wait for events: {e}"))?;
            for (token, flags) in events.drain(..) {
                self.event(token, flags);
            }
            self.deadlines();
        }
    }

    /// Until the nearest deadline.
    fn timeout(&self) -> Option<Duration> {
        let journal = match journal::waiting() {
            Waiting::Until(at) => Some(at),
            Waiting::Nothing | Waiting::Writable(_) => None,
        };
        let child = self.timers.first().map(|&(at, _)| at);
        let deadlines = [child, self.look_at, self.accept_at, self.quiet_until, journal, journal::deadline()];
        let nearest = deadlines.into_iter().chain([self.manager.deadline()]).flatten().min();
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
            Token::Notify(id) => self.on_notify(id),
            Token::Ready(id) => self.on_ready(id),
            Token::Journal => {}
        }
    }

    fn on_signals(&mut self) {
        let pending: Vec<i32> = self.signals.pending().collect();
        for signal in pending {
            match signal {
                SIGCHLD => self.reap(),
                SIGHUP => self.request_reload(None),
                SIGUSR1 => {
                    self.reopen();
                }
                // A child can have the kernel send it to whomever it may signal
                // (F_SETOWN, fcntl(2)); its default action is death.
                SIGIO => log::debug!("SIGIO: ignored"),
                _ => (0..self.signals.times(signal)).for_each(|_| self.asked_to_end()),
            }
        }
    }

    fn deadlines(&mut self) {
        let now = Instant::now();
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                break;
            }
            self.step(id, Event::Tick);
        }
        self.listen_again(now);
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
    pub(super) fn rewatch_connection(&mut self, id: u32) {
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

    pub(super) fn set_pending(&mut self, id: Id) {
        if let Some(child) = self.children.get_mut(&id) {
            child.pending = true;
            child.held_down = false;
            child.to_stop = false;
            self.dirty = true;
        }
    }

    /// Passes SIGUSR1 on to the children that have a handler for it; returns
    /// their names, and what went wrong. One that starts just now has no handler
    /// before it has opened anything.
    pub(super) fn reopen(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut told, mut failed) = (Vec::new(), Vec::new());
        for (id, child) in &self.children {
            let Some(pid) = child.machine.pid() else { continue };
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
    pub(super) fn keep_in_store(&mut self) {
        let wanted = self.sockets.stored().chain(self.links.stored(|_| true)).collect();
        self.store.keep(&wanted, &mut self.manager);
    }

    pub(super) fn model(&self) -> &Model {
        &self.loaded.model
    }
}
