//! Operators' requests, and those who wait for an answer.

use crate::config::model::Ready;
use crate::config::{Which, looked};
use crate::control::status::{self, Status};
use crate::control::{Request, Response};
use crate::supervisor::change::reload::WRONG_CONFIGURATION;
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::child::{Cause, Event, Ladder, State};
use crate::supervisor::family::outcome::{self, Bad, Family, Start};
use crate::supervisor::looks::{Purpose, obstacles};
use crate::supervisor::operators::amounts;
use crate::supervisor::operators::waiters::{Goal, WATCHED, Waiter, Watch};
use crate::supervisor::poll::Id;
use crate::sys::look::Answers;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

impl Supervisor {
    /// Does what an operator asks, or begins it.
    pub(crate) fn request(&mut self, connection: u32, request: Request) {
        match request {
            Request::Status => {
                self.look_for_lost_names();
                let status = Box::new(self.status());
                self.operators.server.answer(connection, &Response::Status(status));
                self.operators.finish(Some(connection), 0);
            }
            Request::Plan { file } => self.plan(connection, file.as_deref()),
            Request::Reload => self.request_reload(Some(connection)),
            Request::Start { children } => self.start_or_restart(connection, children, false),
            Request::Stop { children } => self.stop_children(connection, &children),
            Request::Restart { children } => self.start_or_restart(connection, children, true),
            Request::Shutdown { fast } => {
                self.operators.waiters.push(Waiter::Shutdown(connection));
                if fast {
                    self.end_at_once();
                } else if self.daemon_state() != status::DaemonState::Stopping {
                    self.begin_end();
                }
            }
            Request::Log { children, lines, follow } => {
                // The daemon's own entries have its name, unless a child has it.
                let named: Vec<String> = children.iter().filter(|name| *name != "plumbd").cloned().collect();
                if self.children_named(connection, &named).is_some() {
                    let all = children.iter().any(|name| self.is_all(name));
                    let children = if all { Vec::new() } else { children };
                    self.operators.read_log(connection, children, lines, follow);
                }
            }
            Request::Events { child, since } => {
                let named: Vec<String> = child.clone().into_iter().collect();
                if self.children_named(connection, &named).is_some() {
                    let child = child.filter(|name| !self.is_all(name));
                    let end = self.events.next();
                    // A number above that is one of an earlier daemon, whose events are gone.
                    let next = since.map_or(end, |since| if since > end { 0 } else { since });
                    self.operators.read_events(connection, child, next);
                }
            }
            Request::Inspect { children } => self.inspect(connection, &children),
            Request::Reopen => {
                let (told, failed) = self.reopen();
                if !told.is_empty() {
                    self.operators.say(Some(connection), &format!("told {}", told.join(", ")));
                } else if failed.is_empty() {
                    self.operators.say(Some(connection), "no child reopens a file at SIGUSR1");
                }
                if failed.is_empty() {
                    self.operators.finish(Some(connection), 0);
                } else {
                    self.operators.refuse(Some(connection), &failed.join("\n"));
                }
            }
        }
    }

    fn plan(&mut self, connection: u32, file: Option<&Path>) {
        if self.changes.is_ending() {
            return self.operators.refuse(Some(connection), "cannot plan: the daemon is stopping");
        }
        self.look_at_configuration(file, Purpose::Plan(connection));
    }

    pub(crate) fn looked_for_plan(&mut self, connection: u32, answers: Result<Answers, String>) {
        let answers = match answers {
            Ok(answers) => answers,
            Err(why) => return self.operators.refuse(Some(connection), &format!("cannot plan: {why}")),
        };
        match looked::loaded(&answers, Which::All) {
            Ok(loaded) => {
                let plan = self.plan_to(&loaded.model, self.kept.sockets.lost());
                self.operators.say(Some(connection), &plan.to_string());
                if plan.is_empty() {
                    self.operators.say(Some(connection), "nothing would change");
                }
                match obstacles(&loaded, &answers) {
                    none if none.is_empty() => self.operators.finish(Some(connection), 0),
                    some => self.operators.refuse(Some(connection), &some.join("\n")),
                }
            }
            Err(problems) => {
                self.operators.refuse_as(Some(connection), problems.to_string().trim_end(), WRONG_CONFIGURATION);
            }
        }
    }

    /// Whether that means every child: no child has that name.
    fn is_all(&self, name: &str) -> bool {
        name == "all" && self.children.ids_of(name).is_empty()
    }

    /// The ids and names of the children that an operator named: instances, or all instances
    /// of a child. If a name is unknown, this answers the operator.
    pub(super) fn children_named(&mut self, connection: u32, names: &[String]) -> Option<(Vec<Id>, Vec<String>)> {
        let mut ids = Vec::new();
        for name in names {
            match self.children.ids_of(name) {
                _ if self.is_all(name) => ids.extend(self.children.iter().map(|(id, _)| id)),
                found if found.is_empty() => {
                    self.operators
                        .refuse(Some(connection), &format!("cannot find child \"{name}\": {}", self.children.known()));
                    return None;
                }
                found => ids.extend(found),
            }
        }
        let named = ids.iter().filter_map(|&id| self.children.get(id));
        let names = named.map(|child| child.config.name.clone()).collect();
        Some((ids, names))
    }

    fn start_or_restart(&mut self, connection: u32, asked: Vec<String>, restart: bool) {
        if self.changes.is_ending() {
            return self.operators.refuse(Some(connection), "cannot start anything: the daemon is stopping");
        }
        let Some((ids, names)) = self.children_named(connection, &asked) else { return };
        if names.iter().any(|name| self.changes.concern(name)) {
            return self.operators.waiters.push(Waiter::Later { connection, names: asked, restart });
        }
        self.operators.waiters.push(Waiter::Children {
            connection,
            names: names.clone(),
            goal: Goal::Up(BTreeMap::new()),
        });
        for (&id, name) in ids.iter().zip(&names) {
            let Some(child) = self.children.get_mut(id) else { continue };
            child.machine.because = Some(Cause::Operator);
            let runs = child.machine.pid().is_some();
            if !runs {
                log::info!(target: name, "an operator starts it");
            }
            self.step(id, if runs && restart { Event::Restart } else { Event::Await });
        }
    }

    fn stop_children(&mut self, connection: u32, asked: &[String]) {
        let Some((ids, names)) = self.children_named(connection, asked) else { return };
        for id in ids {
            self.step(id, Event::Hold);
        }
        self.operators.waiters.push(Waiter::Children { connection, names, goal: Goal::Down });
    }

    /// Starts the children that waited for a change to be over.
    fn start_later(&mut self) {
        if self.changes.is_ending() || !self.changes.reloads.is_empty() {
            return;
        }
        let later = |waiter: &Waiter| matches!(waiter, Waiter::Later { .. });
        while let Some(place) = self.operators.waiters.iter().position(later) {
            if let Waiter::Later { connection, names, restart } = self.operators.waiters.remove(place) {
                self.start_or_restart(connection, names, restart);
            }
        }
    }

    /// Answers the operators whose wait is over.
    pub(crate) fn answer_waiters(&mut self) {
        self.start_later();
        let (mut waiters, mut over) = (std::mem::take(&mut self.operators.waiters), Vec::new());
        waiters.retain_mut(|waiter| {
            let Waiter::Children { connection, names, goal } = waiter else { return true };
            let bad = match goal {
                Goal::Up(watch) => self.wait_up(names, watch),
                Goal::Down => self.wait_down(names),
            };
            let waits = bad.is_none();
            over.extend(bad.map(|bad| (*connection, bad)));
            waits
        });
        self.operators.waiters = waiters;
        for (connection, bad) in over {
            if bad.is_empty() {
                self.operators.finish(Some(connection), 0);
            } else {
                self.operators.refuse(Some(connection), &bad.join("\n"));
            }
        }
    }

    /// Why some of these children are not up; `None`: not known yet.
    fn wait_up(&mut self, names: &[String], watch: &mut Watch) -> Option<Vec<String>> {
        // The change may be about to stop or replace it.
        if names.iter().any(|name| self.changes.concern(name)) {
            return None;
        }
        let (mut bad, mut open) = (Vec::new(), false);
        for name in names {
            match self.stays_up(name, watch) {
                Start::Open => open = true,
                Start::Good => {}
                Start::Bad(why) => bad.push(why.of(name)),
            }
        }
        (!open).then_some(bad)
    }

    /// What became of the start of that child, which is watched for a moment if it only had to
    /// be executed.
    fn stays_up(&mut self, name: &str, watch: &mut Watch) -> Start {
        let start = self.children.start_of(name);
        let Some(child) = self.children.named(name) else { return start };
        let machine = &child.machine;
        if machine.policy.ready != Ready::Exec || machine.has_finished() {
            return start;
        }
        let since = match (watch.get(name).copied(), machine.state) {
            (None, State::Up { pid, since }) => {
                watch.insert(name.to_owned(), (pid, since));
                since
            }
            (None, _) => return start,
            (Some((watched, since)), State::Up { pid, .. }) if watched == pid => since,
            (Some(_), State::Stopping { .. }) => return Start::Open,
            // Somebody else stopped or replaced it.
            (Some(_), _) if machine.asked || machine.want.is_held() => {
                watch.remove(name);
                return start;
            }
            (Some((_, since)), _) => {
                let end = machine.last_exit.map(|exit| exit.to_string()).unwrap_or_default();
                let lasted =
                    child.ended.map_or(Duration::ZERO, |ended| since.elapsed().saturating_sub(ended.elapsed()));
                return Start::Bad(Bad::Ended(format!(
                    "was up, then {end} after {} ms{}",
                    lasted.as_millis(),
                    machine.last_line()
                )));
            }
        };
        match WATCHED.checked_sub(since.elapsed()) {
            Some(left) if !left.is_zero() => {
                self.agenda.look_after(left);
                Start::Open
            }
            _ => Start::Good,
        }
    }

    /// Why some of these children are not down; `None`: not known yet.
    fn wait_down(&self, names: &[String]) -> Option<Vec<String>> {
        let mut bad = Vec::new();
        for child in names.iter().filter_map(|name| self.children.named(name)) {
            match (child.machine.state, child.machine.want.is_held()) {
                (State::Down, true) if !self.changes.stop(&child.config.name) => {}
                (State::Stopping { ladder: Ladder::Unkillable, .. }, true) => {
                    bad.extend(outcome::unkillable(&self.children, [&child.config.name]));
                }
                (_, true) => return None,
                (_, false) => bad.push(format!("cannot stop {}: it was started again", child.config.name)),
            }
        }
        Some(bad)
    }

    fn status(&mut self) -> Status {
        self.figures.wall.look();
        let now = Instant::now();
        let waits = self.kept.links.look(Instant::now());
        let mut links: Vec<status::Link> = self
            .kept
            .links
            .iter()
            .zip(waits)
            .map(|(held, (queued, stalled))| {
                let mut link = status::Link {
                    queued_bytes: queued as u64,
                    capacity_bytes: self.kept.links.capacity(held) as u64,
                    stalled_for_ms: u64::try_from(stalled.as_millis()).unwrap_or(u64::MAX),
                    ..status::Link::between(&held.config.from, held.config.stream, &held.config.to)
                };
                self.fill_in_flow(held, &mut link);
                link
            })
            .collect();
        // Links that are no longer configured but still hold bytes.
        links.extend(self.kept.store.waiting().into_iter().map(|link| {
            let (queued_bytes, capacity_bytes) = (link.bytes as u64, link.bytes as u64);
            status::Link { queued_bytes, capacity_bytes, ..status::Link::between(link.from, link.stream, link.to) }
        }));
        let children =
            self.model().children.iter().filter_map(|config| self.children.named(&config.name)).map(|child| {
                let waits_for = if child.machine.state == State::Waiting {
                    self.children.blocked_by(&child.config.name)
                } else {
                    None
                };
                let unreachable = || child.config.listen.iter().find_map(|address| self.kept.sockets.problem(address));
                let own = child.says.clone().or_else(|| child.machine.trouble(now));
                let problems: Vec<String> = own.into_iter().chain(unreachable()).collect();
                let problem = (!problems.is_empty()).then(|| problems.join("; "));
                let [rates, rates_1m] = amounts::sent(child.rates());
                status::Child {
                    name: child.config.name.clone(),
                    state: child.state(),
                    pid: child.machine.pid().map(nix::unistd::Pid::as_raw),
                    ready: child.machine.is_up(),
                    since: self.figures.wall.time(child.since),
                    finished: child.machine.has_finished(),
                    restarts: child.machine.restarts,
                    restarts_by: child.machine.restarts_by,
                    last_exit: child.last_exit(&self.figures.wall),
                    problem: problem.or_else(|| waits_for.map(|other| format!("waits for {other}"))),
                    flapping: child.machine.flapping(now),
                    failing: child.health.failing().map(str::to_owned),
                    metrics: child.metrics(),
                    rates,
                    rates_1m,
                    usage: None,
                    details: None,
                }
            });
        Status {
            version: status::VERSION,
            pid: nix::unistd::getpid().as_raw(),
            state: self.daemon_state(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            config: self.model().file.as_ref().map(|file| file.display().to_string()),
            config_content: self.loaded.text().map(status::Content::of),
            config_changed: None,
            since: self.figures.wall.time(self.figures.since),
            reloads: self.figures.reloads,
            reload_failed: self.figures.reload_failed.clone(),
            unlogged: crate::journal::unsent(),
            lacks: self.model().daemon.lacks.clone(),
            hooks: self.hooks.counts,
            children: children.collect(),
            links,
            listeners: self.listeners(),
            files: self.files(),
        }
    }
}
