//! The state machine of one child: it takes what happened and when, and returns what to do.
//! Pure: no process, no clock, no descriptor.
//!
//! What is wanted and the actual state are kept apart:
//!
//! | want \ state | down | waiting | starting, up | stopping | backoff | failed |
//! |---|---|---|---|---|---|---|
//! | up | it failed, and its policy does not restart it | waits for the children it needs | as wanted | is replaced once this process is gone | starts when its delay is over | given up until an operator starts it |
//! | held later | (never) | (never) | stops once its sources are gone | as up | as up | as up |
//! | held | as an operator wants it | (never) | (never: it was asked to stop at once) | on its way down | (never) | (never) |
//! | down | as a change wants it | (never) | (never) | on its way down | (never) | (never) |
//! | finished | it has done its job | (never) | (never) | (never) | (never) | (never) |

use crate::config::model::{Policy, Ready, Restart, StartLimit};
use crate::control::status::RestartsBy;
use crate::supervisor::family::backoff::History;
use crate::supervisor::family::ends::Ends;
use crate::sys::process::Exit;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// What is wanted of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// It is to serve.
    Up,
    /// An operator stopped it: it serves its sources to the end and is held after that.
    HeldLater,
    /// An operator stopped it: it stays down, and no reload starts it.
    Held,
    /// It stays down until the change that stopped it says otherwise.
    Down,
    /// Nothing more: it ended well, and its policy does not restart it.
    Finished,
}

impl Want {
    /// Whether it is to serve, at least for now.
    pub fn is_up(self) -> bool {
        matches!(self, Want::Up | Want::HeldLater)
    }

    /// Whether an operator stopped it.
    pub fn is_held(self) -> bool {
        matches!(self, Want::Held | Want::HeldLater)
    }

    /// What is wanted instead if it has to go down now.
    fn down(self) -> Want {
        if self.is_held() { Want::Held } else { Want::Down }
    }
}

/// The actual state of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has no process, and none will start by itself.
    Down,
    /// It has no process yet: it waits for other children that must be up before it.
    Waiting,
    /// Its process is not ready yet.
    Starting {
        /// Its process and process group.
        pid: Pid,
        /// When it is killed, which counts as a failure.
        deadline: Instant,
    },
    /// Its process serves.
    Up {
        /// Its process and process group.
        pid: Pid,
        /// When it became ready.
        since: Instant,
    },
    /// Its process was asked to end.
    Stopping {
        /// Its process and process group.
        pid: Pid,
        /// How far the stop has got.
        ladder: Ladder,
        /// Whether it is ended for a failure: it was not ready in time, or is not well.
        late: bool,
    },
    /// It has no process; one is started after a delay.
    Backoff {
        /// When the delay is over.
        until: Instant,
    },
    /// It has no process and was given up, because it was started too often.
    Failed,
}

/// The rungs of a stop: each has a time at which the next one is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ladder {
    /// Its input has ended; it may finish what it has read.
    Draining {
        /// When it is asked to stop.
        ask_at: Instant,
    },
    /// It was sent its stop signal.
    Asked {
        /// When it is killed.
        kill_at: Instant,
    },
    /// It was sent SIGKILL.
    Killed {
        /// When it is considered unkillable.
        give_up_at: Instant,
    },
    /// SIGKILL has not ended it: it is in a system call that the kernel does not
    /// interrupt, or it belongs to another user. Nothing waits for it any more.
    Unkillable,
}

/// How long a killed process may take to die: longer than any disk that answers at all.
pub const UNKILLABLE: Duration = Duration::from_secs(10);

/// What happened to a child, or what it was told to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Start it once the children it needs are up. Earlier failures no longer count.
    Await,
    /// Start it now: the children it needs are up, or bytes still wait for it.
    Start,
    /// Stop it once its sources are gone; it stays down until an operator starts it.
    Hold,
    /// Stop it.
    Stop,
    /// Stop it: its input has ended, so it may finish by itself until then.
    Drain(Instant),
    /// Replace its process with a new one.
    Restart,
    /// Kill it at once; it stays down.
    Kill,
    /// [`Action::Spawn`] started a process.
    Spawned(Pid),
    /// [`Action::Spawn`] failed, and why.
    SpawnFailed(String),
    /// The system lacks something that it needs; try again then. `None`: what it lacks is
    /// still being looked for.
    HeldBack(Option<String>, Instant),
    /// What it lacked is available now.
    Found,
    /// exec succeeded.
    Executed,
    /// exec, or a step before it, failed; its exit is reported separately.
    ExecFailed(String),
    /// It says that it is ready.
    Ready,
    /// It says that it needs this much longer to be ready.
    Extend(Duration),
    /// It serves no longer as it should, and why.
    Unhealthy(String),
    /// It does not answer, or says that it is broken, and why: it is to leave a core dump.
    Hung(String),
    /// The last line that its process wrote, if any; its exit is reported next.
    Wrote(Option<String>),
    /// Its process was reaped.
    Exited(Exit),
    /// Time has passed.
    Tick,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a process and report the result as an event.
    Spawn,
    /// Send this signal, and SIGCONT, to its process or its group, as the policy says.
    Ask(Pid, Signal),
    /// Send SIGKILL to its process group.
    Force(Pid),
    /// Log this.
    Say(log::Level, String),
}

/// Why another process comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The last one ended, and nobody had asked.
    Failure,
    /// The last one was ended because it was not well.
    Health,
    /// An operator wants it.
    Operator,
    /// A reload changed the child.
    Reload,
}

/// One child.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The policy that decides.
    pub policy: Policy,
    /// What is wanted of it.
    pub want: Want,
    /// The state that it is in.
    pub state: State,
    /// How it ended the last time.
    pub last_exit: Option<Exit>,
    /// Whether it was ready before it ended the last time.
    pub served: bool,
    /// Whether its policy counted its last end as a success.
    pub ended_well: bool,
    /// What is wrong, in words: why a start failed, or why it was given up.
    pub problem: Option<String>,
    /// How often a process has replaced an earlier one.
    pub restarts: u64,
    /// Why the last check of its process that starts has failed.
    pub last_check: Option<String>,
    /// The same by cause.
    pub restarts_by: RestartsBy,
    /// Whether the last end had been asked for.
    pub asked: bool,
    /// Whether it was ended the last time because it was not ready in time, or not well.
    ended_ill: bool,
    /// Whether its process was not well, and is or was ended for that.
    unwell: bool,
    history: History,
    ends: Ends,
    /// Why the next process comes, if that is known.
    pub because: Option<Cause>,
    ran: bool,
}

impl Machine {
    /// A child that is down, and wanted down.
    pub fn new(policy: Policy) -> Machine {
        Machine {
            policy,
            want: Want::Down,
            state: State::Down,
            last_exit: None,
            served: false,
            ended_well: false,
            problem: None,
            restarts: 0,
            last_check: None,
            restarts_by: RestartsBy::default(),
            asked: false,
            ended_ill: false,
            unwell: false,
            history: History::default(),
            ends: Ends::default(),
            because: None,
            ran: false,
        }
    }

    /// Uses another policy from now on. If it has ended and no restart was due, and the new
    /// policy counts that end as a success, then it has finished.
    pub fn change(&mut self, policy: Policy) {
        self.policy = policy;
        let is_success = !self.ended_ill && self.last_exit.is_some_and(|exit| self.policy.success.covers(exit));
        if self.is_over() && is_success {
            (self.want, self.problem, self.ended_well) = (Want::Finished, None, true);
        }
    }

    /// As `; its last line: "no such file"`; empty if its last process wrote nothing.
    pub(crate) fn last_line(&self) -> String {
        self.ends.last_line()
    }

    /// How it ended, if it keeps ending or waits to be started again: without what changes
    /// from one end to the next.
    pub(crate) fn ended(&self, now: Instant) -> Option<String> {
        let exit = self.last_exit?;
        let waits =
            matches!(self.state, State::Backoff { .. }) && matches!(self.because, Some(Cause::Failure | Cause::Health));
        let keeps = matches!(self.state, State::Starting { .. } | State::Up { .. }) && self.ends.is_flapping(now);
        let how = if keeps { "keeps ending: " } else { "" };
        (waits || keeps).then(|| format!("{how}{}{}", self.ends.how(exit), self.ends.last_line()))
    }

    /// That it keeps ending, if it does and is up just now, in words.
    pub(crate) fn flapping(&self, now: Instant) -> Option<String> {
        let exit = self.last_exit.filter(|_| matches!(self.state, State::Starting { .. } | State::Up { .. }))?;
        let (times, line) = (self.ends.times(), self.ends.last_line());
        self.ends.is_flapping(now).then(|| format!("keeps ending: {}{times}{line}", self.ends.how(exit)))
    }

    /// What is wrong with it now, in words.
    pub(crate) fn trouble(&self, now: Instant) -> Option<String> {
        match (self.state, self.last_exit) {
            (State::Backoff { until }, exit) if matches!(self.because, Some(Cause::Failure | Cause::Health)) => {
                let exit = exit.filter(|_| self.problem.is_none());
                let end = exit.map(|exit| format!("{exit}{}{}", self.ends.times(), self.ends.last_line()));
                let why = self.problem.clone().or(end)?;
                let wait = until.saturating_duration_since(now).as_secs_f64();
                let wait = (wait * 10.0).round() / 10.0;
                let tries = match self.history.left(&self.policy.start_limit, until) {
                    0 | 1 => ", for the last time".to_owned(),
                    2 => ", then 1 more try".to_owned(),
                    left => format!(", then {} more tries", left - 1),
                };
                Some(format!("{why}; starts again in {wait} s{tries}"))
            }
            _ => self.problem.clone(),
        }
    }

    /// Its process, if it has one.
    pub fn pid(&self) -> Option<Pid> {
        match self.state {
            State::Starting { pid, .. } | State::Up { pid, .. } | State::Stopping { pid, .. } => Some(pid),
            State::Down | State::Waiting | State::Backoff { .. } | State::Failed => None,
        }
    }

    /// Its process, if SIGKILL was sent and has not ended it yet.
    pub fn killed(&self) -> Option<Pid> {
        match self.state {
            State::Stopping { pid, ladder: Ladder::Killed { .. } | Ladder::Unkillable, .. } => Some(pid),
            _ => None,
        }
    }

    /// Whether it serves.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// When [`Event::Tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Starting { deadline, .. } => Some(deadline),
            State::Stopping { ladder, .. } => match ladder {
                Ladder::Draining { ask_at: at } | Ladder::Asked { kill_at: at } | Ladder::Killed { give_up_at: at } => {
                    Some(at)
                }
                Ladder::Unkillable => None,
            },
            State::Backoff { until } => Some(until),
            State::Down | State::Waiting | State::Up { .. } | State::Failed => None,
        }
    }

    /// Handles an event. Returns what to do next.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Await => self.wait(),
            Event::Start => {
                let want = if self.want.is_held() { Want::HeldLater } else { Want::Up };
                self.start(want, &mut actions);
            }
            Event::Hold => self.hold(),
            Event::Stop => {
                self.want_down();
                self.stop(now, &mut actions);
            }
            Event::Drain(until) => {
                self.want_down();
                match self.state {
                    State::Starting { pid, .. } | State::Up { pid, .. } => {
                        self.state = State::Stopping { pid, ladder: Ladder::Draining { ask_at: until }, late: false };
                    }
                    State::Stopping { ref mut late, ref mut ladder, .. } => {
                        *late = false;
                        // A drain that may take longer has replaced the one that told it first.
                        if let Ladder::Draining { ask_at } = ladder {
                            *ask_at = until;
                        }
                    }
                    State::Down | State::Waiting | State::Backoff { .. } | State::Failed => self.state = State::Down,
                }
            }
            Event::Restart => {
                if self.pid().is_some() {
                    self.want = Want::Up;
                    self.forgive();
                    self.stop(now, &mut actions);
                } else {
                    self.start(Want::Up, &mut actions);
                }
            }
            Event::Kill => {
                self.want_down();
                if let Some(pid) = self.pid() {
                    self.force(pid, false, now, &mut actions);
                } else {
                    self.state = State::Down;
                }
            }
            Event::Spawned(pid) => self.spawned(pid, now),
            Event::SpawnFailed(why) => {
                self.problem = Some(format!("cannot start: {why}"));
                actions.push(Action::Say(log::Level::Error, format!("cannot start: {why}")));
                // The limit on starts does not count this, because nothing was started: the
                // system is short of something, perhaps only for a moment.
                let wait = self
                    .history
                    .next_delay(&self.policy.backoff)
                    .max(crate::supervisor::family::backoff::AFTER_AT_ONCE);
                self.state = State::Backoff { until: now + wait };
            }
            Event::HeldBack(why, until) => self.held_back(why, until, &mut actions),
            Event::Found => {
                if self.want.is_up() && matches!(self.state, State::Backoff { .. }) {
                    self.problem = None;
                    self.spawn(&mut actions);
                }
            }
            Event::Executed => {
                if self.policy.ready == Ready::Exec {
                    self.ready(now);
                }
            }
            Event::ExecFailed(why) => {
                actions.push(Action::Say(log::Level::Error, format!("cannot start: {why}")));
                self.problem = Some(format!("cannot start: {why}"));
            }
            Event::Ready => self.ready(now),
            Event::Extend(by) => {
                if let State::Starting { deadline, .. } = &mut self.state {
                    // The child may ask for any number: a time too far away for the
                    // clock changes nothing.
                    *deadline = now.checked_add(by).map_or(*deadline, |at| at.max(*deadline));
                }
            }
            Event::Unhealthy(why) => self.unwell(why, self.policy.stop_signal, now, &mut actions),
            Event::Hung(why) => self.unwell(why, Signal::SIGABRT, now, &mut actions),
            Event::Wrote(line) => self.ends.wrote(line),
            Event::Exited(exit) => self.exited(exit, now, &mut actions),
            Event::Tick => self.tick(now, &mut actions),
        }
        actions
    }

    /// Asks for a process; it has none until [`Action::Spawn`] is answered.
    fn spawn(&mut self, actions: &mut Vec<Action>) {
        self.state = State::Waiting;
        actions.push(Action::Spawn);
    }

    fn wait(&mut self) {
        self.want = Want::Up;
        self.forgive();
        match self.state {
            State::Down | State::Waiting | State::Backoff { .. } | State::Failed => self.state = State::Waiting,
            // It is replaced, whatever the policy says about how this process ends.
            State::Stopping { ref mut late, .. } => *late = false,
            State::Starting { .. } | State::Up { .. } => {}
        }
    }

    fn start(&mut self, want: Want, actions: &mut Vec<Action>) {
        self.wait();
        self.want = want;
        if self.state == State::Waiting {
            self.problem = None;
            self.spawn(actions);
        }
    }

    fn forgive(&mut self) {
        self.history.forgive();
        self.ends.forgive();
    }

    fn hold(&mut self) {
        match self.state {
            State::Down | State::Waiting | State::Failed => (self.want, self.state) = (Want::Held, State::Down),
            _ => self.want = if self.want.is_up() { Want::HeldLater } else { Want::Held },
        }
    }

    fn want_down(&mut self) {
        if self.want != Want::Finished {
            self.want = self.want.down();
        }
    }

    fn stop(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.state {
            State::Starting { pid, .. }
            | State::Up { pid, .. }
            | State::Stopping { pid, ladder: Ladder::Draining { .. }, .. } => self.ask(pid, now, actions),
            State::Stopping { ref mut late, .. } => *late = false,
            State::Down | State::Waiting | State::Backoff { .. } | State::Failed => self.state = State::Down,
        }
    }

    fn ask(&mut self, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Ask(pid, self.policy.stop_signal));
        let ladder = Ladder::Asked { kill_at: now + self.policy.stop_timeout };
        self.state = State::Stopping { pid, ladder, late: false };
    }

    /// Ends a process that serves but is not well. That is a failure, however it ends.
    fn unwell(&mut self, why: String, signal: Signal, now: Instant, actions: &mut Vec<Action>) {
        let State::Up { pid, since } = self.state else { return };
        self.note_steady(since, now);
        self.unwell = true;
        actions.push(Action::Say(log::Level::Error, format!("{why}; sending {signal}")));
        self.problem = Some(why);
        actions.push(Action::Ask(pid, signal));
        let ladder = Ladder::Asked { kill_at: now + self.policy.stop_timeout };
        self.state = State::Stopping { pid, ladder, late: true };
    }

    /// If it was up for long enough, the next failure is the first of a new row.
    fn note_steady(&mut self, since: Instant, now: Instant) {
        if now.duration_since(since) >= self.policy.backoff.reset_after {
            self.history.steady();
        }
    }

    fn force(&mut self, pid: Pid, late: bool, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Force(pid));
        self.state = State::Stopping { pid, ladder: Ladder::Killed { give_up_at: now + UNKILLABLE }, late };
    }

    fn held_back(&mut self, why: Option<String>, until: Instant, actions: &mut Vec<Action>) {
        // It is no longer wanted up, or it already has a process.
        if !self.want.is_up() || !matches!(self.state, State::Waiting | State::Backoff { .. }) {
            return;
        }
        self.state = State::Backoff { until };
        if let Some(why) = why.filter(|why| self.problem.as_ref() != Some(why)) {
            actions.push(Action::Say(log::Level::Warn, format!("held back: {why}")));
            self.problem = Some(why);
        }
    }

    fn spawned(&mut self, pid: Pid, now: Instant) {
        if self.ran {
            self.restarts += 1;
            match self.because {
                Some(Cause::Failure) => self.restarts_by.failure += 1,
                Some(Cause::Operator) => self.restarts_by.operator += 1,
                Some(Cause::Reload) => self.restarts_by.reload += 1,
                Some(Cause::Health) => self.restarts_by.health += 1,
                None => {}
            }
        }
        self.ran = true;
        self.last_check = None;
        (self.because, self.unwell) = (None, false);
        self.history.started(now);
        self.state = State::Starting { pid, deadline: now + self.policy.ready_timeout };
    }

    fn ready(&mut self, now: Instant) {
        if let State::Starting { pid, .. } = self.state {
            self.problem = None;
            self.state = State::Up { pid, since: now };
        }
    }

    fn exited(&mut self, exit: Exit, now: Instant, actions: &mut Vec<Action>) {
        if self.pid().is_none() {
            return;
        }
        self.last_exit = Some(exit);
        self.ended_ill = matches!(self.state, State::Stopping { late: true, .. });
        // If it was ended because it was not ready in time, or not well, that is a failure,
        // even if it was about to end well.
        self.ended_well = !self.ended_ill && self.policy.success.covers(exit);
        let before = std::mem::replace(&mut self.state, State::Down);
        self.served = matches!(before, State::Up { .. });
        self.asked = matches!(before, State::Stopping { late: false, .. });
        if matches!(before, State::Stopping { ladder: Ladder::Unkillable, .. }) {
            self.problem = None;
        }
        match before {
            _ if !self.want.is_up() => {}
            // It was stopped to be replaced.
            State::Stopping { late: false, .. } => self.spawn(actions),
            _ => {
                if let State::Up { since, .. } = before {
                    self.note_steady(since, now);
                }
                self.unasked(exit, !self.ended_well, now, actions);
            }
        }
    }

    /// Whether the policy restarts it after it ended by itself.
    fn comes_again(&self, failed: bool) -> bool {
        match self.policy.restart {
            Restart::Always => true,
            Restart::OnFailure => failed,
            Restart::Never => false,
        }
    }

    /// Whether it ended by itself, and its policy does not restart it.
    pub fn is_over(&self) -> bool {
        self.state == State::Down && matches!(self.want, Want::Finished | Want::Up)
    }

    /// Whether it has done its job: it is over, and ended well.
    pub fn has_finished(&self) -> bool {
        self.state == State::Down && self.want == Want::Finished
    }

    /// Whether a child that finished at the end of its input would be over by its policy.
    pub fn would_be_over(&self) -> bool {
        self.state == State::Down && self.last_exit.is_some() && !self.comes_again(!self.ended_well)
    }

    /// It ended without having been asked: the policy decides whether it is restarted.
    fn unasked(&mut self, exit: Exit, failed: bool, now: Instant, actions: &mut Vec<Action>) {
        self.ends.ended(now, self.problem.clone().filter(|_| self.unwell));
        let line = self.ends.last_line();
        if !self.comes_again(failed) {
            if self.want == Want::HeldLater {
                self.want = Want::Held;
            }
            if !failed {
                if self.want == Want::Up {
                    self.want = Want::Finished;
                }
                self.problem = None;
                actions.push(Action::Say(log::Level::Info, "finished".to_owned()));
            } else {
                let why = format!("{exit}, and restart = \"never\"{line}");
                actions.push(Action::Say(log::Level::Error, why.clone()));
                self.problem.get_or_insert(why);
            }
            return;
        }
        // The limit is on starts that are too close together, so what counts is the
        // time of the next start, not of this end.
        let wait = self.history.next_delay(&self.policy.backoff);
        if self.history.exhausted(&self.policy.start_limit, now + wait) {
            let StartLimit { burst, within } = self.policy.start_limit;
            let why = format!(
                "given up after {burst} starts within {} s; it {exit} the last time{line}. Mend it, then start it",
                within.as_secs_f64()
            );
            actions.push(Action::Say(log::Level::Error, why.clone()));
            self.problem = Some(match self.problem.take() {
                Some(cause) => format!("{cause}; {why}"),
                None => why,
            });
            self.state = State::Failed;
            return;
        }
        self.because = Some(if self.unwell { Cause::Health } else { Cause::Failure });
        let when = if wait.is_zero() { "at once".to_owned() } else { format!("in {} s", wait.as_secs_f64()) };
        if wait.is_zero() {
            // Start before logging, because logging takes half as long again. If the start
            // fails, that is the next event, so its reason is logged after this line.
            self.spawn(actions);
        } else {
            self.state = State::Backoff { until: now + wait };
        }
        let level = if failed { log::Level::Warn } else { log::Level::Info };
        actions.push(Action::Say(level, format!("{exit}{line}; starts again {when}")));
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.deadline().is_none_or(|at| now < at) {
            return;
        }
        match self.state {
            State::Starting { pid, .. } => {
                let mut why = format!("not ready within {} s", self.policy.ready_timeout.as_secs_f64());
                if let Some(last) = self.last_check.take() {
                    why = format!("{why}; its last check: {last}");
                }
                actions.push(Action::Say(log::Level::Error, format!("{why}; killed")));
                self.problem = Some(why);
                self.force(pid, true, now, actions);
            }
            State::Stopping { pid, ladder: Ladder::Killed { .. }, late } => {
                let why = format!("process {pid} does not die of SIGKILL");
                actions.push(Action::Say(log::Level::Error, why.clone()));
                self.problem = Some(why);
                self.state = State::Stopping { pid, ladder: Ladder::Unkillable, late };
            }
            State::Stopping { pid, ladder: Ladder::Draining { .. }, .. } => {
                actions.push(Action::Say(log::Level::Warn, "did not end with its input; asked to stop".to_owned()));
                self.ask(pid, now, actions);
            }
            State::Stopping { pid, late, .. } => {
                let after = self.policy.stop_timeout.as_secs_f64();
                actions.push(Action::Say(log::Level::Warn, format!("did not stop within {after} s; killed")));
                self.force(pid, late, now, actions);
            }
            State::Backoff { .. } => self.spawn(actions),
            State::Down | State::Waiting | State::Up { .. } | State::Failed => {}
        }
    }
}
