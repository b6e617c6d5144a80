//! One child in a world that answers its machine as the real one does and reports
//! where the machine breaks its promises. The world keeps its own account of what was
//! asked for and when, so that the machine is not its own witness.

use super::super::*;
use crate::supervisor::family::backoff::AFTER_AT_ONCE;

/// A process, as the world sees it.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pub pid: Pid,
    /// It was asked to end, or its input has ended.
    pub going: bool,
    /// It may finish its input.
    pub draining: bool,
    /// SIGKILL was sent.
    pub forced: bool,
    /// When SIGKILL must have been sent.
    pub force_by: Option<Instant>,
    /// It is ended only because it was not ready in time, or is not well.
    late: bool,
}

/// A child, its process, and the world's account of both.
#[derive(Debug)]
pub struct World {
    pub machine: Machine,
    pub process: Option<Process>,
    /// The system is short of something, so spawns fail.
    pub short: bool,
    /// The last request was to start it, not to stop it.
    pub wanted: bool,
    /// An operator stopped it, and none has started it since.
    held: bool,
    /// Its starts since earlier ones were last forgiven.
    starts: Vec<Instant>,
    last_pid: i32,
}

impl World {
    pub fn new(policy: Policy) -> World {
        World {
            machine: Machine::new(policy),
            process: None,
            short: false,
            wanted: false,
            held: false,
            starts: Vec::new(),
            last_pid: 1,
        }
    }

    /// Tells the machine, does what it says, and checks that its promises hold. Returns
    /// what was done.
    pub fn tell(&mut self, event: Event, now: Instant) -> Result<Vec<Action>, String> {
        // At that very instant the tick may not have been handled yet.
        self.forced_in_time(now - Duration::from_nanos(1))?;
        let failed = match event {
            Event::Exited(exit) => !exit.success() || self.process.is_some_and(|process| process.late),
            _ => false,
        };
        self.note(&event, now);
        let mut done = Vec::new();
        let mut next = Some(event);
        for _ in 0..3 {
            let Some(event) = next.take() else { break };
            for action in self.machine.step(event, now) {
                if let Some(answer) = self.act(&action, now)? {
                    if next.replace(answer).is_some() {
                        return Err("two spawns in one step".to_owned());
                    }
                }
                done.push(action);
            }
        }
        if next.is_some() {
            return Err("one event leads to steps without end".to_owned());
        }
        if failed && self.wanted && self.machine.want == Want::Finished {
            return Err(format!("counts a failure as finished: {:?}", self.machine));
        }
        self.check(now)?;
        Ok(done)
    }

    /// Ticks until no deadline is due at `now`. Two ticks must be enough, for a stop whose
    /// rungs take no time.
    pub fn settle(&mut self, now: Instant) -> Result<Vec<Action>, String> {
        let mut done = Vec::new();
        for _ in 0..3 {
            if self.machine.deadline().is_none_or(|at| at > now) {
                return self.forced_in_time(now).map(|()| done);
            }
            done.extend(self.tell(Event::Tick, now)?);
        }
        Err(format!("spins: {:?} after three ticks at one instant", self.machine.state))
    }

    /// Notes in the account what the event means.
    fn note(&mut self, event: &Event, now: Instant) {
        let stop_timeout = self.machine.policy.stop_timeout;
        match event {
            Event::Await | Event::Restart => self.held = false,
            Event::Hold => self.held = true,
            _ => {}
        }
        match event {
            Event::Await | Event::Start | Event::Restart => {
                self.wanted = true;
                self.starts.clear();
            }
            // A child that serves goes on until its sources are gone.
            Event::Hold => {
                self.wanted &= self.process.is_some() || matches!(self.machine.state, State::Backoff { .. });
            }
            Event::Stop | Event::Drain(_) | Event::Kill => self.wanted = false,
            Event::Exited(_) => self.process = None,
            _ => {}
        }
        let serves = self.machine.is_up();
        let Some(process) = &mut self.process else { return };
        match event {
            Event::Unhealthy(_) | Event::Hung(_) if serves => {
                (process.late, process.going) = (true, true);
                process.force_by = Some(now + stop_timeout);
            }
            Event::Await | Event::Start => process.late = false,
            Event::Stop | Event::Restart => {
                process.late = false;
                if !process.going || process.draining {
                    process.force_by = Some(now + stop_timeout);
                }
                (process.going, process.draining) = (true, false);
            }
            Event::Drain(until) => {
                process.late = false;
                if !process.going || process.draining {
                    process.force_by = Some(now.max(*until) + stop_timeout);
                    (process.going, process.draining) = (true, true);
                }
            }
            Event::Kill => {
                process.late = false;
                process.force_by = Some(now);
                (process.going, process.draining) = (true, false);
            }
            Event::Ready if !process.going => process.force_by = None,
            Event::Executed if !process.going && self.machine.policy.ready == Ready::Exec => process.force_by = None,
            Event::Extend(by) if !process.going => {
                process.force_by = process.force_by.map(|at| at.max(now + *by));
            }
            _ => {}
        }
    }

    fn act(&mut self, action: &Action, now: Instant) -> Result<Option<Event>, String> {
        match action {
            Action::Spawn => self.spawn(now).map(Some),
            Action::Ask(pid, _) | Action::Force(pid) => {
                let Some(process) = self.process.as_mut().filter(|process| process.pid == *pid) else {
                    return Err(format!("{action:?}, but that process is gone"));
                };
                if let Action::Force(_) = action {
                    // Nobody had asked it to end, so it was not ready in time.
                    process.late |= !process.going;
                    process.forced = true;
                }
                process.going = true;
                Ok(None)
            }
            Action::Say(..) => Ok(None),
        }
    }

    fn spawn(&mut self, now: Instant) -> Result<Event, String> {
        if let Some(process) = &self.process {
            return Err(format!("spawns while process {} lives", process.pid));
        }
        if !self.wanted {
            return Err("spawns though the last request was to stop it".to_owned());
        }
        if self.short {
            return Ok(Event::SpawnFailed("the system is short of something".to_owned()));
        }
        self.starts.push(now);
        let within = self.starts_within(now);
        if within > self.burst() {
            return Err(format!("start {within} within the time that allows {}", self.burst()));
        }
        self.last_pid += 1;
        let pid = Pid::from_raw(self.last_pid);
        let force_by = Some(now + self.machine.policy.ready_timeout);
        self.process = Some(Process { pid, going: false, draining: false, forced: false, force_by, late: false });
        Ok(Event::Spawned(pid))
    }

    fn burst(&self) -> usize {
        usize::try_from(self.machine.policy.start_limit.burst).unwrap()
    }

    /// How many starts the limit counts at that time.
    fn starts_within(&self, now: Instant) -> usize {
        let within = self.machine.policy.start_limit.within;
        self.starts.iter().rev().take_while(|&&at| now.duration_since(at) < within).count()
    }

    /// What holds after each step.
    fn check(&self, now: Instant) -> Result<(), String> {
        let machine = &self.machine;
        let wrong = |what: &str| Err(format!("{what}: {machine:?}, {:?}", self.process));
        if machine.pid() != self.process.map(|process| process.pid) {
            return wrong("the machine and the world disagree on the process");
        }
        if machine.want.is_up() && !self.wanted {
            return wrong("wanted up though the last request was to stop it");
        }
        if machine.want.is_held() != self.held {
            return wrong("the machine and the world disagree on what an operator said");
        }
        let going = self.process.is_some_and(|process| process.going);
        match machine.state {
            State::Starting { .. } | State::Up { .. } if going || !machine.want.is_up() => {
                wrong("it is on its way down, or should be, but the machine thinks that it stays")
            }
            State::Stopping { .. } if !going => wrong("stopping, but the process was not told"),
            State::Stopping { late, .. } if late && !self.process.is_some_and(|p| p.late) => {
                wrong("late, though a later request says what it should be")
            }
            State::Waiting | State::Backoff { .. } | State::Failed if !machine.want.is_up() => {
                wrong("about to start, but wanted down")
            }
            State::Waiting if machine.want == Want::HeldLater => wrong("held later, though it has nothing to finish"),
            State::Backoff { until } if until > now + machine.policy.backoff.max.max(AFTER_AT_ONCE) => {
                wrong("waits longer than the longest backoff")
            }
            State::Failed if self.starts.len() < self.burst() => wrong("failed after too few starts"),
            State::Down if self.wanted && machine.policy.restart == Restart::Always => wrong("forgotten"),
            _ => Ok(()),
        }
    }

    fn forced_in_time(&self, now: Instant) -> Result<(), String> {
        match self.process {
            Some(process) if !process.forced && process.force_by.is_some_and(|at| now >= at) => {
                Err(format!("should have been forced by now: {:?}, {process:?}", self.machine.state))
            }
            _ => Ok(()),
        }
    }
}
