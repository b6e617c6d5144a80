//! What happened to children and to the daemon: the last 1,024 events, for `plumbd events`.

use crate::config::model::{Link, Ready};
use crate::control::event::{About, Event, What};
use crate::supervisor::family::child::State;
use crate::supervisor::family::supervised::Supervised;
use crate::supervisor::kept::links::News;
use crate::sys::process::{Exit, signal_name};
use jiff::Timestamp;
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::mem::discriminant;
use std::time::Duration;

/// How many events are kept.
const KEPT: usize = 1024;

/// The events that are kept.
#[derive(Debug, Default)]
pub(crate) struct Events {
    kept: VecDeque<Event>,
    next: u64,
}

impl Events {
    /// Something happened.
    pub(crate) fn happened(&mut self, event: What, about: About) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Event { seq: self.next, at: Timestamp::now(), event, about });
        self.next += 1;
    }

    /// A link became full, or moves again.
    pub(crate) fn link(&mut self, link: &Link, news: News) {
        let (event, reason) = match news {
            News::Full(time) => (
                What::LinkFull,
                format!("{} is full: {} has made no room for {}", link.title(), link.to, seconds(time)),
            ),
            News::Moves(time) => {
                (What::LinkMoves, format!("{} moves again: it was full for {}", link.title(), seconds(time)))
            }
        };
        let (from, child) = (Some(link.from.clone()), Some(link.to.clone()));
        self.happened(event, About { child, from, reason: Some(reason), ..About::default() });
    }

    /// Whether so many have happened since the one of that number that it may soon be gone.
    pub(crate) fn are_many_since(&self, number: u64) -> bool {
        self.next.saturating_sub(number) >= KEPT as u64 / 2
    }

    /// The number that the next event will have.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The event of that number, or the first that is kept after it with word of what is gone;
    /// and the number of the event after it.
    pub(crate) fn read(&self, number: u64) -> Option<(Event, u64)> {
        let first = self.next - self.kept.len() as u64;
        if number < first {
            let about = About { count: Some(first - number), ..About::default() };
            let at = self.kept.front().map_or_else(Timestamp::now, |event| event.at);
            return Some((Event { seq: first - 1, at, event: What::Lost, about }, first));
        }
        let place = usize::try_from(number - first).ok()?;
        self.kept.get(place).map(|event| (event.clone(), number + 1))
    }
}

/// As `1.5 s`.
fn seconds(time: Duration) -> String {
    format!("{} s", (time.as_secs_f64() * 10.0).round() / 10.0)
}

impl Supervised {
    /// Notes what a step of its machine changed: the state before it, whether the child said
    /// that it is ready, and the process that ended, if one did.
    pub(crate) fn note(&mut self, events: &mut Events, before: State, ready: bool, exited: Option<Pid>) {
        let state = self.machine.state;
        if let Some(pid) = exited {
            let reason = self.machine.last_exit.map(|exit| exit.to_string());
            let about = About { reason, pid: Some(pid.as_raw()), ..self.about() };
            let about = match self.machine.last_exit {
                Some(Exit::Code(code)) => About { exit: Some(code), ..about },
                Some(Exit::Signal(number)) => About { signal: Some(signal_name(number)), ..about },
                None => about,
            };
            events.happened(What::Exited, about);
        }
        if ready && self.config.policy.ready != Ready::Exec && matches!(before, State::Starting { .. }) {
            events.happened(What::Ready, self.about());
        }
        if discriminant(&before) != discriminant(&state) {
            let reason = || self.machine.problem.clone();
            match state {
                State::Starting { .. } => events.happened(What::Starting, self.about()),
                State::Up { .. } => events.happened(What::Up, self.about()),
                State::Stopping { .. } => events.happened(What::Stopping, self.about()),
                State::Backoff { .. } => events.happened(What::Backoff, About { reason: reason(), ..self.about() }),
                State::Failed => events.happened(What::Failed, About { reason: reason(), ..self.about() }),
                State::Down if self.machine.has_finished() => events.happened(What::Finished, self.about()),
                State::Down | State::Waiting => {}
            }
        }
        self.note_problem(events);
    }

    /// Notes that it is not well, and why.
    pub(crate) fn note_unwell(&self, events: &mut Events, what: What, why: &str) {
        events.happened(what, About { reason: Some(why.to_owned()), ..self.about() });
    }

    /// Notes that something is wrong with it, or is no longer.
    pub(crate) fn note_problem(&mut self, events: &mut Events) {
        let problem = self.problem();
        // A process that is gone says nothing more, which solves nothing.
        if self.noted.as_deref() == problem || problem.is_none() && !self.machine.is_up() {
            return;
        }
        self.noted = problem.map(str::to_owned);
        match &self.noted {
            Some(problem) => {
                let reason = Some(problem.clone());
                events.happened(What::Problem, About { reason, ..self.about() });
            }
            None => events.happened(What::Solved, self.about()),
        }
    }

    fn about(&self) -> About {
        About {
            child: Some(self.config.name.clone()),
            pid: self.machine.pid().map(Pid::as_raw),
            restarts: Some(self.machine.restarts),
            ..About::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_counted_and_the_rest_comes_in_order() {
        let mut events = Events::default();
        assert_eq!(events.read(0), None);
        (0..KEPT + 5).for_each(|_| events.happened(What::Up, About::default()));
        let (lost, next) = events.read(0).unwrap();
        assert_eq!((lost.event, lost.about.count, lost.seq, next), (What::Lost, Some(5), 4, 5));
        let mut number = next;
        while let Some((event, next)) = events.read(number) {
            assert_eq!((event.seq, event.event), (number, What::Up));
            number = next;
        }
        assert_eq!(number, events.next());
        assert_eq!(events.read(number + 9), None);
    }
}
