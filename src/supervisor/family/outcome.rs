//! What follows from the states of children and from which must be up before which:
//! whether a start succeeded, what a child waits for, which may start or stop.

use super::child::{Ladder, Machine, State, Want};
use crate::config::order::Needs;

/// The outcome of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// Not known yet.
    Open,
    /// It serves, or has served and finished.
    Good,
    /// It does not serve, and why.
    Bad(Bad),
}

/// Why a child does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bad {
    /// It could not be started.
    NotStarted(String),
    /// It ran and ended, and how.
    Ended(String),
}

impl Bad {
    /// Why a child without a process, or with one that is stopping, does not serve. If it
    /// has run, the reason is how it ended.
    fn of_machine(machine: &Machine) -> Bad {
        let problem = machine.problem.as_deref();
        if let Some(how) = machine.last_exit.map(|exit| exit.to_string()) {
            let line = machine.last_line();
            if let Some(more) = problem.map_or(Some(&*line), |problem| problem.strip_prefix(&how)) {
                let when = if machine.served { "" } else { " before it was ready" };
                return Bad::Ended(format!("{how}{when}{more}"));
            }
        }
        let why = problem.unwrap_or("it is down");
        Bad::NotStarted(why.strip_prefix("cannot start: ").unwrap_or(why).to_owned())
    }

    /// A sentence about that child.
    pub(crate) fn of(&self, child: &str) -> String {
        match self {
            Bad::NotStarted(why) => format!("cannot start {child}: {why}"),
            Bad::Ended(how) => format!("{child} {how}"),
        }
    }
}

impl Start {
    fn not(why: impl Into<String>) -> Start {
        Start::Bad(Bad::NotStarted(why.into()))
    }
}

/// A child, as seen by other children and by changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// Its state.
    pub(crate) machine: &'a Machine,
    /// Why it is not ready although its start has taken longer than it may; it goes on trying.
    pub(crate) stuck: Option<&'a str>,
    /// What it lacks of the system is being looked for at the moment.
    pub(crate) is_looked_for: bool,
    /// Its process was reaped, though others that it had started may not be gone.
    pub(crate) is_reaped: bool,
}

/// Children, by their names. The supervisor has one family, a simulation another.
pub(crate) trait Family {
    /// The child of that name.
    fn child(&self, name: &str) -> Option<Seen<'_>>;

    /// Which children must be up before which.
    fn needs(&self) -> &Needs;

    /// A child that must be up before that one but is not.
    fn blocked_by(&self, name: &str) -> Option<&str> {
        let needed = self.needs().get(name)?;
        needed.iter().find(|other| !self.served(other)).map(String::as_str)
    }

    /// Whether that child is up, or has finished as it should.
    fn served(&self, name: &str) -> bool {
        self.child(name).is_none_or(|child| child.machine.is_up() || child.machine.has_finished())
    }

    /// Whether it waits, but only for children that are up.
    fn may_start(&self, name: &str) -> bool {
        self.waits(name) && self.blocked_by(name).is_none()
    }

    /// Whether an operator stopped it and its sources are gone: a source can send what it
    /// still owes its clients only while its sink runs.
    fn may_stop(&self, name: &str, needed_by: &Needs) -> bool {
        let goes = |child: Seen<'_>| child.machine.want.is_held() && child.machine.pid().is_some();
        let mut users = needed_by.get(name).into_iter().flatten().filter_map(|user| self.child(user));
        self.child(name).is_some_and(|child| child.machine.want == Want::HeldLater) && !users.any(goes)
    }

    /// Whether it waits for others that must be up before it.
    fn waits(&self, name: &str) -> bool {
        self.child(name).is_some_and(|child| child.machine.state == State::Waiting)
    }

    /// The outcome of that child's start.
    fn start_of(&self, name: &str) -> Start {
        let Some(Seen { machine, stuck, is_looked_for, .. }) = self.child(name) else {
            return Start::not("it is no longer there");
        };
        if let Some(why) = stuck {
            return Start::not(why);
        }
        let bad = || Start::Bad(Bad::of_machine(machine));
        match machine.state {
            State::Up { .. } => Start::Good,
            State::Backoff { .. } if is_looked_for => Start::Open,
            // It was not ready in time, or is not well. This start has failed, whatever the
            // next one comes to.
            State::Stopping { late: true, .. } | State::Stopping { ladder: Ladder::Unkillable, .. } => bad(),
            State::Starting { .. } | State::Stopping { .. } => Start::Open,
            State::Backoff { .. } | State::Failed => bad(),
            State::Waiting => match self.blocked_by(name) {
                None => Start::Open,
                Some(other) => match self.start_of(other) {
                    Start::Open => Start::Open,
                    Start::Bad(_) | Start::Good => Start::not(format!("it waits for {other}, which is not up")),
                },
            },
            State::Down => match machine.want {
                Want::Finished => Start::Good,
                Want::Held | Want::HeldLater => Start::not("an operator stopped it"),
                Want::Up | Want::Down => bad(),
            },
        }
    }

    /// The child that keeps that one from starting: itself, or one that it waits for.
    fn cause<'a>(&'a self, name: &'a str) -> &'a str {
        let mut cause = name;
        while self.waits(cause) {
            match self.blocked_by(cause) {
                Some(other) => cause = other,
                None => break,
            }
        }
        cause
    }

    /// Its process, if SIGKILL was sent and has not ended it.
    fn killed(&self, name: &str) -> Option<nix::unistd::Pid> {
        self.child(name).filter(|child| !child.is_reaped).and_then(|child| child.machine.killed())
    }
}

/// For each of these children that is not up, the reason; `None`: not all are known yet.
pub(crate) fn outcome_of<'a>(family: &dyn Family, names: impl IntoIterator<Item = &'a String>) -> Option<Vec<String>> {
    let mut bad = Vec::new();
    for name in names {
        match family.start_of(name) {
            Start::Open => return None,
            Start::Good => {}
            Start::Bad(why) => bad.push(why.of(name)),
        }
    }
    Some(bad)
}

/// Reports those of them that SIGKILL did not end, if there are any.
pub(crate) fn unkillable<'a>(family: &dyn Family, names: impl IntoIterator<Item = &'a String>) -> Option<String> {
    let left: Vec<String> = names
        .into_iter()
        .filter_map(|name| family.killed(name).map(|pid| (name, pid)))
        .map(|(name, pid)| format!("cannot end {name}: process {pid} does not die of SIGKILL"))
        .collect();
    (!left.is_empty()).then(|| left.join("; "))
}
