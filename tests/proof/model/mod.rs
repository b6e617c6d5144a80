//! A model that drives a whole daemon through random configurations, reloads,
//! commands and kills, and checks from outside that every answer is true, that
//! nothing is lost, doubled or refused, and that each end is clean and in time.
//!
//! - [`shape`]: a configuration and how it may change;
//! - [`world`]: a daemon, what is known about it, and the checks from outside;
//! - [`operations`]: what is done to it;
//! - [`clients`]: its clients; [`saved`]: what must be in the files;
//! - [`control`]: faults that the checks must find.
//!
//! What it does follows from a seed, which is printed if something is wrong:
//! `PLUMBD_MODEL_SEED=N` begins with that seed.

pub(crate) mod clients;
mod control;
mod operations;
pub(crate) mod random;
pub(crate) mod saved;
mod shape;
mod world;

use crate::trial::{Trial, Tried, scaled};
use operations::End;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};
use world::{Checked, Counts, World};

/// How many broken tries are reported.
const TOLD: usize = 20;

/// The seed of the first try, if the environment sets one.
pub(crate) fn seed() -> Option<u64> {
    std::env::var("PLUMBD_MODEL_SEED").ok().map(|text| text.parse().unwrap())
}

/// Makes this many tries, some at a time. Returns the outcome of each.
///
/// # Panics
/// If any try did, at the end of all, with the messages of the first few.
pub(crate) fn side_by_side<T: Send>(at_once: u32, tries: u32, one: impl Fn(u32) -> T + Sync) -> Vec<T> {
    let worker = |first: u32| {
        let one = &one;
        move || {
            let mine = (first..tries).step_by(at_once as usize);
            mine.map(|number| catch_unwind(AssertUnwindSafe(|| one(number))).map_err(text)).collect::<Vec<_>>()
        }
    };
    let came: Vec<Result<T, String>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|first| scope.spawn(worker(first))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let (good, bad): (Vec<_>, Vec<_>) = came.into_iter().partition(Result::is_ok);
    let bad: Vec<String> = bad.into_iter().filter_map(Result::err).collect();
    assert!(bad.is_empty(), "{} of {tries} broken:\n{}", bad.len(), bad[..bad.len().min(TOLD)].join("\n"));
    good.into_iter().filter_map(Result::ok).collect()
}

fn text(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

/// How many daemons there are with `--times 1`, and how many run at a time, because they mostly
/// wait.
const DAEMONS: u32 = 48;
const AT_ONCE: u32 = 4;
/// How many operations there are on each.
const OPERATIONS: u32 = 30;
/// One of this many ends with children that do not want to stop.
const STUBBORN: u64 = 8;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial {
        name: "model/random",
        fault: "random configurations, reloads, commands, kills and ends, some of them at once",
        promise: "answers are true, the configuration that holds runs, kept children keep their process, no client is \
                  refused, each line is saved once, each end is clean and in time",
        missing: || None,
        attempt,
    }]
}

fn attempt(times: f64) -> Tried {
    let daemons = scaled(DAEMONS, times);
    // Each run tries other seeds, unless one is given.
    let first = seed().unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() << 16);
    println!("  seeds {first} to {}", first + u64::from(daemons) - 1);
    let mut total = Counts::default();
    for counts in side_by_side(AT_ONCE, daemons, |number| one(first + u64::from(number))) {
        total.add(&counts);
    }
    let Counts { operations, reloads, refused, kills, ends, abrupt_ends, kept, answers, connected, echoed, lines } =
        total;
    Tried {
        count: format!(
            "{daemons} daemons, {operations} operations: {reloads} reloads, {refused} refused or undone, {kills} kills, \
             {ends} ends, {abrupt_ends} abrupt ones"
        ),
        outcome: format!(
            "{answers} answers true, {kept} processes kept, {connected} connections none refused, {echoed} messages \
             echoed, {lines} lines saved once and in order"
        ),
        control: control::all(),
    }
}

/// One daemon's life.
fn one(seed: u64) -> Counts {
    let mut world = World::start(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    let checked = live(&mut world, seed);
    if let Err(why) = checked {
        let done = &world.history[world.history.len().saturating_sub(16)..];
        let dir = world.daemon.dir.path().display().to_string();
        panic!(
            "seed {seed}, operation {}: {why}\n  in {dir}, after\n    {}",
            world.counts.operations,
            done.join("\n    ")
        );
    }
    world.counts
}

fn live(world: &mut World, seed: u64) -> Checked {
    for _ in 0..OPERATIONS {
        world.step()?;
    }
    if seed % STUBBORN == 0 { world.end_stubborn() } else { world.end(End::Command) }
}
