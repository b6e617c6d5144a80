//! The single rules are tested in `start`, `again` and `stop`, what holds for all of them
//! together in `properties`, and the long life of many children in `simulation`.

mod again;
mod properties;
mod simulation;
mod start;
mod stop;
mod world;

use super::Event::{
    Await, Drain, ExecFailed, Executed, Exited, Extend, Hold, Kill, Ready as SaysReady, Restart as SaysRestart,
    SpawnFailed, Spawned, Start, Stop, Tick,
};
use super::*;
use crate::config::model::{Backoff, StopTo, Success};

const FIRST: Pid = Pid::from_raw(100);
const SECOND: Pid = Pid::from_raw(101);
const GOOD: Event = Exited(Exit::Code(0));
const BAD: Event = Exited(Exit::Code(1));
const KILLED: Event = Exited(Exit::Signal(9));

/// The default policy.
fn policy() -> Policy {
    Policy {
        restart: Restart::Always,
        backoff: Backoff { first: ms(0), factor: 2.0, max: secs(30), reset_after: secs(10) },
        start_limit: StartLimit { burst: 10, within: secs(60) },
        ready: Ready::Exec,
        ready_timeout: secs(10),
        stop_signal: Signal::SIGTERM,
        stop_to: StopTo::Group,
        success: Success { codes: vec![0], signals: Vec::new() },
        stop_timeout: secs(10),
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A machine and its clock.
struct Child {
    machine: Machine,
    now: Instant,
}

impl Child {
    /// A child that is down.
    fn down(policy: Policy) -> Child {
        Child { machine: Machine::new(policy), now: Instant::now() }
    }

    /// A child whose first process was just spawned.
    fn starting(policy: Policy) -> Child {
        let mut child = Child::down(policy);
        assert_eq!(child.tell(Start), [Action::Spawn]);
        assert_eq!(child.tell(Spawned(FIRST)), []);
        child
    }

    /// A child that serves.
    fn up(policy: Policy) -> Child {
        let mut child = Child::starting(policy);
        child.tell(SaysReady);
        assert!(child.machine.is_up());
        child
    }

    /// A child that was asked to stop.
    fn stopping(policy: Policy) -> Child {
        let mut child = Child::up(policy);
        assert_eq!(child.tell(Stop), [Action::Ask(FIRST, Signal::SIGTERM)]);
        child
    }

    /// A child that was not ready in time.
    fn late(policy: Policy) -> Child {
        let mut child = Child::starting(policy);
        assert_eq!(child.tick_at_deadline(), [Action::Force(FIRST)]);
        child
    }

    /// A child in backoff after its second crash in a row.
    fn backoff(policy: Policy) -> Child {
        let mut child = Child::up(policy);
        assert_eq!(child.tell(BAD), [Action::Spawn]);
        child.tell(Spawned(SECOND));
        assert_eq!(child.tell(BAD), []);
        assert_eq!(child.machine.state, State::Backoff { until: child.now + ms(100) });
        child
    }

    /// A child that was given up.
    fn failed() -> Child {
        let mut child = Child::up(Policy { start_limit: StartLimit { burst: 1, within: secs(60) }, ..policy() });
        assert_eq!(child.tell(BAD), []);
        assert_eq!(child.machine.state, State::Failed);
        child
    }

    /// Tells the machine; returns its actions other than log messages.
    fn tell(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.machine.step(event, self.now);
        actions.retain(|action| !matches!(action, Action::Say(..)));
        actions
    }

    /// Tells the machine; returns its log messages.
    fn said(&mut self, event: Event) -> Vec<String> {
        let actions = self.machine.step(event, self.now);
        let texts = actions.into_iter().filter_map(|action| match action {
            Action::Say(_, text) => Some(text),
            _ => None,
        });
        texts.collect()
    }

    fn tick_after(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.tell(Tick)
    }

    /// Checks that a tick just before the deadline does nothing; returns what one at the
    /// deadline does.
    fn tick_at_deadline(&mut self) -> Vec<Action> {
        let deadline = self.machine.deadline().expect("there is a deadline");
        self.now = deadline - Duration::from_nanos(1);
        assert_eq!(self.tell(Tick), []);
        self.now = deadline;
        self.tell(Tick)
    }

    fn problem(&self) -> Option<&str> {
        self.machine.problem.as_deref()
    }
}
