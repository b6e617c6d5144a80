//! Operators who wait for an answer.

use super::Operators;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What an operator waits for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// Children that are to be up or down.
    Children {
        /// The connection.
        connection: u32,
        /// The children's names.
        names: Vec<String>,
        /// What they are to be.
        goal: Goal,
    },
    /// The end of the change under way, to start children that it concerns: starting one of
    /// them earlier would interfere with it.
    Later {
        /// The connection.
        connection: u32,
        /// The children, as the operator named them.
        names: Vec<String>,
        /// Whether those that run are to be restarted.
        restart: bool,
    },
    /// Its turn to reload; `None`: a signal asked for it.
    Reload(Option<u32>),
    /// The end.
    Shutdown(u32),
}

/// What children are to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Up.
    Up(Watch),
    /// Down.
    Down,
}

/// Children that are up as soon as their program is executed, which says little: they are
/// watched for a moment more. Since when each of them has been up, and as which process.
pub(crate) type Watch = BTreeMap<String, (Pid, Instant)>;

/// For how long they are watched.
pub(crate) const WATCHED: Duration = Duration::from_secs(1);

impl Operators {
    /// Removes the first reload that waits for its turn. Returns the connection that asked
    /// for it.
    pub(crate) fn take_reload(&mut self) -> Option<Option<u32>> {
        let place = self.waiters.iter().position(|waiter| matches!(waiter, Waiter::Reload(_)))?;
        match self.waiters.remove(place) {
            Waiter::Reload(waiter) => Some(waiter),
            _ => None,
        }
    }

    /// Refuses all requests that wait for a child to come up, because the daemon ends.
    pub(crate) fn refuse_starts(&mut self) {
        let (up, others): (Vec<_>, _) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| matches!(waiter, Waiter::Later { .. } | Waiter::Children { goal: Goal::Up(_), .. }));
        self.waiters = others;
        for waiter in up {
            if let Waiter::Later { connection, names, .. } | Waiter::Children { connection, names, .. } = waiter {
                self.refuse(Some(connection), &format!("cannot start {}: the daemon is stopping", names.join(", ")));
            }
        }
    }

    /// Tells everyone who still waits how the end went.
    pub(crate) fn answer_shutdown(&mut self, end: &Result<(), String>) {
        for waiter in std::mem::take(&mut self.waiters) {
            match (waiter, end) {
                (Waiter::Shutdown(connection), Ok(())) => self.finish(Some(connection), 0),
                (Waiter::Shutdown(connection), Err(why)) => self.refuse(Some(connection), why),
                (Waiter::Children { connection, goal: Goal::Down, .. }, _) => self.finish(Some(connection), 0),
                (
                    Waiter::Children { connection, goal: Goal::Up(_), .. }
                    | Waiter::Later { connection, .. }
                    | Waiter::Reload(Some(connection)),
                    _,
                ) => self.refuse(Some(connection), "the daemon has stopped"),
                (Waiter::Reload(None), _) => {}
            }
        }
    }
}
