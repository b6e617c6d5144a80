//! The guarantee under every fault that can be made on one machine, for a sceptic to run
//! and read: `cargo test --profile proof --test proof`, as root; `-- --help` has the rest.
//!
//! Each trial makes a fault again and again under load, compares the message
//! file with what the clients sent and got back, and counts. Each has a control:
//! the same fault with a protection taken away, which the trial must notice.
//!
//! - [`clients`]: clients that misbehave, or are many; [`clients_crowd`],
//!   [`clients_unread`], [`clients_memory`], [`clients_resets`], [`clients_lines`]: these clients;
//!   [`clients_beside`], [`clients_latency`]: how other clients are served meanwhile;
//!   [`clients_service`]: their daemon;
//! - [`limits`], [`limits_pipes`], [`limits_starved`]: no more descriptors, processes, memory or pipes;
//! - [`hung`]: a file system that stops answering;
//! - [`misuse`]: a child that misuses what it was given;
//! - [`hostile`]: another user in the folder of the message file;
//! - [`model`]: a whole daemon under random configurations, reloads, commands and kills;
//! - [`chains`]: chains of filters, a trial of [`kills`]; [`program`]: the children of both, which are this executable too;
//! - [`trial`]: what a trial is, and what it prints;
//! - [`power`]: power loss; [`disk`]: disks that are full or fail; [`disk_image`],
//!   [`disk_site`], [`disk_held`]: their parts;
//! - [`report`]: the table in `tests/GUARANTEE.md`, which only `--write` writes.

#![allow(clippy::unwrap_used, reason = "a trial that can't go on ends the proof")]

mod bytes;
mod chains;
mod clients;
mod clients_beside;
mod clients_crowd;
mod clients_latency;
mod clients_lines;
mod clients_memory;
mod clients_resets;
mod clients_service;
mod clients_unread;
#[path = "../it/daemon.rs"]
#[allow(dead_code, unused_imports, reason = "the tests and the benchmark use more of it")]
mod daemon;
mod disk;
mod disk_appended;
mod disk_held;
mod disk_image;
mod disk_outsider;
mod disk_site;
#[path = "../it/far.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod far;
mod hostile;
mod hung;
mod kills;
mod limits;
mod limits_pipes;
mod limits_starved;
#[path = "../../benches/load/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests and the benchmark use more of it")]
mod load;
#[path = "../it/manager.rs"]
#[allow(dead_code, unused_imports, reason = "the tests and the benchmark use more of it")]
mod manager;
#[path = "../it/mini.rs"]
#[allow(dead_code, unused_imports, reason = "the tests and the benchmark use more of it")]
mod mini;
mod misuse;
mod model;
mod power;
mod program;
mod report;
#[path = "../it/strace.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod strace;
mod supervisor;
#[path = "../it/trace.rs"]
#[allow(dead_code, unused_imports, reason = "the tests and the benchmark use more of it")]
mod trace;
mod trial;

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use trial::{Outcome, Trial};

/// Tries the guarantee under faults, and prints what was tried and the outcome.
#[derive(Debug, Parser)]
#[command(name = "cargo test --profile proof --test proof --")]
struct Options {
    /// The trials to run, or groups of them; by default all (see --list)
    trials: Vec<String>,
    /// Lists the trials
    #[arg(long)]
    list: bool,
    /// Makes each fault this many times as often as usual
    #[arg(long, default_value_t = 1.0)]
    times: f64,
    /// Repeats the trials for this many hours, or until something is broken
    #[arg(long)]
    soak: Option<f64>,
    /// Writes the table to this file (tests/GUARANTEE.md)
    #[arg(long)]
    write: Option<PathBuf>,
}

/// The groups, in the order of the table.
const GROUPS: &[fn() -> Vec<Trial>] = &[
    kills::trials,
    power::trials,
    disk::trials,
    disk_outsider::trials,
    clients::trials,
    limits::trials,
    misuse::trials,
    hostile::trials,
    bytes::trials,
    supervisor::trials,
    hung::trials,
    model::trials,
];

fn main() -> ExitCode {
    // A daemon under a service manager is started by a process of this program.
    manager::become_daemon();
    // So are many of its children.
    program::become_one();
    let options = Options::parse();
    let all: Vec<Trial> = GROUPS.iter().flat_map(|group| group()).collect();
    let unknown: Vec<&String> = options.trials.iter().filter(|n| !all.iter().any(|t| t.is(n))).collect();
    if !unknown.is_empty() || options.list {
        for trial in &all {
            println!("{:<28} {}", trial.name, trial.fault);
        }
        if unknown.is_empty() {
            return ExitCode::SUCCESS;
        }
        eprintln!("cannot try {unknown:?}: there is no trial of that name");
        return ExitCode::from(2);
    }
    let chosen: Vec<&Trial> =
        all.iter().filter(|t| options.trials.is_empty() || options.trials.iter().any(|n| t.is(n))).collect();
    let until = options.soak.map(|hours| Instant::now() + Duration::from_secs_f64(hours * 3600.0));
    daemon::KEEP.store(true, Ordering::Relaxed);
    for round in 1.. {
        if until.is_some() {
            println!("\nround {round}");
        }
        let mut outcomes: Vec<(&Trial, Outcome)> = Vec::new();
        for trial in &chosen {
            let outcome = trial.run(options.times);
            let is_broken = !outcome.held() && !outcome.was_left_out();
            outcomes.push((trial, outcome));
            if is_broken && until.is_some() {
                // What it left is kept for a person to look at, so the proof ends here.
                break;
            }
        }
        let held = outcomes.iter().filter(|(_, outcome)| outcome.held()).count();
        let left_out = outcomes.iter().filter(|(_, outcome)| outcome.was_left_out()).count();
        let broken = outcomes.len() - held - left_out;
        println!("\nproof: {held} held, {broken} broken, {left_out} left out");
        if let Some(path) = &options.write {
            report::write(path, &outcomes).unwrap();
        }
        if broken > 0 {
            return ExitCode::FAILURE;
        }
        if until.is_none_or(|until| Instant::now() >= until) {
            break;
        }
    }
    ExitCode::SUCCESS
}
