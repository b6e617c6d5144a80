//! Operators who wait for an answer.

use super::Operators;

/// One who waits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// For children to be as the operator said.
    Children {
        /// The connection.
        connection: u32,
        /// Which children.
        names: Vec<String>,
        /// How they shall be.
        goal: Goal,
    },
    /// For the change under way to be over, and then for children to be up that it
    /// concerns: to start one of them meanwhile would cross it.
    Later {
        /// The connection.
        connection: u32,
        /// Which children, as the operator named them.
        names: Vec<String>,
        /// Whether those that run are to be other processes.
        restart: bool,
    },
    /// For its turn to reload; `None`: a signal's.
    Reload(Option<u32>),
    /// For the end.
    Shutdown(u32),
}

/// How children shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Up.
    Up,
    /// Down.
    Down,
}

impl Operators {
    /// Takes out the first reload that waits for its turn: whose it is.
    pub(crate) fn take_reload(&mut self) -> Option<Option<u32>> {
        let place = self.waiters.iter().position(|waiter| matches!(waiter, Waiter::Reload(_)))?;
        match self.waiters.remove(place) {
            Waiter::Reload(waiter) => Some(waiter),
            _ => None,
        }
    }

    /// The daemon ends: nobody will see a child come up.
    pub(crate) fn refuse_starts(&mut self) {
        let (up, others): (Vec<_>, _) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| matches!(waiter, Waiter::Later { .. } | Waiter::Children { goal: Goal::Up, .. }));
        self.waiters = others;
        for waiter in up {
            if let Waiter::Later { connection, names, .. } | Waiter::Children { connection, names, .. } = waiter {
                self.refuse(Some(connection), &format!("cannot start {}: the daemon is stopping", names.join(", ")));
            }
        }
    }

    /// Tells those who wait for the end how it went.
    pub(crate) fn answer_shutdown(&mut self, end: &Result<(), String>) {
        for waiter in std::mem::take(&mut self.waiters) {
            match (waiter, end) {
                (Waiter::Shutdown(connection), Ok(())) => self.finish(Some(connection), 0),
                (Waiter::Shutdown(connection), Err(why)) => self.refuse(Some(connection), why),
                (Waiter::Children { connection, goal: Goal::Down, .. }, _) => self.finish(Some(connection), 0),
                (
                    Waiter::Children { connection, goal: Goal::Up, .. }
                    | Waiter::Later { connection, .. }
                    | Waiter::Reload(Some(connection)),
                    _,
                ) => self.refuse(Some(connection), "the daemon has stopped"),
                (Waiter::Reload(None), _) => {}
            }
        }
    }
}
