//! What holds for any policy and any sequence of events.

use super::super::*;
use super::world::World;
use crate::config::model::{Backoff, StopTo, Success};
use proptest::collection::vec;
use proptest::prelude::*;

/// How long a process takes to die of SIGKILL.
const DEATH: Duration = Duration::from_millis(1);

/// Something that happens in the world.
#[derive(Debug, Clone)]
enum Happening {
    /// This is requested.
    Said(Event),
    /// A drain is requested that may take this long.
    Drain(Duration),
    /// Its process, if it has one, does this.
    Process(Event),
    /// Time passes, and deadlines in it are handled.
    Time(Duration),
    /// Spawns fail from now on, or succeed again.
    Short(bool),
}

fn millis(most: u64) -> impl Strategy<Value = Duration> {
    prop_oneof![Just(0), 0..=most, 0..=most / 50 + 1].prop_map(Duration::from_millis)
}

fn exit() -> impl Strategy<Value = Exit> {
    prop_oneof![Just(Exit::Code(0)), Just(Exit::Code(1)), Just(Exit::Signal(9))]
}

fn unwell() -> impl Strategy<Value = Event> {
    prop::sample::select(vec![Event::Unhealthy("it is not well".to_owned()), Event::Hung("it hangs".to_owned())])
}

fn happening() -> impl Strategy<Value = Happening> {
    use Event::{Await, ExecFailed, Executed, Exited, Extend, Hold, Kill, Ready, Restart, Start, Stop, Tick};
    prop_oneof![
        4 => prop::sample::select(vec![Start, Start, Await, Hold, Stop, Restart, Kill, Tick]).prop_map(Happening::Said),
        1 => millis(20_000).prop_map(Happening::Drain),
        4 => prop::sample::select(vec![Executed, Ready, ExecFailed("no".to_owned())]).prop_map(Happening::Process),
        1 => millis(20_000).prop_map(Extend).prop_map(Happening::Process),
        1 => unwell().prop_map(Happening::Process),
        4 => exit().prop_map(Exited).prop_map(Happening::Process),
        4 => millis(20_000).prop_map(Happening::Time),
        1 => any::<bool>().prop_map(Happening::Short),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    use prop::sample::select;
    let restart = select(vec![Restart::Always, Restart::OnFailure, Restart::Never]);
    let ready = select(vec![Ready::Exec, Ready::Notify, Ready::Fd, Ready::Health]);
    let backoff = (millis(5000), 1.0..20.0, millis(30_000), millis(10_000));
    (restart, backoff, 1..8_u32, millis(60_000), ready, millis(10_000), millis(10_000)).prop_map(
        |(restart, (first, factor, max, reset_after), burst, within, ready, ready_timeout, stop_timeout)| Policy {
            restart,
            backoff: Backoff { first, factor, max, reset_after },
            start_limit: StartLimit { burst, within: within + Duration::from_millis(1) },
            ready,
            ready_timeout: ready_timeout + Duration::from_millis(1),
            stop_signal: Signal::SIGTERM,
            stop_to: StopTo::Group,
            success: Success { codes: vec![0], signals: Vec::new() },
            stop_timeout,
        },
    )
}

/// Handles the deadlines up to `end`, each at its time.
fn pass(world: &mut World, now: &mut Instant, end: Instant) -> Result<(), String> {
    while let Some(at) = world.machine.deadline().filter(|&at| at <= end) {
        *now = (*now).max(at);
        world.settle(*now)?;
    }
    *now = end;
    world.settle(end).map(drop)
}

fn live(world: &mut World, now: &mut Instant, happenings: Vec<Happening>) -> Result<(), String> {
    for happening in happenings {
        match happening {
            Happening::Said(event) => drop(world.tell(event, *now)?),
            Happening::Drain(by) => drop(world.tell(Event::Drain(*now + by), *now)?),
            Happening::Process(event) if world.process.is_some() => drop(world.tell(event, *now)?),
            Happening::Process(_) => {}
            Happening::Time(by) => {
                let end = *now + by;
                pass(world, now, end)?;
            }
            Happening::Short(short) => world.short = short,
        }
        // Some deadlines are due at once, such as that of a drain until now.
        world.settle(*now)?;
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_came_before_a_stop_ends_it_in_time_and_for_good(
        policy in policy(),
        happenings in vec(happening(), 0..60),
        obeys_after in prop::option::of(millis(15_000)),
        after in millis(100_000),
    ) {
        let stop_timeout = policy.stop_timeout;
        let mut world = World::new(policy);
        let mut now = Instant::now();
        live(&mut world, &mut now, happenings).map_err(TestCaseError::fail)?;

        let asked_at = now;
        world.tell(Event::Stop, now).map_err(TestCaseError::fail)?;
        // A process that was asked may or may not end in time; a killed one does.
        if let Some(obeys_at) = obeys_after.map(|after| asked_at + after).filter(|&at| at < asked_at + stop_timeout) {
            if !world.process.is_none_or(|process| process.forced) {
                pass(&mut world, &mut now, obeys_at).map_err(TestCaseError::fail)?;
                if world.process.is_some() {
                    world.tell(Event::Exited(Exit::Code(0)), now).map_err(TestCaseError::fail)?;
                }
            }
        }
        if world.process.is_some_and(|process| !process.forced) {
            pass(&mut world, &mut now, asked_at + stop_timeout).map_err(TestCaseError::fail)?;
        }
        if let Some(process) = world.process {
            prop_assert!(process.forced, "neither gone nor forced after {:?}: {:?}", stop_timeout, world.machine);
            now += DEATH;
            world.tell(Event::Exited(Exit::Signal(9)), now).map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(world.machine.state, State::Down);
        prop_assert!(now <= asked_at + stop_timeout + DEATH);

        let end = now + after;
        pass(&mut world, &mut now, end).map_err(TestCaseError::fail)?;
        prop_assert_eq!((world.machine.state, world.process.is_none()), (State::Down, true), "it came back");
    }

    /// There is no world that answers here: not even events that make no sense may
    /// confuse the machine.
    #[test]
    fn no_events_in_any_order_panic_or_spin(
        policy in policy(),
        events in vec((any_event(), millis(1000)), 0..60),
    ) {
        let mut machine = Machine::new(policy);
        let mut now = Instant::now();
        for (event, later) in events {
            now += later;
            machine.step(event, now);
            for _ in 0..2 {
                machine.step(Event::Tick, now);
            }
            let deadline = machine.deadline();
            prop_assert!(deadline.is_none_or(|at| at > now), "{:?}", machine);
        }
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    use Event::{
        Await, ExecFailed, Executed, Exited, Extend, Hold, Kill, Ready, Restart, SpawnFailed, Spawned, Start, Stop,
        Tick,
    };
    let words = vec![
        Start,
        Await,
        Hold,
        Stop,
        Restart,
        Kill,
        Spawned(Pid::from_raw(2)),
        Spawned(Pid::from_raw(3)),
        SpawnFailed("no".to_owned()),
        Executed,
        ExecFailed("no".to_owned()),
        Ready,
        Extend(Duration::MAX),
        Extend(Duration::ZERO),
        Tick,
    ];
    prop_oneof![10 => prop::sample::select(words), 1 => unwell(), 5 => exit().prop_map(Exited)]
}
