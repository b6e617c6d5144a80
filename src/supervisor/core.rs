//! The loop, and what each event leads to.

use super::Options;
use super::change::Phase;
use super::child::{Action, Event};
use super::links::Links;
use super::notify::Said;
use super::poll::{Id, Poll, Token};
use super::ready::Ready;
use super::requests::Waiter;
use super::server::{Interest, Server};
use super::sockets::Sockets;
use super::spawn;
use super::supervised::Supervised;
use crate::config::model::{Child, Model};
use crate::config::{Loaded, order};
use crate::journal::{self, Waiting};
use crate::sys::process::{self, Exec, Exit};
use crate::sys::signals::Signals;
use jiff::Timestamp;
use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// After EMFILE and its like, nobody is accepted for this long.
const SHORT_OF_DESCRIPTORS: Duration = Duration::from_secs(1);
/// A child that is dead waits no longer than this for the rest of its group,
/// which was killed: a process that the kernel can't end just now holds it up.
const REST_OF_GROUP: Duration = Duration::from_secs(1);
/// How often to look whether it is gone, where no SIGCHLD tells.
const LOOK_FOR_GROUP: Duration = Duration::from_millis(1);
/// Notifications from one child a round, for the same reason as [`LOG_READ`].
const NOTIFICATIONS: usize = 64;
/// From one child's log pipe a round, so that one that writes without end
/// keeps nobody waiting.
const LOG_READ: usize = 64 * 1024;

/// The supervisor.
pub struct Supervisor {
    pub(super) loaded: Loaded,
    pub(super) needs: order::Needs,
    pub(super) children: BTreeMap<Id, Supervised>,
    pub(super) by_name: HashMap<String, Id>,
    by_pid: HashMap<Pid, Id>,
    /// Children whose process is reaped while others of its group are not gone yet.
    leaving: Vec<Leaving>,
    next_id: Id,
    pub(super) links: Links,
    pub(super) sockets: Sockets,
    pub(super) server: Server,
    pub(super) poll: Poll,
    signals: Signals,
    null: OwnedFd,
    /// The soft limit on descriptors that programs get, as it was for this process.
    soft_descriptors: u64,
    timers: BTreeSet<(Instant, Id)>,
    /// Something changed that [`Supervisor::advance`] may have been waiting for.
    pub(super) dirty: bool,
    /// Look again then, for what no event tells.
    pub(super) look_at: Option<Instant>,
    accept_at: Option<Instant>,
    journal_watched: Option<BorrowedFd<'static>>,
    log_paused: bool,
    pub(super) phase: Phase,
    pub(super) waiters: Vec<Waiter>,
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

/// A child whose process is reaped, and its number so no longer its own.
struct Leaving {
    id: Id,
    group: Pid,
    exit: Exit,
    until: Instant,
}

impl Supervisor {
    /// Does everything that can fail before the first child is started.
    pub(super) fn open(options: Options) -> Result<Supervisor, String> {
        let Options { loaded, daemonized } = options;
        let at = |what: &'static str| move |e: std::io::Error| format!("cannot {what}: {e}");
        let soft_descriptors = process::raise_descriptor_limit().map_err(at("raise the limit on descriptors"))?;
        process::become_subreaper().map_err(at("become the subreaper"))?;
        let signals = Signals::catch(&[SIGHUP, SIGTERM, SIGINT, SIGUSR1, SIGCHLD]).map_err(at("catch signals"))?;
        let null = std::fs::File::open("/dev/null").map_err(at("open /dev/null"))?.into();
        let poll = Poll::new().map_err(at("make an epoll instance"))?;
        let server = Server::bind(&loaded.model.daemon.control)?;
        poll.add(&signals, EpollFlags::EPOLLIN, Token::Signals).map_err(at("watch signals"))?;
        poll.add(&server, EpollFlags::EPOLLIN, Token::Control).map_err(at("watch the control socket"))?;

        let mut sockets = Sockets::default();
        let bound = sockets.bind_new(loaded.model.children.iter().flat_map(|child| &child.listen))?;
        sockets.keep(bound);
        let mut links = Links::default();
        let made = links.make_new(&loaded.model)?;
        links.keep(made, &loaded.model);

        let mut supervisor = Supervisor {
            needs: order::needs(&loaded.model),
            children: BTreeMap::new(),
            by_name: HashMap::new(),
            by_pid: HashMap::new(),
            leaving: Vec::new(),
            next_id: 0,
            links,
            sockets,
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
            log_paused: false,
            phase: Phase::Starting,
            waiters: Vec::new(),
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
            let id = supervisor.add(child)?;
            supervisor.set_pending(id);
        }
        Ok(supervisor)
    }

    /// The loop.
    pub(super) fn run(mut self, ready: Ready) -> Result<(), String> {
        self.ready = ready;
        log::info!("supervises {} children, configured by {}", self.children.len(), self.loaded.name);
        let mut events = Vec::new();
        loop {
            while self.dirty && self.end.is_none() {
                self.dirty = false;
                self.advance();
            }
            self.flush_log();
            if let Some(end) = self.end.take() {
                return end;
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
        let nearest = [child, self.look_at, self.accept_at, journal].into_iter().flatten().min();
        nearest.map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn event(&mut self, token: Token, flags: EpollFlags) {
        match token {
            Token::Signals => self.on_signals(),
            Token::Control => self.on_control(),
            Token::Connection(id) => self.on_connection(id, flags),
            Token::Exec(id) => self.on_exec(id),
            Token::Log(id) => {
                self.read_log(id, LOG_READ);
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
                _ => self.asked_to_end(),
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
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.dirty = true;
            self.left();
        }
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept_at = None;
            if let Err(error) = self.poll.add(&self.server, EpollFlags::EPOLLIN, Token::Control) {
                log::error!("cannot watch the control socket: {error}");
                self.accept_at = Some(now + SHORT_OF_DESCRIPTORS);
            }
        }
    }

    /// Holds one more child; it is down.
    pub(super) fn add(&mut self, config: Child) -> Result<Id, String> {
        let child = Supervised::new(config)?;
        let id = self.next_id;
        self.next_id += 1;
        self.watch(&child, id).map_err(|e| format!("cannot watch child \"{}\": {e}", child.config.name))?;
        self.by_name.insert(child.config.name.clone(), id);
        self.children.insert(id, child);
        Ok(id)
    }

    fn watch(&self, child: &Supervised, id: Id) -> std::io::Result<()> {
        self.poll.add(&child.holdings.log.read, self.log_flags(), Token::Log(id))?;
        if let Some(socket) = &child.holdings.notify {
            self.poll.add(socket, EpollFlags::EPOLLIN, Token::Notify(id))?;
        }
        Ok(())
    }

    fn unwatch(&self, child: &Supervised) {
        self.poll.remove(&child.holdings.log.read);
        if let Some(socket) = &child.holdings.notify {
            self.poll.remove(socket);
        }
    }

    /// Takes over a child's new part.
    pub(super) fn reconfigure(&mut self, id: Id, config: Child) -> Result<(), String> {
        let Some(mut child) = self.children.remove(&id) else { return Ok(()) };
        self.unwatch(&child);
        let changed = child.change(config);
        let watched = self.watch(&child, id).map_err(|e| format!("cannot watch child \"{}\": {e}", child.config.name));
        self.children.insert(id, child);
        changed.and(watched)
    }

    /// Lets go of a child that is down.
    pub(super) fn forget(&mut self, id: Id) {
        // As much as its pipe holds; somebody that it left behind may go on writing.
        self.read_log(id, LOG_READ);
        if let Some(child) = self.children.remove(&id) {
            self.unwatch(&child);
            self.by_name.remove(&child.config.name);
            if let Some(at) = child.timer {
                self.timers.remove(&(at, id));
            }
        }
    }

    /// One step of a child's machine, and what it says is to be done.
    pub(super) fn step(&mut self, id: Id, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let Some(child) = self.children.get_mut(&id) else { return };
            let before = child.machine.state;
            let actions = child.machine.step(event, Instant::now());
            if std::mem::discriminant(&before) != std::mem::discriminant(&child.machine.state) {
                child.since = Timestamp::now();
                self.dirty = true;
            }
            for action in actions {
                events.extend(self.act(id, action));
            }
        }
        let Some(child) = self.children.get_mut(&id) else { return };
        let deadline = child.machine.deadline();
        if deadline != child.timer {
            if let Some(at) = child.timer {
                self.timers.remove(&(at, id));
            }
            if let Some(at) = deadline {
                self.timers.insert((at, id));
            }
            child.timer = deadline;
        }
    }

    fn act(&mut self, id: Id, action: Action) -> Option<Event> {
        let name = self.children.get(&id).map(|child| child.config.name.clone())?;
        let gone = self.leaving.iter().any(|leaving| leaving.id == id);
        match action {
            Action::Spawn => Some(self.spawn(id)),
            // Its group was sent SIGKILL, and its number may be another's soon.
            Action::Ask(..) | Action::Force(_) if gone => None,
            Action::Ask(pid, signal) => {
                log::debug!(target: &name, "sending {signal} to its group");
                for signal in [signal, Signal::SIGCONT] {
                    if let Err(error) = process::signal_group(pid, signal) {
                        log::error!(target: &name, "cannot send {signal}: {error}");
                    }
                }
                None
            }
            Action::Force(pid) => {
                if let Err(error) = process::signal_group(pid, Signal::SIGKILL) {
                    log::error!(target: &name, "cannot kill it: {error}");
                }
                None
            }
            Action::Say(level, text) => {
                log::log!(target: &name, level, "{text}");
                None
            }
        }
    }

    fn spawn(&mut self, id: Id) -> Event {
        let Some(child) = self.children.get_mut(&id) else {
            return Event::SpawnFailed("it is gone".to_owned());
        };
        child.pending = false;
        child.says = None;
        child.told_of_strangers = false;
        let started =
            spawn::spawn(&child.config, &child.holdings, &self.links, &self.sockets, &self.null, self.soft_descriptors);
        let started = match started {
            Ok(started) => started,
            Err(error) => return Event::SpawnFailed(error.to_string()),
        };
        let pid = started.spawned.pid;
        log::debug!(target: &child.config.name, "process {pid}");
        self.by_pid.insert(pid, id);
        child.started = Some(Instant::now());
        let mut watched = self.poll.add(&started.spawned.status, EpollFlags::EPOLLIN, Token::Exec(id));
        child.exec = Some(started.spawned.status);
        if let Some(ready) = started.ready {
            watched = watched.and(self.poll.add(&ready, EpollFlags::EPOLLIN, Token::Ready(id)));
            child.ready = Some(ready);
        }
        if let Err(error) = watched {
            // It runs all the same; its readiness can't be seen, so its
            // deadline will end it.
            log::error!(target: &child.config.name, "cannot watch its start: {error}");
        }
        Event::Spawned(pid)
    }

    fn on_exec(&mut self, id: Id) {
        let Some(child) = self.children.get_mut(&id) else { return };
        let Some(status) = &child.exec else { return };
        let event = match process::outcome(status) {
            Ok(Exec::Pending) => return,
            Ok(Exec::Done) => Event::Executed,
            Ok(Exec::Failed(why)) => Event::ExecFailed(why),
            Err(error) => Event::ExecFailed(error.to_string()),
        };
        self.poll.remove(status);
        child.exec = None;
        self.step(id, event);
    }

    fn on_ready(&mut self, id: Id) {
        let Some(child) = self.children.get_mut(&id) else { return };
        let Some(ready) = &child.ready else { return };
        let mut bytes = [0u8; 64];
        let said = match nix::unistd::read(ready, &mut bytes) {
            Ok(0) => false,
            Ok(n) if bytes[..n].contains(&b'\n') => true,
            Ok(_) | Err(_) => return,
        };
        // Said, or closed without a word: then its deadline decides.
        self.poll.remove(ready);
        child.ready = None;
        if said {
            self.step(id, Event::Ready);
        }
    }

    fn on_notify(&mut self, id: Id) {
        let Some(child) = self.children.get_mut(&id) else { return };
        let mut said = Vec::new();
        for _ in 0..NOTIFICATIONS {
            let Some(socket) = &child.holdings.notify else { break };
            match socket.receive() {
                Ok(Some(message)) if is_from(child, message.pid, message.uid) => said.extend(message.said),
                Ok(Some(message)) if !child.told_of_strangers => {
                    // Once a start: the socket's name is no secret.
                    child.told_of_strangers = true;
                    log::warn!(target: &child.config.name, "a notification of process {} is not its own: passed over", message.pid);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    log::error!(target: &child.config.name, "cannot take its notification: {error}");
                    break;
                }
            }
        }
        for said in said {
            match said {
                Said::Ready => self.step(id, Event::Ready),
                Said::Extend(by) => {
                    self.step(id, Event::Extend(by));
                    // It may be late enough by now for those who wait for it.
                    self.dirty = true;
                }
                Said::Problem(problem) => {
                    if let Some(child) = self.children.get_mut(&id) {
                        child.says = problem;
                    }
                }
            }
        }
    }

    /// Logs up to `most` bytes of what a child wrote.
    fn read_log(&mut self, id: Id, most: usize) {
        let Some(child) = self.children.get_mut(&id) else { return };
        let mut bytes = [0u8; 16 * 1024];
        let mut left = most;
        while left > 0 {
            let want = left.min(bytes.len());
            match nix::unistd::read(&child.holdings.log.read, &mut bytes[..want]) {
                Ok(n) if n > 0 => {
                    let name = &child.config.name;
                    child.lines.feed(&bytes[..n], |line| journal::child_line(name, line));
                    left -= n;
                }
                Err(nix::errno::Errno::EINTR) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Reaps every dead process: children, and orphans below them.
    fn reap(&mut self) {
        loop {
            match process::next_dead() {
                Ok(Some(pid)) => self.reap_one(pid),
                Ok(None) => break,
                Err(error) => {
                    log::error!("cannot wait for children: {error}");
                    break;
                }
            }
        }
        self.left();
    }

    fn reap_one(&mut self, pid: Pid) {
        let id = self.by_pid.remove(&pid);
        if id.is_some() {
            // What it left in its group goes with it. Its number is its
            // own until it is reaped, so no other group can be hit.
            let _none_left = process::signal_group(pid, Signal::SIGKILL);
        }
        match (process::reap(pid), id) {
            (Ok(Some(exit)), Some(id)) => {
                self.leaving.push(Leaving { id, group: pid, exit, until: Instant::now() + REST_OF_GROUP });
            }
            (Ok(Some(exit)), None) => log::debug!("reaped orphan {pid}, which {exit}"),
            (Ok(None), _) => {}
            (Err(error), _) => log::error!("cannot reap process {pid}: {error}"),
        }
    }

    /// Children of whose group nobody is left have ended: before that, a
    /// replacement would meet what its predecessor still holds.
    fn left(&mut self) {
        let now = Instant::now();
        let mut place = 0;
        while let Some(leaving) = self.leaving.get(place) {
            if process::group_exists(leaving.group) && now < leaving.until {
                place += 1;
                continue;
            }
            let Leaving { id, exit, .. } = self.leaving.remove(place);
            self.on_exit(id, exit);
        }
        if !self.leaving.is_empty() {
            self.look_after(LOOK_FOR_GROUP);
        }
    }

    /// Has the loop look again after that time, or sooner.
    pub(super) fn look_after(&mut self, time: Duration) {
        let at = Instant::now() + time;
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }

    fn on_exit(&mut self, id: Id, exit: Exit) {
        // Its last words, why it could not start among them, come first.
        self.on_exec(id);
        self.on_notify(id);
        self.read_log(id, LOG_READ);
        let Some(child) = self.children.get_mut(&id) else { return };
        let name = &child.config.name;
        child.lines.finish(|line| journal::child_line(name, line));
        child.ended = Some(Timestamp::now());
        child.says = None;
        for fd in [child.exec.take(), child.ready.take()].into_iter().flatten() {
            self.poll.remove(&fd);
        }
        self.dirty = true;
        self.step(id, Event::Exited(exit));
    }

    fn on_control(&mut self) {
        match self.server.accept() {
            Ok(Some(id)) => self.watch_connection(id),
            Ok(None) => {}
            Err(error) => {
                log::error!("control: cannot accept: {error}");
                self.poll.remove(&self.server);
                self.accept_at = Some(Instant::now() + SHORT_OF_DESCRIPTORS);
            }
        }
    }

    fn watch_connection(&mut self, id: u32) {
        let Some(stream) = self.server.stream(id) else { return };
        if let Err(error) = self.poll.add(stream, EpollFlags::EPOLLIN, Token::Connection(id)) {
            log::error!("control: cannot watch a connection: {error}");
            self.server.forget(id);
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
            if let Err(error) = self.poll.change(stream, flags, Token::Connection(id)) {
                log::error!("control: cannot watch a connection: {error}");
                self.server.forget(id);
            }
        }
    }

    /// Writes what the log's output takes. While it takes nothing, children's
    /// lines wait in their pipes.
    fn flush_log(&mut self) {
        let waiting = journal::flush();
        match (&waiting, self.journal_watched) {
            (Waiting::Writable(fd), None) => {
                if self.poll.add(fd, EpollFlags::EPOLLOUT, Token::Journal).is_ok() {
                    self.journal_watched = Some(*fd);
                } else {
                    self.look_after(SHORT_OF_DESCRIPTORS);
                }
            }
            (Waiting::Nothing | Waiting::Until(_), Some(fd)) => {
                self.poll.remove(fd);
                self.journal_watched = None;
            }
            (Waiting::Writable(_), Some(_)) | (Waiting::Nothing | Waiting::Until(_), None) => {}
        }
        let pause = !matches!(waiting, Waiting::Nothing);
        if pause != self.log_paused {
            self.log_paused = pause;
            let flags = self.log_flags();
            for (&id, child) in &self.children {
                if let Err(error) = self.poll.change(&child.holdings.log.read, flags, Token::Log(id)) {
                    log::error!(target: &child.config.name, "cannot watch its log pipe: {error}");
                }
            }
        }
    }

    fn log_flags(&self) -> EpollFlags {
        if self.log_paused { EpollFlags::empty() } else { EpollFlags::EPOLLIN }
    }

    pub(super) fn set_pending(&mut self, id: Id) {
        if let Some(child) = self.children.get_mut(&id) {
            child.pending = true;
            child.held_down = false;
            self.dirty = true;
        }
    }

    /// Passes SIGUSR1 on to the children that have a handler for it; returns
    /// their names.
    pub(super) fn reopen(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        for (id, child) in &self.children {
            let Some(pid) = child.machine.pid() else { continue };
            if self.leaving.iter().any(|leaving| leaving.id == *id) {
                continue;
            }
            match process::signal_if_caught(pid, Signal::SIGUSR1) {
                Ok(true) => told.push(child.config.name.clone()),
                Ok(false) => {}
                Err(error) => log::error!(target: &child.config.name, "cannot send SIGUSR1: {error}"),
            }
        }
        log::info!("reopen: told {}", if told.is_empty() { "nobody".to_owned() } else { told.join(", ") });
        told
    }

    pub(super) fn model(&self) -> &Model {
        &self.loaded.model
    }
}

/// Whether a notification comes from that child: from its process or its
/// group, or, where the sender is gone already, at least from its user.
fn is_from(child: &Supervised, pid: i32, uid: u32) -> bool {
    let Some(own) = child.machine.pid() else { return false };
    let own_user = child.config.user.as_ref().map_or(nix::unistd::geteuid().as_raw(), |who| who.uid);
    match nix::unistd::getpgid(Some(Pid::from_raw(pid))) {
        Ok(group) => pid == own.as_raw() || group == own,
        Err(_) => uid == own_user || uid == 0,
    }
}
