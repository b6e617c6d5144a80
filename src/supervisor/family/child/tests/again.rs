//! What follows an end or a failed start: a restart at once, later, or never.

use super::*;

#[test]
fn the_policy_and_the_exit_decide_whether_it_is_restarted() {
    let table = [
        (Restart::Always, GOOD, true),
        (Restart::Always, BAD, true),
        (Restart::Always, KILLED, true),
        (Restart::OnFailure, GOOD, false),
        (Restart::OnFailure, BAD, true),
        (Restart::OnFailure, KILLED, true),
        (Restart::Never, GOOD, false),
        (Restart::Never, BAD, false),
        (Restart::Never, KILLED, false),
    ];
    for (restart, exit, again) in table {
        for mut child in [Child::up(Policy { restart, ..policy() }), Child::starting(Policy { restart, ..policy() })] {
            let expected: &[Action] = if again { &[Action::Spawn] } else { &[] };
            assert_eq!(child.tell(exit.clone()), expected, "{restart:?} {exit:?}");
            let state = if again { State::Waiting } else { State::Down };
            assert_eq!((child.machine.state, child.machine.deadline()), (state, None));
        }
    }
}

#[test]
fn the_policy_decides_what_counts_as_a_success() {
    let success = Success { codes: vec![3], signals: vec![Signal::SIGKILL] };
    let table = [
        (Restart::OnFailure, Exited(Exit::Code(3)), false),
        (Restart::OnFailure, KILLED, false),
        (Restart::OnFailure, GOOD, true),
        (Restart::OnFailure, Exited(Exit::Signal(15)), true),
        (Restart::Always, Exited(Exit::Code(3)), true),
    ];
    for (restart, exit, again) in table {
        let mut child = Child::up(Policy { restart, success: success.clone(), ..policy() });
        let expected: &[Action] = if again { &[Action::Spawn] } else { &[] };
        assert_eq!(child.tell(exit.clone()), expected, "{restart:?} {exit:?}");
        assert_eq!((child.machine.has_finished(), child.problem()), (!again, None));
    }
    // A child that is killed for being late has failed all the same.
    let mut child = Child::late(Policy { restart: Restart::OnFailure, success, ..policy() });
    assert_eq!(child.tell(KILLED), [Action::Spawn]);
}

#[test]
fn a_restart_after_a_success_is_no_warning() {
    for (exit, level) in [(GOOD, log::Level::Info), (BAD, log::Level::Warn)] {
        let mut child = Child::up(policy());
        let said = child.machine.step(exit, child.now);
        assert!(matches!(&said[..], [Action::Spawn, Action::Say(said, _)] if *said == level), "{said:?}");
    }
}

#[test]
fn a_later_policy_may_turn_an_end_into_a_success_but_not_into_a_failure() {
    let three = || Success { codes: vec![3], signals: Vec::new() };
    let never = || Policy { restart: Restart::Never, ..policy() };
    let mut child = Child::up(never());
    child.tell(Exited(Exit::Code(3)));
    assert!(child.machine.is_over() && child.problem().is_some());
    child.machine.change(Policy { success: three(), ..never() });
    for _ in 0..2 {
        assert_eq!((child.machine.want, child.machine.ended_well, child.problem()), (Want::Finished, true, None));
        child.machine.change(never());
    }
    // Nothing changes for a child that will be restarted, or that was stopped.
    for mut child in [Child::backoff(policy()), Child::down(policy())] {
        let before = child.machine.state;
        child.machine.change(Policy { success: three(), ..policy() });
        assert_eq!(child.machine.state, before);
    }
}

#[test]
fn a_child_that_finished_as_it_should_is_no_longer_wanted() {
    let mut child = Child::up(Policy { restart: Restart::Never, ..policy() });
    child.tell(GOOD);
    assert_eq!((child.machine.want, child.problem()), (Want::Finished, None));
    assert_eq!(child.machine.last_exit, Some(Exit::Code(0)));
}

#[test]
fn a_child_that_finishes_clears_the_problem_of_an_earlier_start() {
    let mut child = Child::late(Policy { restart: Restart::OnFailure, ready: Ready::Notify, ..policy() });
    child.tell(KILLED);
    child.tell(Spawned(SECOND));
    assert!(child.problem().is_some());
    child.tell(GOOD);
    assert_eq!((child.machine.want, child.problem()), (Want::Finished, None));
}

#[test]
fn a_child_that_failed_and_is_not_restarted_is_still_wanted_up() {
    let mut child = Child::up(Policy { restart: Restart::Never, ..policy() });
    child.tell(BAD);
    assert_eq!(child.machine.want, Want::Up);
    assert_eq!(child.problem(), Some("exited with status 1, and restart = \"never\""));
    assert_eq!(child.tell(Start), [Action::Spawn]);
    assert_eq!(child.problem(), None);
}

#[test]
fn crashes_in_a_row_wait_longer_each_time() {
    let mut child = Child::backoff(policy());
    for wait in [ms(200), ms(400), ms(800)] {
        assert_eq!(child.tick_at_deadline(), [Action::Spawn]);
        child.tell(Spawned(FIRST));
        child.tell(Executed);
        assert_eq!(child.tell(BAD), []);
        assert_eq!(child.machine.state, State::Backoff { until: child.now + wait });
    }
}

#[test]
fn a_child_that_was_up_for_long_enough_begins_a_new_row() {
    for (up_for, wait) in [(ms(9_999), Some(ms(200))), (secs(10), None)] {
        let mut child = Child::backoff(policy());
        child.tick_at_deadline();
        child.tell(Spawned(FIRST));
        child.tell(Executed);
        child.now += up_for;
        let done = child.tell(BAD);
        match wait {
            Some(wait) => assert_eq!(child.machine.state, State::Backoff { until: child.now + wait }),
            None => assert_eq!(done, [Action::Spawn], "at once again"),
        }
    }
}

#[test]
fn time_before_it_is_ready_does_not_count_as_time_up() {
    let mut child = Child::backoff(Policy { ready: Ready::Notify, ready_timeout: secs(100), ..policy() });
    child.tick_at_deadline();
    child.tell(Spawned(FIRST));
    child.now += secs(50);
    child.tell(BAD);
    assert_eq!(child.machine.state, State::Backoff { until: child.now + ms(200) });
}

#[test]
fn every_process_but_the_first_counts_as_a_restart() {
    let mut child = Child::backoff(policy());
    assert_eq!(child.machine.restarts, 1);
    child.tick_at_deadline();
    child.tell(SpawnFailed("no memory".to_owned()));
    assert_eq!(child.machine.restarts, 1, "nothing came");
    child.tick_at_deadline();
    child.tell(Spawned(FIRST));
    assert_eq!(child.machine.restarts, 2);
}

// The limit on starts.

#[test]
fn past_the_limit_on_starts_it_is_given_up_until_it_is_started() {
    let mut child = Child::failed();
    let given_up = "given up after 1 starts within 60 s; it exited with status 1 the last time. Mend it, then start it";
    assert_eq!(child.problem(), Some(given_up));
    assert_eq!(child.machine.deadline(), None);
    assert_eq!(child.tick_after(secs(3600)), []);
    assert_eq!(child.machine.state, State::Failed);
    assert_eq!(child.tell(Start), [Action::Spawn]);
    assert_eq!(child.problem(), None);
    child.tell(Spawned(SECOND));
    child.tell(Executed);
    assert!(child.machine.is_up());
}

#[test]
fn the_limit_allows_as_many_starts_as_it_says() {
    let mut child = Child::starting(Policy { start_limit: StartLimit { burst: 3, within: secs(60) }, ..policy() });
    assert_eq!(child.tell(BAD), [Action::Spawn]);
    child.tell(Spawned(SECOND));
    child.tell(BAD);
    assert_eq!(child.tick_at_deadline(), [Action::Spawn]);
    child.tell(Spawned(FIRST));
    child.tell(BAD);
    assert_eq!(child.machine.state, State::Failed);
}

#[test]
fn the_limit_looks_at_when_the_next_start_will_be() {
    let backoff = Backoff { first: secs(10), factor: 1.0, ..policy().backoff };
    let start_limit = StartLimit { burst: 3, within: secs(25) };
    let mut child = Child::up(Policy { backoff, start_limit, ..policy() });
    // One start each 10 s: never more than three within 25 s.
    for _ in 0..20 {
        assert_eq!(child.tell(BAD), []);
        assert_eq!(child.machine.state, State::Backoff { until: child.now + secs(10) });
        assert_eq!(child.tick_at_deadline(), [Action::Spawn]);
        child.tell(Spawned(SECOND));
    }
    child.machine.policy.start_limit.within = ms(30_001);
    child.tell(BAD);
    assert_eq!(child.machine.state, State::Failed);
}

#[test]
fn a_child_that_is_given_up_names_the_cause_and_the_limit() {
    let mut child = Child::starting(Policy { start_limit: StartLimit { burst: 1, within: secs(60) }, ..policy() });
    child.tell(ExecFailed("no such file".to_owned()));
    child.tell(Exited(Exit::Code(127)));
    let problem = child.problem().unwrap();
    assert!(problem.starts_with("cannot start: no such file; given up after 1 starts within 60 s"), "{problem}");
}

#[test]
fn start_and_restart_forgive_earlier_starts_in_every_state_with_a_process() {
    let limited = || Policy { start_limit: StartLimit { burst: 2, within: secs(60) }, ..policy() };
    for word in [Start, SaysRestart] {
        for mut child in [Child::up(limited()), Child::stopping(limited()), Child::late(limited())] {
            child.tell(word.clone());
            assert_eq!(child.tell(BAD), [Action::Spawn], "{word:?}");
            child.tell(Spawned(SECOND));
            // If the first process still counted, this would be the limit.
            child.tell(BAD);
            assert_ne!(child.machine.state, State::Failed, "{word:?}");
        }
    }
}

// Spawns and execs that fail.

#[test]
fn a_spawn_that_fails_backs_off_and_never_spins() {
    let at_once = Backoff { max: ms(0), ..policy().backoff };
    for backoff in [policy().backoff, at_once] {
        let mut child = Child::down(Policy { backoff, ..policy() });
        child.tell(Start);
        for _ in 0..1000 {
            assert_eq!(child.tell(SpawnFailed("no memory".to_owned())), []);
            let State::Backoff { until } = child.machine.state else { panic!("{:?}", child.machine) };
            assert!(until >= child.now + ms(100) && until <= child.now + secs(30), "{:?}", until - child.now);
            assert_eq!(child.tick_at_deadline(), [Action::Spawn]);
        }
    }
}

#[test]
fn a_spawn_that_fails_does_not_count_against_the_limit() {
    let mut child = Child::down(Policy { start_limit: StartLimit { burst: 2, within: secs(3600) }, ..policy() });
    child.tell(Start);
    for _ in 0..20 {
        child.tell(SpawnFailed("no memory".to_owned()));
        assert_eq!(child.problem(), Some("cannot start: no memory"));
        child.tick_at_deadline();
    }
    child.tell(Spawned(FIRST));
    child.tell(BAD);
    assert!(matches!(child.machine.state, State::Backoff { .. }), "one start of two: {:?}", child.machine.state);
}

#[test]
fn a_spawn_that_fails_is_tried_again_whatever_the_restart_policy() {
    for restart in [Restart::Always, Restart::OnFailure, Restart::Never] {
        let mut child = Child::down(Policy { restart, ..policy() });
        child.tell(Start);
        child.tell(SpawnFailed("no memory".to_owned()));
        assert_eq!(child.tick_at_deadline(), [Action::Spawn]);
        child.tell(Spawned(FIRST));
        child.tell(Executed);
        assert_eq!((child.machine.is_up(), child.problem()), (true, None));
    }
}

#[test]
fn why_exec_failed_stays_the_problem_until_a_process_is_ready() {
    let mut child = Child::starting(policy());
    assert_eq!(child.said(ExecFailed("no such file".to_owned())), ["cannot start: no such file"]);
    let problem = Some("cannot start: no such file");
    assert_eq!(child.problem(), problem);
    assert_eq!(child.tell(Exited(Exit::Code(127))), [Action::Spawn]);
    assert_eq!(child.problem(), problem);
    child.tell(Spawned(SECOND));
    child.tell(Exited(Exit::Code(127)));
    assert!(matches!(child.machine.state, State::Backoff { .. }));
    assert_eq!(child.problem(), problem);
    child.tick_at_deadline();
    child.tell(Spawned(FIRST));
    assert_eq!(child.problem(), problem);
    child.tell(Executed);
    assert_eq!(child.problem(), None);
}

#[test]
fn why_exec_failed_is_the_problem_of_a_child_that_is_never_restarted() {
    let mut child = Child::starting(Policy { restart: Restart::Never, ..policy() });
    child.tell(ExecFailed("no such file".to_owned()));
    child.tell(Exited(Exit::Code(127)));
    assert_eq!(child.problem(), Some("cannot start: no such file"));
}

#[test]
fn a_child_that_is_held_back_waits_for_what_it_lacks_and_logs_each_reason_once() {
    let mut child = Child::down(policy());
    assert_eq!(child.tell(Start), [Action::Spawn]);
    let until = child.now + secs(1);
    assert_eq!(child.tell(Event::HeldBack(Some("no folder".to_owned()), until)), []);
    assert_eq!((child.machine.state, child.problem()), (State::Backoff { until }, Some("no folder")));
    assert_eq!(child.tick_at_deadline(), [Action::Spawn]);
    // While that is looked for, its problem stays.
    let until = child.now + secs(60);
    assert_eq!(child.tell(Event::HeldBack(None, until)), []);
    assert_eq!((child.machine.state, child.problem()), (State::Backoff { until }, Some("no folder")));
    assert_eq!(child.tell(Event::Found), [Action::Spawn]);
    assert_eq!((child.machine.state, child.problem()), (State::Waiting, None));
    child.tell(Spawned(FIRST));
    assert_eq!(child.machine.restarts, 0, "it had never run");
    // Events that come too late change nothing.
    for late in [Event::Found, Event::HeldBack(Some("late".to_owned()), until)] {
        assert_eq!(child.tell(late), []);
        assert!(matches!(child.machine.state, State::Starting { .. }));
    }
}

#[test]
fn a_child_that_is_stopped_while_it_is_held_back_is_not_started() {
    let mut child = Child::down(policy());
    child.tell(Start);
    let until = child.now + secs(1);
    child.tell(Event::HeldBack(Some("no folder".to_owned()), until));
    child.tell(Stop);
    for late in [Event::Found, Event::HeldBack(None, until)] {
        assert_eq!(child.tell(late), []);
        assert_eq!(child.machine.state, State::Down);
    }
}
