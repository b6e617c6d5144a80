//! Everything that takes several steps: the first start, reloads, the end.
//!
//! A change is a value that knows which step it is at. After each event,
//! [`Supervisor::advance`] lets every change look at the children and the links and does
//! what it says, so all steps are taken that have become possible. Nothing here waits.
//!
//! Children start sinks first, by [`crate::config::order::needs`], and stop in reverse order.
//!
//! | file | what is there |
//! |---|---|
//! | `drain` | how children are stopped so that nothing is lost, pure |
//! | `steps` | the steps of a change, pure |
//! | `reload` | a change to another configuration, from the request to the answer |
//! | `end` | the first start, and the end |

pub(crate) mod drain;
pub(crate) mod end;
pub(crate) mod reload;
pub(crate) mod steps;

use crate::control::status::DaemonState;
use crate::supervisor::event_loop::Supervisor;
use crate::supervisor::family::child::Event;
use crate::supervisor::family::children::Children;
use crate::supervisor::family::outcome::Family;
use crate::supervisor::kept::links::Links;
use reload::Reload;
use std::time::Duration;
use steps::{Do, LinkSeen, Stop, World};

/// If an input can't be opened again (EMFILE and the like), that is retried after this long.
const RESUME: Duration = Duration::from_secs(1);

/// The changes under way. No two of them concern the same child.
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) reloads: Vec<Reload>,
    /// The end, once it has begun: all children stop.
    pub(crate) end: Option<Stop>,
    /// The number of the last reload.
    last: u32,
}

impl Changes {
    /// Whether the daemon is ending.
    pub(crate) fn is_ending(&self) -> bool {
        self.end.is_some()
    }

    /// Whether one of them concerns that child.
    pub(crate) fn concern(&self, name: &str) -> bool {
        self.reloads.iter().any(|reload| reload.change.concerns(name))
    }

    /// Whether that child must not be started before one of them has taken effect.
    pub(crate) fn delay(&self, name: &str) -> bool {
        self.reloads.iter().any(|reload| reload.change.delays(name))
    }

    /// Whether one of them is stopping that child, and may start it once more for what waits
    /// for it.
    pub(crate) fn stop(&self, name: &str) -> bool {
        self.is_ending() || self.reloads.iter().any(|reload| reload.change.stops(name))
    }

    /// Begins a reload, with a number of its own.
    fn begin(&mut self, mut reload: Reload) {
        self.last = self.last.wrapping_add(1);
        reload.number = self.last;
        self.reloads.push(reload);
    }

    /// Removes and returns the reload of that number.
    fn take(&mut self, number: u32) -> Option<Reload> {
        let place = self.place_of(number)?;
        Some(self.reloads.remove(place))
    }

    /// The place of the reload of that number.
    fn place_of(&self, number: u32) -> Option<usize> {
        self.reloads.iter().position(|reload| reload.number == number)
    }
}

/// The children and links of this supervisor.
struct Own<'a> {
    children: &'a Children,
    links: &'a Links,
}

impl World for Own<'_> {
    fn family(&self) -> &dyn Family {
        self.children
    }

    fn links(&self) -> Vec<LinkSeen<'_>> {
        self.links.flows()
    }

    fn waiting(&self, link: usize) -> usize {
        self.links.queued_at(link)
    }
}

impl Supervisor {
    /// The daemon's state, as operators see it.
    pub(crate) fn daemon_state(&self) -> DaemonState {
        match (self.changes.is_ending(), self.changes.reloads.is_empty()) {
            (true, _) => DaemonState::Stopping,
            (false, false) => DaemonState::Reloading,
            (false, true) if self.startup.has_started => DaemonState::Running,
            (false, true) => DaemonState::Starting,
        }
    }

    /// Takes every step that has become possible.
    pub(crate) fn advance(&mut self) {
        if !self.changes.is_ending() {
            self.resume_inputs();
            self.start_waiting();
            self.step_reloads();
            if self.changes.reloads.is_empty() {
                self.started();
                self.reload_next();
            }
        }
        // The end may have just begun, because the first start failed.
        self.step_end();
        self.stop_held();
        self.answer_waiters();
    }

    /// Reopens the inputs that a change had ended before it was called off. Until then
    /// their sources can't be started.
    fn resume_inputs(&mut self) {
        let reloads = &self.changes.reloads;
        let ends = |queue: &_| reloads.iter().filter_map(|reload| reload.change.stop()).any(|stop| stop.ends(queue));
        if let Err(error) = self.kept.links.resume_input(ends) {
            log::error!("cannot open a link's input again: {error}; trying again");
            self.agenda.look_after(RESUME);
        }
    }

    /// Starts the children that wait only for others that are up.
    fn start_waiting(&mut self) {
        for id in self.children.startable() {
            let delayed = self.children.get(id).is_some_and(|child| self.changes.delay(&child.config.name));
            if !delayed {
                self.step(id, Event::Start);
            }
        }
    }

    /// Stops children that an operator wants down, unless a change is already stopping them.
    fn stop_held(&mut self) {
        for id in self.children.stoppable() {
            let stops = self.children.get(id).is_some_and(|child| self.changes.stop(&child.config.name));
            if !stops {
                self.step(id, Event::Stop);
            }
        }
    }

    fn carry_out(&mut self, to_do: Vec<Do>, look_after: Option<Duration>) {
        for what in to_do {
            match what {
                Do::EndInput(queue) => self.kept.links.end_input(&queue),
                Do::Tell(name, event) => {
                    if let Some(id) = self.children.id_of(&name) {
                        self.step(id, event);
                    }
                }
            }
        }
        if let Some(time) = look_after {
            self.agenda.look_after(time);
        }
    }
}
