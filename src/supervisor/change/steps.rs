//! What takes several steps: the first start, the end, and the phases of a
//! reload (whose own steps are in `reload`).
//!
//! Each is a phase; [`Supervisor::advance`] is called after everything that
//! happened and takes the steps that have become possible. Nothing here waits.
//!
//! | phase | goes on until | then |
//! |---|---|---|
//! | Starting | each child is up, or is known not to be | Running, READY=1 |
//! | Running | a reload, a stop | |
//! | Winding (a reload's first half) | what changes or goes is down, sources first, and links that go are empty | new links, sockets, children: the point of no return |
//! | Rising (its second half) | what changed or came is up | Running |
//! | | one of them is known not to be | GoingBack |
//! | GoingBack | names of sockets that it needs are made again | Winding, to the configuration of before |
//! | Stopping | all are down, sources first, their sinks when their input has ended | the process ends |
//!
//! Children start sinks first, by [`crate::config::order::needs`], and stop the other way round.

use crate::config::model::Model;
use crate::config::plan::Plan;
use crate::control::status::DaemonState;
use crate::notify;
use crate::supervisor::change::drain::{Bounds, Decision, Drain, Flow, Member, Progress, Step};
use crate::supervisor::change::reload::{Rising, Winding};
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::child::{Event, Ladder, Machine, State};
use crate::supervisor::poll::Id;
use crate::sys::{aside, process};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// How often to look whether a link that goes is empty: no event tells.
const LOOK: Duration = Duration::from_millis(10);
/// After EMFILE and its like, an input is opened again after this long.
const RESUME: Duration = Duration::from_secs(1);
/// What children left behind has so long to die when it is killed at the end.
const LAST_STRAYS: Duration = Duration::from_secs(1);
/// The names of Unix sockets have so long, all together, to be removed at the end, if their
/// folders are on file systems that may not answer.
const NAMES: Duration = Duration::from_secs(1);
/// Children that were killed because the time for the end is up have this long to die.
const LAST_KILL: Duration = Duration::from_secs(1);

/// Where the daemon is.
pub(crate) enum Phase {
    /// Children are started for the first time.
    Starting,
    /// As it should be.
    Running,
    /// A reload's first half: children that change or go are stopped.
    Winding(Box<Winding>),
    /// A reload's second half: children that changed or came are started.
    Rising(Box<Rising>),
    /// One of these did not come up, and what the configuration of before needs is made
    /// ready: what the plan concerns waits for that.
    GoingBack(Plan),
    /// The end.
    Stopping {
        /// It takes no longer.
        bounds: Bounds,
    },
}

/// What became of a start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Not known yet.
    Open,
    /// It serves, or has served and finished.
    Good,
    /// It doesn't, and why.
    Bad(Bad),
}

/// Why a child does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bad {
    /// It could not be started.
    NotStarted(String),
    /// It ran, and ended: how.
    Ended(String),
}

impl Bad {
    /// A sentence about that child.
    pub(crate) fn of(&self, child: &str) -> String {
        match self {
            Bad::NotStarted(why) => format!("cannot start {child}: {why}"),
            Bad::Ended(how) => format!("{child} {how}"),
        }
    }
}

impl Start {
    fn not(why: impl Into<String>) -> Start {
        Start::Bad(Bad::NotStarted(why.into()))
    }
}

impl Machine {
    /// Why it does not serve, where it has no process that may yet. One that ran was
    /// started: that it ended is what there is to say.
    fn not_up(&self) -> Bad {
        let problem = self.problem.as_deref();
        if let Some(how) = self.last_exit.map(|exit| exit.to_string()) {
            if let Some(more) = problem.map_or(Some(""), |problem| problem.strip_prefix(&how)) {
                let when = if self.served { "" } else { " before it was ready" };
                return Bad::Ended(format!("{how}{when}{more}"));
            }
        }
        let why = problem.unwrap_or("it is down");
        Bad::NotStarted(why.strip_prefix("cannot start: ").unwrap_or(why).to_owned())
    }
}

impl Supervisor {
    /// What the daemon is, in the contract's words.
    pub(crate) fn daemon_state(&self) -> DaemonState {
        match self.phase {
            Phase::Starting => DaemonState::Starting,
            Phase::Running => DaemonState::Running,
            Phase::Winding(_) | Phase::Rising(_) | Phase::GoingBack(_) => DaemonState::Reloading,
            Phase::Stopping { .. } => DaemonState::Stopping,
        }
    }

    /// Takes every step that has become possible.
    pub(crate) fn advance(&mut self) {
        if !matches!(self.phase, Phase::Winding(_) | Phase::Stopping { .. }) {
            self.resume_inputs();
        }
        match &self.phase {
            Phase::Starting => {
                self.start_pending();
                self.started();
                self.reload_next();
            }
            Phase::Running => {
                self.start_pending();
                self.reload_next();
            }
            Phase::Winding(_) => self.wind(),
            Phase::Rising(_) => {
                self.start_pending();
                self.rise();
            }
            Phase::GoingBack(_) => {}
            Phase::Stopping { bounds } => self.stop_all(*bounds),
        }
        self.stop_held();
        self.answer_waiters();
    }

    /// Opens the inputs again that a drain which came to nothing had ended. Until
    /// that is done no source of theirs can be started.
    pub(crate) fn resume_inputs(&mut self) {
        if let Err(error) = self.links.resume_input() {
            log::error!("cannot open a link's input again: {error}; trying again");
            self.look_after(RESUME);
        }
    }

    /// Starts those that wait only for what is up by now.
    fn start_pending(&mut self) {
        let able: Vec<Id> = self
            .children
            .iter()
            .filter(|(_, child)| child.pending && self.blocked_by(&child.config.name).is_none())
            .map(|(&id, _)| id)
            .collect();
        for id in able {
            self.step(id, Event::Start);
        }
    }

    /// A child that must be up before that one, and is not.
    pub(crate) fn blocked_by(&self, name: &str) -> Option<&str> {
        let needed = self.needs.get(name)?;
        needed.iter().find(|other| !self.served(other)).map(String::as_str)
    }

    /// Whether that child is up, or finished as it should.
    pub(crate) fn served(&self, name: &str) -> bool {
        self.child(name).is_none_or(|child| match child.machine.state {
            State::Up { .. } => true,
            State::Down => child.finished(),
            _ => false,
        })
    }

    pub(crate) fn child(&self, name: &str) -> Option<&crate::supervisor::family::supervised::Supervised> {
        self.by_name.get(name).and_then(|id| self.children.get(id)).map(Box::as_ref)
    }

    /// What became of the start of that child.
    pub(crate) fn start_of(&self, name: &str) -> Start {
        let Some(child) = self.child(name) else {
            return Start::not("it is no longer there");
        };
        if let Some(why) = child.stuck() {
            return Start::not(why);
        }
        if child.held_back.is_open && matches!(child.machine.state, State::Backoff { .. }) {
            return Start::Open;
        }
        let machine = &child.machine;
        let bad = || Start::Bad(machine.not_up());
        match machine.state {
            State::Up { .. } => Start::Good,
            // Killed because it was not ready in time: its time is up, whatever
            // another try comes to.
            State::Stopping { late: true, .. } | State::Stopping { ladder: Ladder::Unkillable, .. } => bad(),
            State::Starting { .. } | State::Stopping { .. } => Start::Open,
            State::Backoff { .. } | State::Failed => bad(),
            State::Down if child.pending => match self.blocked_by(name) {
                None => Start::Open,
                Some(other) => match self.start_of(other) {
                    Start::Open => Start::Open,
                    Start::Bad(_) | Start::Good => Start::not(format!("it waits for {other}, which is not up")),
                },
            },
            State::Down if child.finished() => Start::Good,
            State::Down if child.held_down => Start::not("an operator stopped it"),
            State::Down => bad(),
        }
    }

    /// Of these children, why those are not up that are not; `None`: not known yet.
    pub(crate) fn outcome_of<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Option<Vec<String>> {
        let mut bad = Vec::new();
        for name in names {
            match self.start_of(name) {
                Start::Open => return None,
                Start::Good => {}
                Start::Bad(why) => bad.push(why.of(name)),
            }
        }
        Some(bad)
    }

    fn started(&mut self) {
        let names: Vec<String> = self.by_name.keys().cloned().collect();
        let Some(mut bad) = self.outcome_of(&names) else { return };
        bad.sort();
        self.has_started = true;
        self.phase = Phase::Running;
        self.dirty = true;
        if bad.is_empty() {
            log::info!("ready");
            // Whoever started this process as a daemon knows its caller only.
            let main = if self.must_start { format!("MAINPID={}\n", std::process::id()) } else { String::new() };
            self.manager.tell(&format!("{main}READY=1\nSTATUS=all children are ready"));
            self.ready.ready();
            return;
        }
        let why = bad.join("; ");
        log::error!("not all children are up: {why}");
        if self.must_start {
            // Whoever waits for it is told when nothing of it is left.
            self.failed_start = Some(why);
            self.begin_end();
        } else {
            // What can serve does, and status says what can't: better than
            // that one child takes all others down.
            self.manager.tell(&format!("READY=1\nSTATUS={why}"));
        }
    }

    /// SIGTERM or SIGINT: the first drains, the second does not.
    pub(crate) fn asked_to_end(&mut self) {
        match self.phase {
            Phase::Stopping { .. } => self.end_at_once(),
            _ => self.begin_end(),
        }
    }

    /// Drains and ends.
    pub(crate) fn begin_end(&mut self) {
        let cut_short = match std::mem::replace(&mut self.phase, Phase::Running) {
            Phase::Winding(winding) => Some(winding.cut_short()),
            Phase::Rising(rising) => Some(rising.cut_short()),
            Phase::Starting | Phase::Running | Phase::GoingBack(_) | Phase::Stopping { .. } => None,
        };
        if let Some((waiter, said)) = cut_short {
            self.refuse(waiter, &said);
        }
        self.give_up_looks();
        // A reload may have ended inputs that now have sources again.
        self.resume_inputs();
        log::info!("stopping");
        self.manager.tell("STOPPING=1");
        if self.failed_start.is_none() {
            self.ready.failed("it was told to stop before all children were ready");
        }
        for child in self.children.values_mut() {
            child.pending = false;
            child.to_stop = false;
            child.drain = Progress::default();
        }
        self.phase = Phase::Stopping { bounds: self.bounds_from_now() };
        self.dirty = true;
        self.refuse_starts();
    }

    /// How long a drain that begins now may take.
    pub(crate) fn bounds_from_now(&self) -> Bounds {
        let longest = self.children.values().map(|child| child.config.stop_timeout).max().unwrap_or_default();
        Bounds::new(Instant::now(), self.model().daemon.stop_timeout, longest)
    }

    fn stop_all(&mut self, bounds: Bounds) {
        let all: BTreeSet<String> = self.by_name.keys().cloned().collect();
        // Who says twice that it shall end, or says it to one that is out of time,
        // does not wait for what the kernel can't end.
        let given_up = Instant::now() >= bounds.all + LAST_KILL;
        if self.wind_down(&all, None, bounds) || given_up {
            self.end_now();
        } else if Instant::now() >= bounds.all {
            self.look_after(LAST_KILL);
        }
    }

    /// Kills every child and ends, whatever waits in the links.
    pub(crate) fn end_at_once(&mut self) {
        log::warn!("ending at once");
        if !matches!(self.phase, Phase::Stopping { .. }) {
            self.begin_end();
        }
        // No drain starts anybody again.
        self.phase = Phase::Stopping { bounds: Bounds::over(Instant::now()) };
        let ids: Vec<Id> = self.children.keys().copied().collect();
        for id in ids {
            self.step(id, Event::Kill);
        }
        self.dirty = true;
    }

    /// All children are down, or can't be killed: nothing else that plumbd started
    /// stays, and what nobody took is reported.
    fn end_now(&mut self) {
        let unkillable = self.unkillable(self.by_name.keys());
        let deadline = Instant::now() + if unkillable.is_none() { LAST_STRAYS } else { Duration::ZERO };
        // Orphans become children of this process as their parents die.
        while self.strays.kill_all() {
            if Instant::now() >= deadline {
                log::error!("cannot kill everything that children have left behind");
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            while let Ok(Some(pid)) = process::next_dead() {
                if process::reap(pid).is_ok() {
                    self.strays.reaped(pid);
                }
            }
        }
        let mut lost: Vec<String> = self
            .links
            .iter()
            .map(|held| (held, self.links.queued(held)))
            .filter(|&(_, queued)| queued > 0)
            .map(|(held, queued)| (held.title(), queued))
            .map(|(link, queued)| format!("{queued} bytes in the link {link}"))
            .collect();
        for (from, to, bytes) in self.store.waiting() {
            let what = format!("in the link {from} -> {to}, which is not in the configuration");
            if notify::is_heard() {
                log::warn!("{bytes} bytes stay with the service manager {what}");
            } else {
                lost.push(format!("{bytes} bytes {what}"));
            }
        }
        let lost = (!lost.is_empty()).then(|| format!("nobody took {}", lost.join(", ")));
        let bad: Vec<String> = lost.into_iter().chain(unkillable).collect();
        let bad = (!bad.is_empty()).then(|| format!("stopped, but {}", bad.join("; ")));
        let end = match (self.failed_start.take(), bad) {
            (None, None) => {
                log::info!("stopped");
                Ok(())
            }
            (Some(failed), Some(bad)) => Err(format!("{failed}; {bad}")),
            (Some(why), None) | (None, Some(why)) => Err(why),
        };
        // If the service manager starts the next one, clients have waited for
        // it, and what nobody took is there again. Else it forgets them itself.
        self.sockets.revive_all();
        let unsaved = self.links.stored(|held| self.links.queued(held) > 0);
        self.store.keep(&self.sockets.stored_at_the_end().chain(unsaved).collect(), &mut self.manager);
        // Whoever is told that it is over may start the next one at once.
        let removing: Vec<_> = self.sockets.close().into_iter().chain(self.server.close()).collect();
        aside::wait(removing, NAMES);
        self.answer_shutdown(&end);
        self.end = Some(end);
    }

    /// Stops these children by the law of [`drain`](super::drain); whether all are done, but for
    /// those that SIGKILL does not end. Links that `new` has too stay (none does
    /// where there is no `new`).
    pub(crate) fn wind_down(&mut self, going: &BTreeSet<String>, new: Option<&Model>, bounds: Bounds) -> bool {
        let now = Instant::now();
        let ids: Vec<Id> = going.iter().filter_map(|name| self.by_name.get(name)).copied().collect();
        let decision = self.decide(&ids, new, bounds, now);
        for step in decision.steps {
            match step {
                Step::EndInput(queue) => self.links.end_input(queue),
                Step::Stop(at) => self.step(ids[at], Event::Stop),
                Step::Kill(at) => self.step(ids[at], Event::Kill),
                Step::Start(at) => {
                    self.progress_of(ids[at]).starts += 1;
                    self.step(ids[at], Event::Start);
                }
                Step::Drain(at, until) => {
                    self.progress_of(ids[at]).told = true;
                    self.step(ids[at], Event::Drain(until));
                }
            }
        }
        if decision.look {
            self.look_after(LOOK);
        }
        if let Some(at) = bounds.next(now) {
            self.look_after(at - now);
        }
        decision.done
    }

    fn progress_of(&mut self, id: Id) -> &mut Progress {
        &mut self.children.get_mut(&id).expect("a child that goes is held until it is gone").drain
    }

    /// What [`drain`](super::drain) says of these children now.
    fn decide(&self, ids: &[Id], new: Option<&Model>, bounds: Bounds, now: Instant) -> Decision {
        let name_of = |id: &Id| self.children[id].config.name.as_str();
        let places: HashMap<&str, usize> = ids.iter().map(name_of).zip(0..).collect();
        let mut flows = Vec::new();
        let mut held_flows = Vec::new();
        let mut closed = HashSet::new();
        let mut saves = HashSet::new();
        for (held, queue, goes) in self.links.flows(new) {
            if self.links.queue(held).write.is_none() {
                closed.insert(held.config.from.as_str());
            }
            let Some(&to) = places.get(held.config.to.as_str()) else { continue };
            if held.intake.is_some() {
                saves.insert(to);
            }
            flows.push(Flow { from: places.get(held.config.from.as_str()).copied(), to, queue, goes });
            held_flows.push(held);
        }
        let mut members: Vec<Member> = ids
            .iter()
            .map(|id| &self.children[id])
            .enumerate()
            .map(|(at, child)| Member {
                state: child.machine.state,
                want: child.machine.want,
                ended_well: child.machine.ended_well,
                saves: saves.contains(&at),
                over: child.is_over() || child.drain.told && child.machine.would_be_over(),
                has_output: !closed.contains(child.config.name.as_str()),
                progress: child.drain,
                before: Vec::new(),
            })
            .collect();
        for (user, needed) in &self.needs {
            let Some(&user) = places.get(user.as_str()) else { continue };
            for &other in needed.iter().filter_map(|other| places.get(other.as_str())) {
                members[other].before.push(user);
            }
        }
        let waiting = |link: usize| self.links.queued(held_flows[link]);
        Drain::new(&members, &flows, &waiting, bounds, now).decide()
    }

    /// Those of them that SIGKILL did not end, in words; nothing where there are none.
    pub(crate) fn unkillable<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Option<String> {
        // One that is reaped is dead, though what it had started may not be.
        let is_reaped = |name: &String| self.leaving.iter().any(|leaving| self.by_name.get(name) == Some(&leaving.id));
        let children = names.into_iter().filter(|name| !is_reaped(name)).filter_map(|name| self.child(name));
        let left: Vec<String> = children
            .filter_map(|child| child.killed().map(|pid| (child, pid)))
            .map(|(child, pid)| format!("cannot end {}: process {pid} does not die of SIGKILL", child.config.name))
            .collect();
        (!left.is_empty()).then(|| left.join("; "))
    }
}
