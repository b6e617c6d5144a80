//! A reload: from one configuration to another, and back where the other one
//! doesn't serve.
//!
//! | step | what can go wrong | then |
//! |---|---|---|
//! | read, check, plan, bind, make pipes, prepare children | a problem in the file, a port that is taken, no descriptors | nothing changes |
//! | Winding: what changes or goes is stopped, sources first | a link that goes still has bytes that nobody took | its children come again: nothing changed |
//! | the new configuration holds | | |
//! | Rising: what changed or came is started | one of them does not become ready | undone: Winding and Rising again, to the configuration of before |
//! | settled: sockets that nobody names any more are closed | | |
//!
//! A child that did not serve before is no reason to go back: half a mend is
//! better than none.

use crate::config::model::{Address, Child, Model};
use crate::config::plan::{self, Action, Plan, Reason, SocketPlan};
use crate::config::{Loaded, Which, looked, order};
use crate::look::Answers;
use crate::supervisor::change::drain::{Bounds, Progress};
use crate::supervisor::change::steps::Phase;
use crate::supervisor::clock::Moment;
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::child::{Event, Machine, Policy, State};
use crate::supervisor::family::outcome::Start;
use crate::supervisor::family::supervised::{Prepared, Supervised};
use crate::supervisor::kept::links::{Held, Links};
use crate::supervisor::kept::names::Names;
use crate::supervisor::kept::sockets::Sockets;
use crate::supervisor::looks::Purpose;
use crate::supervisor::operators::server::Server;
use crate::supervisor::operators::waiters::Waiter;
use crate::supervisor::poll::Id;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The exit status of a command that found problems in a configuration.
pub(crate) const WRONG_CONFIGURATION: u8 = 78;

/// A reload before the new configuration holds: everything that can fail of
/// the configuration itself is done.
pub(crate) struct Winding {
    loaded: Loaded,
    plan: Plan,
    sockets: Sockets,
    links: Links,
    /// Where the control socket is to be another one.
    server: Option<Server>,
    /// Where that is, for the marks of what is started from then on.
    origin: Option<std::io::Result<String>>,
    /// What children that change are given from then on.
    changed: BTreeMap<String, Prepared>,
    /// Children that come.
    new: BTreeMap<String, (Id, Box<Supervised>)>,
    going: BTreeSet<String>,
    bounds: Bounds,
    course: Course,
    waiter: Option<u32>,
}

/// A reload whose configuration is right, and whose sockets are not made yet.
pub(crate) struct Begun {
    loaded: Loaded,
    /// On the way back; on the way there it begins only with the first step.
    back: Option<Course>,
    waiter: Option<u32>,
}

/// A reload after it: only now it shows whether what came serves.
pub(crate) struct Rising {
    before: Loaded,
    plan: Plan,
    /// Those that have not been up yet.
    coming: BTreeSet<String>,
    course: Course,
    waiter: Option<u32>,
}

/// Which way it goes.
struct Course {
    way: Way,
    /// Those that an operator stopped: they stay so.
    held_down: BTreeSet<String>,
    /// Those that were over or given up, as they were: going back is no reason to
    /// run them again.
    over: BTreeMap<String, Over>,
}

/// A child that does not come again by itself.
#[derive(Clone)]
struct Over {
    machine: Machine,
    ended: Option<Moment>,
}

#[derive(Clone)]
enum Way {
    /// To the new configuration.
    There {
        /// Those that did not serve before.
        hopeless: BTreeSet<String>,
    },
    /// Back again.
    Back {
        /// What made it so.
        why: String,
    },
}

impl Winding {
    /// Whether it stops that child.
    pub(crate) fn stops(&self, name: &str) -> bool {
        self.going.contains(name)
    }

    /// Whether it does something to that child.
    pub(crate) fn concerns(&self, name: &str) -> bool {
        self.plan.concerns(name)
    }

    /// Whose answer it owes, and what that is where the daemon ends meanwhile.
    pub(crate) fn cut_short(&self) -> (Option<u32>, String) {
        cut_short(self.course.why_back(), self.waiter)
    }
}

impl Begun {
    /// Whose answer it owes, and what that is where the daemon ends meanwhile.
    pub(crate) fn cut_short(&self) -> (Option<u32>, String) {
        cut_short(self.why_back(), self.waiter)
    }

    /// Why it goes back, if it does.
    fn why_back(&self) -> Option<&str> {
        self.back.as_ref().and_then(Course::why_back)
    }
}

impl Course {
    /// Why it goes back, if it does.
    fn why_back(&self) -> Option<&str> {
        match &self.way {
            Way::There { .. } => None,
            Way::Back { why } => Some(why),
        }
    }
}

fn cut_short(back: Option<&str>, waiter: Option<u32>) -> (Option<u32>, String) {
    let said = match back {
        None => "cannot reload: the daemon is stopping".to_owned(),
        Some(why) => format!("cannot reload: {why}; and now the daemon is stopping"),
    };
    (waiter, said)
}

impl Rising {
    /// Whether it does something to that child.
    pub(crate) fn concerns(&self, name: &str) -> bool {
        self.plan.concerns(name)
    }

    /// Whose answer it owes, and what that is where the daemon ends meanwhile.
    pub(crate) fn cut_short(&self) -> (Option<u32>, String) {
        let said = match &self.course.way {
            Way::There { .. } => "reloaded, but now the daemon is stopping".to_owned(),
            Way::Back { why } => format!("cannot reload: {why}; and now the daemon is stopping"),
        };
        (self.waiter, said)
    }
}

impl Supervisor {
    /// SIGHUP, or an operator's word.
    pub(crate) fn request_reload(&mut self, waiter: Option<u32>) {
        match self.phase {
            Phase::Stopping { .. } => self.operators.refuse(waiter, "cannot reload: the daemon is stopping"),
            // One that waits already will read the file later than now.
            _ if self.is_reloading() && waiter.is_none() && self.operators.waiters.contains(&Waiter::Reload(None)) => {}
            _ if self.is_reloading() => self.operators.waiters.push(Waiter::Reload(waiter)),
            _ => self.reload(waiter),
        }
    }

    /// The next one that waited for its turn.
    pub(crate) fn reload_next(&mut self) {
        if self.is_reloading() || matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        if let Some(waiter) = self.operators.take_reload() {
            self.agenda.dirty = true;
            self.reload(waiter);
        }
    }

    fn reload(&mut self, waiter: Option<u32>) {
        // Before it reads the file: a service manager that sent SIGHUP waits
        // for this word, and for READY=1, whatever comes of it.
        if self.startup.has_started {
            if let Ok(now) = crate::notify::monotonic_usec() {
                self.manager.tell(&format!("RELOADING=1\n{now}"));
            }
        }
        self.look_at_configuration(None, Purpose::Reload(waiter));
    }

    pub(crate) fn looked_for_reload(&mut self, waiter: Option<u32>, answers: Result<Answers, String>) {
        let loaded = match answers.map(|answers| looked::loaded(&answers, Which::All)) {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(problems)) => return self.nothing_changes(waiter, &problems.to_string(), WRONG_CONFIGURATION),
            Err(why) => return self.nothing_changes(waiter, &format!("cannot reload: {why}"), 1),
        };
        self.begin_reload(Begun { loaded, back: None, waiter });
    }

    /// The way there, from how everything is now.
    fn course_there(&self) -> Course {
        let hopeless = self.children.by_name.keys().filter(|name| !self.children.served(name)).cloned().collect();
        let name = |child: &Supervised| child.config.name.clone();
        let children = || self.children.by_id.values().map(Box::as_ref);
        let held_down = children().filter(|child| child.machine.want.is_held()).map(name).collect();
        let over = children()
            .filter(|child| child.machine.is_over() || child.machine.state == State::Failed)
            .map(|child| (name(child), Over { machine: child.machine.clone(), ended: child.ended }))
            .collect();
        Course { way: Way::There { hopeless }, held_down, over }
    }

    /// Has the names of sockets made first, if there are any to make.
    pub(crate) fn begin_reload(&mut self, begun: Begun) {
        let model = &begun.loaded.model;
        let mut wanted =
            self.kept.sockets.wanted(model.children.iter().flat_map(|child| &child.listen), &self.kept.store);
        let control = &model.daemon.control;
        wanted.control = (!self.operators.server.is_at(control)).then(|| control.clone());
        if wanted.is_empty() {
            self.names_made(begun, Names::default());
        } else {
            self.make_names(wanted, begun);
        }
    }

    pub(crate) fn names_made(&mut self, begun: Begun, names: Names) {
        let (why_back, waiter) = (begun.why_back().map(str::to_owned), begun.waiter);
        match self.prepare_reload(begun, names) {
            Ok(()) => (self.startup.renew)(),
            Err(error) => self.not_prepared(why_back.as_deref(), waiter, &error),
        }
    }

    pub(crate) fn not_begun(&mut self, error: &str, begun: &Begun) {
        self.not_prepared(begun.why_back(), begun.waiter, error);
    }

    fn not_prepared(&mut self, why_back: Option<&str>, waiter: Option<u32>, error: &str) {
        match why_back {
            None => self.nothing_changes(waiter, error, 1),
            Some(why) => {
                self.figures.reloads += 1;
                self.finish_reload(waiter, Err(format!("reloaded, but {why}; cannot go back: {error}")));
            }
        }
    }

    /// What a reload to that configuration does. Children whose sockets had `lost` their
    /// names are given new ones, which takes another process.
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

    /// Does what can fail of the configuration itself; the children come next.
    fn prepare_reload(&mut self, begun: Begun, mut names: Names) -> Result<(), String> {
        let Begun { loaded, back, waiter } = begun;
        let addresses = loaded.model.children.iter().flat_map(|child| &child.listen);
        let mut sockets = self.kept.sockets.bind_new(addresses, &self.kept.store, &mut names)?;
        let again = sockets.take_in_place_of(&self.kept.sockets);
        let mut plan = self.plan_to(&loaded.model, again.addresses());
        if back.is_some() {
            // What is on those lines by now is the configuration that failed.
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
            match self.children.by_name.get(&step.name) {
                Some(&id) if step.action == Action::Restart => {
                    changed.insert(
                        step.name.clone(),
                        Prepared::new(config, at_hand, id, &self.system.poll, &mut self.kept.memory)?,
                    );
                }
                Some(_) => {}
                None => {
                    new.insert(step.name.clone(), self.prepare_new(config, at_hand)?);
                }
            }
        }
        // Whatever becomes of the configuration, these are as they should be.
        self.kept.sockets.keep(again);
        self.kept.keep_in_store(&mut self.manager);
        for line in plan.changes() {
            log::info!("reload: {line}");
        }
        self.operators.say(waiter, &plan.to_string());
        self.operators.follower = waiter;
        let going = plan
            .children
            .iter()
            .filter(|child| matches!(child.action, Action::Restart | Action::Stop))
            .map(|child| child.name.clone())
            .collect();
        let bounds = self.bounds_from_now();
        let course = back.unwrap_or_else(|| self.course_there());
        self.children.by_id.values_mut().for_each(|child| child.drain = Progress::default());
        let winding =
            Winding { loaded, plan, sockets, links, server, origin, changed, new, going, bounds, course, waiter };
        self.phase = Phase::Winding(Box::new(winding));
        self.agenda.dirty = true;
        Ok(())
    }

    /// A reload that is none, and why.
    fn nothing_changes(&mut self, waiter: Option<u32>, why: &str, exit: u8) {
        for line in why.lines() {
            log::error!("reload: {line}");
        }
        if self.startup.has_started {
            self.manager.tell("READY=1\nSTATUS=the last reload changed nothing: see the log");
        }
        self.operators.refuse_as(waiter, &format!("{}\ncannot reload: nothing is changed", why.trim_end()), exit);
    }

    /// Stops what changes or goes; once that is down, carries the plan out.
    pub(crate) fn wind(&mut self) {
        let Phase::Winding(winding) = std::mem::replace(&mut self.phase, Phase::Running) else { return };
        let down = self.wind_down(&winding.going, Some(&winding.loaded.model), winding.bounds);
        if !down {
            self.phase = Phase::Winding(winding);
            return;
        }
        let lost = self
            .kept
            .links
            .going(&winding.loaded.model)
            .map(|held| (held.title(), self.kept.links.queued(held)))
            .filter(|&(_, bytes)| bytes > 0)
            .map(|(link, bytes)| format!("nobody took {bytes} bytes in the link {link}, which goes"));
        // Another process in the place of one that can't be killed would meet what that still holds.
        let bad: Vec<String> = self.children.unkillable(&winding.going).into_iter().chain(lost).collect();
        match (&winding.course.way, bad.is_empty()) {
            (_, true) => self.carry_out(*winding),
            (Way::There { .. }, false) => self.turn_back(*winding, bad.join("; ")),
            (Way::Back { .. }, false) => {
                // Back is where it was known to serve.
                log::error!("reload: {}; going back all the same", bad.join("; "));
                self.operators.say(winding.waiter, &bad.join("\n"));
                self.leave_going(&winding.loaded.model);
                self.carry_out(*winding);
            }
        }
    }

    /// What waits in links that `model` does not have is held until a configuration
    /// has them again.
    fn leave_going(&mut self, model: &Model) {
        let going: BTreeSet<String> = self.kept.links.going(model).map(Held::title).collect();
        let waits = |held: &Held| going.contains(&held.title()) && self.kept.links.queued(held) > 0;
        let parts = self.kept.links.stored(waits).map(|(name, fd)| Ok((name, fd.try_clone_to_owned()?)));
        match parts.collect::<std::io::Result<Vec<_>>>() {
            Ok(parts) => parts.into_iter().for_each(|(name, fd)| self.kept.store.leave(name, fd)),
            Err(error) => log::error!("reload: cannot hold what waits in the links that go: {error}: it is lost"),
        }
    }

    /// What would go with a link is not saved: the old configuration, which
    /// still holds, has its children again.
    fn turn_back(&mut self, winding: Winding, why: String) {
        let Winding { loaded, plan, going, course, waiter, .. } = winding;
        self.say_going_back(waiter, &why);
        self.resume_inputs();
        let course = Course { way: Way::Back { why }, ..course };
        let mut coming = BTreeSet::new();
        for name in &going {
            if let Some(&id) = self.children.by_name.get(name) {
                self.come_back(id, &course, &mut coming);
            }
        }
        self.phase = Phase::Rising(Box::new(Rising { before: loaded, plan, coming, course, waiter }));
        self.agenda.dirty = true;
    }

    /// From here on the new configuration holds. Its predecessor's sockets stay
    /// until it has shown that it serves.
    fn carry_out(&mut self, winding: Winding) {
        let Winding { loaded, plan, sockets, links, server, origin, mut changed, mut new, mut course, waiter, .. } =
            winding;
        // Operators may have stopped some meanwhile; those that go are known by their names alone.
        let held_down = self.children.by_id.values().filter(|child| child.machine.want.is_held());
        course.held_down.extend(held_down.map(|child| child.config.name.clone()));
        self.operators.progress(match course.way {
            Way::There { .. } => "the new configuration holds from here",
            Way::Back { .. } => "the configuration of before holds again from here",
        });
        let before = std::mem::replace(&mut self.loaded, loaded);
        self.children.needs = order::needs(self.model());
        // What only a restart of the daemon changes stays as it is.
        let daemon = &mut self.loaded.model.daemon;
        daemon.log = before.model.daemon.log;
        daemon.syslog_facility = before.model.daemon.syslog_facility;
        let model = self.loaded.model.clone();
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

        let mut coming = BTreeSet::new();
        for step in &plan.children {
            let id = self.children.by_name.get(&step.name).copied();
            let config = model.child(&step.name).cloned();
            match (id, config) {
                (Some(id), None) => self.forget(id),
                (Some(id), Some(config)) => {
                    let Some(child) = self.children.get_mut(id) else { continue };
                    if let Some(prepared) = changed.remove(&step.name) {
                        child.change(prepared);
                        self.come_back(id, &course, &mut coming);
                        continue;
                    }
                    let has_lacked = !child.config.lacks.is_empty();
                    child.machine.change(Policy::from(&*config));
                    child.holdings.at_hand = self.loaded.is_at_hand(&config);
                    child.config = config;
                    if has_lacked || step.action == Action::Update && child.machine.state == State::Failed {
                        self.come_again(id, &mut coming);
                    }
                }
                (None, _) => {
                    let Some((id, mut child)) = new.remove(&step.name) else { continue };
                    if course.held_down.contains(&step.name) {
                        child.machine.step(Event::Hold, Instant::now());
                    }
                    self.children.add(id, child);
                    self.come_back(id, &course, &mut coming);
                }
            }
        }
        self.phase = Phase::Rising(Box::new(Rising { before, plan, coming, course, waiter }));
        self.agenda.dirty = true;
    }

    /// A child that changed or came is started; on the way back only if it was not
    /// over before.
    fn come_back(&mut self, id: Id, course: &Course, coming: &mut BTreeSet<String>) {
        let Some(child) = self.children.get_mut(id) else { return };
        let over = course.over.get(&child.config.name).filter(|_| matches!(course.way, Way::Back { .. }));
        match over {
            Some(Over { machine, ended }) => {
                let restarts = child.machine.restarts;
                child.machine.clone_from(machine);
                child.machine.restarts = restarts;
                child.ended = *ended;
            }
            None => self.come_again(id, coming),
        }
    }

    /// A child that changed or came is started, unless an operator stopped it.
    fn come_again(&mut self, id: Id, coming: &mut BTreeSet<String>) {
        if let Some(child) = self.children.get(id).filter(|child| !child.machine.want.is_held()) {
            coming.insert(child.config.name.clone());
            self.step(id, Event::Await);
        }
    }

    /// Sees who has come up, and goes back where one can't.
    pub(crate) fn rise(&mut self) {
        let Phase::Rising(mut rising) = std::mem::replace(&mut self.phase, Phase::Running) else { return };
        // Who was up once has come; what happens to it later is no longer the reload's.
        // So is one that an operator has stopped meanwhile.
        rising.coming.retain(|name| {
            self.children.start_of(name) != Start::Good
                && self.children.named(name).is_none_or(|child| !child.machine.want.is_held())
        });
        let mut bad = Vec::new();
        let (mut open, mut back) = (false, false);
        for name in &rising.coming {
            if let Start::Bad(why) = self.children.start_of(name) {
                let line = rising.plan.child(name).map_or(0, |step| step.line);
                bad.push(why.of(&format!("{name} ({})", self.loaded.place(line))));
                back |= self.is_to_blame(self.children.cause(name), &rising);
            } else {
                open = true;
            }
        }
        if back {
            self.undo(*rising, &bad);
        } else if open {
            self.phase = Phase::Rising(rising);
        } else {
            self.settle(*rising, &bad);
        }
    }

    /// Whether the new configuration is the reason that this child is not up.
    fn is_to_blame(&self, name: &str, rising: &Rising) -> bool {
        match &rising.course.way {
            Way::There { hopeless } => rising.coming.contains(name) && !hopeless.contains(name),
            Way::Back { .. } => false,
        }
    }

    /// Back to the configuration of before.
    fn undo(&mut self, rising: Rising, bad: &[String]) {
        let why = bad.join("; ");
        self.say_going_back(rising.waiter, &why);
        let Rising { before, plan, course, waiter, .. } = rising;
        let course = Course { way: Way::Back { why }, ..course };
        self.phase = Phase::GoingBack(plan);
        self.begin_reload(Begun { loaded: before, back: Some(course), waiter });
    }

    fn say_going_back(&mut self, waiter: Option<u32>, why: &str) {
        log::error!("reload: {why}: going back to the configuration of before");
        self.operators.say(waiter, &format!("{why}\ngoing back to the configuration of before"));
    }

    /// All that came is up, or is known not to be.
    fn settle(&mut self, rising: Rising, bad: &[String]) {
        self.figures.reloads += u64::from(matches!(rising.course.way, Way::There { .. }));
        let outcome = match (rising.course.way, bad) {
            (Way::There { .. }, []) => Ok(()),
            (Way::There { .. }, bad) => Err(format!("reloaded, but {}", bad.join("; "))),
            (Way::Back { why }, []) => {
                Err(format!("cannot reload: {why}; undone: the configuration of before runs again"))
            }
            (Way::Back { why }, bad) => Err(format!("cannot reload: {why}; undone, but {}", bad.join("; "))),
        };
        if outcome.is_ok() && rising.plan.is_empty() {
            log::info!("reloaded: nothing changes");
        } else if outcome.is_ok() {
            log::info!("reloaded");
        }
        self.finish_reload(rising.waiter, outcome);
    }

    fn finish_reload(&mut self, waiter: Option<u32>, outcome: Result<(), String>) {
        let model = &self.loaded.model;
        self.kept.sockets.retain(|address| model.children.iter().any(|child| child.listen.contains(address)));
        self.kept.keep_in_store(&mut self.manager);
        self.agenda.dirty = true;
        // Whoever waits for the first start has not been told of it yet.
        self.phase = if self.startup.has_started { Phase::Running } else { Phase::Starting };
        match outcome {
            Ok(()) => {
                self.ready_again("reloaded: all that changed is ready");
                self.operators.say(waiter, "reloaded");
                self.operators.finish(waiter, 0);
            }
            Err(why) => {
                log::error!("{why}");
                self.ready_again(&why);
                self.operators.refuse(waiter, &why);
            }
        }
    }

    fn ready_again(&mut self, status: &str) {
        if self.startup.has_started {
            self.manager.tell(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
        }
    }
}
