//! One child's states: what happened and when goes in, what to do comes out.
//! Pure: no process, no clock, no descriptor.
//!
//! What is wanted and what is are kept apart:
//!
//! | want \ state | down | waiting | starting, up | stopping | backoff | failed |
//! |---|---|---|---|---|---|---|
//! | up | ended, a failure, and its policy has no other process come | for what it needs | as wanted | another process comes once this one is gone | comes when its time is there | given up until an operator starts it |
//! | held later | (never) | (never) | goes once its sources are gone | as up | as up | as up |
//! | held | as an operator wants it | (never) | (never: a stop was asked at once) | going | (never) | (never) |
//! | down | as a change wants it | (never) | (never) | going | (never) | (never) |
//! | finished | it did what it was there for | (never) | (never) | (never) | (never) | (never) |

use crate::config::model::{Policy, Ready, Restart, StartLimit};
use crate::supervisor::family::backoff::History;
use crate::sys::process::Exit;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// What is wanted of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// That it serves.
    Up,
    /// That it serves its sources to the end, and is held then: an operator stopped it.
    HeldLater,
    /// That it is gone: an operator stopped it, and no reload starts it.
    Held,
    /// That it is gone until the change that stops it says otherwise.
    Down,
    /// Nothing more: it ended well, and its policy has no other process come.
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

    /// The same for now, but that it is gone.
    fn down(self) -> Want {
        if self.is_held() { Want::Held } else { Want::Down }
    }
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No process, and none to come by itself.
    Down,
    /// No process, and one to come: it waits for other children that must be up before it.
    Waiting,
    /// A process that is not ready yet, and when it must be.
    Starting {
        /// Its process and process group.
        pid: Pid,
        /// Then it is killed, and that was a failure.
        deadline: Instant,
    },
    /// A process that serves.
    Up {
        /// Its process and process group.
        pid: Pid,
        /// When it became ready.
        since: Instant,
    },
    /// A process that was asked to end.
    Stopping {
        /// Its process and process group.
        pid: Pid,
        /// How far that has come.
        ladder: Ladder,
        /// It goes because it was not ready in time.
        late: bool,
    },
    /// No process, and one to come.
    Backoff {
        /// When.
        until: Instant,
    },
    /// No process, given up: it was started too often.
    Failed,
}

/// How a stop goes: each rung has a time at which the next is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ladder {
    /// Its input has ended; it is let finish what it has read.
    Draining {
        /// Then it is asked.
        ask_at: Instant,
    },
    /// It was sent its stop signal.
    Asked {
        /// Then it is killed.
        kill_at: Instant,
    },
    /// It was sent SIGKILL.
    Killed {
        /// Then it is taken for one that SIGKILL does not end.
        give_up_at: Instant,
    },
    /// SIGKILL has not ended it: it is inside a system call that the kernel does
    /// not cut short, or is another user's. Nobody waits for it any more.
    Unkillable,
}

/// A process that was killed has this long to go: longer than a disk takes that
/// answers at all.
pub const UNKILLABLE: Duration = Duration::from_secs(10);

/// What happened to a child, or what somebody says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It shall be up once what it needs is. What was before is forgiven.
    Await,
    /// What it needs is up, or it is to take what still waits for it: it shall be up now.
    Start,
    /// It shall be down, and stay so until an operator says otherwise, once its sources are
    /// gone.
    Hold,
    /// It shall be down.
    Stop,
    /// It shall be down; its input has ended, so it is let finish by itself until then.
    Drain(Instant),
    /// It shall be another process than now, and up.
    Restart,
    /// It shall be dead at once, and stay so.
    Kill,
    /// [`Action::Spawn`] gave a process.
    Spawned(Pid),
    /// [`Action::Spawn`] could not.
    SpawnFailed(String),
    /// It lacks something of the system, as is said, or is just looked for; try again then.
    HeldBack(Option<String>, Instant),
    /// What it lacked is there.
    Found,
    /// exec succeeded.
    Executed,
    /// exec, or a step before it, failed; its end will be told too.
    ExecFailed(String),
    /// It says that it is ready.
    Ready,
    /// It says that it needs so much longer to be ready.
    Extend(Duration),
    /// Its process is reaped.
    Exited(Exit),
    /// Time has passed.
    Tick,
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a process and say how that went.
    Spawn,
    /// Send this signal, and SIGCONT, to whom the policy says.
    Ask(Pid, Signal),
    /// Send SIGKILL to its process group.
    Force(Pid),
    /// Tell the operator.
    Say(log::Level, String),
}

/// One child.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What decides.
    pub policy: Policy,
    /// What is wanted.
    pub want: Want,
    /// What is.
    pub state: State,
    /// How it ended the last time.
    pub last_exit: Option<Exit>,
    /// Whether it was ready before that.
    pub served: bool,
    /// Whether its policy took that for a success.
    pub ended_well: bool,
    /// What is wrong, for a person; the reason of a failed start, or why it is given up.
    pub problem: Option<String>,
    /// How often a process came in place of one that was.
    pub restarts: u64,
    history: History,
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
            history: History::default(),
            ran: false,
        }
    }

    /// Goes by another policy from now on. An end that this one takes for a success is one,
    /// where no other process was to come after it.
    pub fn change(&mut self, policy: Policy) {
        self.policy = policy;
        if self.is_over() && self.last_exit.is_some_and(|exit| self.policy.success.covers(exit)) {
            (self.want, self.problem, self.ended_well) = (Want::Finished, None, true);
        }
    }

    /// Its process, where it has one.
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

    /// One step.
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
                        // The drain that told it first was cut short by one that may take longer.
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
                    self.history.forgive();
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
                // Nothing was started, so the limit on starts has nothing to
                // count: the system is short of something, and may not be for long.
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
                    // What it asks for is its own number: a time that the
                    // clock never shows changes nothing.
                    *deadline = now.checked_add(by).map_or(*deadline, |at| at.max(*deadline));
                }
            }
            Event::Exited(exit) => self.exited(exit, now, &mut actions),
            Event::Tick => self.tick(now, &mut actions),
        }
        actions
    }

    /// It has no process until [`Action::Spawn`] is answered.
    fn spawn(&mut self, actions: &mut Vec<Action>) {
        self.state = State::Waiting;
        actions.push(Action::Spawn);
    }

    fn wait(&mut self) {
        self.want = Want::Up;
        self.history.forgive();
        match self.state {
            State::Down | State::Waiting | State::Backoff { .. } | State::Failed => self.state = State::Waiting,
            // Another process comes whatever the policy says of the end of this one.
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

    fn force(&mut self, pid: Pid, late: bool, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Force(pid));
        self.state = State::Stopping { pid, ladder: Ladder::Killed { give_up_at: now + UNKILLABLE }, late };
    }

    fn held_back(&mut self, why: Option<String>, until: Instant, actions: &mut Vec<Action>) {
        // It is not wanted up any more, or it is up already.
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
        }
        self.ran = true;
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
        self.ended_well = self.policy.success.covers(exit);
        let before = std::mem::replace(&mut self.state, State::Down);
        self.served = matches!(before, State::Up { .. });
        if matches!(before, State::Stopping { ladder: Ladder::Unkillable, .. }) {
            self.problem = None;
        }
        match before {
            _ if !self.want.is_up() => {}
            // Asked to go so that another may come.
            State::Stopping { late: false, .. } => self.spawn(actions),
            _ => {
                if let State::Up { since, .. } = before {
                    if now.duration_since(since) >= self.policy.backoff.reset_after {
                        self.history.steady();
                    }
                }
                // It was killed because it was not ready in time: that is a failure, even
                // if it was just about to end well.
                let failed = !self.ended_well || matches!(before, State::Stopping { .. });
                self.unasked(exit, failed, now, actions);
            }
        }
    }

    /// Whether the policy has another process come after one that ended by itself.
    fn comes_again(&self, failed: bool) -> bool {
        match self.policy.restart {
            Restart::Always => true,
            Restart::OnFailure => failed,
            Restart::Never => false,
        }
    }

    /// Whether it ended by itself, and its policy has no other process come.
    pub fn is_over(&self) -> bool {
        self.state == State::Down && matches!(self.want, Want::Finished | Want::Up)
    }

    /// Whether it did what it was there for: it is over, and ended well.
    pub fn has_finished(&self) -> bool {
        self.state == State::Down && self.want == Want::Finished
    }

    /// The same of one that was let finish at the end of its input.
    pub fn would_be_over(&self) -> bool {
        self.state == State::Down && self.last_exit.is_some() && !self.comes_again(!self.ended_well)
    }

    /// It ended though nobody asked: again, or not, by policy.
    fn unasked(&mut self, exit: Exit, failed: bool, now: Instant, actions: &mut Vec<Action>) {
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
                let why = format!("{exit}, and restart = \"never\"");
                actions.push(Action::Say(log::Level::Error, why.clone()));
                self.problem.get_or_insert(why);
            }
            return;
        }
        // The limit is on starts that come too close together, so it is the
        // time of the next start that counts, not of this end.
        let wait = self.history.next_delay(&self.policy.backoff);
        if self.history.exhausted(&self.policy.start_limit, now + wait) {
            let StartLimit { burst, within } = self.policy.start_limit;
            let why = format!(
                "given up after {burst} starts within {} s; it {exit} the last time. Mend it, then start it",
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
        let when = if wait.is_zero() { "at once".to_owned() } else { format!("in {} s", wait.as_secs_f64()) };
        if wait.is_zero() {
            // First: to say why takes half as long again. Why a start fails is
            // the next event, and said after this.
            self.spawn(actions);
        } else {
            self.state = State::Backoff { until: now + wait };
        }
        let level = if failed { log::Level::Warn } else { log::Level::Info };
        actions.push(Action::Say(level, format!("{exit}; starts again {when}")));
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.deadline().is_none_or(|at| now < at) {
            return;
        }
        match self.state {
            State::Starting { pid, .. } => {
                let why = format!("not ready within {} s", self.policy.ready_timeout.as_secs_f64());
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
