//! Whole lives of children through many events: reloads to configurations that serve or
//! don't, changes back, the end, kills, operators who stop and start children, processes
//! that are slow, deaf, or not ended by SIGKILL for a while. No process, and a clock that
//! only the simulation moves.
//!
//! Whatever happens: there are never two processes of one child, none starts before what it
//! needs is up, and once nothing disturbs them any more all is as it is wanted, soon.

mod world;

use crate::supervisor::dice::Dice;
use world::{Flaw, Seen, World};

/// Some seconds each, with optimization (`cargo test --release`) or without.
const EVENTS: u64 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
/// Set to the seed of a failure to see it again.
const SEED: &str = "PLUMBD_SIMULATION_SEED";

/// Worlds one after another until there were that many events; what was seen, or
/// what went wrong. In each are that many families, which have nothing to do with each other.
fn simulate(families: usize, flaw: Flaw, seed: u64, events: u64) -> Result<Seen, String> {
    let mut dice = Dice(seed);
    let mut seen = Seen::default();
    while seen.events < events {
        let mut world = World::new(families, flaw, &mut dice);
        world.live(&mut dice, &mut seen).map_err(|wrong| format!("{SEED}={seed}: {wrong}\n{world}"))?;
    }
    Ok(seen)
}

fn whole(families: usize) -> Seen {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), SEED),
    };
    let seen = simulate(families, Flaw::None, seed, EVENTS).unwrap_or_else(|wrong| panic!("{wrong}"));
    let Seen { effects, turned_back, gone_back, settled, killed, held, unkillable, ends, cut_short, .. } = seen;
    for count in [effects, turned_back, gone_back, settled, killed, held, unkillable, ends, cut_short] {
        assert!(count > 2, "seed {seed}: something hardly happened: {seen:?}");
    }
    seen
}

#[test]
fn changes_lead_to_what_is_wanted_through_any_events() {
    let seen = whole(1);
    assert_eq!(seen.together, 0, "there is one family");
}

#[test]
fn changes_of_children_that_do_not_meet_may_be_under_way_together() {
    let seen = whole(3);
    assert!(seen.together > 100, "{seen:?}");
}

/// The control: steps that look right and are not.
#[test]
fn a_flaw_in_the_steps_is_found_out() {
    for flaw in [Flaw::StartsAtOnce, Flaw::DoesNotWaitForTheEnd, Flaw::ForgetsWhomItStopped, Flaw::DoesNotGoBack] {
        let found = (1..=20).any(|seed| simulate(2, flaw, seed, EVENTS / 20).is_err());
        assert!(found, "{flaw:?} was not found out");
    }
}
