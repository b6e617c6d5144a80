//! What the model does to the daemon, each with what must be true afterwards.

use super::shape::{Kind, Shape};
use super::world::{Answer, Checked, World, within};
use crate::daemon::{alive, kill, strays};
use crate::program::{Program, starts};
use nix::libc::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM};
use nix::time::{ClockId, clock_gettime};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The documented limit for a shutdown: `daemon.stop_timeout` for the drain, and then
/// the longest `stop_timeout` of a child; the rest is for a loaded machine.
const END: Duration = Duration::from_secs(10 + 5 + 5);
/// The limit without a drain.
const END_AT_ONCE: Duration = Duration::from_secs(8);
/// After its supervisor was killed, a logger waits at most ten seconds for what may still come.
const ORPHANS: Duration = Duration::from_secs(20);

/// How a daemon is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Command,
    Terminate,
    Interrupt,
    /// A logger is stopped by an operator, or killed, just before.
    LoggerDown,
    /// A child hangs for a while.
    Hang,
    /// A restart of a child that ignores SIGTERM is under way.
    Restart,
    /// A reload is under way.
    Reload,
}

impl World {
    /// One random operation.
    pub(super) fn step(&mut self) -> Checked {
        self.counts.operations += 1;
        match self.random.below(31) {
            0 | 1 => self.start_some(Request::Start { children: Vec::new() }),
            2 | 3 => self.start_some(Request::Restart { children: Vec::new() }),
            4 | 5 => self.stop_some(),
            6..=8 => self.kill_some(),
            9 => self.pause_one(),
            10 => self.reopen(),
            11..=14 => self.reload(false),
            15 => self.reload_by_signal(),
            16 | 17 => self.reload_refused(),
            18..=20 => self.reload_undone(),
            21..=23 => self.reload(true),
            24 => self.two_commands(),
            25 | 26 => self.start_in_reload(),
            27 | 28 => {
                let ends = [
                    End::Command,
                    End::Terminate,
                    End::Interrupt,
                    End::LoggerDown,
                    End::LoggerDown,
                    End::Hang,
                    End::Restart,
                    End::Reload,
                ];
                let how = self.random.pick(&ends).unwrap();
                let before = self.all_is_well().then(|| self.descriptors());
                self.end(how)?;
                self.start_again()?;
                // A daemon that has done a lot has no more descriptors open than one that has done
                // nothing.
                match before.map(|before| (before, self.descriptors())) {
                    Some((before, now)) if before > now => {
                        Err(format!("{before} descriptors were open, and {now} in the next daemon"))
                    }
                    _ => Ok(()),
                }
            }
            _ => self.end_abruptly(),
        }
    }

    fn some_children(&mut self) -> Vec<String> {
        let all: Vec<String> = self.shape.children().into_keys().collect();
        let picked = (0..=self.random.below(3)).filter_map(|_| self.random.pick(&all)).collect::<BTreeSet<String>>();
        picked.into_iter().collect()
    }

    fn start_some(&mut self, request: Request) -> Checked {
        let names = self.some_children();
        let restart = matches!(request, Request::Restart { .. });
        self.note(format!("{} {names:?}", if restart { "restart" } else { "start" }));
        self.may_run(names.clone());
        for name in &names {
            self.held.remove(name);
            self.loose.remove(name);
        }
        let children = self.shape.children();
        let hopeless = names.iter().any(|name| children[name].fails() || self.is_blocked(children[name]));
        let blocked: Vec<String> = names.iter().filter(|name| self.is_blocked(children[*name])).cloned().collect();
        let jobs: BTreeSet<String> = names.iter().filter(|name| children[*name].is_job()).cloned().collect();
        let children = names.clone();
        let request = if restart { Request::Restart { children } } else { Request::Start { children } };
        let before = self.pids.clone();
        let (status, _, err) = self.ask(request)?;
        if status != 0 && !hopeless {
            return Err(format!("{status} for {names:?}: {err}"));
        }
        if status == 0 {
            self.are_up(&names, &jobs)?;
        }
        self.loose.extend(blocked);
        self.settle()?;
        if restart && status == 0 {
            for name in &names {
                if before.contains_key(name) && self.pids.get(name) == before.get(name) {
                    return Err(format!("{name} was restarted, and is process {:?} as before", before.get(name)));
                }
            }
        }
        Ok(())
    }

    /// Checks that these children are up, right after an answer that says so.
    pub(super) fn are_up(&self, names: &[String], jobs: &BTreeSet<String>) -> Checked {
        let status = self.daemon.status();
        for name in names.iter().filter(|name| !jobs.contains(*name)) {
            let child = status.children.iter().find(|child| child.name == *name);
            let child = child.ok_or_else(|| format!("answered 0, and there is no {name}"))?;
            if child.state != ChildState::Up || !child.pid.is_some_and(alive) {
                return Err(format!("answered 0, and {name} is {}, process {:?}", child.state, child.pid));
            }
        }
        Ok(())
    }

    fn stop_some(&mut self) -> Checked {
        let names = self.some_children();
        self.note(format!("stop {names:?}"));
        self.stop(&names)?;
        self.settle()
    }

    fn stop(&mut self, names: &[String]) -> Checked {
        let (status, _, err) = self.ask(Request::Stop { children: names.to_vec() })?;
        if status != 0 {
            return Err(format!("{status} for a stop of {names:?}: {err}"));
        }
        for name in names {
            self.held.insert(name.clone());
            self.loose.remove(name);
            if let Some(pid) = self.pids.get(name).filter(|&&pid| alive(pid)) {
                return Err(format!("{name} is stopped, and process {pid} lives"));
            }
        }
        Ok(())
    }

    /// Kills that child if it has a process.
    fn kill_child(&mut self, name: &str) -> bool {
        let pid = self.daemon.try_status().and_then(|status| {
            status.children.into_iter().find(|child| child.name == name).and_then(|child| child.pid)
        });
        if let Some(pid) = pid {
            self.note(format!("  kill {name} {pid}"));
            kill(pid, SIGKILL);
            self.counts.kills += 1;
            if self.shape.parts.get(name).is_some_and(|part| part.is_job() && part.on_failure) {
                // A killed job has failed, so it may run again.
                *self.may_run.entry(name.to_owned()).or_default() += 1;
            }
            // Wait, so that nothing takes it for a living process any more.
            while alive(pid) {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        pid.is_some()
    }

    fn kill_some(&mut self) -> Checked {
        let names = self.some_children();
        self.note(format!("kill {names:?}"));
        for name in names {
            self.kill_child(&name);
        }
        self.settle()
    }

    fn pause_one(&mut self) -> Checked {
        let pids: Vec<(String, i32)> = self.pids.clone().into_iter().collect();
        let Some((name, pid)) = self.random.pick(&pids) else { return Ok(()) };
        self.note(format!("pause {name} {pid}"));
        kill(pid, SIGSTOP);
        self.sleep(100);
        kill(pid, SIGCONT);
        self.settle()?;
        self.kept(&pids.into_iter().collect(), &self.shape.clone(), &BTreeSet::new())
    }

    fn sleep(&mut self, below: u32) {
        std::thread::sleep(Duration::from_millis(self.random.below(below).into()));
    }

    fn reopen(&mut self) -> Checked {
        self.note("reopen".to_owned());
        let before = self.pids.clone();
        let (status, _, err) = self.ask(Request::Reopen)?;
        if status != 0 {
            return Err(format!("{status} for a reopen: {err}"));
        }
        self.settle()?;
        self.kept(&before, &self.shape.clone(), &BTreeSet::new())
    }

    /// Updates the model after a reload from what it had to `new`.
    fn reloaded(&mut self, new: &Shape, answer: &Answer, before: &Shape) -> Checked {
        let (status, _, err) = answer;
        let holds = *status == 0 || err.contains("reloaded, but");
        let named = err.contains("nothing is changed") || err.contains("undone") || err.contains("nobody took");
        if !holds && !named {
            return Err(format!("{status}, and it does not say which configuration holds: {err}"));
        }
        let changed = |name: &String| before.given(name) != new.given(name);
        let names: BTreeSet<String> =
            new.children().into_keys().chain(before.children().into_keys()).filter(changed).collect();
        self.shape = new.clone();
        // A change of any key starts a failed job again.
        self.may_run(
            new.parts.iter().filter(|(name, part)| before.parts.get(*name) != Some(part)).map(|(name, _)| name.clone()),
        );
        if !holds {
            self.shape = before.clone();
            self.counts.refused += 1;
        }
        self.counts.reloads += u64::from(holds);
        let children: BTreeSet<String> = self.shape.children().into_keys().collect();
        self.held.retain(|name| children.contains(name));
        self.loose.retain(|name| children.contains(name));
        if *status != 0 && (holds || err.contains("undone, but")) {
            self.loose.extend(names.iter().filter(|name| children.contains(*name)).cloned());
        }
        self.daemon.configure(&self.shape.text());
        Ok(())
    }

    /// Reloads a good configuration, with or without kills meanwhile.
    fn reload(&mut self, kills: bool) -> Checked {
        let old = self.shape.clone();
        let new = self.file_or_changed(kills);
        self.note(format!("reload, kills: {kills}; {}", differences(&old, &new)));
        let well = self.all_is_well();
        let before = self.pids.clone();
        self.daemon.configure(&new.text());
        let mut victims: Vec<String> = old.children().into_keys().collect();
        let mut killed = BTreeSet::new();
        if kills {
            // Loggers whose file changes are killed most often.
            let loggers = old.names(|part| part.file().is_some());
            victims.extend(loggers.iter().filter(|&name| old.given(name) != new.given(name)).cycle().take(8).cloned());
        }
        if kills && self.random.one_in(2) {
            let name = self.random.pick(&victims).unwrap();
            self.kill_child(&name);
            killed.insert(name);
        }
        let asked = self.daemon.ask_meanwhile(Request::Reload);
        if kills {
            for _ in 0..=self.random.below(3) {
                self.sleep(40);
                let name = self.random.pick(&victims).unwrap();
                self.kill_child(&name);
                killed.insert(name);
            }
        }
        let answer = self.answer(asked, "reload")?;
        if answer.0 != 0 && well && !kills {
            return Err(format!("a good reload was refused: {} {}", answer.0, answer.2));
        }
        self.reloaded(&new, &answer, &old)?;
        self.settle()?;
        self.kept_over_both(&before, &old, &new, &killed)
    }

    /// Any change, but with kills often a change of a file.
    fn file_or_changed(&mut self, kills: bool) -> Shape {
        let mut random = self.random.clone();
        let new = if kills && random.one_in(2) {
            self.shape.other_files(&mut random)
        } else {
            self.shape.changed(&mut random)
        };
        self.random = random;
        new
    }

    fn reload_by_signal(&mut self) -> Checked {
        let old = self.shape.clone();
        if !self.all_is_well() {
            return Ok(());
        }
        let new = self.file_or_changed(false);
        self.note(format!("SIGHUP; {}", differences(&old, &new)));
        let before = self.pids.clone();
        let reloads = self.daemon.status().reloads;
        self.daemon.configure(&new.text());
        self.daemon.signal(SIGHUP);
        within(self.patience, "the reload", || {
            let status = self.daemon.status();
            let done = status.state == DaemonState::Running && status.reloads > reloads;
            if done { Ok(()) } else { Err(format!("{} reloads, {}", status.reloads, status.state)) }
        })?;
        self.reloaded(&new, &(0, String::new(), String::new()), &old)?;
        self.settle()?;
        self.kept(&before, &old, &BTreeSet::new())
    }

    /// Reloads a configuration that is wrong or can't be applied.
    fn reload_refused(&mut self) -> Checked {
        let old = self.shape.clone();
        let mut new = self.file_or_changed(false);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let broken = self.random.one_in(2);
        new.extra = if broken {
            "[children.broken]\ncomand = [\"sleep\"]\n".to_owned()
        } else {
            format!(
                "[children.taken]\ncommand = [\"sleep\", \"1000\"]\nlisten = [\"tcp://{}\"]\n",
                taken.local_addr().unwrap()
            )
        };
        self.note(format!("reload that is refused; {}", new.extra.lines().next().unwrap()));
        let before = self.pids.clone();
        self.daemon.configure(&new.text());
        let (status, _, err) = self.ask(Request::Reload)?;
        if status != if broken { 78 } else { 1 } {
            return Err(format!("{status} for a configuration that is no good: {err}"));
        }
        self.counts.refused += 1;
        self.daemon.configure(&old.text());
        self.settle()?;
        self.kept(&before, &old, &BTreeSet::new())
    }

    /// Reloads a configuration with a new child that never becomes ready, or ends before.
    fn reload_undone(&mut self) -> Checked {
        let old = self.shape.clone();
        let mut new = self.file_or_changed(false);
        // Jobs that change are run by the new configuration only.
        for part in new.parts.values_mut().filter(|part| part.is_job()) {
            part.umask ^= 0o11;
        }
        let (name, program, more) = if self.random.one_in(2) {
            ("never", Program::NeverReady, "ready = \"fd\"\nready_timeout = \"200ms\"")
        } else {
            ("failing", Program::Job { lasts: 20, status: 3 }, "restart = \"never\"\nready = \"fd\"")
        };
        new.extra = format!("[children.{name}]\n{}\n{more}\n", program.command());
        self.note(format!("reload that is undone by {name}; {}", differences(&old, &new)));
        let before = self.pids.clone();
        let runs = || starts(self.daemon.dir.path()).iter().filter(|start| start.name == name).count();
        let earlier = runs();
        self.daemon.configure(&new.text());
        let asked = self.daemon.ask_meanwhile(Request::Reload);
        let killed = if self.random.one_in(3) {
            self.sleep(300);
            let victim = self.random.pick(&old.children().into_keys().collect::<Vec<_>>()).unwrap();
            self.kill_child(&victim);
            BTreeSet::from([victim])
        } else {
            BTreeSet::new()
        };
        let answer = self.answer(asked, "reload")?;
        if answer.0 != 1 {
            return Err(format!("{} for a reload that must be undone: {}", answer.0, answer.2));
        }
        // The new configuration ran its jobs, even though it was undone.
        let mut without = new.clone();
        without.extra.clear();
        let holds = answer.2.contains("reloaded, but");
        if holds {
            return Err(format!("it is not undone: {}", answer.2));
        }
        self.reloaded(&without, &answer, &old)?;
        self.settle()?;
        let runs = || starts(self.daemon.dir.path()).iter().filter(|start| start.name == name).count();
        if runs() > earlier + 1 {
            return Err(format!("{name} was started {} times by one reload", runs() - earlier));
        }
        self.kept_over_both(&before, &old, &without, &killed)
    }

    /// Checks that what does not change keeps its process, even if a reload is undone.
    fn kept_over_both(
        &mut self,
        before: &std::collections::BTreeMap<String, i32>,
        old: &Shape,
        new: &Shape,
        killed: &BTreeSet<String>,
    ) -> Checked {
        let changed: BTreeSet<String> =
            old.children().into_keys().filter(|name| old.given(name) != new.given(name)).collect();
        self.kept(before, old, &changed.union(killed).cloned().collect())
    }

    /// Stops one child, restarts another, and makes a reload that changes nothing, all at once.
    fn two_commands(&mut self) -> Checked {
        let all: Vec<String> = self.shape.names(|part| !part.is_job() && !part.is_sink()).into_iter().collect();
        let all: Vec<String> = all.iter().flat_map(|name| self.shape.instances(name)).collect();
        let (Some(one), Some(other)) = (self.random.pick(&all), self.random.pick(&all)) else { return Ok(()) };
        if one == other {
            return Ok(());
        }
        self.note(format!("stop {one} and restart {other} and reload, at once"));
        let blocked = self.is_blocked(self.shape.children()[&other]);
        let stop = self.daemon.ask_meanwhile(Request::Stop { children: vec![one.clone()] });
        let restart = self.daemon.ask_meanwhile(Request::Restart { children: vec![other.clone()] });
        let reload = self.daemon.ask_meanwhile(Request::Reload);
        let stopped = self.answer(stop, "stop")?;
        let restarted = self.answer(restart, "restart")?;
        let _reloaded = self.answer(reload, "reload")?;
        if stopped.0 != 0 {
            return Err(format!("{} for a stop: {}", stopped.0, stopped.2));
        }
        self.held.insert(one.clone());
        self.loose.remove(&one);
        self.held.remove(&other);
        self.loose.remove(&other);
        if blocked || self.is_blocked(self.shape.children()[&other]) {
            self.loose.insert(other);
        } else if restarted.0 != 0 {
            return Err(format!("{} for a restart: {}", restarted.0, restarted.2));
        }
        self.settle()
    }

    /// Starts or restarts a child that a reload is about to restart or remove.
    fn start_in_reload(&mut self) -> Checked {
        let of = |world: &World, program: Program| world.shape.names(|part| part.kind == Kind::Own(program.clone()));
        let deaf = of(self, Program::Deaf);
        let both = [of(self, Program::Plain), deaf.clone()].concat();
        let Some(name) = self.random.pick(&both).filter(|name| self.pids.contains_key(name)) else { return Ok(()) };
        if self.loose.contains(&name) || self.is_blocked(&self.shape.parts[&name]) {
            return Ok(());
        }
        let old = self.shape.clone();
        let mut new = old.clone();
        let goes = self.random.one_in(2) && !old.parts.values().any(|part| old.needs(part).contains(&name));
        // A child that ignores its stop signal keeps the reload waiting.
        for part in deaf.iter().filter(|other| **other != name) {
            new.parts.get_mut(part).unwrap().umask ^= 0o55;
        }
        if goes {
            new.parts.remove(&name);
        } else {
            new.parts.get_mut(&name).unwrap().umask ^= 0o55;
        }
        let children = vec![name.clone()];
        let request = if self.random.one_in(2) { Request::Start { children } } else { Request::Restart { children } };
        self.note(format!("{request:?} while a reload stops {name}; goes: {goes}"));
        self.daemon.configure(&new.text());
        let before = self.pids.clone();
        let asked = self.daemon.ask_meanwhile(Request::Reload);
        within(self.patience, "it is being stopped", || {
            let status = self.daemon.status();
            let child = status.children.iter().find(|child| child.name == name);
            let stopping =
                child.is_none_or(|child| child.state != ChildState::Up || child.pid != before.get(&name).copied());
            if stopping { Ok(()) } else { Err("not yet".to_owned()) }
        })?;
        let started = self.ask(request)?;
        if started.0 == 0 {
            self.are_up(std::slice::from_ref(&name), &BTreeSet::new())?;
        } else if !goes {
            return Err(format!("{} for a start in a reload: {}", started.0, started.2));
        }
        let answer = self.answer(asked, "reload")?;
        if answer.0 == 0 && goes && started.0 == 0 {
            return Err(format!("a start of {name} answered 0, and it went"));
        }
        self.reloaded(&new, &answer, &old)?;
        if !goes {
            self.held.remove(&name);
        }
        self.settle()?;
        self.kept(&before, &old, &BTreeSet::from_iter(both))
    }

    /// Ends it with a drain. Checks that the exit status is 0, everything is saved, it is in time,
    /// nothing is left, and nothing was started that should stop.
    pub(super) fn end(&mut self, how: End) -> Checked {
        self.note(format!("end: {how:?}"));
        let logger = self.random.pick(&self.shape.names(|part| part.file().is_some())).unwrap();
        let deaf = self.random.pick(&self.shape.names(|part| part.kind == Kind::Own(Program::Deaf)));
        let mut meanwhile = Vec::new();
        let mut hanging = None;
        match how {
            End::LoggerDown => {
                if self.random.one_in(2) {
                    self.stop(&[logger])?;
                } else {
                    self.kill_child(&logger);
                }
                self.sleep(60);
            }
            End::Hang => {
                let pids: Vec<i32> = self.pids.values().copied().collect();
                hanging = self.random.pick(&pids);
                hanging.iter().for_each(|&pid| kill(pid, SIGSTOP));
                self.note(format!("  {hanging:?} hangs"));
            }
            End::Restart => {
                if let Some(name) = deaf.filter(|name| self.pids.contains_key(name)) {
                    self.note(format!("  restart {name} meanwhile"));
                    meanwhile.push(self.daemon.ask_meanwhile(Request::Restart { children: vec![name.clone()] }));
                    let _stopping = self.daemon.wait_child(&name, ChildState::Stopping);
                }
            }
            End::Reload => {
                let new = self.file_or_changed(false);
                self.note(format!("  reload meanwhile; {}", differences(&self.shape, &new)));
                self.daemon.configure(&new.text());
                meanwhile.push(self.daemon.ask_meanwhile(Request::Reload));
                self.sleep(50);
            }
            End::Command | End::Terminate | End::Interrupt => {}
        }
        self.clients.expect_listener(false);
        let began = Instant::now();
        match how {
            End::Command => meanwhile.push(self.daemon.ask_meanwhile(Request::Shutdown { fast: false })),
            End::Interrupt => self.daemon.signal(SIGINT),
            _ => self.daemon.signal(SIGTERM),
        }
        let stopping_since = self.wait_stopping();
        if let Some(pid) = hanging {
            self.sleep(200);
            kill(pid, SIGCONT);
        }
        let status = self.daemon.wait_killed();
        let took = began.elapsed();
        self.counts.ends += 1;
        if took > END {
            return Err(format!("the end took {took:?}"));
        }
        for asked in meanwhile {
            let _answered = asked.join();
        }
        self.nothing_is_left(Duration::from_secs(3))?;
        if how == End::Reload {
            // It is not known from which of the two configurations its jobs are.
            self.may_run(self.shape.names(super::shape::Part::is_job));
        } else {
            self.nothing_started_late(stopping_since)?;
        }
        let found = self.compare();
        self.counts.lines += found.lines;
        if !found.is_clean() {
            return Err(format!("{status}; {found}"));
        }
        if !status.success() {
            let log = self.daemon.log();
            return Err(format!("{status}; {}", log.lines().last().unwrap_or_default()));
        }
        if self.daemon.path("plumbd.sock").exists() {
            return Err("the control socket is left behind".to_owned());
        }
        Ok(())
    }

    /// Ends it with children that ignore their stop signal and wait for each other. The
    /// limit is the same, although they could take eight times three seconds.
    pub(super) fn end_stubborn(&mut self) -> Checked {
        self.note("end: stubborn".to_owned());
        let mut new = self.shape.clone();
        new.drain = 3;
        for number in 0..8 {
            new.extra += &format!("[children.stubborn{number}]\n{}\n", Program::Deaf.command());
            new.extra += "ready = \"fd\"\nready_timeout = \"20s\"\nstop_timeout = \"3s\"\n";
            if number > 0 {
                new.extra += &format!("after = [\"stubborn{}\"]\n", number - 1);
            }
        }
        self.daemon.configure(&new.text());
        let well = self.all_is_well();
        let (status, _, err) = self.ask(Request::Reload)?;
        if status != 0 && well {
            return Err(format!("a good reload was refused: {status} {err}"));
        }
        self.clients.expect_listener(false);
        let began = Instant::now();
        self.daemon.signal(SIGTERM);
        let status = self.daemon.wait_killed();
        let took = began.elapsed();
        self.counts.ends += 1;
        if took > END - Duration::from_secs(7) {
            return Err(format!("the end took {took:?}"));
        }
        self.nothing_is_left(Duration::from_secs(3))?;
        let found = self.compare();
        self.counts.lines += found.lines;
        // The drain has three seconds here. What it can't do in that time is reported.
        let is_named = status.code() == Some(1) && self.daemon.log().contains("nobody took");
        if !(status.success() && found.is_clean() || is_named && found.doubled + found.disordered + found.torn == 0) {
            return Err(format!("{status}; {found}"));
        }
        Ok(())
    }

    /// Waits until it is stopping. Returns when that was, in clock ticks since boot.
    fn wait_stopping(&self) -> u64 {
        while self.daemon.try_status().is_some_and(|status| status.state != DaemonState::Stopping) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
        u64::try_from(now.tv_sec() * 100 + now.tv_nsec() / 10_000_000).unwrap()
    }

    /// Checks that only children that take what still waits were started during the shutdown.
    pub(super) fn nothing_started_late(&self, since: u64) -> Checked {
        let children = self.shape.children();
        let late = starts(self.daemon.dir.path())
            .into_iter()
            .find(|start| start.forked > since + 3 && children.get(&start.name).is_none_or(|part| !part.is_sink()));
        late.map_or(Ok(()), |start| Err(format!("{} was started while the daemon ended", start.name)))
    }

    pub(super) fn nothing_is_left(&self, bound: Duration) -> Checked {
        let until = Instant::now() + bound;
        loop {
            let left = strays(self.daemon.dir.path());
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                let names = super::world::processes(self.daemon.dir.path(), 0);
                return Err(format!("left behind: {left:?}, {names:?}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it twice, or kills the supervisor. What clients got back must be saved nevertheless.
    fn end_abruptly(&mut self) -> Checked {
        let how = self.random.below(4);
        self.note(format!(
            "end abruptly: {}",
            ["two SIGTERM", "shutdown --fast", "SIGKILL", "SIGKILL of all"][how as usize]
        ));
        self.clients.expect_listener(false);
        self.counts.abrupt_ends += 1;
        let began = Instant::now();
        match how {
            0 => {
                self.daemon.signal(SIGTERM);
                std::thread::sleep(Duration::from_millis(2));
                self.sleep(20);
                self.daemon.signal(SIGTERM);
            }
            1 => {
                let _answered = self.daemon.ask_meanwhile(Request::Shutdown { fast: true }).join();
            }
            _ => {
                let children: Vec<i32> = self.pids.values().copied().collect();
                self.daemon.signal(SIGKILL);
                if how == 3 {
                    children.into_iter().for_each(|pid| kill(pid, SIGKILL));
                }
            }
        }
        let status = self.daemon.wait_killed();
        let took = began.elapsed();
        if how < 2 && took > END_AT_ONCE {
            return Err(format!("an end at once took {took:?}"));
        }
        if how == 2 {
            // A child that ignores its stop signal stays until it is killed.
            let deaf = self.shape.names(|part| part.kind == Kind::Own(Program::Deaf));
            deaf.iter().filter_map(|name| self.pids.get(name)).for_each(|&pid| kill(pid, SIGKILL));
        }
        self.nothing_is_left(if how < 2 { Duration::from_secs(3) } else { ORPHANS })?;
        if how < 2 && !status.success() && !self.daemon.log().contains("nobody took") {
            return Err(format!("{status}, and it does not say why"));
        }
        self.forgive();
        self.start_again()
    }
}

/// What changes, in words.
fn differences(old: &Shape, new: &Shape) -> String {
    let (before, after) = (old.children(), new.children());
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let told = names.into_iter().filter_map(|name| match (old.given(name), new.given(name)) {
        (None, Some(given)) => Some(format!("+{name} ({given})")),
        (Some(given), None) => Some(format!("-{name} ({given})")),
        (Some(was), Some(is)) if was != is => Some(format!("{name} ({was} => {is})")),
        _ => None,
    });
    let own = std::env::current_exe().unwrap();
    told.collect::<Vec<String>>().join(", ").replace(own.to_str().unwrap(), "")
}
