//! Reloads, from the request to the answer.
//!
//! | step | what can go wrong | then |
//! |---|---|---|
//! | read, check, plan, bind, make pipes, prepare children | a problem in the file, a port that is taken, no descriptors | nothing changes |
//! | the steps of a [change](super::steps) to the new configuration | one of its children does not serve | another change, back to the previous configuration |
//! | settle: close sockets that no child names any more | | |

use super::Own;
use super::steps::{Before, Change, Next, Stop, Then};
use crate::config::model::{Address, Child, Model};
use crate::config::plan::{self, Action, Plan, Reason, SocketPlan};
use crate::config::{Loaded, Which, looked, order};
use crate::control::event::{About, What};
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::child::{Event, State};
use crate::supervisor::family::health;
use crate::supervisor::family::outcome::Bad;
use crate::supervisor::family::supervised::{Prepared, Supervised};
use crate::supervisor::kept::links::Links;
use crate::supervisor::kept::names::Names;
use crate::supervisor::kept::sockets::Sockets;
use crate::supervisor::looks::{Purpose, obstacles};
use crate::supervisor::operators::Operators;
use crate::supervisor::operators::server::Server;
use crate::supervisor::operators::waiters::Waiter;
use crate::supervisor::poll::Id;
use crate::sys::look::Answers;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The exit status of a command that found problems in a configuration.
pub(crate) const WRONG_CONFIGURATION: u8 = 78;

/// A reload whose configuration is valid, but whose sockets are not made yet.
pub(crate) struct Begun {
    loaded: Loaded,
    /// The number of the reload that this one undoes, if it does.
    back: Option<u32>,
    /// The connection that it owes an answer; `None`: a signal asked for it.
    pub(crate) waiter: Option<u32>,
    /// Why addresses can't be bound, as a process aside has seen it.
    obstacles: Vec<String>,
}

/// A reload under way.
pub(crate) struct Reload {
    pub(super) number: u32,
    pub(crate) change: Change,
    plan: Plan,
    /// The new configuration, until it is in force.
    to: Option<Box<New>>,
    /// The previous configuration, once the new one is in force.
    from: Option<Loaded>,
    /// The connection that it owes an answer; `None`: a signal asked for it.
    pub(super) waiter: Option<u32>,
}

/// A configuration for which everything that can fail is done.
struct New {
    loaded: Loaded,
    sockets: Sockets,
    links: Links,
    /// The new control socket, if it is another one.
    server: Option<Server>,
    /// The new control socket's origin, for the marks of what is started from then on.
    origin: Option<std::io::Result<String>>,
    /// What changed children are given from then on.
    changed: BTreeMap<String, Prepared>,
    /// New children.
    new: BTreeMap<String, (Id, Box<Supervised>)>,
}

impl Reload {
    /// The answer if the daemon ends meanwhile.
    pub(super) fn cut_short(&self) -> String {
        match (self.change.why_back(), self.change.is_before_effect()) {
            (Some(why), _) => format!("cannot reload: {why}; and now the daemon is stopping"),
            (None, true) => "cannot reload: the daemon is stopping".to_owned(),
            (None, false) => "reloaded, but now the daemon is stopping".to_owned(),
        }
    }
}

impl Supervisor {
    /// Handles SIGHUP or an operator's command.
    pub(crate) fn request_reload(&mut self, waiter: Option<u32>) {
        if self.changes.is_ending() {
            return self.operators.refuse(waiter, "cannot reload: the daemon is stopping");
        }
        if !self.is_reloading() {
            return self.reload(waiter);
        }
        // One reload by signal that already waits is enough: it will read the file later.
        if waiter.is_some() || !self.operators.waiters.contains(&Waiter::Reload(None)) {
            self.operators.waiters.push(Waiter::Reload(waiter));
        }
    }

    /// Begins the next reloads that waited for their turn.
    pub(super) fn reload_next(&mut self) {
        while !self.changes.is_ending() && !self.is_reloading() {
            match self.operators.take_reload() {
                Some(waiter) => self.reload(waiter),
                None => return,
            }
        }
    }

    fn reload(&mut self, waiter: Option<u32>) {
        // Before the file is read: a service manager that sent SIGHUP waits for this
        // message, and then for READY=1, whatever the outcome.
        if self.startup.has_started {
            if let Ok(now) = crate::sys::notify::monotonic_usec() {
                self.manager.tell(&format!("RELOADING=1\n{now}"));
            }
        }
        self.look_at_configuration(None, Purpose::Reload(waiter));
    }

    pub(crate) fn looked_for_reload(&mut self, waiter: Option<u32>, answers: Result<Answers, String>) {
        let answers = match answers {
            Ok(answers) => answers,
            Err(why) => return self.nothing_changes(waiter, &format!("cannot reload: {why}"), 1),
        };
        let loaded = match looked::loaded(&answers, Which::All) {
            Ok(loaded) => loaded,
            Err(problems) => return self.nothing_changes(waiter, &problems.to_string(), WRONG_CONFIGURATION),
        };
        let obstacles = obstacles(&loaded, &answers);
        self.begin_reload(Begun { loaded, back: None, waiter, obstacles });
    }

    /// Begins a reload. If names of sockets must be made, that comes first.
    pub(crate) fn begin_reload(&mut self, begun: Begun) {
        let model = &begun.loaded.model;
        let listens = model.children.iter().flat_map(|child| &child.listen);
        let mut wanted = self.kept.sockets.wanted(listens, &self.kept.store);
        let control = &model.daemon.control;
        wanted.control = (!self.operators.server.is_at(control)).then(|| control.clone());
        if wanted.is_empty() {
            self.names_made(begun, Names::default());
        } else {
            self.make_names(wanted, begun);
        }
    }

    pub(crate) fn names_made(&mut self, begun: Begun, names: Names) {
        let (back, waiter) = (begun.back, begun.waiter);
        match self.prepare_reload(begun, names) {
            Ok(()) => (self.startup.renew)(),
            Err(error) => self.not_prepared(back, waiter, &error),
        }
    }

    pub(crate) fn not_begun(&mut self, error: &str, begun: &Begun) {
        self.not_prepared(begun.back, begun.waiter, error);
    }

    fn not_prepared(&mut self, back: Option<u32>, waiter: Option<u32>, error: &str) {
        let Some(number) = back else { return self.nothing_changes(waiter, error, 1) };
        let Some(reload) = self.changes.take(number) else { return };
        self.figures.reloads += 1;
        let why = reload.change.why_back().unwrap_or_default();
        self.finish_reload(waiter, Err(format!("reloaded, but {why}; cannot go back: {error}")), false);
    }

    /// What a reload to that configuration does. Children whose sockets have `lost` their
    /// names are given new ones, which takes a restart.
    pub(crate) fn plan_to<'a>(&self, model: &Model, lost: impl Iterator<Item = &'a Address>) -> Plan {
        let mut plan = plan::plan(self.model(), model);
        for address in lost {
            let line = |child: &Child| child.lines.of("listen").unwrap_or(child.line);
            let listening = || model.children.iter().filter(|child| child.listen.contains(address));
            let runs = |name: &str| self.children.named(name).is_some_and(|child| child.machine.pid().is_some());
            for child in listening().filter(|child| runs(&child.name)) {
                let why = format!("the name of {address} is gone, and is made again");
                plan.restart(&child.name, Reason { why, line: line(child) });
            }
            if let Some(child) = listening().next() {
                plan.sockets.push(SocketPlan { address: address.clone(), line: line(child), added: true });
            }
        }
        plan
    }

    /// Does everything about the configuration that can fail; then the children follow.
    fn prepare_reload(&mut self, begun: Begun, mut names: Names) -> Result<(), String> {
        let Begun { loaded, back, waiter, obstacles } = begun;
        let addresses = loaded.model.children.iter().flat_map(|child| &child.listen);
        let bound = self.kept.sockets.bind_new(addresses, &self.kept.store, &mut names);
        let mut sockets = bound.map_err(|why| with_place(why, &obstacles))?;
        let again = sockets.take_in_place_of(&self.kept.sockets);
        let mut plan = self.plan_to(&loaded.model, again.addresses());
        if back.is_some() {
            // Those lines of the file are now those of the configuration that failed.
            plan.file = None;
        }
        let links = self.kept.links.make_new(&loaded.model, &self.kept.store)?;
        let control = &loaded.model.daemon.control;
        let origin = names.has_control().then(|| names.origin());
        let server = origin.is_some().then(|| Server::at(control, &mut names, &self.system.poll)).transpose()?;
        let (mut changed, mut new) = (BTreeMap::new(), BTreeMap::new());
        for step in &plan.children {
            let Some(config) = loaded.model.child(&step.name).cloned() else { continue };
            let at_hand = loaded.is_at_hand(&config);
            match self.children.id_of(&step.name) {
                Some(id) if step.action == Action::Restart => {
                    let prepared = Prepared::new(config, at_hand, id, &self.system.poll, &mut self.kept.memory)?;
                    changed.insert(step.name.clone(), prepared);
                }
                Some(_) => {}
                None => {
                    new.insert(step.name.clone(), self.prepare_new(config, at_hand)?);
                }
            }
        }
        // Keep these whether or not the configuration takes effect.
        self.kept.sockets.keep(again);
        self.kept.keep_in_store(&mut self.manager);
        for line in plan.changes() {
            log::info!("reload: {line}");
        }
        self.events.happened(What::ReloadBegun, About::default());
        self.operators.say(waiter, &plan.to_string());
        self.operators.follower = waiter;

        let stop = Stop::new(plan.going(), self.kept.links.ending(Some(&loaded.model)), self.bounds_from_now());
        let concerned = plan.children.iter().map(|child| &child.name).filter(|name| plan.concerns(name));
        let concerned: BTreeSet<String> = concerned.cloned().collect();
        let earlier = back.and_then(|number| self.changes.take(number)).map(|reload| reload.change);
        let change = match earlier {
            Some(earlier) => earlier.stopping(concerned, stop),
            None => Change::new(concerned, stop, self.before()),
        };
        let new = New { loaded, sockets, links, server, origin, changed, new };
        self.changes.begin(Reload { number: 0, change, plan, to: Some(Box::new(new)), from: None, waiter });
        Ok(())
    }

    /// The states of all children now.
    fn before(&self) -> Before {
        let mut before = Before::default();
        for child in self.children.all() {
            before.note(&child.config.name, &self.children, child.ended);
        }
        before
    }

    /// Reports a reload that was rejected and changed nothing.
    fn nothing_changes(&mut self, waiter: Option<u32>, why: &str, exit: u8) {
        for line in why.lines() {
            log::error!("reload: {line}");
        }
        let first = why.lines().next().unwrap_or_default();
        self.ready_again(&format!("the last reload changed nothing: {first}"));
        self.figures.reload_failed = Some(first.to_owned());
        self.events.happened(What::ReloadRefused, About::daemon(why.trim_end()));
        self.operators.refuse_as(waiter, &format!("{}\ncannot reload: nothing is changed", why.trim_end()), exit);
    }

    /// Takes all steps of reloads that have become possible.
    pub(super) fn step_reloads(&mut self) {
        let mut place = 0;
        while let Some(reload) = self.changes.reloads.get_mut(place) {
            let own = Own { children: &self.children, links: &self.kept.links };
            let Next { to_do, look_after, then } = reload.change.step(&own, Instant::now());
            let number = reload.number;
            self.carry_out(to_do, look_after);
            match then {
                Then::Wait => place += 1,
                Then::TakeEffect(lost) => self.take_effect(place, &lost),
                Then::TurnBack(why) => self.turn_back(place, &why.join("; ")),
                Then::GoBack(bad) => {
                    let why = self.sentences(place, bad).join("; ");
                    self.go_back(place, why);
                    // The change back may already have been prepared, or given up.
                    place = self.changes.place_of(number).map_or(place, |place| place + 1);
                }
                Then::Settle(bad) => self.settle(place, bad),
            }
        }
    }

    /// Why children do not serve, as sentences with their places in the file.
    fn sentences(&self, place: usize, bad: Vec<(String, Bad)>) -> Vec<String> {
        let line = |name: &str| self.changes.reloads[place].plan.child(name).map_or(0, |step| step.line);
        bad.iter().map(|(name, why)| why.of(&format!("{name} ({})", self.loaded.place(line(name))))).collect()
    }

    /// The current configuration stays, and the children that were stopped start again.
    fn turn_back(&mut self, place: usize, why: &str) {
        self.resume_inputs();
        let reload = &mut self.changes.reloads[place];
        say_going_back(&mut self.operators, reload.waiter, why);
        reload.to = None;
        reload.change = reload.change.turned_back(why.to_owned());
        for name in reload.plan.going() {
            self.bring_back(place, &name);
        }
    }

    /// The point of no return: from here on the new configuration is in force. The sockets of
    /// the previous one stay until the new one has shown that it serves.
    fn take_effect(&mut self, place: usize, lost: &[String]) {
        let reload = &mut self.changes.reloads[place];
        let Some(new) = reload.to.take() else { return };
        let New { loaded, sockets, links, server, origin, mut changed, mut new } = *new;
        if !lost.is_empty() {
            log::error!("reload: {}; going back all the same", lost.join("; "));
            self.operators.say(reload.waiter, &lost.join("\n"));
            self.kept.leave_ending(|queue| reload.change.stop().is_some_and(|stop| stop.ends(queue)));
        }
        let held = self.children.all().filter(|child| child.machine.want.is_held());
        reload.change.take_effect(held.map(|child| child.config.name.as_str()));
        self.operators.progress(match reload.change.why_back() {
            None => "the new configuration is in force",
            Some(_) => "the previous configuration is in force again",
        });
        let plan = reload.plan.clone();
        let before = std::mem::replace(&mut self.loaded, loaded);
        self.children.needs = order::needs(self.model());
        // Settings that need a restart of the daemon stay as they are.
        let daemon = &mut self.loaded.model.daemon;
        daemon.log = before.model.daemon.log;
        daemon.syslog_facility = before.model.daemon.syslog_facility;
        let model = self.loaded.model.clone();
        self.changes.reloads[place].from = Some(before);
        if let Some(server) = server {
            self.operators.server.move_to(server);
        }
        match origin {
            Some(Ok(origin)) => self.strays.own().move_to(origin),
            Some(Err(error)) => log::error!(
                "cannot look at the folder of {}: {error}: after a kill, the next supervisor will not find what is \
                 started from here on",
                model.daemon.control.display()
            ),
            None => {}
        }
        self.kept.links.retain(&model);
        self.kept.links.keep(links, &model);
        self.kept.sockets.keep(sockets);
        self.kept.keep_in_store(&mut self.manager);
        crate::journal::set_level(model.daemon.log_level);

        for step in &plan.children {
            let id = self.children.id_of(&step.name);
            match (id, model.child(&step.name).cloned()) {
                (Some(id), None) => self.forget(id),
                (Some(id), Some(config)) => {
                    let Some(child) = self.children.get_mut(id) else { continue };
                    if let Some(prepared) = changed.remove(&step.name) {
                        child.change(prepared);
                        self.bring_back(place, &step.name);
                        continue;
                    }
                    let has_lacked = !child.config.lacks.is_empty();
                    child.machine.change(config.policy.clone());
                    child.holdings.at_hand = self.loaded.is_at_hand(&config);
                    crate::journal::keep(&config.name, config.log_keep);
                    let before = std::mem::replace(&mut child.config, config);
                    if before.health != child.config.health {
                        self.health_step(id, health::Event::Changed);
                    }
                    let Some(child) = self.children.get_mut(id) else { continue };
                    if has_lacked || step.action == Action::Update && child.machine.state == State::Failed {
                        let event = self.changes.reloads[place].change.bring(&step.name, &mut child.machine);
                        event.into_iter().for_each(|event| self.step(id, event));
                    }
                }
                (None, _) => {
                    let Some((id, mut child)) = new.remove(&step.name) else { continue };
                    if self.changes.reloads[place].change.before().held.contains(&step.name) {
                        child.machine.step(Event::Hold, Instant::now());
                    }
                    self.children.add(id, child);
                    self.bring_back(place, &step.name);
                }
            }
        }
    }

    /// Starts a changed or new child, or makes it again what it was before.
    fn bring_back(&mut self, place: usize, name: &str) {
        let Some(id) = self.children.id_of(name) else { return };
        let Some(child) = self.children.get_mut(id) else { return };
        let event = self.changes.reloads[place].change.bring_back(name, &mut child.machine, &mut child.ended);
        event.into_iter().for_each(|event| self.step(id, event));
    }

    /// Goes back to the previous configuration.
    fn go_back(&mut self, place: usize, why: String) {
        let reload = &mut self.changes.reloads[place];
        say_going_back(&mut self.operators, reload.waiter, &why);
        let Some(loaded) = reload.from.take() else { return };
        reload.change = reload.change.back(why);
        let begun = Begun { loaded, back: Some(reload.number), waiter: reload.waiter, obstacles: Vec::new() };
        self.begin_reload(begun);
    }

    /// Ends a reload, now that each child is up or known not to be.
    fn settle(&mut self, place: usize, bad: Vec<(String, Bad)>) {
        let bad = self.sentences(place, bad).join("; ");
        let Reload { change, plan, waiter, .. } = self.changes.reloads.remove(place);
        let outcome = match (change.why_back(), bad.is_empty()) {
            (None, true) => Ok(()),
            (None, false) => Err(format!("reloaded, but {bad}")),
            (Some(why), true) => Err(format!("cannot reload: {why}; undone: the previous configuration runs again")),
            (Some(why), false) => Err(format!("cannot reload: {why}; undone, but {bad}")),
        };
        self.figures.reloads += u64::from(change.why_back().is_none());
        if outcome.is_ok() {
            log::info!("{}", if plan.is_empty() { "reloaded: nothing changes" } else { "reloaded" });
        }
        self.finish_reload(waiter, outcome, change.why_back().is_some());
    }

    fn finish_reload(&mut self, waiter: Option<u32>, outcome: Result<(), String>, undone: bool) {
        let model = &self.loaded.model;
        self.kept.sockets.retain(|address| model.children.iter().any(|child| child.listen.contains(address)));
        self.kept.keep_in_store(&mut self.manager);
        match outcome {
            Ok(()) => {
                self.figures.reload_failed = None;
                self.log_places();
                self.events.happened(What::ReloadDone, About::default());
                self.ready_again("reloaded: all that changed is ready");
                self.operators.say(waiter, "reloaded");
                self.operators.finish(waiter, 0);
            }
            Err(why) => {
                self.events.happened(if undone { What::ReloadUndone } else { What::ReloadDone }, About::daemon(&why));
                log::error!("{why}");
                self.ready_again(&why);
                self.figures.reload_failed = undone.then(|| why.clone());
                self.operators.refuse(waiter, &why);
            }
        }
    }

    /// Tells the service manager that the daemon is ready again, unless it still waits for the
    /// first start.
    fn ready_again(&mut self, status: &str) {
        if self.startup.has_started {
            self.manager.tell(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
        }
    }
}

/// The same with its place in the file and with who has the address, if that was seen.
fn with_place(why: String, obstacles: &[String]) -> String {
    obstacles.iter().find(|seen| seen.contains(&why)).cloned().unwrap_or(why)
}

fn say_going_back(operators: &mut Operators, waiter: Option<u32>, why: &str) {
    log::error!("reload: {why}: going back to the previous configuration");
    operators.say(waiter, &format!("{why}\ngoing back to the previous configuration"));
}
