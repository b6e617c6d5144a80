//! Takes whole families of children through many events: reloads to configurations that
//! work or don't, changes back, the end, kills, operators who stop and start children,
//! processes that are slow, ignore signals, or survive SIGKILL for a while. There are no
//! processes, and only the simulation moves the clock.
//!
//! Whatever happens, there are never two processes of one child, no child starts before
//! those it needs are up, and soon after the last disturbance every child is as wanted.

mod world;

use crate::supervisor::dice::Dice;
use world::{Flaw, Seen, World};

/// A test takes some seconds, with optimization (`cargo test --release`) or without.
const EVENTS: u64 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
/// Set this to the seed of a failure to reproduce it.
const SEED: &str = "PLUMBD_SIMULATION_SEED";

/// Runs one world after another until there were that many events. Returns what was seen,
/// or what went wrong. Each world has that many families, independent of each other.
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
fn changes_that_share_no_child_may_be_under_way_together() {
    let seen = whole(3);
    assert!(seen.together > 100, "{seen:?}");
}

/// The control: steps that look right but are not.
#[test]
fn a_flaw_in_the_steps_is_found_out() {
    for flaw in [Flaw::StartsAtOnce, Flaw::DoesNotWaitForTheEnd, Flaw::ForgetsWhomItStopped, Flaw::DoesNotGoBack] {
        let found = (1..=20).any(|seed| simulate(2, flaw, seed, EVENTS / 20).is_err());
        assert!(found, "{flaw:?} was not found out");
    }
}
