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
use crate::supervisor::family::child::Event;
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
        if let Err(error) = self.kept.links.resume_input() {
            log::error!("cannot open a link's input again: {error}; trying again");
            self.agenda.look_after(RESUME);
        }
    }

    /// Starts those that wait only for what is up.
    fn start_pending(&mut self) {
        for id in self.children.startable() {
            self.step(id, Event::Start);
        }
    }

    fn started(&mut self) {
        let names: Vec<String> = self.children.by_name.keys().cloned().collect();
        let Some(mut bad) = self.children.outcome_of(&names) else { return };
        bad.sort();
        self.startup.has_started = true;
        self.phase = Phase::Running;
        self.agenda.dirty = true;
        if bad.is_empty() {
            log::info!("ready");
            // Whoever started this process as a daemon knows its caller only.
            let main =
                if self.startup.must_start { format!("MAINPID={}\n", std::process::id()) } else { String::new() };
            self.manager.tell(&format!("{main}READY=1\nSTATUS=all children are ready"));
            self.startup.ready.ready();
            return;
        }
        let why = bad.join("; ");
        log::error!("not all children are up: {why}");
        if self.startup.must_start {
            // Whoever waits for it is told when nothing of it is left.
            self.startup.failed_start = Some(why);
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
            self.operators.refuse(waiter, &said);
        }
        self.give_up_looks();
        // A reload may have ended inputs that now have sources again.
        self.resume_inputs();
        log::info!("stopping");
        self.manager.tell("STOPPING=1");
        if self.startup.failed_start.is_none() {
            self.startup.ready.failed("it was told to stop before all children were ready");
        }
        for child in self.children.by_id.values_mut() {
            child.drain = Progress::default();
        }
        self.phase = Phase::Stopping { bounds: self.bounds_from_now() };
        self.agenda.dirty = true;
        self.operators.refuse_starts();
    }

    /// How long a drain that begins now may take.
    pub(crate) fn bounds_from_now(&self) -> Bounds {
        Bounds::new(Instant::now(), self.model().daemon.stop_timeout, self.children.longest_stop())
    }

    fn stop_all(&mut self, bounds: Bounds) {
        let all: BTreeSet<String> = self.children.by_name.keys().cloned().collect();
        // Who says twice that it shall end, or says it to one that is out of time,
        // does not wait for what the kernel can't end.
        let given_up = Instant::now() >= bounds.all + LAST_KILL;
        if self.wind_down(&all, None, bounds) || given_up {
            self.end_now();
        } else if Instant::now() >= bounds.all {
            self.agenda.look_after(LAST_KILL);
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
        let ids: Vec<Id> = self.children.by_id.keys().copied().collect();
        for id in ids {
            self.step(id, Event::Kill);
        }
        self.agenda.dirty = true;
    }

    /// All children are down, or can't be killed: nothing else that plumbd started
    /// stays, and what nobody took is reported.
    fn end_now(&mut self) {
        let unkillable = self.children.unkillable(self.children.by_name.keys());
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
            .kept
            .links
            .iter()
            .map(|held| (held, self.kept.links.queued(held)))
            .filter(|&(_, queued)| queued > 0)
            .map(|(held, queued)| (held.title(), queued))
            .map(|(link, queued)| format!("{queued} bytes in the link {link}"))
            .collect();
        for (from, to, bytes) in self.kept.store.waiting() {
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
        let end = match (self.startup.failed_start.take(), bad) {
            (None, None) => {
                log::info!("stopped");
                Ok(())
            }
            (Some(failed), Some(bad)) => Err(format!("{failed}; {bad}")),
            (Some(why), None) | (None, Some(why)) => Err(why),
        };
        // If the service manager starts the next one, clients have waited for
        // it, and what nobody took is there again. Else it forgets them itself.
        self.kept.keep_at_the_end(&mut self.manager);
        // Whoever is told that it is over may start the next one at once.
        let removing: Vec<_> = self.kept.sockets.close().into_iter().chain(self.operators.server.close()).collect();
        aside::wait(removing, NAMES);
        self.operators.answer_shutdown(&end);
        self.agenda.end = Some(end);
    }

    /// Stops these children by the law of [`drain`](super::drain); whether all are done, but for
    /// those that SIGKILL does not end. Links that `new` has too stay (none does
    /// where there is no `new`).
    pub(crate) fn wind_down(&mut self, going: &BTreeSet<String>, new: Option<&Model>, bounds: Bounds) -> bool {
        let now = Instant::now();
        let ids: Vec<Id> = going.iter().filter_map(|name| self.children.by_name.get(name)).copied().collect();
        let decision = self.decide(&ids, new, bounds, now);
        for step in decision.steps {
            match step {
                Step::EndInput(queue) => self.kept.links.end_input(queue),
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
            self.agenda.look_after(LOOK);
        }
        if let Some(at) = bounds.next(now) {
            self.agenda.look_after(at - now);
        }
        decision.done
    }

    fn progress_of(&mut self, id: Id) -> &mut Progress {
        &mut self.children.get_mut(id).expect("a child that goes is held until it is gone").drain
    }

    /// What [`drain`](super::drain) says of these children now.
    fn decide(&self, ids: &[Id], new: Option<&Model>, bounds: Bounds, now: Instant) -> Decision {
        let name_of = |id: &Id| self.children.by_id[id].config.name.as_str();
        let places: HashMap<&str, usize> = ids.iter().map(name_of).zip(0..).collect();
        let mut flows = Vec::new();
        let mut held_flows = Vec::new();
        let mut closed = HashSet::new();
        let mut saves = HashSet::new();
        for (held, queue, goes) in self.kept.links.flows(new) {
            if self.kept.links.queue(held).write.is_none() {
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
            .map(|id| &self.children.by_id[id])
            .enumerate()
            .map(|(at, child)| Member {
                state: child.machine.state,
                want: child.machine.want,
                ended_well: child.machine.ended_well,
                saves: saves.contains(&at),
                over: child.machine.is_over() || child.drain.told && child.machine.would_be_over(),
                has_output: !closed.contains(child.config.name.as_str()),
                progress: child.drain,
                before: Vec::new(),
            })
            .collect();
        for (user, needed) in &self.children.needs {
            let Some(&user) = places.get(user.as_str()) else { continue };
            for &other in needed.iter().filter_map(|other| places.get(other.as_str())) {
                members[other].before.push(user);
            }
        }
        let waiting = |link: usize| self.kept.links.queued(held_flows[link]);
        Drain::new(&members, &flows, &waiting, bounds, now).decide()
    }
}
