use super::Event::{Alive, Broken, Changed, Looked, NotBegun, NotYet, Tick, Wait};
use super::*;
use crate::config::model::{Check, Probe};
use proptest::collection::vec;
use proptest::prelude::*;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn check() -> Check {
    let probe = Probe::Command(vec!["/bin/true".to_owned()]);
    Check { probe, every: secs(10), timeout: secs(5), failures: 3, start: secs(0) }
}

fn checked(check: Check) -> model::Health {
    model::Health { check: Some(check), ..model::Health::default() }
}

fn watched() -> model::Health {
    model::Health { watchdog: Some(secs(10)), ..model::Health::default() }
}

fn seen(taken: u64) -> Seen {
    Seen { taken: Some([taken, 0]), share: Share::default() }
}

fn stalling() -> model::Health {
    model::Health { stalled: Some(secs(8)), ..model::Health::default() }
}

/// The health of one child, its configuration, and a clock.
struct Patient {
    health: Health,
    config: model::Health,
    now: Instant,
}

impl Patient {
    fn in_phase(phase: Phase, config: model::Health) -> Patient {
        let now = Instant::now();
        let health = Health { spread: 0.0, ..Health::new("patient", now) };
        let mut patient = Patient { health, config, now };
        patient.health.started(patient.config.watchdog, now);
        patient.tell(Event::Phase(phase));
        patient
    }

    fn up(config: model::Health) -> Patient {
        Patient::in_phase(Phase::Up, config)
    }

    /// Tells it; returns its actions other than log messages.
    fn tell(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.health.step(event, &self.config, self.now);
        actions.retain(|action| !matches!(action, Action::Say(..)));
        actions
    }

    /// Tells it; returns its log messages.
    fn said(&mut self, event: Event) -> Vec<String> {
        let actions = self.health.step(event, &self.config, self.now);
        let texts = actions.into_iter().filter_map(|action| match action {
            Action::Say(_, text) => Some(text),
            _ => None,
        });
        texts.collect()
    }

    /// What a tick does that comes this long after the deadline. One before it does nothing.
    fn tick(&mut self, late: Duration) -> Vec<Action> {
        let deadline = self.health.deadline().expect("there is a deadline");
        self.now = deadline - Duration::from_nanos(1);
        assert_eq!(self.tell(Tick), []);
        self.now = deadline + late;
        self.tell(Tick)
    }

    /// Takes it through the next check, which takes this long.
    fn check(&mut self, takes: Duration, result: Result<(), &str>) -> Vec<Action> {
        assert_eq!(self.tick(ms(1)), [Action::Begin]);
        self.now += takes;
        self.tell(Event::Ended(result.map_err(str::to_owned), Duration::ZERO))
    }

    fn due_in(&self) -> Duration {
        self.health.deadline().unwrap().duration_since(self.now)
    }
}

fn unhealthy(why: &str) -> [Action; 1] {
    [Action::Unhealthy(why.to_owned())]
}

#[test]
fn a_child_without_keys_has_no_timer() {
    let mut patient = Patient::up(model::Health::default());
    assert_eq!(patient.health.deadline(), None);
    for event in [Alive, Tick, Wait(seen(1)), Changed] {
        assert_eq!(patient.tell(event), []);
        assert_eq!(patient.health.deadline(), None);
    }
}

#[test]
fn failures_in_a_row_make_a_child_unhealthy_and_a_success_begins_a_new_row() {
    let mut patient = Patient::up(checked(check()));
    assert_eq!(patient.due_in(), secs(10));
    for _ in 0..2 {
        assert_eq!(patient.check(secs(1), Err("no")), []);
        assert_eq!(patient.due_in(), secs(9), "from the beginning of the last one");
    }
    assert_eq!(patient.check(secs(1), Ok(())), []);
    for _ in 0..2 {
        assert_eq!(patient.check(secs(1), Err("no")), []);
    }
    assert_eq!(
        patient.check(secs(1), Err("\"curl: (7)\"")),
        unhealthy("unhealthy: 3 checks failed in a row; the last one: \"curl: (7)\"")
    );
    assert_eq!(patient.tell(Event::Phase(Phase::Down)), []);
    assert_eq!(patient.health.deadline(), None);

    let mut patient = Patient::up(checked(Check { failures: 1, ..check() }));
    assert_eq!(patient.check(secs(1), Err("no")), unhealthy("unhealthy: a check failed: no"));
}

#[test]
fn that_checks_fail_is_told_only_while_the_child_is_up() {
    let mut patient = Patient::up(checked(check()));
    assert_eq!(patient.check(secs(1), Err("no")), []);
    assert!(patient.health.failing().is_some());
    patient.tell(Event::Phase(Phase::Down));
    assert_eq!(patient.health.failing(), None);
}

#[test]
fn a_check_that_takes_too_long_is_ended_and_has_failed() {
    let mut patient = Patient::up(checked(Check { failures: 1, every: secs(1), ..check() }));
    assert_eq!(patient.tick(ms(0)), [Action::Begin]);
    assert_eq!(patient.due_in(), secs(5));
    let why = "timed out after 5 s".to_owned();
    assert_eq!(patient.tick(ms(20)), [Action::TimeOut(why.clone())]);
    assert_eq!(patient.health.deadline(), None, "until it has ended");
    let failed = Event::Ended(Err(why), Duration::ZERO);
    assert_eq!(patient.tell(failed), unhealthy("unhealthy: a check failed: timed out after 5 s"));
    assert_eq!(patient.due_in(), Duration::ZERO);
}

#[test]
fn a_failure_does_not_count_if_the_machine_was_too_busy() {
    let config = checked(Check { failures: 1, ..check() });
    let no = |waited| Event::Ended(Err("no".to_owned()), waited);
    // It began late.
    let mut patient = Patient::up(config.clone());
    assert_eq!(patient.tick(LATE), [Action::Begin]);
    assert_eq!(patient.tell(no(ms(0))), []);
    // It ended late.
    let mut patient = Patient::up(config.clone());
    patient.tick(ms(1));
    assert!(matches!(patient.tick(LATE)[..], [Action::TimeOut(_)]));
    assert_eq!(patient.tell(no(ms(0))), []);
    // Its process got no processor.
    for (waited, counts) in [(ms(249), true), (ms(250), false), (secs(1), false)] {
        let mut patient = Patient::up(config.clone());
        patient.tick(ms(1));
        patient.now += secs(1);
        assert_eq!(patient.tell(no(waited)).len(), usize::from(counts), "{waited:?}");
    }
    // Such waits are too short to mean anything.
    let mut patient = Patient::up(config);
    patient.tick(ms(1));
    patient.now += ms(10);
    assert_eq!(patient.tell(no(ms(9))).len(), 1);
}

#[test]
fn a_failure_that_does_not_count_neither_adds_to_the_row_nor_ends_it() {
    let mut patient = Patient::up(checked(check()));
    patient.check(secs(1), Err("no"));
    patient.check(secs(1), Err("no"));
    patient.tick(LATE);
    assert_eq!(
        patient.said(Event::Ended(Err("no".to_owned()), ms(0))),
        ["a check failed, which does not count, because the machine was too busy: no"]
    );
    assert_eq!(patient.check(secs(1), Err("no")).len(), 1);
}

#[test]
fn failures_do_not_count_soon_after_the_start() {
    let mut patient = Patient::up(checked(Check { failures: 1, start: secs(25), ..check() }));
    assert_eq!(patient.check(secs(1), Err("no")), []);
    assert_eq!(patient.check(secs(1), Err("no")), []);
    assert_eq!(patient.check(secs(1), Err("no")).len(), 1);
}

#[test]
fn a_check_says_when_a_child_is_ready_and_until_then_comes_sooner() {
    let mut patient = Patient::in_phase(Phase::Starting, checked(Check { failures: 1, ..check() }));
    assert_eq!(patient.due_in(), ms(0));
    for pause in [100, 200, 400, 800, 1000, 1000] {
        assert_eq!(patient.check(ms(1), Err("no")), [Action::NotReady("no".to_owned())]);
        assert_eq!(patient.due_in(), ms(pause));
    }
    assert_eq!(patient.check(ms(1), Ok(())), [Action::Ready]);
    assert_eq!(patient.tell(Event::Phase(Phase::Up)), []);
    assert_eq!(patient.due_in(), secs(10) - ms(1));
    assert_eq!(patient.check(ms(1), Err("no")).len(), 1);

    let mut patient = Patient::in_phase(Phase::Starting, checked(Check { every: ms(50), ..check() }));
    patient.check(ms(1), Err("no"));
    assert_eq!(patient.due_in(), ms(50));
}

#[test]
fn the_end_of_a_process_ends_its_check() {
    for phase in [Phase::Starting, Phase::Up] {
        let mut patient = Patient::in_phase(phase, checked(check()));
        patient.tick(ms(1));
        assert_eq!(patient.tell(Event::Phase(Phase::Down)), [Action::Cancel]);
        assert_eq!(patient.tell(Event::Ended(Err("no".to_owned()), ms(0))), [], "it comes too late");
        assert_eq!(patient.health.deadline(), None);
    }
}

#[test]
fn a_check_that_can_not_begin_is_no_failure() {
    let mut patient = Patient::up(checked(Check { failures: 1, ..check() }));
    patient.tick(ms(1));
    assert_eq!(patient.tell(NotYet), []);
    assert_eq!(patient.due_in(), NOT_YET);
    patient.tick(ms(1));
    assert_eq!(patient.said(NotBegun("no memory".to_owned())), ["cannot begin a check: no memory"]);
    assert_eq!(patient.due_in(), secs(10));
}

#[test]
fn a_child_that_is_silent_for_too_long_hangs() {
    let mut patient = Patient::up(watched());
    for _ in 0..3 {
        patient.now += secs(9);
        assert_eq!(patient.tell(Alive), []);
        assert_eq!(patient.due_in(), secs(10));
    }
    assert_eq!(patient.tick(ms(1)), [Action::Hung("watchdog: no WATCHDOG=1 for 10 s".to_owned())]);
    assert_eq!(patient.health.deadline(), None);
    // This process was halted, and may have missed what it sent.
    let mut patient = Patient::up(watched());
    assert_eq!(patient.tick(LATE), []);
    assert_eq!(patient.due_in(), secs(10));
}

#[test]
fn a_child_may_say_that_it_is_broken_whenever_it_is_up() {
    let hung = [Action::Hung("it sent WATCHDOG=trigger".to_owned())];
    assert_eq!(Patient::up(watched()).tell(Broken), hung);
    assert_eq!(Patient::up(model::Health::default()).tell(Broken), hung);
    assert_eq!(Patient::in_phase(Phase::Down, watched()).tell(Broken), []);
}

#[test]
fn a_process_can_not_know_of_a_shorter_watchdog_than_it_was_told() {
    let mut patient = Patient::up(watched());
    for (new, due) in [(Some(5), Some(10)), (Some(60), Some(60)), (None, None), (Some(10), Some(10))] {
        patient.config.watchdog = new.map(secs);
        assert_eq!(patient.tell(Changed), []);
        assert_eq!(patient.health.deadline().map(|at| at.duration_since(patient.now)), due.map(secs));
    }
    let mut patient = Patient::up(model::Health::default());
    patient.config = watched();
    patient.tell(Changed);
    assert_eq!(patient.health.deadline(), None);
}

#[test]
fn a_reload_changes_checks_at_once() {
    let mut patient = Patient::up(model::Health::default());
    patient.config = checked(Check { failures: 2, ..check() });
    patient.tell(Changed);
    assert_eq!(patient.due_in(), secs(10));
    patient.check(secs(1), Err("no"));
    patient.config = checked(Check { failures: 2, every: secs(2), ..check() });
    patient.tell(Changed);
    assert_eq!(patient.due_in(), secs(2));
    assert_eq!(patient.check(secs(1), Err("no")), [], "another check, another row");
    assert_eq!(patient.tick(ms(1)), [Action::Begin]);
    patient.config = model::Health::default();
    assert_eq!(patient.tell(Changed), [Action::Cancel]);
    assert_eq!(patient.health.deadline(), None);
}

#[test]
fn a_sink_that_takes_nothing_while_bytes_wait_is_unhealthy() {
    let why = "stalled: bytes wait for it, and it took none for 8 s";
    let mut patient = Patient::in_phase(Phase::Down, stalling());
    assert_eq!(patient.tell(Event::Phase(Phase::Up)), [Action::Await]);
    assert_eq!(patient.health.deadline(), None, "no bytes wait");
    patient.tell(Wait(seen(7)));
    for _ in 0..3 {
        assert_eq!(patient.tick(ms(1)), [Action::Look]);
        assert_eq!(patient.tell(Looked(Some(seen(7)))), []);
    }
    assert_eq!(patient.tick(ms(1)), [Action::Look]);
    assert_eq!(patient.tell(Looked(Some(seen(7)))), [Action::Stalled(why.to_owned())]);

    // It takes some now and then.
    let mut patient = Patient::up(stalling());
    patient.tell(Wait(seen(0)));
    for taken in 1..20 {
        assert_eq!(patient.tick(ms(1)), [Action::Look]);
        assert_eq!(patient.tell(Looked(Some(seen(taken / 3)))), []);
    }
    // It has taken everything.
    patient.tick(ms(1));
    assert_eq!(patient.tell(Looked(None)), [Action::Await]);
    assert_eq!(patient.health.deadline(), None);
}

#[test]
fn a_sink_that_gets_no_processor_is_not_stalled() {
    for (ran, waited, is_stalled) in [(0, 1999, true), (0, 2000, false), (200, 2000, false), (201, 2000, true)] {
        let mut patient = Patient::up(stalling());
        patient.tell(Wait(seen(0)));
        let share = Share { ran: ms(ran), waited: ms(waited) };
        let mut actions = Vec::new();
        for _ in 0..4 {
            assert_eq!(patient.tick(ms(1)), [Action::Look]);
            actions.extend(patient.tell(Looked(Some(Seen { share, ..seen(0) }))));
        }
        assert_eq!(actions.len(), usize::from(is_stalled), "{ran} {waited}");
        assert_eq!(patient.health.deadline().is_none(), is_stalled);
    }
}

#[test]
fn a_look_that_comes_late_begins_anew() {
    let mut patient = Patient::up(stalling());
    patient.tell(Wait(seen(0)));
    assert_eq!(patient.tick(secs(100)), [Action::Look]);
    assert_eq!(patient.tell(Looked(Some(seen(0)))), []);
    assert_eq!(patient.due_in(), secs(2));
}

#[test]
fn a_sink_of_which_nobody_sees_what_it_takes_is_not_stalled_and_that_is_said_once() {
    let unseen = || Seen { taken: None, share: Share::default() };
    let mut patient = Patient::up(stalling());
    patient.tell(Wait(unseen()));
    let mut said = Vec::new();
    for _ in 0..100 {
        assert_eq!(patient.tick(ms(1)), [Action::Look]);
        said.extend(patient.said(Looked(Some(unseen()))));
    }
    assert!(said.len() == 1 && said[0].starts_with("cannot see whether it takes what waits for it"), "{said:?}");
    // Once it can be seen, it is judged.
    let mut seen_again = Vec::new();
    for _ in 0..6 {
        assert_eq!(patient.tick(ms(1)), [Action::Look]);
        seen_again.extend(patient.tell(Looked(Some(seen(0)))));
        if !seen_again.is_empty() {
            break;
        }
    }
    assert!(matches!(seen_again[..], [Action::Stalled(_)]), "{seen_again:?}");
}

#[test]
fn a_thousand_children_that_are_up_at_once_are_checked_one_after_the_other() {
    let (now, config) = (Instant::now(), checked(check()));
    let every = config.check.as_ref().unwrap().every;
    let mut begins: Vec<Duration> = (0..1000)
        .map(|number| {
            let mut health = Health::new(&format!("worker-{number}"), now);
            health.started(None, now);
            health.step(Event::Phase(Phase::Up), &config, now);
            health.deadline().unwrap().duration_since(now)
        })
        .collect();
    begins.sort_unstable();
    assert!(begins[0] >= every && begins[999] <= 2 * every, "{begins:?}");
    // In no tenth of a second, which has 10 of them on average, there are many.
    for tenth in 0..100 {
        let from = every + ms(100 * tenth);
        let many = begins.iter().filter(|&&begin| begin >= from && begin < from + ms(100)).count();
        assert!(many <= 30, "{tenth}: {many}");
    }
}

#[test]
fn with_ready_health_the_first_check_begins_at_once() {
    let now = Instant::now();
    for name in ["a", "b", "c"] {
        let mut health = Health::new(name, now);
        health.step(Event::Phase(Phase::Starting), &checked(check()), now);
        assert_eq!(health.deadline(), Some(now));
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Said(Event),
    Config(model::Health),
    Time(Duration),
}

fn millis(most: u64) -> impl Strategy<Value = Duration> {
    (0..most).prop_map(ms)
}

fn config() -> impl Strategy<Value = model::Health> {
    let check =
        (1..20_000_u64, 1..20_000_u64, 1..5_u32, millis(20_000)).prop_map(|(every, timeout, failures, start)| Check {
            probe: Probe::Command(Vec::new()),
            every: ms(every),
            timeout: ms(timeout),
            failures,
            start,
        });
    let time = || prop::option::of((1..20_000_u64).prop_map(ms));
    (prop::option::of(check), time(), time()).prop_map(|(check, watchdog, stalled)| model::Health {
        check,
        watchdog,
        stalled,
    })
}

fn happening() -> impl Strategy<Value = Happening> {
    let ended = (any::<bool>(), millis(5000))
        .prop_map(|(well, waited)| Event::Ended(if well { Ok(()) } else { Err("no".to_owned()) }, waited));
    let phase = prop::sample::select(vec![Phase::Down, Phase::Starting, Phase::Up]).prop_map(Event::Phase);
    let looked = prop::option::of(0..3_u64).prop_map(|taken| Looked(taken.map(seen)));
    let others = prop::sample::select(vec![NotYet, NotBegun("no".to_owned()), Alive, Broken, Wait(seen(0)), Tick]);
    prop_oneof![
        4 => ended.prop_map(Happening::Said),
        2 => phase.prop_map(Happening::Said),
        2 => looked.prop_map(Happening::Said),
        4 => others.prop_map(Happening::Said),
        1 => config().prop_map(Happening::Config),
        6 => millis(20_000).prop_map(Happening::Time),
    ]
}

proptest! {
    /// Whatever happens in whatever order: one check at a time, no verdict unless it is up, no
    /// verdict without a failure, and no tick that has to be repeated at the same instant.
    #[test]
    fn no_child_has_two_checks_or_a_verdict_without_a_reason(
        first in config(),
        happenings in vec(happening(), 0..80),
    ) {
        let mut patient = Patient::in_phase(Phase::Down, first);
        let (mut under_way, mut phase, mut failed) = (false, Phase::Down, 0);
        for happening in happenings {
            let event = match happening {
                Happening::Time(by) => {
                    patient.now += by;
                    Tick
                }
                Happening::Config(config) => {
                    patient.config = config;
                    Changed
                }
                // Only a check that is under way ends.
                Happening::Said(Event::Ended(..) | NotYet | NotBegun(_)) if !under_way => Tick,
                Happening::Said(event) => event,
            };
            for (place, event) in [event, Tick, Tick].into_iter().enumerate() {
                match &event {
                    Event::Phase(new) => phase = *new,
                    Event::Ended(result, _) => {
                        under_way = false;
                        failed = if result.is_ok() { 0 } else { failed + 1 };
                    }
                    NotYet | NotBegun(_) => under_way = false,
                    _ => {}
                }
                let is_end = matches!(event, Event::Ended(..));
                for action in patient.tell(event) {
                    match action {
                        Action::Begin => {
                            prop_assert!(!under_way && phase != Phase::Down && place < 2);
                            under_way = true;
                        }
                        Action::TimeOut(_) => prop_assert!(under_way),
                        Action::Cancel => {
                            prop_assert!(under_way);
                            under_way = false;
                        }
                        Action::Ready => prop_assert!(is_end && failed == 0 && phase == Phase::Starting),
                        Action::NotReady(_) => prop_assert!(is_end && failed > 0 && phase == Phase::Starting),
                        Action::Unhealthy(_) if is_end => {
                            prop_assert!(phase == Phase::Up);
                            prop_assert!(failed >= patient.config.check.as_ref().map_or(u32::MAX, |c| c.failures));
                        }
                        Action::Unhealthy(_) => prop_assert!(false, "no check has ended"),
                        Action::Stalled(_) | Action::Hung(_) => prop_assert!(phase == Phase::Up),
                        Action::Look | Action::Await | Action::Say(..) => {}
                    }
                }
            }
            prop_assert!(patient.health.deadline().is_none_or(|at| at > patient.now), "it spins");
        }
    }
}
