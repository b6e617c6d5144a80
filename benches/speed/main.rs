//! plumbd against yardsticks, each pair in one run: `cargo bench --bench speed`.
//!
//! - [`echo`]: requests a second, against an echo server that saves nothing;
//! - [`logger`]: lines from a pipe, against `cat >file`;
//! - [`replacement`]: from a child's death to the next one's first act;
//! - [`idle`]: memory after a load, and wake-ups while nothing happens.
//!
//! Every message file is compared with what was sent. Figures don't fail the
//! benchmark; a message that is lost, doubled, torn or forged does.

#[path = "../load/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod load;

mod echo;
mod idle;
mod logger;
mod machine;
mod proc;
mod replacement;
mod rig;
mod roles;
mod table;

use clap::{Parser, ValueEnum};
use load::checker::Format;
use std::process::ExitCode;
use std::time::Duration;

/// Measures plumbd against yardsticks on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench speed --")]
struct Options {
    /// What to measure; all of it where nothing is named
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Short rounds: to see that it works, not for figures
    #[arg(long)]
    quick: bool,
    /// Rounds; ratios are medians over them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of load a round
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Connections of the load
    #[arg(long, default_value_t = 50)]
    connections: u32,
    /// Messages under way on each connection
    #[arg(long, default_value_t = 1)]
    depth: u32,
    /// Bytes of a message, with its newline
    #[arg(long, default_value_t = 128)]
    length: usize,
    /// Format of the message file under echo: text, raw or json
    #[arg(long, default_value = "text", value_parser = format)]
    format: Format,
    /// MiB of lines a round for the logger
    #[arg(long, default_value_t = 256)]
    mebibytes: usize,
    /// How often a child is killed
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// Given by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Requests a second and latency
    Echo,
    /// Lines from a pipe
    Logger,
    /// From a child's death to its replacement
    Replacement,
    /// Memory, and wake-ups while nothing happens
    Idle,
}

fn format(name: &str) -> Result<Format, String> {
    Format::named(name).ok_or_else(|| "text, raw or json".to_owned())
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn load_lasts(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.max(0.1))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match roles::play(&arguments) {
        Some(outcome) => outcome,
        // `cargo test --all-targets` runs benchmarks too, without any argument.
        None if arguments.is_empty() => {
            println!("cargo bench --bench speed measures");
            Ok(())
        }
        None => measure(Options::parse()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn measure(mut options: Options) -> Result<(), String> {
    if options.quick {
        options.rounds = 1;
        options.seconds = 0.5;
        options.mebibytes = 16;
        options.kills = 20;
    }
    options.rounds = options.rounds.max(1);
    println!("{}\n", machine::description());
    let parts = [
        (Part::Echo, echo::measure as fn(&Options) -> Result<(), String>),
        (Part::Logger, logger::measure),
        (Part::Replacement, replacement::measure),
        (Part::Idle, idle::measure),
    ];
    // What fails in one part is told, and the others are measured all the same.
    let mut failures = Vec::new();
    for (part, measure) in parts {
        if options.wants(part) {
            failures.extend(measure(&options).err());
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}
