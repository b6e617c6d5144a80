//! Children's processes and what arrives from them: spawn, exec, readiness,
//! notifications, log lines, the end.

use crate::config::looked::program_of;
use crate::config::model::{Child, StopTo};
use crate::journal;
use crate::supervisor::clock::Moment;
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::beside::Purpose;
use crate::supervisor::family::child::{Action, Event, State};
use crate::supervisor::family::children::Leaving;
use crate::supervisor::family::ends::End;
use crate::supervisor::family::health;
use crate::supervisor::family::logs::LOG_REST;
use crate::supervisor::family::notify::{Message, Said};
use crate::supervisor::family::spawn::{self, Around};
use crate::supervisor::family::supervised::{Prepared, Supervised};
use crate::supervisor::poll::{Id, Token};
use crate::sys::cause::cause;
use crate::sys::descendants::Process;
use crate::sys::process::{self, Exec, Exit};
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgid, getpid, getsid};
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a dead child's next start waits for its strays after they were killed: a
/// process that the kernel can't end at the moment must not delay the start forever.
const LEAVING_MOST: Duration = Duration::from_secs(1);
/// How long it waits if more strays keep appearing: what a stray had started is seen
/// only when the stray is dead.
const LEAVING_IN_ALL: Duration = Duration::from_secs(5);
/// How often to check whether the strays are gone, because SIGCHLD may not announce it.
const LOOK_FOR_LEFT: Duration = Duration::from_millis(1);
/// How many notifications are taken from one child per round, for the same reason as `LOG_ROUND`.
const NOTIFICATIONS: usize = 64;
/// Rounds when it has ended: together more than a socket can queue (max_dgram_qlen,
/// unix(7)), unless that was raised on purpose.
const NOTIFICATION_ROUNDS: usize = 16;
/// How often to retry finding the child that sent a notification if processes above the
/// sender end meanwhile.
const LOOKS_FOR_SENDER: usize = 8;

impl Supervisor {
    /// Makes one more child, with a number of its own; `at_hand` says whether its executable
    /// is at hand. It is down, and not among the children yet.
    pub(crate) fn prepare_new(&mut self, config: Rc<Child>, at_hand: bool) -> Result<(Id, Box<Supervised>), String> {
        let id = self.children.next_id();
        let prepared = Prepared::new(config, at_hand, id, &self.system.poll, &mut self.kept.memory)?;
        Ok((id, Box::new(Supervised::new(prepared, id, &self.system.poll)?)))
    }

    /// Removes a child that is down.
    pub(crate) fn forget(&mut self, id: Id) {
        // No more than its pipe holds, because a process that it left behind may go on writing.
        self.read_log(id, LOG_REST);
        if let Some(mut child) = self.children.remove(id) {
            child.log(|lines, each| lines.finish(each));
            journal::forget(&child.config.name);
        }
    }

    /// Passes an event to a child's machine and does what the machine says.
    pub(crate) fn step(&mut self, id: Id, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let Some(child) = self.children.get_mut(id) else { return };
            let (shown, before) = (child.state(), (child.machine.state, child.machine.want));
            let (ready, exited) =
                (event == Event::Ready, child.machine.pid().filter(|_| matches!(event, Event::Exited(_))));
            let actions = child.machine.step(event, Instant::now());
            self.agenda.dirty |= before != (child.machine.state, child.machine.want);
            child.note(&mut self.events, before.0, ready, exited);
            if child.state() != shown {
                child.since = Moment::now();
                self.operators.tell_of(child);
            }
            for action in actions {
                events.extend(self.act(id, action));
            }
        }
        self.follow_health(id);
        self.children.set_timer(id);
        if self.hooks.are_behind(&self.events) {
            self.run_hooks();
        }
    }

    fn act(&mut self, id: Id, action: Action) -> Option<Event> {
        let (name, stop_to) =
            self.children.get(id).map(|child| (child.config.name.clone(), child.machine.policy.stop_to))?;
        let gone = self.children.is_leaving(id);
        match action {
            Action::Spawn => Some(self.spawn(id)),
            // Its group was already sent SIGKILL, and its process id may be reused soon.
            Action::Ask(..) | Action::Force(_) if gone => None,
            Action::Ask(pid, signal) => {
                let (whom, send): (_, fn(Pid, Signal) -> io::Result<()>) = match stop_to {
                    StopTo::Group => ("its group", process::signal_group),
                    StopTo::Leader => ("it alone", process::signal_leader),
                };
                log::debug!(target: &name, "sending {signal} to {whom}");
                for signal in process::with_continue(signal) {
                    if let Err(error) = send(pid, signal) {
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
        if let Some(held_back) = self.hold_back(id) {
            return held_back;
        }
        let alone = self.children.is_alone(id);
        let Some(child) = self.children.get_mut(id) else {
            return Event::SpawnFailed("it is gone".to_owned());
        };
        if let Err(error) = child.make_notify(id, &self.system.poll) {
            return Event::SpawnFailed(format!("cannot make a socket for its notifications: {}", cause(&error)));
        }
        let (number, mark) = self.strays.own().next(&child.config.name);
        child.number = number;
        child.says = None;
        child.has_executed = false;
        child.told_of_strangers = false;
        let around =
            Around { alone, null: &self.system.null, soft_descriptors: self.system.soft_descriptors, mark: &mark };
        let logged_before = journal::next_seq();
        let started =
            spawn::spawn(&child.config, &child.holdings, &mut self.kept.links, &mut self.kept.sockets, &around);
        self.kept.keep_renewed(&mut self.manager);
        let started = match started {
            Ok(started) => started,
            Err(error) => return Event::SpawnFailed(error.to_string()),
        };
        let pid = started.spawned.pid;
        self.children.by_pid.insert(pid, id);
        let Some(child) = self.children.get_mut(id) else {
            return Event::SpawnFailed("it is gone".to_owned());
        };
        log::debug!(target: &child.config.name, "process {pid}");
        let now = Instant::now();
        child.started = Some(now);
        child.health.started(child.config.health.watchdog, now);
        child.logged_before = logged_before;
        let exec = self.system.poll.watch(started.spawned.status, EpollFlags::EPOLLIN, Token::Exec(id));
        let ready = started.ready.map(|ready| self.system.poll.watch(ready, EpollFlags::EPOLLIN, Token::Ready(id)));
        match (exec, ready.transpose()) {
            (Ok(exec), Ok(ready)) => (child.exec, child.ready) = (Some(exec), ready),
            (Err(error), _) | (_, Err(error)) => {
                // We could never see whether it serves, so it is killed now instead of
                // when its time is up.
                log::error!(target: &child.config.name, "cannot watch its start: {error}; killed");
                if let Err(error) = process::signal_group(pid, Signal::SIGKILL) {
                    log::error!(target: &child.config.name, "cannot kill it: {error}");
                }
            }
        }
        Event::Spawned(pid)
    }

    pub(crate) fn on_exec(&mut self, id: Id) {
        let Some(child) = self.children.get_mut(id) else { return };
        let Some(status) = &child.exec else { return };
        let killed = || child.machine.pid().is_some_and(|pid| !process::has_executed(pid));
        let event = match process::outcome(&**status, program_of(&child.config)) {
            Ok(Exec::Pending) => return,
            Ok(Exec::Done) if killed() => Event::ExecFailed("it was killed before it executed its program".to_owned()),
            Ok(Exec::Done) => Event::Executed,
            Ok(Exec::Failed(why)) => Event::ExecFailed(why),
            Err(error) => Event::ExecFailed(error.to_string()),
        };
        child.exec = None;
        child.has_executed = event == Event::Executed;
        self.step(id, event);
    }

    pub(crate) fn on_ready(&mut self, id: Id) {
        let Some(child) = self.children.get_mut(id) else { return };
        let Some(ready) = &child.ready else { return };
        let mut bytes = [0u8; 64];
        let said = match nix::unistd::read(&**ready, &mut bytes) {
            Ok(0) => false,
            Ok(n) if bytes[..n].contains(&b'\n') => true,
            Ok(_) | Err(_) => return,
        };
        // If it was closed without a newline, its deadline decides.
        child.ready = None;
        if said {
            self.step(id, Event::Ready);
        }
    }

    /// Receives a child's notifications. Returns whether there may be more.
    pub(crate) fn on_notify(&mut self, id: Id) -> bool {
        for _ in 0..NOTIFICATIONS {
            let Some(child) = self.children.get(id) else { return false };
            let Some(socket) = &child.holdings.notify else { return false };
            match socket.receive() {
                Ok(Some(message)) => self.notified(id, message),
                Ok(None) => return false,
                Err(error) => {
                    log::error!(target: &child.config.name, "cannot take its notification: {error}");
                    return false;
                }
            }
        }
        true
    }

    fn notified(&mut self, id: Id, message: Message) {
        let is_own = self.is_from(id, message.pid, message.uid);
        let Some(child) = self.children.get_mut(id) else { return };
        if !is_own {
            // Logged once per start, because anybody can find the socket's name.
            if !std::mem::replace(&mut child.told_of_strangers, true) {
                log::warn!(target: &child.config.name, "ignoring a notification from process {}, which is not one of its own", message.pid);
            }
            return;
        }
        for said in message.said {
            match said {
                // A check says when it is ready.
                Said::Ready if self.is_ready_by_health(id) => {}
                Said::Ready => self.step(id, Event::Ready),
                Said::Alive => self.health_step(id, health::Event::Alive),
                Said::Broken => self.health_step(id, health::Event::Broken),
                Said::Extend(by) => self.step(id, Event::Extend(by)),
                Said::Problem(problem) => {
                    if let Some(child) = self.children.get_mut(id) {
                        child.says = problem;
                        child.note_problem(&mut self.events);
                    }
                }
                Said::Store => {
                    if let Some(child) = self.children.get(id) {
                        log::debug!(target: &child.config.name, "closing the descriptors that it wants to have kept (FDSTORE=1)");
                    }
                }
            }
        }
    }

    /// Whether a notification comes from a process of that child: one in its group or
    /// session, one below it, or one that it started and that has left all of these. If the
    /// sender is gone, only its user is known. Because systemd-notify(1) ends at once, it is
    /// enough if that is the child's user or root.
    fn is_from(&mut self, id: Id, pid: i32, uid: u32) -> bool {
        let Some(child) = self.children.get(id) else { return false };
        let Some(own) = child.machine.pid() else { return false };
        let number = child.number;
        let is_user = |this: &Supervisor| this.children.get(id).is_some_and(|child| child.is_user(uid));
        // 0 means that the sender is outside of this pid namespace, so no child started it.
        if pid == 0 {
            return false;
        }
        let sender = Pid::from_raw(pid);
        for _ in 0..LOOKS_FOR_SENDER {
            match self.has_started(number, own, sender) {
                Ok(Some(yes)) => return yes,
                // A process between the two has ended, so the sender has another parent now.
                Ok(None) if matches!(has_ended(sender), Ok(false)) => {}
                Ok(None) => return is_user(self),
                Err(error) => {
                    let name = self.children.get(id).map_or("plumbd", |child| child.config.name.as_str());
                    log::warn!(target: name, "cannot look at process {pid}, which sent a notification: {error}");
                    return is_user(self);
                }
            }
        }
        false
    }

    /// Whether that process belongs to the child with that start number and own process;
    /// `None`: it, or one above it, is gone.
    fn has_started(&mut self, number: u64, own: Pid, sender: Pid) -> io::Result<Option<bool>> {
        // These checks work without /proc.
        if sender == own || getpgid(Some(sender)) == Ok(own) || getsid(Some(sender)) == Ok(own) {
            return Ok(Some(true));
        }
        let mut next = sender;
        loop {
            let Some(process) = Process::look(next)? else { return Ok(None) };
            if [process.pid, process.group, process.session].contains(&own) {
                return Ok(Some(true));
            }
            if process.parent == getpid() {
                let is_own = self.strays.is_orphan_of(&process, number, &self.children)?;
                // The environment of a process can't be read once it has ended.
                return Ok((is_own || !has_ended(next)?).then_some(is_own));
            }
            // The first process, or one whose parent is in another pid namespace.
            if process.parent.as_raw() <= 1 {
                return Ok(Some(false));
            }
            next = process.parent;
        }
    }

    /// Reaps every dead process: children, and orphans below them.
    pub(crate) fn reap(&mut self) {
        let mut has_left = false;
        loop {
            match process::next_dead() {
                Ok(Some(pid)) => has_left |= self.reap_one(pid),
                Ok(None) => break,
                Err(error) => {
                    log::error!("cannot wait for children: {error}");
                    break;
                }
            }
        }
        if has_left && self.children.leaving.is_empty() {
            // A check or a hook leaves nothing behind. Nothing waits for that.
            self.strays.kill_left(&self.children);
        }
        self.left();
    }

    /// Returns whether what it had started may be a stray now.
    fn reap_one(&mut self, pid: Pid) -> bool {
        if let Some((purpose, _)) = self.children.beside.remove(&pid) {
            match purpose {
                Purpose::Check(id) => self.reap_check(pid, id),
                Purpose::Hook(id) => self.reap_hook(pid, id),
            }
            return true;
        }
        let id = self.children.by_pid.remove(&pid);
        if let Some(id) = id {
            self.end_check(id);
            // Whether it has executed can be checked only until it is reaped.
            self.on_exec(id);
            // What it left in its group is killed too. Its process id can't be
            // reused until it is reaped, so no other group can be hit.
            let _none_left = process::signal_group(pid, Signal::SIGKILL);
        }
        let reaped = process::reap(pid);
        let mut was_stray = false;
        if matches!(reaped, Ok(Some(_))) {
            was_stray = self.strays.reaped(pid);
            self.looks.reaped(pid);
        }
        match (reaped, id) {
            (Ok(Some(exit)), Some(id)) => {
                let child = self.children.get(id);
                // Before its next start, and even if there is none.
                child.inspect(|child| child.clear_shared());
                let number = child.map_or(0, |child| child.number);
                let now = Instant::now();
                let (until, last) = (now + LEAVING_MOST, now + LEAVING_IN_ALL);
                self.children.leaving.push(Leaving { id, group: pid, number, exit, until, last });
            }
            (Ok(Some(exit)), None) => log::debug!("reaped orphan {pid}, which {exit}"),
            (Ok(None), _) => {}
            (Err(error), _) => log::error!("cannot reap process {pid}: {error}"),
        }
        was_stray
    }

    /// Reports the end of children once nothing is left of what they had started: before
    /// that, a replacement would find in use what its predecessor still holds.
    pub(crate) fn left(&mut self) {
        if self.children.leaving.is_empty() {
            return;
        }
        let strays = self.strays.kill_left(&self.children);
        let now = Instant::now();
        let mut place = 0;
        let mut unclear = BTreeSet::new();
        while let Some(leaving) = self.children.leaving.get_mut(place) {
            let has_strays = strays.is_of(leaving.number);
            if has_strays && strays.is_new(leaving.number) {
                leaving.until = (now + LEAVING_MOST).min(leaving.last);
            }
            let some_left = has_strays || process::group_exists(leaving.group);
            if some_left && now < leaving.until {
                place += 1;
                continue;
            }
            // While it still counts as leaving, so that nothing is sent to a number that may be
            // another process's by now.
            let id = leaving.id;
            self.last_words(id);
            let Leaving { group, number, exit, .. } = self.children.leaving.remove(place);
            if some_left {
                self.tell_of_left(id, group, &strays.of(number));
                self.strays.give_up(&strays.of(number));
                unclear.extend(strays.unclear());
            }
            self.on_exit(id, exit);
        }
        self.strays.give_up_unclear(unclear.iter().copied());
        for pid in unclear {
            let within = LEAVING_MOST.as_secs();
            log::warn!(
                "cannot tell within {within} s which child has left process {pid} behind; no longer waiting for it"
            );
        }
        if !self.children.leaving.is_empty() {
            self.agenda.look_after(LOOK_FOR_LEFT);
        }
    }

    fn tell_of_left(&self, id: Id, group: Pid, strays: &[Pid]) {
        if strays.is_empty() && !process::group_exists(group) {
            return;
        }
        let Some(child) = self.children.get(id) else { return };
        let pids: Vec<String> = strays.iter().map(ToString::to_string).collect();
        let which = if pids.is_empty() { "its group".to_owned() } else { format!("process {}", pids.join(", ")) };
        let within = LEAVING_MOST.as_secs();
        log::error!(target: &child.config.name, "what it had started ({which}) did not end within {within} s of SIGKILL; no longer waiting for it");
    }

    /// What it still had to say, such as why it could not start.
    fn last_words(&mut self, id: Id) {
        self.on_exec(id);
        // All notifications, because those of the next start arrive on the same socket.
        for _ in 0..NOTIFICATION_ROUNDS {
            if !self.on_notify(id) {
                break;
            }
        }
    }

    fn on_exit(&mut self, id: Id, exit: Exit) {
        self.read_log(id, LOG_REST);
        let Some(child) = self.children.get_mut(id) else { return };
        child.prompt_at = None;
        child.log(|lines, each| lines.finish(each));
        let line = journal::last_line(&child.config.name, child.logged_before);
        let at = Moment::now();
        child.ended = Some(at);
        let ran = child.started.map(|started| started.elapsed()).unwrap_or_default();
        // One that ended by itself may still have a problem of the process before it.
        let was_ended = matches!(child.machine.state, State::Stopping { late: true, .. }) || !child.has_executed;
        let reason = child.says.clone().or_else(|| child.machine.problem.clone().filter(|_| was_ended));
        (child.exec, child.ready) = (None, None);
        // So that clients can wait from now on, not only from its next start.
        for address in &Rc::clone(&child.config).listen {
            if let Err(error) = self.kept.sockets.revive(address) {
                log::warn!("cannot listen on {address}: {}", cause(&error));
            }
        }
        self.kept.keep_renewed(&mut self.manager);
        self.step(id, Event::Wrote(line.clone()));
        if let Some(child) = self.children.get_mut(id) {
            child.says = None;
        }
        self.step(id, Event::Exited(exit));
        if let Some(child) = self.children.get_mut(id) {
            let asked = child.machine.asked;
            child.last_ends.push(End { exit, at, ran, asked, reason, last_line: line });
        }
    }
}

/// Whether a process has ended, reaped or not.
fn has_ended(pid: Pid) -> io::Result<bool> {
    Ok(Process::look(pid)?.is_none_or(|process| process.is_dead()))
}
