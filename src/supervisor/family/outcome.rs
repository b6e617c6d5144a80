//! What becomes of a child's start.

use super::child::Machine;

/// What became of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// Not known yet.
    Open,
    /// It serves, or has served and finished.
    Good,
    /// It doesn't, and why.
    Bad(Bad),
}

/// Why a child does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bad {
    /// It could not be started.
    NotStarted(String),
    /// It ran, and ended: how.
    Ended(String),
}

impl Bad {
    /// Why a child does not serve that has no process, or one that goes. If it ran, it
    /// was started, so what there is to say is how it ended.
    pub(crate) fn of_machine(machine: &Machine) -> Bad {
        let problem = machine.problem.as_deref();
        if let Some(how) = machine.last_exit.map(|exit| exit.to_string()) {
            if let Some(more) = problem.map_or(Some(""), |problem| problem.strip_prefix(&how)) {
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
    /// It could not be started, and why.
    pub(crate) fn not(why: impl Into<String>) -> Start {
        Start::Bad(Bad::NotStarted(why.into()))
    }
}
