//! Families of children, the links between them, and their configuration.

use super::super::{Before, Change, Do, LinkSeen, Next, Stop, Then};
use crate::config::model::{Backoff, Policy, Ready, Restart, StartLimit, StopTo, Success};
use crate::config::order::{self, Needs};
use crate::supervisor::change::drain::Bounds;
use crate::supervisor::dice::Dice;
use crate::supervisor::family::child::{Action, Event, Machine, State, Want};
use crate::supervisor::family::outcome::{Family, Seen as SeenChild};
use crate::supervisor::kept::links::QueueId;
use crate::sys::process::Exit;
use crate::sys::stream::Stream;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

/// How many bytes a link can hold.
const ROOM: usize = 4;
/// The longest that an undisturbed change may take: a drain, a process that SIGKILL does
/// not end, a start that never becomes ready, and all of that again on the way back.
const SOON: Duration = Duration::from_secs(150);

/// What the simulation gets wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// Children start before what they need is up.
    StartsAtOnce,
    /// A configuration takes effect while children still run.
    DoesNotWaitForTheEnd,
    /// Children that were stopped by a change that was called off are not started again.
    ForgetsWhomItStopped,
    /// A configuration stays in force although its children do not serve.
    DoesNotGoBack,
}

#[derive(Debug, Default)]
pub struct Seen {
    pub events: u64,
    pub effects: u64,
    pub turned_back: u64,
    pub gone_back: u64,
    pub settled: u64,
    pub killed: u64,
    pub held: u64,
    /// Processes that SIGKILL did not end at once.
    pub unkillable: u64,
    pub ends: u64,
    /// Changes that the end cut short.
    pub cut_short: u64,
    /// How often two changes were under way at once.
    pub together: u64,
}

/// A child's part of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    version: u32,
    /// It never becomes ready.
    is_bad: bool,
    /// Where its output goes.
    to: Option<String>,
    /// Where its errors go.
    errors: Option<String>,
    after: BTreeSet<String>,
}

impl Part {
    /// Its links: each output and where it goes.
    fn links(&self) -> impl Iterator<Item = (Stream, &String)> {
        let output = self.to.iter().map(|to| (Stream::Stdout, to));
        output.chain(self.errors.iter().map(|to| (Stream::Stderr, to)))
    }
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    version: u32,
    is_bad: bool,
    asked: bool,
    forced: bool,
    deaf: bool,
    /// SIGKILL does not end it before this.
    stuck_until: Option<Instant>,
    /// A byte that it has read and not written yet.
    in_hand: bool,
}

#[derive(Debug)]
struct Kid {
    machine: Machine,
    process: Option<Process>,
    /// Whether its process has become ready, by the world's own account.
    is_ready: bool,
    spawned: i32,
}

#[derive(Debug)]
struct Link {
    from: String,
    stream: Stream,
    to: String,
    queue: QueueId,
    bytes: usize,
    open: bool,
}

/// The new parts of some children; `None`: the child is removed.
type Patch = BTreeMap<String, Option<Part>>;

struct UnderWay {
    family: usize,
    change: Change,
    /// What it changes, and what would undo that.
    patch: Patch,
    back: Patch,
    going: BTreeSet<String>,
    /// When the way back is prepared.
    prepared_at: Option<Instant>,
}

pub struct World {
    flaw: Flaw,
    families: usize,
    now: Instant,
    begin: Instant,
    quiet_since: Option<Instant>,
    config: BTreeMap<String, Part>,
    needs: Needs,
    kids: BTreeMap<String, Kid>,
    links: Vec<Link>,
    changes: Vec<UnderWay>,
    end: Option<Stop>,
    ended: bool,
    versions: u32,
    /// The versions of parts that may be in force although they never become ready.
    excused: BTreeSet<u32>,
    events: u64,
}

impl Family for World {
    fn child(&self, name: &str) -> Option<SeenChild<'_>> {
        let machine = &self.kids.get(name)?.machine;
        Some(SeenChild { machine, stuck: None, is_looked_for: false, is_reaped: false })
    }

    fn needs(&self) -> &Needs {
        &self.needs
    }
}

impl super::super::World for World {
    fn family(&self) -> &dyn Family {
        self
    }

    fn links(&self) -> Vec<LinkSeen<'_>> {
        let each = self.links.iter().map(|link| LinkSeen {
            from: &link.from,
            stream: link.stream,
            to: &link.to,
            queue: &link.queue,
            is_open: link.open,
            saves: is_saver(&link.to),
        });
        each.collect()
    }

    fn waiting(&self, link: usize) -> usize {
        self.links[link].bytes
    }
}

/// A name shows the family and the role: `a` is a source, `f` a filter, `s` a sink, and `v`
/// a sink that saves.
fn name(family: usize, role: char, number: usize) -> String {
    format!("{family}{role}{number}")
}

fn is_source(name: &str) -> bool {
    name[1..].starts_with('a')
}

fn family_of(name: &str) -> usize {
    name[..1].parse().unwrap()
}

fn is_saver(name: &str) -> bool {
    name[1..].starts_with('v')
}

fn policy(dice: &mut Dice, saver: bool) -> Policy {
    let ms = Duration::from_millis;
    Policy {
        restart: if saver { Restart::Always } else { dice.of(&[Restart::Always, Restart::OnFailure, Restart::Never]) },
        backoff: Backoff { first: dice.of(&[ms(0), ms(200)]), factor: 2.0, max: ms(2000), reset_after: ms(1000) },
        start_limit: StartLimit { burst: dice.of(&[3, 1000]), within: ms(10_000) },
        ready: Ready::Notify,
        ready_timeout: ms(3000),
        stop_signal: Signal::SIGTERM,
        stop_to: StopTo::Group,
        success: Success { codes: vec![0], signals: Vec::new() },
        stop_timeout: dice.of(&[ms(300), ms(3000)]),
    }
}

impl World {
    pub fn new(families: usize, flaw: Flaw, dice: &mut Dice) -> World {
        let now = Instant::now();
        let mut world = World {
            flaw,
            families,
            now,
            begin: now,
            quiet_since: None,
            config: BTreeMap::new(),
            needs: Needs::new(),
            kids: BTreeMap::new(),
            links: Vec::new(),
            changes: Vec::new(),
            end: None,
            ended: false,
            versions: 0,
            excused: BTreeSet::new(),
            events: 0,
        };
        for family in 0..families {
            let sink = name(family, dice.of(&['v', 's']), 0);
            let mut config = BTreeMap::from([(sink.clone(), world.part(dice, [None, None], 5))]);
            for number in 1..=1 + dice.below(4) {
                let all: Vec<&String> = config.keys().collect();
                let to = [80, 30].map(|percent| {
                    dice.percent(percent).then(|| all[dice.below(all.len())].clone()).filter(|to| !is_source(to))
                });
                let role = if dice.percent(50) { 'f' } else { 'a' };
                let part = world.part(dice, to, 5);
                config.insert(name(family, role, number), part);
            }
            world.config.extend(config);
        }
        for name in world.config.keys().cloned().collect::<Vec<_>>() {
            world.come(&name, dice);
            world.kids.get_mut(&name).unwrap().machine.step(Event::Await, now);
        }
        world.excused = world.config.values().map(|part| part.version).collect();
        world.renew();
        world
    }

    fn part(&mut self, dice: &mut Dice, [to, errors]: [Option<String>; 2], bad: u64) -> Part {
        self.versions += 1;
        Part { version: self.versions, is_bad: dice.percent(bad), to, errors, after: BTreeSet::new() }
    }

    fn come(&mut self, name: &str, dice: &mut Dice) {
        let machine = Machine::new(policy(dice, is_saver(name)));
        self.kids.insert(name.to_owned(), Kid { machine, process: None, is_ready: false, spawned: 0 });
    }

    /// Derives needs and links from the configuration.
    fn renew(&mut self) {
        self.needs = self
            .config
            .iter()
            .map(|(name, part)| {
                (name.clone(), part.after.iter().chain(part.links().map(|(_, to)| to)).cloned().collect())
            })
            .collect();
        let config = &self.config;
        self.links.retain(|link| {
            config.get(&link.from).is_some_and(|part| part.links().any(|out| out == (link.stream, &link.to)))
        });
        for (from, part) in config {
            for (stream, to) in part.links() {
                if self.links.iter().any(|link| link.from == *from && link.stream == stream) {
                    continue;
                }
                let queue = match is_saver(to) {
                    true => QueueId::Between(from.clone(), stream, to.clone()),
                    false => QueueId::Of(to.clone()),
                };
                let (from, to) = (from.clone(), to.clone());
                self.links.push(Link { from, stream, to, queue, bytes: 0, open: true });
            }
        }
    }

    /// Lives through some events, then quiet, then the end.
    pub fn live(&mut self, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        for _ in 0..dice.below(600) {
            self.event(dice, seen)?;
        }
        if dice.percent(70) {
            self.quiet_since = Some(self.now);
            while !self.changes.is_empty() || self.now < self.begin_of_quiet() + SOON {
                self.event(dice, seen)?;
                if !self.changes.is_empty() && self.now > self.begin_of_quiet() + SOON {
                    return Err("a change goes on without end".to_owned());
                }
            }
            self.all_is_as_wanted()?;
            self.quiet_since = None;
        } else {
            // The end may come in the middle of a change.
            self.begin(dice);
            for _ in 0..dice.below(20) {
                self.event(dice, seen)?;
            }
        }
        seen.ends += 1;
        seen.cut_short += self.changes.len() as u64;
        self.changes.clear();
        self.resume_inputs();
        let queues = self.links.iter().map(|link| link.queue.clone()).collect();
        let stop = Stop::new(self.kids.keys().cloned().collect(), queues, self.bounds(dice));
        let until = stop.until() + Duration::from_secs(60);
        self.end = Some(stop);
        self.advance(dice, seen)?;
        while !self.ended {
            self.event(dice, seen)?;
            if self.now > until {
                return Err("the end goes on without end".to_owned());
            }
        }
        match self.kids.iter().find(|(_, kid)| kid.process.as_ref().is_some_and(|process| !process.forced)) {
            Some((name, _)) => Err(format!("{name} runs after the end")),
            None => Ok(()),
        }
    }

    fn begin_of_quiet(&self) -> Instant {
        self.quiet_since.unwrap_or(self.now)
    }

    fn bounds(&self, dice: &mut Dice) -> Bounds {
        let longest = self.kids.values().map(|kid| kid.machine.policy.stop_timeout).max().unwrap_or_default();
        Bounds::new(
            self.now,
            dice.of(&[Duration::from_millis(20), Duration::from_millis(200), Duration::from_secs(10)]),
            longest,
        )
    }

    fn any(&self, dice: &mut Dice) -> String {
        self.kids.keys().nth(dice.below(self.kids.len())).unwrap().clone()
    }

    fn event(&mut self, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        self.events += 1;
        seen.events += 1;
        let is_quiet = self.quiet_since.is_some();
        self.now += dice.up_to(Duration::from_millis(if is_quiet { 400 } else { 100 }));
        let one = self.any(dice);
        match dice.roll() % 100 {
            _ if is_quiet => {
                for name in self.kids.keys().cloned().collect::<Vec<_>>() {
                    self.process(&name, dice, seen)?;
                }
            }
            0..2 => self.kill(&one, seen)?,
            2..4 if self.end.is_none() => self.operator(&one, dice, seen)?,
            4..7 if self.end.is_none() => self.begin(dice),
            _ => self.process(&one, dice, seen)?,
        }
        for name in self.kids.keys().cloned().collect::<Vec<_>>() {
            let process = self.kids[&name].process.as_ref();
            if process.is_some_and(|process| process.forced && process.stuck_until.is_none_or(|at| at <= self.now)) {
                self.exit(&name, Exit::Signal(9), dice, seen)?;
            }
            if self.kids[&name].machine.deadline().is_some_and(|deadline| deadline <= self.now) {
                self.tell(&name, Event::Tick, dice, seen)?;
            }
        }
        seen.together += u64::from(self.changes.len() > 1);
        self.advance(dice, seen)
    }

    /// Takes the possible steps, as the supervisor does after each event.
    fn advance(&mut self, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        for _ in 0..20 {
            let before = self.states();
            if self.end.is_none() {
                self.resume_inputs();
                self.start_waiting(dice, seen)?;
                self.step_changes(dice, seen)?;
            }
            self.step_end(dice, seen)?;
            self.stop_held(dice, seen)?;
            if self.states() == before {
                return Ok(());
            }
        }
        Err("one event leads to steps without end".to_owned())
    }

    fn states(&self) -> Vec<(State, Want)> {
        self.kids.values().map(|kid| (kid.machine.state, kid.machine.want)).collect()
    }

    fn resume_inputs(&mut self) {
        let ends =
            |queue| self.changes.iter().filter_map(|under_way| under_way.change.stop()).any(|stop| stop.ends(queue));
        let open: Vec<bool> = self.links.iter().map(|link| link.open || !ends(&link.queue)).collect();
        self.links.iter_mut().zip(open).for_each(|(link, open)| link.open = open);
    }

    fn stops(&self, name: &str) -> bool {
        self.end.is_some() || self.changes.iter().any(|under_way| under_way.change.stops(name))
    }

    fn concern(&self, name: &str) -> bool {
        self.changes.iter().any(|under_way| under_way.change.concerns(name))
    }

    fn start_waiting(&mut self, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        for name in self.kids.keys().cloned().collect::<Vec<_>>() {
            let may = if self.flaw == Flaw::StartsAtOnce { self.waits(&name) } else { self.may_start(&name) };
            if may && !self.changes.iter().any(|under_way| under_way.change.delays(&name)) {
                // Checked by the world's own account.
                let is_up = |kid: &Kid| kid.is_ready && kid.process.as_ref().is_some_and(|process| !process.asked);
                let missing = |other: &&String| {
                    self.kids.get(*other).is_some_and(|kid| !is_up(kid) && !kid.machine.has_finished())
                };
                if let Some(other) = self.needs[&name].iter().find(missing) {
                    return Err(format!("{name} starts before {other}, which it needs, is up"));
                }
                self.tell(&name, Event::Start, dice, seen)?;
            }
        }
        Ok(())
    }

    fn stop_held(&mut self, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        let needed_by = order::needed_by(&self.needs);
        for name in self.kids.keys().cloned().collect::<Vec<_>>() {
            if self.may_stop(&name, &needed_by) && !self.stops(&name) {
                self.tell(&name, Event::Stop, dice, seen)?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, to_do: Vec<Do>, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        for what in to_do {
            match what {
                Do::Tell(name, event) => self.tell(&name, event, dice, seen)?,
                Do::EndInput(queue) => {
                    self.links.iter_mut().filter(|link| link.queue == queue).for_each(|link| link.open = false);
                }
            }
        }
        Ok(())
    }

    fn step_end(&mut self, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        let Some(mut stop) = self.end.take() else { return Ok(()) };
        let Next { to_do, then: done, .. } = stop.step(self, self.now);
        self.ended = done || self.now > stop.until() + Duration::from_secs(1);
        self.end = Some(stop);
        self.carry_out(to_do, dice, seen)
    }

    fn step_changes(&mut self, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        let mut place = 0;
        while place < self.changes.len() {
            let mut under_way = self.changes.remove(place);
            self.prepare(&mut under_way, dice);
            let Next { to_do, then, .. } = under_way.change.step(self, self.now);
            let back = |under_way: &UnderWay| under_way.change.why_back().is_some();
            self.carry_out(to_do, dice, seen)?;
            let then = match then {
                Then::Wait if self.flaw == Flaw::DoesNotWaitForTheEnd && under_way.change.stop().is_some() => {
                    Then::TakeEffect(Vec::new())
                }
                then => then,
            };
            match then {
                Then::Wait => {
                    self.changes.insert(place, under_way);
                    place += 1;
                }
                Then::TakeEffect(losses) => {
                    if !losses.is_empty() && !back(&under_way) {
                        return Err(format!("takes effect in spite of {losses:?}"));
                    }
                    seen.effects += 1;
                    self.take_effect(&mut under_way, dice, seen)?;
                    self.changes.insert(place, under_way);
                }
                Then::TurnBack(why) => {
                    seen.turned_back += 1;
                    under_way.change = under_way.change.turned_back(why.join("; "));
                    self.resume_inputs();
                    for name in under_way.going.clone() {
                        if self.flaw != Flaw::ForgetsWhomItStopped {
                            self.bring_back(&mut under_way, &name, dice, seen)?;
                        }
                    }
                    self.changes.insert(place, under_way);
                }
                Then::GoBack(_) if back(&under_way) => return Err("goes back twice".to_owned()),
                Then::GoBack(_) if self.flaw == Flaw::DoesNotGoBack => {}
                Then::GoBack(_) => {
                    seen.gone_back += 1;
                    under_way.change = under_way.change.back("it does not serve".to_owned());
                    under_way.prepared_at = Some(self.now + dice.up_to(Duration::from_secs(2)));
                    self.changes.insert(place, under_way);
                    place += 1;
                }
                Then::Settle(bad) => {
                    seen.settled += 1;
                    let versions = bad.iter().filter_map(|(name, _)| self.config.get(name)).map(|part| part.version);
                    self.excused.extend(versions);
                }
            }
        }
        Ok(())
    }

    /// Prepares a change back, once its time has come.
    fn prepare(&mut self, under_way: &mut UnderWay, dice: &mut Dice) {
        if under_way.prepared_at.is_none_or(|at| self.now < at) {
            return;
        }
        under_way.prepared_at = None;
        under_way.patch = under_way.back.clone();
        let (concerned, going, ends) = self.plan(&under_way.patch);
        under_way.going = going.clone();
        let stop = Stop::new(going, ends, self.bounds(dice));
        under_way.change = under_way.change.clone().stopping(concerned, stop);
    }

    /// Which children that concerns, which of them stop, and which inputs end.
    fn plan(&self, patch: &Patch) -> (BTreeSet<String>, BTreeSet<String>, BTreeSet<QueueId>) {
        let goes = |(name, part): &(&String, &Option<Part>)| match (self.config.get(*name), part) {
            (Some(before), Some(part)) => before.version != part.version,
            (before, _) => before.is_some(),
        };
        let going = patch.iter().filter(goes).map(|(name, _)| name.clone()).collect();
        let part = |from: &String| match patch.get(from) {
            Some(part) => part.as_ref(),
            None => self.config.get(from),
        };
        let stays =
            |link: &&Link| part(&link.from).is_some_and(|part| part.links().any(|out| out == (link.stream, &link.to)));
        let staying: BTreeSet<&QueueId> = self.links.iter().filter(stays).map(|link| &link.queue).collect();
        let queues = self.links.iter().map(|link| &link.queue);
        let ends = queues.filter(|queue| !staying.contains(queue)).cloned().collect();
        (patch.keys().cloned().collect(), going, ends)
    }

    /// Begins a reload of a family that has none under way: children are added, removed or
    /// changed.
    fn begin(&mut self, dice: &mut Dice) {
        let family = dice.below(self.families);
        if self.changes.iter().any(|under_way| under_way.family == family) {
            return;
        }
        let mut config: BTreeMap<String, Part> = self
            .config
            .iter()
            .filter(|(name, _)| family_of(name) == family)
            .map(|(n, p)| (n.clone(), p.clone()))
            .collect();
        for _ in 0..=dice.below(2) {
            let names: Vec<String> = config.keys().cloned().collect();
            let one = names[dice.below(names.len())].clone();
            match dice.below(4) {
                0 if names.len() > 1 => {
                    let gone = config.remove(&one).unwrap();
                    for (_, to) in gone.links() {
                        self.touch(&mut config, Some(to), dice);
                    }
                    for name in config.keys().cloned().collect::<Vec<_>>() {
                        let part = config.get_mut(&name).unwrap();
                        part.after.remove(&one);
                        for to in [&mut part.to, &mut part.errors] {
                            if to.take_if(|to| *to == one).is_some() {
                                self.versions += 1;
                                part.version = self.versions;
                                part.is_bad = dice.percent(25);
                            }
                        }
                    }
                }
                1 if names.len() < 6 => {
                    let to = [&one, &names[dice.below(names.len())]].map(|to| {
                        let to = dice.percent(70).then(|| to.clone()).filter(|to| !is_source(to));
                        self.touch(&mut config, to.as_deref(), dice);
                        to
                    });
                    let mut part = self.part(dice, to, 25);
                    part.after.insert(names[dice.below(names.len())].clone());
                    let number = usize::try_from(self.versions).unwrap();
                    config.insert(name(family, dice.of(&['a', 'f', 'v']), number), part);
                }
                _ => self.touch(&mut config, Some(&one), dice),
            }
        }
        let names: BTreeSet<String> =
            config.keys().chain(self.config.keys().filter(|name| family_of(name) == family)).cloned().collect();
        let differs = |name: &String| config.get(name) != self.config.get(name);
        let patch: Patch = names.into_iter().filter(differs).map(|n| (n.clone(), config.get(&n).cloned())).collect();
        let back: Patch = patch.keys().map(|name| (name.clone(), self.config.get(name).cloned())).collect();
        let (concerned, going, ends) = self.plan(&patch);
        let mut before = Before::default();
        self.kids.keys().for_each(|name| before.note(name, self, None));
        let stop = Stop::new(going.clone(), ends, self.bounds(dice));
        let change = Change::new(concerned, stop, before);
        self.changes.push(UnderWay { family, change, patch, back, going, prepared_at: None });
    }

    /// Changes that child, as happens to the children at both ends of a link that is added
    /// or removed.
    fn touch(&mut self, config: &mut BTreeMap<String, Part>, name: Option<&str>, dice: &mut Dice) {
        if let Some(part) = name.and_then(|name| config.get_mut(name)) {
            self.versions += 1;
            part.version = self.versions;
            part.is_bad = dice.percent(25);
        }
    }

    fn take_effect(&mut self, under_way: &mut UnderWay, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        let held = self.kids.iter().filter(|(_, kid)| kid.machine.want.is_held()).map(|(name, _)| name.as_str());
        under_way.change.take_effect(held);
        let mut update = Vec::new();
        for (name, part) in &under_way.patch {
            match (part, self.kids.get(name)) {
                (Some(_), Some(_)) if !under_way.going.contains(name) => update.push(name.clone()),
                (None, Some(kid)) if kid.process.as_ref().is_some_and(|process| !process.forced) => {
                    return Err(format!("{name} is removed while its process runs"));
                }
                (Some(_), Some(kid)) if kid.process.as_ref().is_some_and(|process| !process.forced) => {
                    return Err(format!("{name} changes while its process runs"));
                }
                _ => {}
            }
            match part {
                Some(part) => self.config.insert(name.clone(), part.clone()),
                None => self.config.remove(name),
            };
        }
        self.renew();
        for (name, part) in under_way.patch.clone() {
            if part.is_none() {
                self.kids.remove(&name);
                continue;
            }
            if !self.kids.contains_key(&name) {
                self.come(&name, dice);
                if under_way.change.before().held.contains(&name) {
                    self.tell(&name, Event::Hold, dice, seen)?;
                }
            }
            if !update.contains(&name) {
                self.bring_back(under_way, &name, dice, seen)?;
            }
        }
        Ok(())
    }

    fn bring_back(
        &mut self,
        under_way: &mut UnderWay,
        name: &str,
        dice: &mut Dice,
        seen: &mut Seen,
    ) -> Result<(), String> {
        let Some(kid) = self.kids.get_mut(name) else { return Ok(()) };
        match under_way.change.bring_back(name, &mut kid.machine, &mut None) {
            Some(event) => self.tell(name, event, dice, seen),
            None => Ok(()),
        }
    }

    fn operator(&mut self, one: &str, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        let machine = &self.kids[one].machine;
        let (is_held, runs) = (machine.want.is_held(), machine.pid().is_some());
        // No change waits for a child that an operator stops.
        self.excused.extend(self.config.get(one).filter(|_| is_held).map(|part| part.version));
        if !is_held && dice.percent(50) {
            seen.held += 1;
            return self.tell(one, Event::Hold, dice, seen);
        }
        // Starting a child that a change concerns would interfere with the change.
        if self.concern(one) {
            return Ok(());
        }
        self.tell(one, if runs && dice.percent(50) { Event::Restart } else { Event::Await }, dice, seen)
    }

    fn kill(&mut self, one: &str, seen: &mut Seen) -> Result<(), String> {
        if let Some(process) = &mut self.kids.get_mut(one).unwrap().process {
            seen.killed += 1;
            process.forced = true;
        }
        Ok(())
    }

    /// Lets a process do the next thing that it has to do.
    fn process(&mut self, one: &str, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        let is_quiet = self.quiet_since.is_some();
        let kid = &self.kids[one];
        let Some(process) = &kid.process else { return Ok(()) };
        if process.asked && !process.deaf && dice.percent(50) {
            return self.exit(one, dice.of(&[Exit::Code(0), Exit::Signal(15)]), dice, seen);
        }
        if process.is_bad {
            return if dice.percent(20) { self.exit(one, Exit::Code(1), dice, seen) } else { Ok(()) };
        }
        if !is_quiet && dice.percent(1) {
            return self.exit(one, dice.of(&[Exit::Code(0), Exit::Code(1)]), dice, seen);
        }
        if matches!(kid.machine.state, State::Starting { .. }) {
            self.kids.get_mut(one).unwrap().is_ready = true;
            return self.tell(one, Event::Ready, dice, seen);
        }
        let into = self.links.iter().position(|link| link.to == one && link.bytes > 0);
        let outs: Vec<usize> = (0..self.links.len()).filter(|&at| self.links[at].from == one).collect();
        let out = (!outs.is_empty()).then(|| outs[dice.below(outs.len())]);
        let is_sink = self.links.iter().any(|link| link.to == one);
        let writes = |link: &Link| self.kids.get(&link.from).is_some_and(|kid| kid.process.is_some());
        let has_ended =
            is_sink && self.links.iter().filter(|link| link.to == one).all(|l| !l.open && l.bytes == 0 && !writes(l));
        let process = self.kids.get_mut(one).and_then(|kid| kid.process.as_mut()).unwrap();
        match (process.in_hand, into, out) {
            (true, _, Some(out)) if self.links[out].bytes < ROOM => {
                self.links[out].bytes += 1;
                process.in_hand = false;
            }
            (true, _, Some(_)) => {}
            (_, Some(into), out) => {
                self.links[into].bytes -= 1;
                process.in_hand = out.is_some();
            }
            (_, None, _) if has_ended => return self.exit(one, Exit::Code(0), dice, seen),
            (_, None, Some(out)) if !is_sink && self.links[out].bytes < ROOM => self.links[out].bytes += 1,
            _ => {}
        }
        Ok(())
    }

    fn exit(&mut self, name: &str, exit: Exit, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        let kid = self.kids.get_mut(name).unwrap();
        (kid.process, kid.is_ready) = (None, false);
        self.tell(name, Event::Exited(exit), dice, seen)
    }

    fn tell(&mut self, name: &str, event: Event, dice: &mut Dice, seen: &mut Seen) -> Result<(), String> {
        let Some(kid) = self.kids.get_mut(name) else { return Err(format!("{name} is told {event:?} and is gone")) };
        for action in kid.machine.step(event, self.now) {
            let kid = self.kids.get_mut(name).unwrap();
            match action {
                Action::Spawn => {
                    if let Some(process) = &kid.process {
                        return Err(format!("{name} is started while process {} runs", process.pid));
                    }
                    if self.links.iter().any(|link| link.from == name && !link.open) {
                        return Err(format!("{name} is started though its output has ended"));
                    }
                    let Some(part) = self.config.get(name) else {
                        return Err(format!("{name} is started though it is not in the configuration"));
                    };
                    kid.spawned += 1;
                    let pid = Pid::from_raw(kid.spawned);
                    kid.process = Some(Process {
                        pid,
                        version: part.version,
                        is_bad: part.is_bad,
                        asked: false,
                        forced: false,
                        deaf: dice.percent(12),
                        stuck_until: None,
                        in_hand: false,
                    });
                    self.tell(name, Event::Spawned(pid), dice, seen)?;
                }
                Action::Ask(pid, _) | Action::Force(pid) => {
                    let Some(process) = kid.process.as_mut().filter(|process| process.pid == pid) else {
                        return Err(format!("{name}: a signal for a process that is gone"));
                    };
                    process.asked = true;
                    if matches!(action, Action::Force(_)) && !process.forced {
                        process.forced = true;
                        if dice.percent(30) {
                            seen.unkillable += 1;
                            process.stuck_until = Some(self.now + dice.up_to(Duration::from_secs(25)));
                        }
                    }
                }
                Action::Say(..) => {}
            }
        }
        Ok(())
    }

    /// Checks that all is as wanted, after nothing has disturbed it for a long time.
    fn all_is_as_wanted(&self) -> Result<(), String> {
        if self.kids.keys().ne(self.config.keys()) {
            return Err("there are other children than in the configuration".to_owned());
        }
        for (name, part) in &self.config {
            let Kid { machine, process, .. } = &self.kids[name];
            let wrong = |what: &str| Err(format!("{name} {what}"));
            if process.as_ref().is_some_and(|process| process.version != part.version) {
                return wrong("runs with another configuration");
            }
            if part.is_bad && !machine.want.is_held() && !self.excused.contains(&part.version) {
                return wrong("does not serve, but the change did not go back");
            }
            match (machine.want, machine.state) {
                (Want::Up, State::Up { .. }) => {}
                (Want::Held | Want::Finished, State::Down) => {}
                (Want::Up, State::Down) if machine.policy.restart == Restart::Never => {}
                (Want::Up, State::Failed) if part.is_bad || machine.policy.start_limit.burst == 3 => {}
                (Want::Up, State::Starting { .. } | State::Stopping { late: true, .. } | State::Backoff { .. })
                    if part.is_bad => {}
                (Want::Up, State::Waiting) if self.blocked_by(name).is_some() => {}
                _ => return wrong("is not as wanted"),
            }
        }
        Ok(())
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = |at: Instant| at.saturating_duration_since(self.begin);
        writeln!(f, "after {:?}, {} events, end {:?}", since(self.now), self.events, self.end)?;
        for (name, kid) in &self.kids {
            let Machine { state, want, last_exit, policy, .. } = &kid.machine;
            let (part, process) = (self.config.get(name), &kid.process);
            writeln!(f, "{name}: {want:?} {state:?} {last_exit:?} {:?} {part:?} {process:?}", policy.restart)?;
        }
        for Link { from, stream, to, bytes, open, .. } in &self.links {
            writeln!(f, "{} -> {to}: {bytes}, open {open}", stream.of(from))?;
        }
        for UnderWay { change, patch, .. } in &self.changes {
            writeln!(f, "{change:?} to {patch:?}")?;
        }
        Ok(())
    }
}
