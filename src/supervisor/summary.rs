//! How the children are, in one line for the service manager: what `systemctl status` shows as
//! "Status:".

use crate::control::status::{ChildState, DaemonState};
use crate::supervisor::event_loop::Supervisor;
use crate::sys::text::clipped;
use std::time::Instant;

/// No line is longer than this, in characters.
const LONGEST: usize = 200;

/// One child.
struct Seen<'a> {
    name: &'a str,
    state: ChildState,
    finished: bool,
    problem: Option<&'a str>,
    /// How it ended, if it keeps ending or waits to be started again.
    ended: Option<String>,
}

impl Supervisor {
    /// Reports the children's state to the service manager, if it is not what it was. What a
    /// start or a reload reported stays until then.
    pub(crate) fn tell_summary(&mut self) {
        if !self.manager.is_there() {
            return;
        }
        if self.daemon_state() != DaemonState::Running || self.is_reloading() {
            self.manager.summary = None;
            return;
        }
        let line = summary(self.children.all().map(|child| Seen {
            name: &child.config.name,
            state: child.state(),
            finished: child.machine.has_finished(),
            problem: child.problem(),
            ended: child.machine.ended(Instant::now()),
        }));
        match &self.manager.summary {
            Some(before) if *before != line => self.manager.tell(&format!("STATUS={line}")),
            _ => true,
        };
        self.manager.summary = Some(line);
    }
}

fn summary<'a>(children: impl Iterator<Item = Seen<'a>>) -> String {
    let (mut all, mut up, mut finished) = (0, 0, 0);
    let mut wrong = Vec::new();
    for Seen { name, state, finished: has_finished, problem, ended } in children {
        all += 1;
        up += usize::from(state == ChildState::Up);
        finished += usize::from(has_finished);
        match problem.map(str::to_owned).or(ended) {
            Some(problem) => wrong.push(format!("{name}: {problem}")),
            None if state == ChildState::Up || has_finished => {}
            None if state == ChildState::Backoff => wrong.push(format!("{name} is down")),
            None => wrong.push(format!("{name} is {state}")),
        }
    }
    let finished = if finished == 0 { String::new() } else { format!(", {finished} finished") };
    let counts = format!("{up} of {all} up{finished}");
    let line: String = [counts].into_iter().chain(wrong).collect::<Vec<_>>().join("; ");
    let line = line.replace(char::is_control, " ");
    clipped(&line, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen<'a>(name: &'a str, state: ChildState, problem: Option<&'a str>) -> Seen<'a> {
        Seen { name, state, finished: false, problem, ended: None }
    }

    #[test]
    fn what_is_not_up_and_what_is_wrong_is_in_one_line() {
        use ChildState::{Backoff, Down, Failed, Up};
        let said = |children: Vec<Seen<'_>>| summary(children.into_iter());
        let full = Some("cannot write /m.log:\nNo space left on device");
        assert_eq!(said(vec![seen("echo", Up, None), seen("logger", Up, None)]), "2 of 2 up");
        assert_eq!(
            said(vec![seen("echo", Down, None), seen("logger", Up, full)]),
            "1 of 2 up; echo is down; logger: cannot write /m.log: No space left on device"
        );
        assert_eq!(said(vec![seen("a", Backoff, None), seen("b", Failed, None)]), "0 of 2 up; a is down; b is failed");
        let ended = Some("keeps ending: exited with status 1".to_owned());
        let flaps = Seen { ended, ..seen("a", Up, None) };
        assert_eq!(said(vec![flaps]), "1 of 1 up; a: keeps ending: exited with status 1");
        let done = Seen { finished: true, ..seen("setup", Down, None) };
        assert_eq!(said(vec![done, seen("echo", Up, None)]), "1 of 2 up, 1 finished");
        let many = (0..100).map(|_| seen("a", Down, None));
        assert_eq!(summary(many).chars().count(), LONGEST + 3);
    }
}
