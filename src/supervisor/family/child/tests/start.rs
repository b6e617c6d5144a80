//! Starts and readiness, and events that come too late.

use super::*;

#[test]
fn a_new_child_is_down_wants_nothing_and_has_no_deadline() {
    let mut child = Child::down(policy());
    assert_eq!((child.machine.want, child.machine.state, child.machine.deadline()), (Want::Down, State::Down, None));
    for event in [Stop, Kill, Drain(child.now), Tick] {
        assert_eq!(child.tell(event), []);
        assert_eq!((child.machine.want, child.machine.state), (Want::Down, State::Down));
    }
}

#[test]
fn a_start_spawns_and_the_process_has_its_time_to_become_ready() {
    let child = Child::starting(policy());
    assert_eq!(child.machine.state, State::Starting { pid: FIRST, deadline: child.now + secs(10) });
    assert_eq!((child.machine.pid(), child.machine.is_up()), (Some(FIRST), false));
}

#[test]
fn exec_means_ready_only_if_the_policy_says_so() {
    for (ready, up) in [(Ready::Exec, true), (Ready::Notify, false), (Ready::Fd, false)] {
        let mut child = Child::starting(Policy { ready, ..policy() });
        assert_eq!(child.tell(Executed), []);
        assert_eq!(child.machine.is_up(), up, "{ready:?}");
    }
}

#[test]
fn a_child_that_says_ready_is_up_from_then_on() {
    for ready in [Ready::Notify, Ready::Fd] {
        let mut child = Child::starting(Policy { ready, ..policy() });
        child.tell(Executed);
        child.now += secs(3);
        let since = child.now;
        assert_eq!(child.tell(SaysReady), []);
        child.now += secs(3);
        assert_eq!(child.tell(SaysReady), [], "said twice");
        assert_eq!(child.machine.state, State::Up { pid: FIRST, since });
        assert_eq!(child.machine.deadline(), None);
    }
}

#[test]
fn a_start_of_a_child_that_runs_spawns_nothing() {
    for mut child in [Child::starting(policy()), Child::up(policy())] {
        let before = child.machine.state;
        assert_eq!(child.tell(Start), []);
        assert_eq!(child.machine.state, before);
    }
}

#[test]
fn readiness_that_does_not_come_in_time_is_a_failure_and_backs_off() {
    let mut child = Child::late(Policy { ready: Ready::Notify, ..policy() });
    assert_eq!(child.problem(), Some("not ready within 10 s"));
    assert_eq!(child.machine.deadline(), Some(child.now + UNKILLABLE));
    assert_eq!(child.tell(SaysReady), [], "too late");
    assert!(!child.machine.is_up());
    assert_eq!(child.tell(KILLED), [Action::Spawn], "the first of a row is at once");
    child.tell(Spawned(SECOND));
    child.tick_at_deadline();
    assert_eq!(child.tell(KILLED), []);
    assert_eq!(child.machine.state, State::Backoff { until: child.now + ms(100) });
}

#[test]
fn readiness_too_late_is_a_failure_even_if_the_process_ends_well_at_that_moment() {
    let mut child = Child::late(Policy { restart: Restart::OnFailure, ..policy() });
    assert_eq!(child.tell(GOOD), [Action::Spawn]);
    let mut child = Child::late(Policy { restart: Restart::Never, ..policy() });
    assert_eq!(child.tell(GOOD), []);
    assert_eq!((child.machine.want, child.machine.state), (Want::Up, State::Down));
    assert_eq!(child.problem(), Some("not ready within 10 s"));
}

#[test]
fn an_extension_moves_the_deadline_on_but_never_back() {
    let mut child = Child::starting(Policy { ready: Ready::Notify, ..policy() });
    let begin = child.now;
    child.now += secs(9);
    child.tell(Extend(ms(500)));
    assert_eq!(child.machine.deadline(), Some(begin + secs(10)));
    child.tell(Extend(secs(20)));
    assert_eq!(child.machine.deadline(), Some(begin + secs(29)));
    assert_eq!(child.tick_at_deadline(), [Action::Force(FIRST)]);
}

#[test]
fn an_extension_beyond_what_the_clock_can_show_changes_nothing() {
    let mut child = Child::starting(policy());
    child.tell(Extend(Duration::MAX));
    assert_eq!(child.machine.deadline(), Some(child.now + secs(10)));
}

#[test]
fn an_extension_for_a_child_that_is_not_starting_changes_nothing() {
    for mut child in [Child::up(policy()), Child::stopping(policy()), Child::backoff(policy()), Child::failed()] {
        let before = child.machine.state;
        child.tell(Extend(secs(3600)));
        assert_eq!(child.machine.state, before);
    }
}

// Events that come too late.

#[test]
fn what_a_process_says_while_it_stops_does_not_bring_it_back() {
    for word in [Executed, SaysReady, Extend(secs(60))] {
        let mut child = Child::stopping(policy());
        let before = child.machine.state;
        assert_eq!(child.tell(word), []);
        assert_eq!(child.machine.state, before);
    }
}

#[test]
fn events_of_a_process_change_nothing_if_there_is_none() {
    for mut child in [Child::down(policy()), Child::backoff(policy()), Child::failed()] {
        let before = (child.machine.state, child.machine.want, child.machine.last_exit);
        for word in [Executed, SaysReady, Extend(secs(60)), Exited(Exit::Code(42)), Tick] {
            assert_eq!(child.tell(word), []);
            assert_eq!((child.machine.state, child.machine.want, child.machine.last_exit), before);
        }
    }
}

// Waiting for others.

#[test]
fn a_child_that_waits_has_no_process_and_no_deadline_until_it_is_started() {
    for mut child in [Child::down(policy()), Child::backoff(policy()), Child::failed()] {
        assert_eq!(child.tell(Await), []);
        assert_eq!((child.machine.state, child.machine.deadline()), (State::Waiting, None));
        assert!(!child.machine.is_over());
        assert_eq!(child.tick_after(secs(3600)), []);
        assert_eq!(child.tell(Start), [Action::Spawn]);
        child.tell(Spawned(SECOND));
        assert_eq!((child.machine.want, child.machine.pid(), child.problem()), (Want::Up, Some(SECOND), None));
    }
}

#[test]
fn await_only_makes_a_running_child_wanted_up() {
    for mut child in [Child::starting(policy()), Child::up(policy())] {
        let before = child.machine.state;
        child.tell(Hold);
        assert_eq!(child.tell(Await), []);
        assert_eq!((child.machine.want, child.machine.state), (Want::Up, before));
    }
    let mut child = Child::stopping(policy());
    child.tell(Await);
    assert_eq!(child.tell(GOOD), [Action::Spawn]);
}

#[test]
fn a_stop_of_a_child_that_waits_is_done_at_once() {
    for word in [Stop, Kill, Drain(Instant::now())] {
        let mut child = Child::down(policy());
        child.tell(Await);
        assert_eq!(child.tell(word), []);
        assert_eq!((child.machine.want, child.machine.state), (Want::Down, State::Down));
    }
}
