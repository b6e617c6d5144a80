//! Takes fifty children through a million events, with a clock that only the
//! simulation moves: processes that are slow, ignore signals, die or never start, and
//! operators who keep changing their minds.

use super::super::*;
use super::world::World;
use crate::config::model::{Backoff, StopTo, Success};
use crate::supervisor::dice::Dice;
use std::collections::BTreeMap;

const CHILDREN: usize = 50;
const STEPS: u64 = 1_000_000;
/// The longest time that a process takes to die of SIGKILL.
const DEATH: Duration = Duration::from_millis(5);
/// Set this to the seed of a failure to reproduce it.
const SEED: &str = "PLUMBD_SIMULATION_SEED";

impl Dice {
    fn exit(&mut self) -> Exit {
        self.of(&[Exit::Code(0), Exit::Code(0), Exit::Code(1), Exit::Code(127), Exit::Signal(11), Exit::Signal(9)])
    }

    fn policy(&mut self) -> Policy {
        let ms = Duration::from_millis;
        let first = self.of(&[ms(0), ms(0), ms(50), ms(3000)]);
        Policy {
            restart: self.of(&[Restart::Always, Restart::Always, Restart::OnFailure, Restart::Never]),
            backoff: Backoff {
                first,
                factor: self.of(&[1.0, 2.0, 10.0]),
                max: first.max(self.of(&[ms(0), ms(1000), ms(30_000)])),
                reset_after: self.of(&[ms(0), ms(1000), ms(10_000)]),
            },
            start_limit: StartLimit {
                burst: self.of(&[1, 3, 10, 1000]),
                within: self.of(&[ms(100), ms(10_000), ms(60_000)]),
            },
            ready: self.of(&[Ready::Exec, Ready::Notify, Ready::Fd, Ready::Health]),
            ready_timeout: self.of(&[ms(1), ms(500), ms(10_000)]),
            stop_signal: Signal::SIGTERM,
            stop_to: StopTo::Group,
            success: Success { codes: vec![0], signals: Vec::new() },
            stop_timeout: self.of(&[ms(0), ms(300), ms(10_000)]),
        }
    }
}

/// Something that will happen to a child.
#[derive(Debug)]
enum Coming {
    /// An operator gives a command.
    Operator,
    /// Its process does something, if it still lives.
    Process(Pid, Event),
    /// The deadline that the machine named, if it still stands.
    Deadline,
}

#[derive(Debug, Default)]
struct Seen {
    steps: u64,
    spawned: u64,
    not_spawned: u64,
    ready: u64,
    late: u64,
    unwell: u64,
    asked: u64,
    forced: u64,
    failed: u64,
    backoff: u64,
    finished: u64,
    held: u64,
    waiting: u64,
}

struct Simulation {
    seed: u64,
    dice: Dice,
    begin: Instant,
    now: Instant,
    children: Vec<World>,
    /// For each child, the deadline that is on the agenda.
    deadlines: Vec<Option<Instant>>,
    /// By time, and by a number that is unique.
    agenda: BTreeMap<(Instant, u64), (usize, Coming)>,
    entries: u64,
    ending: bool,
    seen: Seen,
}

impl Drop for Simulation {
    /// After a panic anywhere, says how to reproduce it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, step {}: {SEED}={} reproduces it", self.seed, self.seen.steps, self.seed);
        }
    }
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut dice = Dice(seed);
        let children = (0..CHILDREN).map(|_| World::new(dice.policy())).collect();
        let begin = Instant::now();
        let mut simulation = Simulation {
            seed,
            dice,
            begin,
            now: begin,
            children,
            deadlines: vec![None; CHILDREN],
            agenda: BTreeMap::new(),
            entries: 0,
            ending: false,
            seen: Seen::default(),
        };
        for child in 0..CHILDREN {
            simulation.tell(child, Event::Start);
            simulation.plan(child, Duration::from_secs(1), Coming::Operator);
        }
        simulation
    }

    fn plan(&mut self, child: usize, after: Duration, what: Coming) {
        self.plan_at(child, self.now + after, what);
    }

    fn plan_at(&mut self, child: usize, at: Instant, what: Coming) {
        self.entries += 1;
        self.agenda.insert((at, self.entries), (child, what));
    }

    /// Does the next entry of the agenda.
    fn go_on(&mut self) {
        let Some(((at, _), (child, what))) = self.agenda.pop_first() else { return };
        self.now = at;
        match what {
            Coming::Operator if self.ending => {}
            Coming::Operator => {
                let event = self.operator();
                self.tell(child, event);
                let pause = self.dice.of(&[Duration::from_millis(5), Duration::from_secs(2), Duration::from_secs(60)]);
                let pause = self.dice.up_to(pause);
                self.plan(child, pause, Coming::Operator);
            }
            Coming::Process(pid, event) => {
                if self.children[child].process.is_some_and(|process| process.pid == pid) {
                    let is_unwell = matches!(event, Event::Unhealthy(_) | Event::Hung(_));
                    self.seen.unwell += u64::from(is_unwell && self.children[child].machine.is_up());
                    self.tell(child, event);
                }
            }
            Coming::Deadline => {
                if self.children[child].machine.deadline() == Some(at) {
                    self.seen.steps += 1;
                    self.children[child].short = self.dice.percent(10);
                    let done = self.children[child].settle(at);
                    self.follow(child, done);
                }
            }
        }
    }

    fn operator(&mut self) -> Event {
        match self.dice.roll() % 20 {
            0..2 => Event::Await,
            2..8 => Event::Start,
            8..12 => Event::Restart,
            12..13 => Event::Hold,
            13..16 => Event::Stop,
            16..18 => {
                let by = self.dice.up_to(Duration::from_secs(5));
                Event::Drain(self.now + by)
            }
            18 => Event::Kill,
            _ => Event::Tick,
        }
    }

    fn tell(&mut self, child: usize, event: Event) {
        self.seen.steps += 1;
        self.children[child].short = self.dice.percent(10);
        let done = self.children[child].tell(event, self.now);
        self.follow(child, done);
    }

    /// Puts the world's answers to what the machine did on the agenda.
    fn follow(&mut self, child: usize, done: Result<Vec<Action>, String>) {
        let done = match done {
            Ok(done) => done,
            Err(wrong) => panic!("seed {}, step {}, child {child}: {wrong}", self.seed, self.seen.steps),
        };
        for action in done {
            match action {
                Action::Spawn => self.life(child),
                Action::Ask(pid, _) => {
                    self.seen.asked += 1;
                    if self.dice.percent(70) {
                        let timeout = self.children[child].machine.policy.stop_timeout;
                        let after = self.dice.up_to(timeout * 3 / 2);
                        let exit = self.dice.of(&[Exit::Code(0), Exit::Signal(15), Exit::Code(1)]);
                        self.plan(child, after, Coming::Process(pid, Event::Exited(exit)));
                    }
                }
                Action::Force(pid) => {
                    self.seen.forced += 1;
                    let after = self.dice.up_to(DEATH);
                    // It may have been about to exit by itself.
                    let exit = self.dice.of(&[Exit::Signal(9), Exit::Signal(9), Exit::Code(0)]);
                    self.plan(child, after, Coming::Process(pid, Event::Exited(exit)));
                }
                Action::Say(..) => {}
            }
        }
        self.look(child);
    }

    /// Counts what was seen, and plans the deadline.
    fn look(&mut self, child: usize) {
        let machine = &self.children[child].machine;
        match machine.state {
            State::Up { since, .. } if since == self.now => self.seen.ready += 1,
            State::Stopping { late: true, .. } => self.seen.late += 1,
            State::Backoff { .. } => self.seen.backoff += 1,
            State::Failed => self.seen.failed += 1,
            State::Down if machine.has_finished() => self.seen.finished += 1,
            State::Down if machine.want.is_held() => self.seen.held += 1,
            State::Waiting => self.seen.waiting += 1,
            _ => {}
        }
        let deadline = machine.deadline();
        if deadline != self.deadlines[child] {
            self.deadlines[child] = deadline;
            if let Some(at) = deadline {
                self.plan_at(child, at, Coming::Deadline);
            }
        }
    }

    /// Plans what a process that was just started will do if nothing ends it first.
    fn life(&mut self, child: usize) {
        let Some(process) = self.children[child].process else {
            self.seen.not_spawned += 1;
            return;
        };
        self.seen.spawned += 1;
        let plan = |simulation: &mut Simulation, after, event| {
            simulation.plan(child, after, Coming::Process(process.pid, event));
        };
        let exec = self.dice.up_to(Duration::from_millis(3));
        if self.dice.percent(10) {
            plan(self, exec, Event::ExecFailed("setting user \"nobody\": Operation not permitted".to_owned()));
            return plan(self, exec, Event::Exited(Exit::Code(127)));
        }
        plan(self, exec, Event::Executed);
        let Policy { ready, ready_timeout, .. } = self.children[child].machine.policy;
        if ready != Ready::Exec {
            if self.dice.percent(20) {
                let (after, by) = (self.dice.up_to(ready_timeout), self.dice.up_to(ready_timeout * 2));
                plan(self, exec + after, Event::Extend(by));
            }
            if self.dice.percent(80) {
                let after = self.dice.up_to(ready_timeout * 3 / 2);
                plan(self, exec + after, Event::Ready);
            }
        }
        if self.dice.percent(20) {
            let after = self.dice.up_to(Duration::from_secs(60));
            let why = "it is not well".to_owned();
            let event = if self.dice.percent(50) { Event::Unhealthy(why) } else { Event::Hung(why) };
            plan(self, exec + after, event);
        }
        if self.dice.percent(60) {
            let longest = self.dice.of(&[10, 1000, 60_000]);
            let life = self.dice.up_to(Duration::from_millis(longest));
            let exit = self.dice.exit();
            plan(self, exec + life, Event::Exited(exit));
        }
    }

    /// Stops all children, and lets the world answer until the agenda is empty.
    fn end(&mut self) {
        self.ending = true;
        let longest = self.children.iter().map(|child| child.machine.policy.stop_timeout).max().unwrap();
        let end = self.now + longest + DEATH;
        for child in 0..CHILDREN {
            self.tell(child, Event::Stop);
        }
        while self.agenda.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.go_on();
        }
        for (child, world) in self.children.iter().enumerate() {
            let Machine { state, want, .. } = world.machine;
            assert!(
                state == State::Down && !want.is_up() && world.process.is_none(),
                "seed {}, child {child} is not down in time: {:?}",
                self.seed,
                world.machine
            );
        }
        // Nothing that is still on the agenda may start a process.
        let spawned = self.seen.spawned + self.seen.not_spawned;
        while !self.agenda.is_empty() {
            self.go_on();
        }
        assert_eq!(self.seen.spawned + self.seen.not_spawned, spawned, "seed {}", self.seed);
    }
}

#[test]
fn fifty_children_behave_as_promised_through_a_million_events() {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), SEED),
    };
    let mut simulation = Simulation::new(seed);
    while simulation.seen.steps < STEPS {
        simulation.go_on();
    }
    simulation.end();
    let Seen {
        spawned, not_spawned, ready, late, unwell, asked, forced, failed, backoff, finished, held, waiting, ..
    } = simulation.seen;
    let virtual_time = simulation.now - simulation.begin;
    for count in [spawned, not_spawned, ready, late, unwell, asked, forced, failed, backoff, finished, held, waiting] {
        assert!(count > 500, "seed {seed}: something hardly happened in {virtual_time:?}: {:?}", simulation.seen);
    }
}
