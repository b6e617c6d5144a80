//! Takes chains of children through a million events: sources, filters and sinks that
//! die, ignore signals or are slow, operators who stop and start them, and drains of some
//! or all of them. There are no processes, and only the simulation moves the clock.
//!
//! Each message has a number. Whatever happens, at the end of a drain each message is in
//! the file, waits in a link, or was held by a filter that was killed; and none waits that
//! a child could still have taken.

mod world;

use super::*;
use crate::supervisor::dice::Dice;
use world::{Law, Seen, World};

const EVENTS: u64 = 1_000_000;
/// Set this to the seed of a failure to reproduce it.
const SEED: &str = "PLUMBD_SIMULATION_SEED";

fn seed() -> u64 {
    match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), SEED),
    }
}

/// Runs one world after another until there were that many events. Returns what was
/// seen, or what went wrong.
fn simulate(law: Law, seed: u64, events: u64) -> Result<Seen, String> {
    let mut dice = Dice(seed);
    let mut seen = Seen::default();
    while seen.events < events {
        let mut world = World::new(law, &mut dice);
        world.live(&mut dice, &mut seen).map_err(|wrong| format!("{SEED}={seed}: {wrong}\n{world}"))?;
    }
    Ok(seen)
}

#[test]
fn chains_lose_nothing_through_a_million_events() {
    let seed = seed();
    let seen = simulate(Law::Whole, seed, EVENTS).unwrap_or_else(|wrong| panic!("{wrong}"));
    let Seen {
        events: _,
        saved,
        killed,
        stopped,
        drains,
        partial,
        turned_back,
        cut_short,
        started,
        waiting,
        lost_in_hand,
        late,
    } = seen;
    for count in [saved, killed, stopped, drains, partial, turned_back, cut_short, started, waiting, lost_in_hand, late]
    {
        assert!(count > 50, "seed {seed}: something hardly happened: {seen:?}");
    }
}

/// The control: rules that look right but are not.
#[test]
fn a_law_that_forgets_something_is_found_out() {
    for law in [Law::DeadIsDone, Law::NobodyIsStarted, Law::NoOrder] {
        let found = (1..=20).any(|seed| simulate(law, seed, EVENTS / 50).is_err());
        assert!(found, "{law:?} was not found out");
    }
}

#[test]
fn a_sink_that_saves_has_time_after_its_last_source() {
    let now = Instant::now();
    let bounds = Bounds::new(now, Duration::from_secs(10), Duration::from_secs(3));
    assert_eq!(bounds.all - now, Duration::from_secs(10 + 3) + LAST_SAVE);
    assert_eq!(bounds.next(now), Some(bounds.order));
    assert_eq!(bounds.next(bounds.order), Some(bounds.all));
    assert_eq!(Bounds::over(now).next(now), None);
}
