//! Requests a second and latency: plumbd at each `echo_after`, against the yardstick.

use crate::load::generator::{Outcome, Plan, run};
use crate::load::histogram::Histogram;
use crate::rig::{self, Rig};
use crate::table::{Table, at_least, median, micros, spread};
use crate::{Options, proc, roles};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// `echo_after`, and the share of the yardstick's rate that it shall reach.
const MODES: [(&str, f64); 3] = [("queued", 0.9), ("saved", 0.8), ("synced", 0.35)];
/// Before a measured load: processes are started and caches are warm.
const WARM_UP: Duration = Duration::from_millis(200);
/// How long echoes may take that are due at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// One server, and its rounds.
struct Row {
    name: &'static str,
    wanted: Option<f64>,
    rounds: Vec<Round>,
}

/// One server under one load.
struct Round {
    outcome: Outcome,
    /// Requests a second of the yardstick, right before.
    base: f64,
    /// The server's processes, with the microseconds on a core that each took for a message.
    costs: Vec<(String, f64)>,
    /// What the message file holds.
    file: String,
}

impl Row {
    fn cells(&self) -> [String; 8] {
        let rates: Vec<f64> = self.rounds.iter().map(|round| round.outcome.rate()).collect();
        let ratios: Vec<f64> = self.rounds.iter().zip(&rates).map(|(round, rate)| rate / round.base).collect();
        let mut latency = Histogram::new();
        self.rounds.iter().for_each(|round| latency.merge(&round.outcome.latency));
        let quantile = |share| micros(latency.quantile(share));
        [
            self.name.to_owned(),
            format!("{:.0}", median(&rates)),
            self.wanted.map_or_else(String::new, |_| spread(&ratios)),
            self.wanted.map_or_else(String::new, |wanted| at_least(wanted, median(&ratios))),
            quantile(0.5),
            quantile(0.99),
            quantile(0.999),
            self.costs(),
        ]
    }

    /// `echo 4.9, logger 2.2`: medians, of each process.
    fn costs(&self) -> String {
        let Some(first) = self.rounds.first() else { return String::new() };
        let of = |name: &str| {
            let all = self.rounds.iter().flat_map(|round| &round.costs).filter(|(other, _)| other == name);
            median(&all.map(|(_, cost)| *cost).collect::<Vec<f64>>())
        };
        let costs = first.costs.iter().map(|(name, _)| format!("{name} {:.1}", of(name)));
        costs.collect::<Vec<String>>().join(", ")
    }
}

/// Runs all rounds and prints the table.
pub(crate) fn measure(options: &Options) -> Result<(), String> {
    let mut yardstick = Row { name: "yardstick", wanted: None, rounds: Vec::new() };
    let mut rows = MODES.map(|(name, wanted)| Row { name, wanted: Some(wanted), rounds: Vec::new() });
    for number in 1..=options.rounds {
        for row in &mut rows {
            // Each has a yardstick of its own: what else the machine does changes from one second to the next.
            let base = measure_yardstick(options)?;
            let round = measure_plumbd(options, row.name, base.outcome.rate())?;
            yardstick.rounds.push(base);
            println!("round {number}, {}: message file: {}", row.name, round.file);
            row.rounds.push(round);
        }
    }
    println!();
    let heads = ["echo", "requests/s", "of yardstick", "wanted", "p50", "p99", "p99.9", "us on a core/request"];
    let mut table = Table::new(&heads);
    for row in std::iter::once(&yardstick).chain(&rows) {
        table.row(row.cells());
    }
    table.print(&format!(
        "{} connections, {} under way on each, {} bytes, {} s x {} rounds, format {}",
        options.connections,
        options.depth,
        options.length,
        options.load_lasts().as_secs_f64(),
        options.rounds,
        options.format.name(),
    ));
    Ok(())
}

/// Configuration of an echo linked to a logger that saves to `messages`.
pub(crate) fn configuration(options: &Options, address: SocketAddr, echo_after: &str) -> String {
    format!(
        r#"[children.echo]
plugin = "echo"
listen = ["tcp://{address}"]
settings = {{ echo_after = "{echo_after}" }}

[children.logger]
plugin = "logger"
settings = {{ file = "messages", format = "{}" }}

[[links]]
from = "echo"
to = "logger"
"#,
        options.format.name()
    )
}

/// A warm-up, then the load that counts; every message of both must come back.
pub(crate) fn load(options: &Options, address: SocketAddr) -> Result<(Outcome, Outcome), String> {
    let one = |first, lasts| {
        let plan = Plan {
            address,
            connections: options.connections,
            depth: options.depth,
            length: options.length,
            first,
            reconnect: false,
            lasts,
            drain: DRAIN,
        };
        let outcome = run(&plan, &AtomicBool::new(false)).map_err(|e| format!("cannot load {address}: {e}"))?;
        whole(outcome)
    };
    let warm_up = one(0, WARM_UP)?;
    let measured = one(options.connections, options.load_lasts())?;
    Ok((warm_up, measured))
}

fn whole(outcome: Outcome) -> Result<Outcome, String> {
    if let Some(wrong) = outcome.wrong.first() {
        return Err(format!("an echo is not what was sent: {wrong}"));
    }
    if outcome.unanswered() > 0 || outcome.disconnected > 0 || outcome.refused > 0 {
        return Err(format!(
            "of {} messages {} were not echoed; {} connections were ended, {} refused",
            outcome.echoed() + outcome.unanswered(),
            outcome.unanswered(),
            outcome.disconnected,
            outcome.refused
        ));
    }
    Ok(outcome)
}

fn measure_plumbd(options: &Options, echo_after: &str, base: f64) -> Result<Round, String> {
    let address = rig::free_address()?;
    let mut rig = Rig::start(rig::folder()?, &configuration(options, address, echo_after))?;
    rig.wait_for_address(address)?;
    let (warm_up, measured) = load(options, address).map_err(|why| rig.complaint(&format!("{echo_after}: {why}")))?;
    let costs = costs(&rig.processes(), &[&warm_up, &measured]);
    rig.stop()?;
    let sent = [warm_up.connections, measured.connections.clone()].concat();
    let file = rig.check(&rig.path("messages"), options.format, &sent)?;
    Ok(Round { outcome: measured, base, costs, file })
}

fn measure_yardstick(options: &Options) -> Result<Round, String> {
    let yardstick = Yardstick::start()?;
    let (warm_up, measured) = load(options, yardstick.address)?;
    let costs = costs(&[(yardstick.process.id(), "yardstick".to_owned())], &[&warm_up, &measured]);
    let base = measured.rate();
    Ok(Round { outcome: measured, base, costs, file: String::new() })
}

/// Microseconds on a core, for each process, for a message of its whole life.
fn costs(processes: &[(u32, String)], loads: &[&Outcome]) -> Vec<(String, f64)> {
    let messages: u64 = loads.iter().map(|load| load.echoed()).sum();
    let cost = |pid| proc::time_on_core(pid).as_secs_f64() * 1e6 / messages.max(1) as f64;
    processes.iter().map(|(pid, name)| (name.clone(), cost(*pid))).collect()
}

/// The yardstick as a process of its own, which ends with its standard input.
struct Yardstick {
    address: SocketAddr,
    process: Child,
    stdin: Option<ChildStdin>,
}

impl Yardstick {
    fn start() -> Result<Yardstick, String> {
        let cannot = |e| format!("cannot run the yardstick: {e}");
        let mut process =
            roles::yardstick_command()?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(cannot)?;
        let stdin = process.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(cannot)?;
        }
        let address = line.trim().parse().map_err(|e| format!("cannot find the yardstick at {line:?}: {e}"))?;
        Ok(Yardstick { address, process, stdin })
    }
}

impl Drop for Yardstick {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _reaped = self.process.wait();
    }
}
