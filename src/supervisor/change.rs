//! What takes several steps: the first start, a reload, the end.
//!
//! Each is a phase; [`Supervisor::advance`] is called after everything that
//! happened and takes the steps that have become possible. Nothing here waits.
//!
//! | phase | goes on until | then |
//! |---|---|---|
//! | Starting | each child is up, or is known not to be | Running, READY=1 |
//! | Running | a reload, a stop | |
//! | Winding (a reload's first half) | what changes or goes is down, sources first, and links that go are empty | new links, sockets, children: the point of no return |
//! | Rising (its second half) | what changed or came is up, or is known not to be | Running |
//! | Stopping | all are down, sources first, their sinks when their input has ended | the process ends |
//!
//! Children start sinks first, by [`order::needs`], and stop the other way round.

use super::child::{Event, State, Want};
use super::core::Supervisor;
use super::links::Links;
use super::poll::Id;
use super::requests::Waiter;
use super::sockets::Sockets;
use crate::config::model::Model;
use crate::config::plan::{self, Action, Plan};
use crate::config::{self, Loaded, order};
use crate::control::status::DaemonState;
use crate::sys::process;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often to look whether a link that goes is empty: no event tells.
const LOOK: Duration = Duration::from_millis(10);
/// What children left behind has so long to die when it is killed at the end.
const LAST_STRAYS: Duration = Duration::from_secs(5);
/// The exit status of a command that found problems in a configuration.
pub(super) const WRONG_CONFIGURATION: u8 = 78;
/// How often a sink is started at the end to save what still waits for it.
const DRAIN_STARTS: u32 = 5;

/// Where the daemon is.
pub(super) enum Phase {
    /// Children are started for the first time.
    Starting,
    /// As it should be.
    Running,
    /// A reload's first half: children that change or go are stopped.
    Winding(Box<Winding>),
    /// A reload's second half: children that changed or came are started.
    Rising(Rising),
    /// The end.
    Stopping {
        /// Drains take no longer.
        deadline: Instant,
    },
}

/// A reload before its point of no return: everything that can fail is done.
pub(super) struct Winding {
    loaded: Loaded,
    plan: Plan,
    sockets: Sockets,
    links: Links,
    going: BTreeSet<String>,
    deadline: Instant,
    waiter: Option<u32>,
}

/// A reload after it.
pub(super) struct Rising {
    coming: BTreeSet<String>,
    waiter: Option<u32>,
}

/// What became of a start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Not known yet.
    Open,
    /// It serves, or has served and finished.
    Good,
    /// It doesn't, and why.
    Bad(String),
}

impl Supervisor {
    /// What the daemon is, in the contract's words.
    pub(super) fn daemon_state(&self) -> DaemonState {
        match self.phase {
            Phase::Starting => DaemonState::Starting,
            Phase::Running => DaemonState::Running,
            Phase::Winding(_) | Phase::Rising(_) => DaemonState::Reloading,
            Phase::Stopping { .. } => DaemonState::Stopping,
        }
    }

    /// Takes every step that has become possible.
    pub(super) fn advance(&mut self) {
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
                self.risen();
            }
            Phase::Stopping { deadline } => self.stop_all(*deadline),
        }
        self.answer_waiters();
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
    pub(super) fn blocked_by(&self, name: &str) -> Option<&str> {
        let needed = self.needs.get(name)?;
        needed.iter().find(|other| !self.served(other)).map(String::as_str)
    }

    /// Whether that child is up, or finished as it should.
    fn served(&self, name: &str) -> bool {
        self.child(name).is_none_or(|child| match child.machine.state {
            State::Up { .. } => true,
            State::Down => !child.pending && !child.held_down && child.machine.last_exit.is_some_and(|e| e.success()),
            _ => false,
        })
    }

    pub(super) fn child(&self, name: &str) -> Option<&super::supervised::Supervised> {
        self.by_name.get(name).and_then(|id| self.children.get(id))
    }

    /// What became of the start of that child.
    pub(super) fn start_of(&self, name: &str) -> Start {
        let Some(child) = self.child(name) else {
            return Start::Bad("it is no longer there".to_owned());
        };
        if let Some(why) = child.stuck() {
            return Start::Bad(why.to_owned());
        }
        let machine = &child.machine;
        let why = || {
            machine.problem.clone().unwrap_or_else(|| match machine.last_exit {
                Some(exit) => format!("it {exit}"),
                None => "it is down".to_owned(),
            })
        };
        match machine.state {
            State::Up { .. } => Start::Good,
            State::Starting { .. } | State::Stopping { .. } => Start::Open,
            State::Backoff { .. } | State::Failed => Start::Bad(why()),
            State::Down if child.pending => match self.blocked_by(name) {
                None => Start::Open,
                Some(other) => match self.start_of(other) {
                    Start::Open => Start::Open,
                    Start::Bad(_) | Start::Good => Start::Bad(format!("it waits for {other}, which is not up")),
                },
            },
            State::Down if machine.last_exit.is_some_and(|e| e.success()) && machine.want == Want::Down => Start::Good,
            State::Down => Start::Bad(why()),
        }
    }

    /// Of these children, why those are not up that are not; `None`: not known yet.
    pub(super) fn outcome_of<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Option<Vec<String>> {
        let mut bad = Vec::new();
        for name in names {
            match self.start_of(name) {
                Start::Open => return None,
                Start::Good => {}
                Start::Bad(why) => bad.push(format!("cannot start {name}: {why}")),
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
            notify("READY=1\nSTATUS=all children are ready");
            self.ready.ready();
            return;
        }
        let why = bad.join("; ");
        log::error!("not all children are up: {why}");
        if self.must_start {
            self.ready.failed(&why);
            self.failed_start = Some(why);
            self.begin_end();
        } else {
            // What can serve does, and status says what can't: better than
            // that one child takes all others down.
            notify(&format!("READY=1\nSTATUS={why}"));
        }
    }

    /// SIGHUP, or an operator's word.
    pub(super) fn request_reload(&mut self, waiter: Option<u32>) {
        match self.phase {
            Phase::Starting | Phase::Running => self.reload(waiter),
            // One that waits already will read the file later than now.
            Phase::Winding(_) | Phase::Rising(_)
                if waiter.is_none() && self.waiters.contains(&Waiter::Reload(None)) => {}
            Phase::Winding(_) | Phase::Rising(_) => self.waiters.push(Waiter::Reload(waiter)),
            Phase::Stopping { .. } => self.refuse(waiter, "cannot reload: the daemon is stopping"),
        }
    }

    /// The next one that waited for its turn.
    fn reload_next(&mut self) {
        if !matches!(self.phase, Phase::Starting | Phase::Running) {
            return;
        }
        let next = self.waiters.iter().position(|waiter| matches!(waiter, Waiter::Reload(_)));
        if let Some(Waiter::Reload(waiter)) = next.map(|place| self.waiters.remove(place)) {
            self.dirty = true;
            self.reload(waiter);
        }
    }

    /// What a reload from `file`, or from where the configuration came from,
    /// would be.
    pub(super) fn load_again(&self, file: Option<&std::path::Path>) -> Result<Loaded, String> {
        let from = file.or(self.model().file.as_deref());
        config::load(from).map_err(|problems| problems.to_string())
    }

    fn reload(&mut self, waiter: Option<u32>) {
        // Before it reads the file: a service manager that sent SIGHUP waits
        // for this word, and for READY=1, whatever comes of it.
        if self.has_started {
            if let Ok(now) = crate::notify::monotonic_usec() {
                notify(&format!("RELOADING=1\n{now}"));
            }
        }
        let loaded = match self.load_again(None) {
            Ok(loaded) => loaded,
            Err(problems) => return self.nothing_changes(waiter, &problems, WRONG_CONFIGURATION),
        };
        let plan = plan::plan(self.model(), &loaded.model);
        let addresses = loaded.model.children.iter().flat_map(|child| &child.listen);
        let sockets = self.sockets.bind_new(addresses, &self.store);
        let made = sockets.and_then(|sockets| Ok((sockets, self.links.make_new(&loaded.model, &self.store)?)));
        let (sockets, links) = match made {
            Ok(made) => made,
            Err(why) => return self.nothing_changes(waiter, &why, 1),
        };
        let text = plan.to_string();
        for line in text.lines() {
            log::info!("reload: {line}");
        }
        self.say(waiter, &text);
        let going = plan
            .children
            .iter()
            .filter(|child| matches!(child.action, Action::Restart | Action::Stop))
            .map(|child| child.name.clone())
            .collect();
        let deadline = Instant::now() + self.model().daemon.stop_timeout;
        self.children.values_mut().for_each(|child| child.drain_starts = 0);
        self.phase = Phase::Winding(Box::new(Winding { loaded, plan, sockets, links, going, deadline, waiter }));
        self.dirty = true;
    }

    /// A reload that is none, and why.
    fn nothing_changes(&mut self, waiter: Option<u32>, why: &str, exit: u8) {
        for line in why.lines() {
            log::error!("reload: {line}");
        }
        if self.has_started {
            notify("READY=1\nSTATUS=the last reload changed nothing: see the log");
        }
        self.refuse_as(waiter, &format!("{}\ncannot reload: nothing is changed", why.trim_end()), exit);
    }

    /// Stops what changes or goes; once that is down, carries the plan out.
    fn wind(&mut self) {
        let Phase::Winding(winding) = std::mem::replace(&mut self.phase, Phase::Running) else { return };
        for name in &winding.going {
            if let Some(id) = self.by_name.get(name) {
                if let Some(child) = self.children.get_mut(id) {
                    child.pending = false;
                }
            }
        }
        let down = self.wind_down(&winding.going, Some(&winding.loaded.model), winding.deadline);
        if down {
            self.carry_out(*winding);
        } else {
            self.phase = Phase::Winding(winding);
        }
    }

    /// The point of no return: from here on the new configuration holds.
    fn carry_out(&mut self, winding: Winding) {
        let Winding { loaded, plan, sockets, links, waiter, .. } = winding;
        self.loaded = loaded;
        self.needs = order::needs(self.model());
        let model = self.loaded.model.clone();
        for held in self.links.going(&model) {
            let lost = self.links.queued(held);
            if lost > 0 {
                log::error!(
                    "link {} -> {} is gone with {lost} bytes that nobody took in time",
                    held.config.from,
                    held.config.to
                );
            }
        }
        self.links.retain(&model);
        self.links.keep(links, &model);
        self.sockets.keep(sockets);
        self.sockets.retain(|address| model.children.iter().any(|child| child.listen.contains(address)));
        self.keep_in_store();
        crate::journal::set_level(model.daemon.log_level);

        let mut coming = BTreeSet::new();
        for step in &plan.children {
            let id = self.by_name.get(&step.name).copied();
            let config = model.child(&step.name).cloned();
            let done = match (id, config) {
                (Some(id), None) => {
                    self.forget(id);
                    Ok(())
                }
                (Some(id), Some(config)) if step.action == Action::Restart => {
                    let changed = self.reconfigure(id, config);
                    self.come_again(id, &mut coming);
                    changed
                }
                (Some(id), Some(config)) => {
                    if let Some(child) = self.children.get_mut(&id) {
                        child.machine.policy = super::child::Policy::from(&config);
                        child.config = config;
                        if step.action == Action::Update && child.machine.state == State::Failed {
                            self.come_again(id, &mut coming);
                        }
                    }
                    Ok(())
                }
                (None, Some(config)) => self.add(config).map(|id| self.come_again(id, &mut coming)),
                (None, None) => Ok(()),
            };
            if let Err(why) = done {
                log::error!("reload: {why}");
                self.say(waiter, &why);
            }
        }
        self.phase = Phase::Rising(Rising { coming, waiter });
        self.dirty = true;
    }

    /// A child that changed or came is started, unless an operator stopped it.
    fn come_again(&mut self, id: Id, coming: &mut BTreeSet<String>) {
        if let Some(child) = self.children.get(&id).filter(|child| !child.held_down) {
            coming.insert(child.config.name.clone());
            self.set_pending(id);
        }
    }

    fn risen(&mut self) {
        let Phase::Rising(Rising { coming, waiter }) = &self.phase else { return };
        let Some(bad) = self.outcome_of(coming) else { return };
        let waiter = *waiter;
        self.reloads += 1;
        self.dirty = true;
        if self.has_started {
            self.phase = Phase::Running;
            notify("READY=1");
        } else {
            // Whoever waits for the first start has not been told yet.
            self.phase = Phase::Starting;
        }
        if bad.is_empty() {
            log::info!("reloaded");
            self.say(waiter, "reloaded");
            self.finish(waiter, 0);
        } else {
            let why = bad.join("; ");
            log::error!("reloaded, but {why}");
            self.refuse(waiter, &format!("reloaded, but {why}"));
        }
    }

    /// SIGTERM or SIGINT: the first drains, the second does not.
    pub(super) fn asked_to_end(&mut self) {
        match self.phase {
            Phase::Stopping { .. } => self.end_at_once(),
            _ => self.begin_end(),
        }
    }

    /// Drains and ends.
    pub(super) fn begin_end(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Running) {
            Phase::Winding(winding) => self.refuse(winding.waiter, "cannot reload: the daemon is stopping"),
            Phase::Rising(rising) => self.refuse(rising.waiter, "reloaded, but now the daemon is stopping"),
            Phase::Starting | Phase::Running | Phase::Stopping { .. } => {}
        }
        log::info!("stopping");
        notify("STOPPING=1");
        self.ready.failed("it was told to stop before all children were ready");
        for child in self.children.values_mut() {
            child.pending = false;
            child.drain_starts = 0;
        }
        self.phase = Phase::Stopping { deadline: Instant::now() + self.model().daemon.stop_timeout };
        self.dirty = true;
    }

    fn stop_all(&mut self, deadline: Instant) {
        let all: BTreeSet<String> = self.by_name.keys().cloned().collect();
        if self.wind_down(&all, None, deadline) {
            self.end_now();
        }
    }

    /// Kills every child and ends, whatever waits in the links.
    pub(super) fn end_at_once(&mut self) {
        log::warn!("ending at once");
        if !matches!(self.phase, Phase::Stopping { .. }) {
            self.begin_end();
        }
        // No drain starts anybody again.
        self.phase = Phase::Stopping { deadline: Instant::now() };
        let ids: Vec<Id> = self.children.keys().copied().collect();
        for id in ids {
            self.step(id, Event::Kill);
        }
        self.dirty = true;
    }

    /// All children are down: nothing that plumbd started stays, and what
    /// nobody took is told.
    fn end_now(&mut self) {
        if process::has_children() {
            log::warn!("killing processes that children have left behind");
        }
        let deadline = Instant::now() + LAST_STRAYS;
        // Orphans become children of this process as their parents die.
        while process::has_children() {
            if Instant::now() >= deadline {
                log::error!("cannot kill everything that children have left behind");
                break;
            }
            process::own_children().into_iter().for_each(process::force);
            std::thread::sleep(Duration::from_millis(1));
            while let Ok(Some(pid)) = process::next_dead() {
                let _reaped = process::reap(pid);
            }
        }
        let lost: Vec<String> = self
            .links
            .iter()
            .map(|held| (held, self.links.queued(held)))
            .filter(|&(_, queued)| queued > 0)
            .map(|(held, queued)| (held.title(), queued))
            .chain(self.store.waiting())
            .map(|(link, queued)| format!("{queued} bytes in the link {link}"))
            .collect();
        let end = if lost.is_empty() {
            log::info!("stopped");
            self.failed_start.take().map_or(Ok(()), |why| Err(format!("cannot start: {why}")))
        } else {
            Err(format!("stopped, but nobody took {}", lost.join(", ")))
        };
        // Whoever is told that it is over may start the next one at once.
        self.sockets = Sockets::default();
        // What nobody took is there again if the service manager starts the next one.
        let unsaved = self.links.stored(|held| self.links.queued(held) > 0).collect();
        self.store.keep(&unsaved);
        self.server.close();
        self.answer_shutdown(&end);
        self.end = Some(end);
    }

    /// Stops these children, sources first; whether all are down. A sink is
    /// stopped only when what flows to it by links that `new` doesn't have
    /// (all of them, where there is no `new`) is taken.
    fn wind_down(&mut self, going: &BTreeSet<String>, new: Option<&Model>, deadline: Instant) -> bool {
        let needed_by = order::needed_by(&self.needs);
        let mut all_down = true;
        for name in going {
            let Some(&id) = self.by_name.get(name) else { continue };
            let users_down = needed_by
                .get(name)
                .is_none_or(|users| users.iter().filter(|user| going.contains(*user)).all(|user| self.is_down(user)));
            if !users_down || !self.wind_one_down(id, name, new, deadline) {
                all_down = false;
            }
        }
        all_down
    }

    fn is_down(&self, name: &str) -> bool {
        self.child(name).is_none_or(|child| child.machine.state == State::Down && child.machine.want == Want::Down)
    }

    /// One step of the stop of one child whose sources are down.
    fn wind_one_down(&mut self, id: Id, name: &str, new: Option<&Model>, deadline: Instant) -> bool {
        let now = Instant::now();
        // Two that talk both ways can't both be stopped after their source: who
        // goes first sees no end of its input, and is not waited for.
        let sources = self.links.flowing_into(name).map(|held| held.config.from.clone());
        let live: BTreeSet<String> = sources.filter(|source| !self.is_down(source)).collect();
        let drains = self.links.flowing_into(name).next().is_some();
        let intake = self.links.flowing_into(name).any(|held| held.intake.is_some());
        self.links.end_input(name, new, &live);
        let waiting = self.links.waiting_for(name, new, &live);
        let ended = drains && self.links.input_ended(name);
        let Some(child) = self.children.get_mut(&id) else { return true };
        match child.machine.state {
            State::Down | State::Failed | State::Backoff { .. } => {
                // It died with input that nobody else can save, or was to come
                // again. An ordinary program that ended well while it drained
                // wanted no more of it.
                let machine = &child.machine;
                let comes = machine.want == Want::Up || machine.last_exit.is_some_and(|e| !e.success());
                let unsaved = waiting > 0 && (intake || comes);
                if unsaved && now < deadline && child.drain_starts < DRAIN_STARTS {
                    child.drain_starts += 1;
                    self.step(id, Event::Start);
                    return false;
                }
                if child.machine.state != State::Down || child.machine.want != Want::Down {
                    self.step(id, Event::Stop);
                    self.dirty = true;
                }
                true
            }
            State::Stopping { .. } => false,
            State::Starting { .. } | State::Up { .. } => {
                if ended && now < deadline {
                    // It ends by itself once it has read the end of its input.
                    self.step(id, Event::Drain(deadline));
                } else if waiting > 0 && now < deadline {
                    self.look_after(LOOK);
                } else {
                    self.step(id, Event::Stop);
                }
                false
            }
        }
    }
}

/// Tells the service manager, where there is one.
fn notify(lines: &str) {
    if let Err(error) = crate::notify::send(lines) {
        log::warn!("cannot notify the service manager: {error}");
    }
}
