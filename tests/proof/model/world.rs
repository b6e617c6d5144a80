//! A running daemon with what the model knows about it, and the checks from outside
//! that must confirm it.

use super::clients::Clients;
use super::random::Random;
use super::saved::{self, Expected, Found};
use super::shape::{Kind, Part, Shape};
use crate::daemon::{Daemon, alive, descriptors, free_port, strays};
use crate::program::{LENGTH, starts, told};
use plumbd::control::Request;
use plumbd::control::status::{ChildState, DaemonState, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// The result of a check or an operation, or what is wrong.
pub(super) type Checked<T = ()> = Result<T, String>;

/// Every fact comes true within this time, even on a loaded machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(40);

/// Counts of what was done.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(super) operations: u64,
    pub(super) reloads: u64,
    pub(super) refused: u64,
    pub(super) kills: u64,
    pub(super) ends: u64,
    pub(super) abrupt_ends: u64,
    pub(super) kept: u64,
    pub(super) answers: u64,
    pub(super) connected: u64,
    pub(super) echoed: u64,
    pub(super) lines: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.operations += other.operations;
        self.reloads += other.reloads;
        self.refused += other.refused;
        self.kills += other.kills;
        self.ends += other.ends;
        self.abrupt_ends += other.abrupt_ends;
        self.kept += other.kept;
        self.answers += other.answers;
        self.connected += other.connected;
        self.echoed += other.echoed;
        self.lines += other.lines;
    }
}

/// How a child should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Should {
    Up,
    /// An operator stopped it.
    Down,
    /// It runs once, and should be over now.
    BeOver,
    /// Either is right: what it needs is down, or two commands disagreed.
    Rest,
}

/// An answer of the daemon: exit status, standard output, standard error.
pub(super) type Answer = (u8, String, String);

/// The daemon, and what is known about it.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) daemon: Daemon,
    pub(super) shape: Shape,
    /// Children that an operator stopped.
    pub(super) held: BTreeSet<String>,
    /// Children of which it is not known whether they are up.
    pub(super) loose: BTreeSet<String>,
    /// The processes at the last time when all was quiet.
    pub(super) pids: BTreeMap<String, i32>,
    /// How often a job may have run.
    pub(super) may_run: BTreeMap<String, u32>,
    pub(super) clients: Clients,
    pub(super) history: Vec<String>,
    pub(super) counts: Counts,
    /// How long a fact may take. The controls do not wait.
    pub(super) patience: Duration,
    /// The connections of clients that are gone.
    connections: Vec<Expected>,
    /// Sources whose lines may be lost, because their supervisor was killed.
    forgiven: BTreeSet<u32>,
}

impl World {
    pub(super) fn start(seed: u64) -> Checked<World> {
        let mut random = Random::new(seed);
        let port = free_port();
        let shape = Shape::new(port, &mut random);
        let daemon = Daemon::spawn(&shape.text());
        daemon.wait_state(DaemonState::Running);
        let clients = Clients::start(port, 0);
        let mut world = World {
            random,
            daemon,
            shape,
            held: BTreeSet::new(),
            loose: BTreeSet::new(),
            pids: BTreeMap::new(),
            may_run: BTreeMap::new(),
            clients,
            history: Vec::new(),
            counts: Counts::default(),
            patience: DEADLINE,
            connections: Vec::new(),
            forgiven: BTreeSet::new(),
        };
        world.all_jobs_may_run();
        world.settle()?;
        Ok(world)
    }

    pub(super) fn note(&mut self, what: String) {
        self.history.push(what);
    }

    /// Jobs may run once more.
    pub(super) fn may_run(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names {
            if let Some(part) = self.shape.parts.get(&name).filter(|part| part.is_job()) {
                *self.may_run.entry(name).or_default() += part.runs();
            }
        }
    }

    fn all_jobs_may_run(&mut self) {
        self.may_run(self.shape.names(Part::is_job));
    }

    /// Sends a request, whose answer must come in time.
    pub(super) fn ask(&mut self, request: Request) -> Checked<Answer> {
        let asked = self.daemon.ask_meanwhile(request.clone());
        self.answer(asked, &format!("{request:?}"))
    }

    pub(super) fn answer(
        &mut self,
        asked: std::thread::JoinHandle<Result<Answer, String>>,
        what: &str,
    ) -> Checked<Answer> {
        let is_there = || if asked.is_finished() { Ok(()) } else { Err(self.daemon.log()) };
        within(self.patience, &format!("an answer to {what}"), is_there)?;
        self.counts.answers += 1;
        let answer = asked.join().unwrap().map_err(|e| format!("{what}: {e}"))?;
        self.note(format!("  {what}: {} {}", answer.0, answer.2.trim_end().replace('\n', "; ")));
        Ok(answer)
    }

    fn should(&self, name: &str, part: &Part) -> Should {
        if self.held.contains(name) {
            Should::Down
        } else if part.is_job() {
            // It needs no other child, so nothing keeps it from running to its end.
            Should::BeOver
        } else if self.loose.contains(name) || self.is_blocked(part) {
            Should::Rest
        } else {
            Should::Up
        }
    }

    /// Whether something that it needs may be down.
    pub(super) fn is_blocked(&self, part: &Part) -> bool {
        let children = self.shape.children();
        self.shape
            .needs(part)
            .iter()
            .any(|name| children.get(name).is_none_or(|part| self.should(name, part) != Should::Up))
    }

    /// Whether every child should be up, or over as it should.
    pub(super) fn all_is_well(&self) -> bool {
        let well = |(name, part): (&String, &&Part)| match self.should(name, part) {
            Should::Up => true,
            Should::BeOver => !part.fails(),
            Should::Down | Should::Rest => false,
        };
        self.shape.children().iter().all(well)
    }

    /// Waits until all is quiet and as it should be, and checks it from outside.
    pub(super) fn settle(&mut self) -> Checked {
        let status = within(self.patience, "all is quiet", || {
            let status = self.daemon.try_status().ok_or_else(|| format!("no status\n{}", self.daemon.log()))?;
            self.is_quiet(&status).map(|()| status)
        })?;
        let pids = status.children.iter().filter_map(|child| Some((child.name.clone(), child.pid?)));
        self.pids = pids.collect();
        self.look(&status)?;
        within(self.patience, "no zombies", || {
            let zombie = |pid: &i32| crate::daemon::state(*pid) == Some('Z');
            let zombies = crate::daemon::children_of(self.daemon.pid()).into_iter().filter(zombie).count();
            if zombies == 0 { Ok(()) } else { Err(format!("{zombies} zombies")) }
        })?;
        match self.clients.wrong().first() {
            Some(wrong) => Err(wrong.clone()),
            None => Ok(()),
        }
    }

    fn is_quiet(&self, status: &Status) -> Checked {
        if status.state != DaemonState::Running {
            return Err(format!("the daemon is {}", status.state));
        }
        let children = self.shape.children();
        let names: BTreeSet<&String> = status.children.iter().map(|child| &child.name).collect();
        if names != children.keys().collect() {
            return Err(format!("its children are {names:?}, and should be {:?}", children.keys()));
        }
        for child in &status.children {
            let should = self.should(&child.name, children[&child.name]);
            let is_right = match (should, child.state) {
                (Should::Up, ChildState::Up) => child.pid.is_some_and(alive),
                (Should::Down, ChildState::Down) => child.pid.is_none(),
                (Should::BeOver, ChildState::Down | ChildState::Failed) => child.pid.is_none(),
                (Should::Rest, state) => !matches!(state, ChildState::Starting | ChildState::Stopping),
                _ => false,
            };
            if !is_right {
                return Err(format!(
                    "{} is {}, and should be {should:?}; problem: {:?}",
                    child.name, child.state, child.problem
                ));
            }
        }
        Ok(())
    }

    /// Checks that each child has one process, that the settings are in force, and that no job ran
    /// too often.
    fn look(&self, status: &Status) -> Checked {
        let known: BTreeMap<&str, Option<i32>> =
            status.children.iter().map(|child| (child.name.as_str(), child.pid)).collect();
        one_process_each(self.daemon.dir.path(), self.daemon.pid(), &known)?;
        for (name, part) in self.shape.children() {
            if let (Should::Up, Some(pid)) = (self.should(&name, part), known[name.as_str()]) {
                settings_hold(self.daemon.dir.path(), &name, part, pid)?;
            }
        }
        runs_are_right(self.daemon.dir.path(), &self.may_run)
    }

    /// Checks that children whose part is the same in both configurations still have their processes.
    pub(super) fn kept(&mut self, before: &BTreeMap<String, i32>, old: &Shape, except: &BTreeSet<String>) -> Checked {
        for (name, part) in self.shape.children() {
            let stays = old.given(&name) == self.shape.given(&name) && !except.contains(&name);
            let (Some(pid), true) = (before.get(&name), stays && self.should(&name, part) == Should::Up) else {
                continue;
            };
            if self.pids.get(&name) != Some(pid) {
                return Err(format!(
                    "{name} is no longer process {pid}, although nothing of it changed: {:?}",
                    self.pids.get(&name)
                ));
            }
            self.counts.kept += 1;
        }
        Ok(())
    }

    /// Notes that the lines of sources that run now may be lost.
    pub(super) fn forgive(&mut self) {
        self.forgiven.extend(told(self.daemon.dir.path()).iter().map(|told| told.number));
    }

    /// Compares what was saved, once nothing runs any more.
    pub(super) fn compare(&mut self) -> Found {
        let next = self.clients.next_number();
        let (connected, echoed) = self.clients.counts();
        self.counts.connected += connected;
        self.counts.echoed += echoed;
        let clients = std::mem::replace(&mut self.clients, Clients::start_idle(self.shape.port, next));
        self.connections.extend(clients.go());
        saved::check(&saved::read(self.daemon.dir.path()), &self.expected())
    }

    /// What sources noted, and what clients that are gone sent.
    pub(super) fn expected(&self) -> Vec<Expected> {
        let sources = told(self.daemon.dir.path()).into_iter().map(|told| {
            let certain = if self.forgiven.contains(&told.number) { 0 } else { told.lines };
            Expected { number: told.number, length: LENGTH, certain, possible: told.lines + 1 }
        });
        self.connections.iter().cloned().chain(sources).collect()
    }

    /// Starts the next daemon in the same folder. No operator has stopped anything in it.
    pub(super) fn start_again(&mut self) -> Checked {
        self.daemon.configure(&self.shape.text());
        self.held.clear();
        self.loose.clear();
        self.all_jobs_may_run();
        self.daemon.start_again();
        self.clients.expect_listener(true);
        self.settle()
    }

    /// How many descriptors the supervisor has open, once those of commands are closed.
    pub(super) fn descriptors(&self) -> usize {
        let looks = (0..20).map(|_| {
            std::thread::sleep(Duration::from_millis(3));
            descriptors(self.daemon.pid())
        });
        looks.min().unwrap()
    }
}

/// Repeats a check until it succeeds.
pub(super) fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Checked<T>) -> Checked<T> {
    let until = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(why) if Instant::now() >= until => return Err(format!("waited in vain: {what}: {why}")),
            Err(_not_yet) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The living processes in that folder, by the name of the child in their environment.
pub(crate) fn processes(dir: &Path, supervisor: i32) -> BTreeMap<String, BTreeSet<i32>> {
    let mut found: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for pid in strays(dir) {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let name = environment.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(b"PLUMBD_CHILD="));
        if let Some(name) = name.filter(|_| pid != supervisor && alive(pid)) {
            found.entry(String::from_utf8_lossy(name).into_owned()).or_default().insert(pid);
        }
    }
    found
}

/// Checks that each child has the process that the status shows, and no other.
pub(crate) fn one_process_each(dir: &Path, supervisor: i32, known: &BTreeMap<&str, Option<i32>>) -> Checked {
    let mut wrong = BTreeSet::new();
    // What is seen only once may be in transition.
    for look in 0..2 {
        let now: BTreeSet<(String, i32)> = processes(dir, supervisor)
            .into_iter()
            .flat_map(|(name, pids)| pids.into_iter().map(move |pid| (name.clone(), pid)))
            .filter(|(name, pid)| known.get(name.as_str()).copied().flatten() != Some(*pid))
            .collect();
        wrong = if look == 0 { now } else { wrong.intersection(&now).cloned().collect() };
        if wrong.is_empty() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    // A patient child may just have been restarted.
    let shown: Vec<String> = wrong
        .iter()
        .filter(|(name, _)| known.get(name.as_str()).is_none_or(Option::is_some))
        .map(|(name, pid)| format!("{name} has process {pid} that no status tells: {known:?}"))
        .collect();
    if shown.is_empty() { Ok(()) } else { Err(shown.join("; ")) }
}

/// Checks that the process runs with the settings of the configuration.
pub(crate) fn settings_hold(dir: &Path, name: &str, part: &Part, pid: i32) -> Checked {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let umask = format!("Umask:\t{:04o}", part.umask);
    if !status.contains(&umask) {
        let is = status.lines().find(|line| line.starts_with("Umask")).unwrap_or("gone");
        return Err(format!("{name} {pid} should have {umask}, and has {is}"));
    }
    match &part.kind {
        Kind::Own(program) => {
            // A program is up a moment before the kernel has noted its arguments (fs/binfmt_elf.c).
            let words = || std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let until = Instant::now() + Duration::from_secs(1);
            while words().is_empty() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            let words = words();
            let words: Vec<String> = words
                .strip_suffix(b"\0")
                .unwrap_or_default()
                .split(|&byte| byte == 0)
                .map(|word| format!("{:?}", String::from_utf8_lossy(word)))
                .collect();
            let is = format!("command = [{}]", words.join(", "));
            if is != program.command() {
                return Err(format!("{name} {pid} runs {is}, and should run {}", program.command()));
            }
        }
        Kind::Logger { file } => {
            let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(|e| format!("{name} {pid}: {e}"))?;
            let path = dir.canonicalize().unwrap().join(file);
            let has = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).any(|link| link == path);
            if !has {
                return Err(format!("{name} {pid} does not have {file} open"));
            }
        }
        Kind::Echo { .. } => {}
    }
    Ok(())
}

/// Checks that no job ran more often than it may.
pub(crate) fn runs_are_right(dir: &Path, may_run: &BTreeMap<String, u32>) -> Checked {
    let mut runs: BTreeMap<String, u32> = BTreeMap::new();
    starts(dir).into_iter().for_each(|start| *runs.entry(start.name).or_default() += 1);
    for (name, &may) in may_run {
        let has = runs.get(name).copied().unwrap_or(0);
        if has > may {
            return Err(format!("the job {name} ran {has} times, and may have run {may} times"));
        }
    }
    Ok(())
}
