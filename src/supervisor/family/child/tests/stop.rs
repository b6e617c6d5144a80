//! Stops, drains and kills, and starts while they last.

use super::*;

#[test]
fn a_stop_asks_and_kills_when_its_time_is_over() {
    for mut child in [Child::starting(policy()), Child::up(policy())] {
        child.machine.policy.stop_signal = Signal::SIGINT;
        assert_eq!(child.tell(Stop), [Action::Ask(FIRST, Signal::SIGINT)]);
        assert_eq!(child.machine.deadline(), Some(child.now + secs(10)));
        assert_eq!(child.tick_at_deadline(), [Action::Force(FIRST)]);
        assert_eq!(child.machine.deadline(), Some(child.now + UNKILLABLE));
        assert_eq!(child.tell(KILLED), []);
        assert_eq!((child.machine.want, child.machine.state), (Want::Down, State::Down));
    }
}

#[test]
fn a_child_that_stops_as_asked_stays_down_whatever_its_exit_and_policy() {
    for exit in [GOOD, BAD, KILLED] {
        let mut child = Child::stopping(policy());
        child.now += secs(3);
        assert_eq!(child.tell(exit), []);
        assert_eq!((child.machine.want, child.machine.state), (Want::Down, State::Down));
        assert_eq!(child.problem(), None);
    }
}

#[test]
fn a_second_stop_neither_asks_again_nor_gives_more_time() {
    let mut child = Child::stopping(policy());
    let deadline = child.machine.deadline();
    child.now += secs(5);
    assert_eq!(child.tell(Stop), []);
    assert_eq!(child.tell(Drain(child.now + secs(100))), []);
    assert_eq!(child.machine.deadline(), deadline);
}

#[test]
fn a_stop_that_may_take_no_time_kills_at_the_next_tick() {
    let mut child = Child::stopping(Policy { stop_timeout: secs(0), ..policy() });
    assert_eq!(child.tick_after(secs(0)), [Action::Force(FIRST)]);
    assert_eq!(child.machine.deadline(), Some(child.now + UNKILLABLE));
}

#[test]
fn a_process_that_sigkill_does_not_end_is_named_and_not_waited_for() {
    let mut child = Child::late(policy());
    child.tell(Stop);
    child.now = child.machine.deadline().unwrap();
    assert_eq!(child.said(Tick), ["process 100 does not die of SIGKILL"]);
    assert_eq!(child.problem(), Some("process 100 does not die of SIGKILL"));
    assert!(matches!(child.machine.state, State::Stopping { ladder: Ladder::Unkillable, .. }));
    assert_eq!(child.tick_after(secs(3600)), []);
    // No second process is started beside it; if it ends after all, one takes its place.
    assert_eq!(child.tell(Start), []);
    assert_eq!(child.tell(KILLED), [Action::Spawn]);
    assert_eq!(child.problem(), None);
}

#[test]
fn a_stop_of_a_child_in_backoff_or_given_up_is_done_at_once() {
    for word in [Stop, Kill, Drain(Instant::now() + secs(10))] {
        for mut child in [Child::backoff(policy()), Child::failed()] {
            assert_eq!(child.tell(word.clone()), []);
            assert_eq!((child.machine.want, child.machine.state), (Want::Down, State::Down));
            assert_eq!(child.tick_after(secs(3600)), [], "nothing is left of it");
        }
    }
}

#[test]
fn a_drain_lets_it_finish_then_asks_then_kills() {
    for mut child in [Child::starting(policy()), Child::up(policy())] {
        assert_eq!(child.tell(Drain(child.now + secs(5))), []);
        assert_eq!(child.machine.deadline(), Some(child.now + secs(5)));
        assert_eq!(child.tick_at_deadline(), [Action::Ask(FIRST, Signal::SIGTERM)]);
        assert_eq!(child.machine.deadline(), Some(child.now + secs(10)));
        assert_eq!(child.tick_at_deadline(), [Action::Force(FIRST)]);
        assert_eq!(child.tell(KILLED), []);
        assert_eq!((child.machine.want, child.machine.state), (Want::Down, State::Down));
    }
}

#[test]
fn the_last_drain_says_how_long_it_may_take() {
    let mut child = Child::up(policy());
    child.tell(Drain(child.now + secs(5)));
    assert_eq!(child.tell(Drain(child.now + secs(8))), []);
    assert_eq!(child.machine.deadline(), Some(child.now + secs(8)));
}

#[test]
fn a_child_that_ends_with_its_input_is_down_and_was_never_asked() {
    let mut child = Child::up(policy());
    child.tell(Drain(child.now + secs(5)));
    assert_eq!(child.tell(GOOD), []);
    assert_eq!((child.machine.want, child.machine.state), (Want::Down, State::Down));
}

#[test]
fn a_stop_cuts_a_drain_short() {
    let mut child = Child::up(policy());
    child.tell(Drain(child.now + secs(3600)));
    assert_eq!(child.tell(Stop), [Action::Ask(FIRST, Signal::SIGTERM)]);
    assert_eq!(child.machine.deadline(), Some(child.now + secs(10)));
}

#[test]
fn a_stop_of_a_child_that_is_killed_for_being_late_keeps_it_down() {
    for word in [Stop, Kill, Drain(Instant::now() + secs(60))] {
        let mut child = Child::late(policy());
        child.tell(word);
        assert_eq!(child.tell(KILLED), []);
        assert_eq!((child.machine.want, child.machine.state), (Want::Down, State::Down));
    }
}

#[test]
fn a_kill_forces_at_once_in_every_state_with_a_process() {
    let mut draining = Child::up(policy());
    draining.tell(Drain(draining.now + secs(5)));
    for mut child in [Child::starting(policy()), Child::up(policy()), Child::stopping(policy()), draining] {
        assert_eq!(child.tell(Kill), [Action::Force(FIRST)]);
        assert_eq!(child.machine.deadline(), Some(child.now + UNKILLABLE));
        assert_eq!(child.tell(KILLED), []);
        assert_eq!((child.machine.want, child.machine.state), (Want::Down, State::Down));
    }
}

// Starts and restarts of a child that is on its way down.

#[test]
fn a_start_while_it_stops_spawns_only_after_its_end_and_then_at_once() {
    for restart in [Restart::Always, Restart::OnFailure, Restart::Never] {
        let mut child = Child::stopping(Policy { restart, ..policy() });
        assert_eq!(child.tell(Start), []);
        assert_eq!(child.tick_at_deadline(), [Action::Force(FIRST)], "the stop goes on");
        assert_eq!(child.tell(Start), []);
        assert_eq!(child.tell(KILLED), [Action::Spawn]);
        child.tell(Spawned(SECOND));
        assert_eq!(child.machine.pid(), Some(SECOND));
    }
}

#[test]
fn a_start_of_a_child_that_is_killed_for_being_late_replaces_it_whatever_the_policy() {
    let mut child = Child::late(Policy { restart: Restart::Never, ..policy() });
    assert_eq!(child.tell(Start), []);
    assert_eq!(child.tell(KILLED), [Action::Spawn]);
}

#[test]
fn the_last_request_counts_while_it_stops() {
    let mut child = Child::stopping(policy());
    child.tell(Start);
    child.tell(Stop);
    assert_eq!(child.tell(GOOD), []);
    assert_eq!(child.machine.want, Want::Down);
}

#[test]
fn a_restart_asks_and_spawns_after_the_end_whatever_the_policy() {
    for restart in [Restart::Always, Restart::OnFailure, Restart::Never] {
        for mut child in [Child::starting(Policy { restart, ..policy() }), Child::up(Policy { restart, ..policy() })] {
            assert_eq!(child.tell(SaysRestart), [Action::Ask(FIRST, Signal::SIGTERM)]);
            assert_eq!(child.tell(SaysRestart), [], "once is enough");
            assert_eq!(child.tell(GOOD), [Action::Spawn]);
        }
    }
}

#[test]
fn a_restart_of_a_child_that_does_not_run_starts_it_at_once_and_forgives() {
    for mut child in [Child::down(policy()), Child::backoff(policy()), Child::failed()] {
        assert_eq!(child.tell(SaysRestart), [Action::Spawn]);
        assert_eq!((child.machine.want, child.machine.deadline(), child.problem()), (Want::Up, None, None));
        child.tell(Spawned(FIRST));
        child.machine.policy.start_limit.burst = 2;
        assert_eq!(child.tell(BAD), [Action::Spawn], "the first of a new row");
    }
}

#[test]
fn a_restart_during_a_drain_asks_and_starts_again() {
    let mut child = Child::up(policy());
    child.tell(Drain(child.now + secs(3600)));
    assert_eq!(child.tell(SaysRestart), [Action::Ask(FIRST, Signal::SIGTERM)]);
    assert_eq!(child.tell(GOOD), [Action::Spawn]);
}

#[test]
fn a_start_of_a_child_in_backoff_does_not_wait() {
    let mut child = Child::backoff(policy());
    assert_eq!(child.tell(Start), [Action::Spawn]);
    assert_eq!(child.machine.deadline(), None);
}

// Children that an operator stops.

#[test]
fn a_child_that_an_operator_stops_serves_until_its_sources_are_gone() {
    for mut child in [Child::starting(policy()), Child::up(policy())] {
        assert_eq!(child.tell(Hold), []);
        assert_eq!(child.machine.want, Want::HeldLater);
        // It dies while its sources still need it.
        assert_eq!(child.tell(BAD), [Action::Spawn]);
        child.tell(Spawned(SECOND));
        assert_eq!(child.tell(Stop), [Action::Ask(SECOND, Signal::SIGTERM)]);
        assert_eq!(child.tell(GOOD), []);
        assert_eq!((child.machine.want, child.machine.state), (Want::Held, State::Down));
    }
}

#[test]
fn a_child_without_a_process_is_held_at_once_and_so_is_one_that_finishes_by_itself() {
    let mut waiting = Child::down(policy());
    waiting.tell(Await);
    let mut finished = Child::up(Policy { restart: Restart::Never, ..policy() });
    finished.tell(GOOD);
    for mut child in [Child::down(policy()), waiting, finished, Child::failed()] {
        assert_eq!(child.tell(Hold), []);
        assert_eq!((child.machine.want, child.machine.state), (Want::Held, State::Down));
    }
    for exit in [GOOD, BAD] {
        let mut child = Child::up(Policy { restart: Restart::Never, ..policy() });
        child.tell(Hold);
        child.tell(exit);
        assert_eq!((child.machine.want, child.machine.state), (Want::Held, State::Down));
        assert!(!child.machine.is_over(), "an operator stopped it");
    }
}

#[test]
fn a_held_child_takes_what_waits_for_it_and_is_held_again() {
    let mut child = Child::stopping(policy());
    child.tell(Hold);
    child.tell(GOOD);
    assert_eq!(child.tell(Start), [Action::Spawn]);
    child.tell(Spawned(SECOND));
    assert_eq!(child.machine.want, Want::HeldLater);
    child.tell(Drain(child.now + secs(5)));
    assert_eq!(child.tell(GOOD), []);
    assert_eq!(child.machine.want, Want::Held);
    // Only an operator or a configuration that adds it again changes that.
    assert_eq!(child.tell(Await), []);
    assert_eq!((child.machine.want, child.machine.state), (Want::Up, State::Waiting));
    assert_eq!(child.tell(Start), [Action::Spawn]);
}

#[test]
fn a_stop_by_a_change_leaves_what_was_over_as_it_was() {
    let mut finished = Child::up(Policy { restart: Restart::Never, ..policy() });
    finished.tell(GOOD);
    for word in [Stop, Kill, Drain(finished.now)] {
        assert_eq!(finished.tell(word), []);
        assert!(finished.machine.has_finished());
    }
}

// Children that are not well.

#[test]
fn an_unhealthy_child_is_asked_to_stop_and_starts_again_as_after_a_failure() {
    for (event, signal) in [
        (Event::Unhealthy("its check failed".to_owned()), Signal::SIGTERM),
        (Event::Hung("its check failed".to_owned()), Signal::SIGABRT),
    ] {
        let mut child = Child::up(Policy { restart: Restart::OnFailure, ..policy() });
        assert_eq!(child.tell(event.clone()), [Action::Ask(FIRST, signal)]);
        assert_eq!(child.problem(), Some("its check failed"));
        assert_eq!(child.tell(event.clone()), [], "it is on its way already");
        let mut obeys = Child { machine: child.machine.clone(), now: child.now };
        assert_eq!(obeys.tell(GOOD), [Action::Spawn], "it failed, though it ended well");
        obeys.tell(Spawned(SECOND));
        obeys.tell(Executed);
        assert_eq!(obeys.problem(), None);
        assert_eq!(child.tick_at_deadline(), [Action::Force(FIRST)]);
        assert_eq!(child.tell(KILLED), [Action::Spawn]);

        let mut child = Child::up(Policy { restart: Restart::Never, ..policy() });
        child.tell(event.clone());
        assert_eq!(child.tell(GOOD), []);
        assert_eq!((child.machine.has_finished(), child.problem()), (false, Some("its check failed")));
        child.machine.change(Policy { restart: Restart::Never, ..policy() });
        assert_eq!(
            (child.machine.has_finished(), child.problem()),
            (false, Some("its check failed")),
            "nor by a reload"
        );

        let mut child = Child::starting(Policy { ready: Ready::Health, ..policy() });
        assert_eq!(child.tell(event), [], "until it is ready, its deadline decides");
    }
}

#[test]
fn one_that_keeps_being_unhealthy_is_told_with_that_and_not_with_the_signal_that_ended_it() {
    let mut child = Child::up(policy());
    for pid in [SECOND, FIRST, SECOND] {
        child.tell(Event::Unhealthy("its check failed".to_owned()));
        child.tell(KILLED);
        if matches!(child.machine.state, State::Backoff { .. }) {
            child.tick_at_deadline();
        }
        child.tell(Spawned(pid));
        child.tell(Executed);
    }
    let told = child.machine.flapping(child.now).unwrap();
    assert!(told.starts_with("keeps ending: its check failed, 3 times in "), "{told}");
    assert!(child.machine.ended(child.now).unwrap().starts_with("keeps ending: its check failed"));
}

#[test]
fn what_operators_want_of_an_unhealthy_child_holds() {
    let unhealthy = || Event::Unhealthy("its check failed".to_owned());
    let mut child = Child::up(policy());
    child.tell(unhealthy());
    assert_eq!(child.tell(Stop), [], "it was asked already");
    assert_eq!(child.tell(GOOD), []);
    assert_eq!(child.machine.state, State::Down);
    let mut child = Child::up(Policy { restart: Restart::Never, ..policy() });
    child.tell(unhealthy());
    child.tell(SaysRestart);
    assert_eq!(child.tell(GOOD), [Action::Spawn]);
}

#[test]
fn a_child_that_was_well_for_long_begins_a_new_row_of_failures() {
    let mut child = Child::backoff(policy());
    child.tick_at_deadline();
    child.tell(Spawned(FIRST));
    child.tell(Executed);
    child.now += secs(10);
    child.tell(Event::Unhealthy("its check failed".to_owned()));
    assert_eq!(child.tell(GOOD), [Action::Spawn], "at once");
}
