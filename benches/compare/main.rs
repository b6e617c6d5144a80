//! plumbd beside other programs that do a part of what it does, taking turns in one
//! run: `cargo bench --bench compare`; for options, see `-- --help`.
//!
//! - [`echo`]: messages per second; [`servers`]: the echo servers; [`lines`]: pipelined lines;
//!   [`latency`]: at half the rate, by [`paced`] clients; [`instances`]: two echoes on two cores;
//! - [`logger`]: lines from a pipe to a file; [`loggers`]: the programs that do that;
//! - [`replacement`]: from a child's death to the next one's first instruction;
//!   [`reconnect`]: to the next echo; [`crowd`]: a thousand children;
//!   [`supervisors`]: the programs that start them; [`probes`]: the children;
//! - [`footprint`]: the executable, its start and its memory; [`idle`]: idle connections;
//! - [`growth`]: what a message costs as things grow; [`chart`]: draws it;
//! - [`table`], [`report`]: the table, and the file that it is written to.
//!
//! Every message file is compared with what was sent. Bad figures don't fail the
//! benchmark, but a message that is lost, doubled, torn or forged does.

#[path = "../load/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod load;

mod chart;
mod crowd;
mod echo;
mod footprint;
mod growth;
mod idle;
mod instances;
mod latency;
mod lines;
mod logger;
mod loggers;
mod machine;
mod paced;
mod packages;
mod peer;
mod probes;
mod proc;
mod reconnect;
mod replacement;
mod report;
mod rig;
mod roles;
mod servers;
mod supervisors;
mod table;

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use table::{Line, Part};

/// Measures plumbd beside others on this machine, and prints one table.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench compare --")]
struct Options {
    /// Rows to measure, or groups of them; all if none is named
    names: Vec<String>,
    /// List the rows
    #[arg(long)]
    list: bool,
    /// Make a short run, to see that it works; its figures are worth little
    #[arg(long)]
    quick: bool,
    /// How many rounds; figures are medians over them
    #[arg(long)]
    rounds: Option<usize>,
    /// How many seconds each load takes
    #[arg(long)]
    seconds: Option<f64>,
    /// Write the table to this file (benches/RESULTS.md), and charts beside it
    #[arg(long)]
    write: Option<PathBuf>,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much is measured.
struct Scale {
    quick: bool,
    rounds: usize,
    load: Duration,
}

impl Scale {
    /// Picks `full`, or `quick` in a short run.
    fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// Something to measure: one line of the table, or a few.
struct Row {
    name: &'static str,
    about: &'static str,
    measure: fn(&Scale) -> Result<Part, String>,
}

impl Row {
    /// Whether a user who says `name` means this one, or its group.
    fn is(&self, name: &str) -> bool {
        self.name == name || self.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// All rows, in the order of the table.
const GROUPS: &[&[Row]] = &[
    echo::ROWS,
    lines::ROWS,
    logger::ROWS,
    latency::ROWS,
    replacement::ROWS,
    reconnect::ROWS,
    crowd::ROWS,
    footprint::ROWS,
    idle::ROWS,
    instances::ROWS,
    growth::ROWS,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match roles::play(&arguments) {
        Some(outcome) => outcome,
        // `cargo test --all-targets` runs benchmarks too, without any argument.
        None if arguments.is_empty() => {
            println!("cargo bench --bench compare measures");
            Ok(())
        }
        None => run(&Options::parse()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let all = || GROUPS.iter().copied().flatten();
    if options.list {
        all().for_each(|row| println!("{:<14} {}", row.name, row.about));
        return Ok(());
    }
    if let Some(name) = options.names.iter().find(|&name| !all().any(|row| row.is(name))) {
        return Err(format!("cannot measure {name:?}: there is no such row (--list has them)"));
    }
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 5 }).max(1);
    let load = options.seconds.unwrap_or(if options.quick { 0.3 } else { 1.0 }).max(0.1);
    let scale = Scale { quick: options.quick, rounds, load: Duration::from_secs_f64(load) };
    let _janitor = peer::Janitor::start()?;
    packages::install();
    let begin = Instant::now();
    let machine = machine::description();
    let mut parts = Vec::new();
    // If one row fails, that is reported, and the others are still measured.
    let mut failures = Vec::new();
    let chosen = |row: &&Row| options.names.is_empty() || options.names.iter().any(|name| row.is(name));
    for row in all().filter(chosen) {
        let begin = Instant::now();
        let part = (row.measure)(&scale).unwrap_or_else(|why| {
            failures.push(format!("{}: {why}", row.name));
            Part { lines: vec![Line::left_out(row.about, "", &format!("not measured: {why}"))], ..Part::default() }
        });
        eprintln!("{:<14} {:.0} s", row.name, begin.elapsed().as_secs_f64());
        parts.push(part);
    }
    let text = report::render_all(&machine, &scale, begin.elapsed(), &parts);
    println!("\n{text}");
    if let Some(path) = &options.write {
        report::write(path, &text, &parts)?;
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}
