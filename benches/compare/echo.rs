//! Messages per second: plumbd with each `echo_after`, beside a plain server that
//! saves nothing, and beside other servers that save.

use crate::load::generator::{Outcome, Plan, run_warm};
use crate::servers::{OTHERS, Running, Server};
use crate::table::{Line, Part, Wanted, a_second, median, short};
use crate::{Row, Scale};
use nix::time::{ClockId, clock_gettime};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The time before a load counts, so that caches are warm and every connection was served.
const WARM_UP: Duration = Duration::from_millis(200);
/// How long the echoes that are due at the end may take.
const DRAIN: Duration = Duration::from_secs(10);
/// Bytes of a message, with its newline.
pub(crate) const LENGTH: usize = 128;

pub(crate) const ROWS: &[Row] = &[
    Row { name: "echo/1", about: "echo and save, 128 B, 1 connection", measure: |scale| measure(scale, 1) },
    Row { name: "echo/50", about: "echo and save, 128 B, 50 connections", measure: |scale| measure(scale, 50) },
    Row { name: "echo/500", about: "echo and save, 128 B, 500 connections", measure: |scale| measure(scale, 500) },
];

/// Each `echo_after`, with the share of the plain server's rate to reach with 1, 50, and 500 connections.
const MODES: [(&str, [Option<f64>; 3]); 3] = [
    ("queued", [None, Some(0.97), Some(0.87)]),
    ("saved", [Some(0.7), Some(0.9), Some(0.8)]),
    ("synced", [None, Some(0.45), Some(0.35)]),
];
/// The targets, as multiples of the rates of [`OTHERS`].
const TIMES: [Wanted; 4] = [Wanted::AtLeast(2.0), Wanted::AtLeast(3.0), Wanted::AtLeast(6.0), Wanted::Nothing];

/// One server under one load.
pub(crate) struct Measured {
    pub(crate) rate: f64,
    /// Microseconds on a core per message, for each process; the load generator's first.
    pub(crate) costs: Vec<(String, f64)>,
}

fn measure(scale: &Scale, connections: u32) -> Result<Part, String> {
    let mut plain = MODES.map(|_| Vec::new());
    let mut plumbd = MODES.map(|_| Vec::new());
    let mut others = OTHERS.map(|_| Ok(Vec::new()));
    for _ in 0..scale.rounds {
        for (number, (echo_after, _)) in MODES.iter().enumerate() {
            // Each is compared with a run of the plain server just before it, because the
            // other load on the machine changes from one second to the next.
            plain[number].push(once(Server::Plain, connections, scale.load)?);
            plumbd[number].push(once(Server::Plumbd(echo_after, 1), connections, scale.load)?);
        }
        for ((server, _), rounds) in OTHERS.iter().zip(&mut others) {
            // A server that is missing or fails is left out, and the table says so.
            if let Ok(all) = rounds {
                match once(*server, connections, scale.load) {
                    Ok(measured) => all.push(measured),
                    Err(why) => *rounds = Err(why),
                }
            }
        }
    }
    let mut part = Part::default();
    let s = if connections == 1 { "" } else { "s" };
    let what = |mode: &str| format!("echo, `{mode}`, {connections} connection{s}");
    let which = [1, 50, 500].iter().position(|&n| n == connections).unwrap_or(1);
    for (((mode, wanted), ours), theirs) in MODES.iter().zip(&plumbd).zip(&plain) {
        let wanted = wanted[which].map_or(Wanted::Nothing, Wanted::AtLeast);
        let beside = "plain epoll echo, saves nothing";
        part.lines.push(Line::compare(&what(mode), &rates(ours), beside, &rates(theirs), a_second, wanted));
        part.notes.push(format!("On a core for a message, {}: {}.", what(mode), costs(ours)));
    }
    let mut possible = Vec::new();
    for (((_, name), wanted), rounds) in OTHERS.iter().zip(TIMES).zip(&others) {
        part.lines.push(match rounds {
            Ok(theirs) => {
                let times_of_plain = median(&rates(&plain[1])) / median(&rates(theirs));
                possible.push(format!("{} times {name}", short(times_of_plain)));
                Line::compare(&what("saved"), &rates(&plumbd[1]), name, &rates(theirs), a_second, wanted)
            }
            Err(why) => Line::left_out(&what("saved"), name, why),
        });
    }
    part.notes.push(format!(
        "The plain server, which saves nothing, reaches with {connections} connection{s}: {}.",
        possible.join(", ")
    ));
    part.head = Some(format!("On a core for a message, {connections} connection{s}: {}.", costs(&plain[1])));
    Ok(part)
}

/// Starts a server, loads it, and ends it.
pub(crate) fn once(server: Server, connections: u32, lasts: Duration) -> Result<Measured, String> {
    let running = server.start()?;
    let (outcome, generator) = load(&running, connections, lasts)?;
    let mut costs = vec![("load generator".to_owned(), generator)];
    costs.extend(running.costs(&outcome));
    running.finish(&outcome.connections)?;
    Ok(Measured { rate: outcome.rate(), costs })
}

/// Applies a load, of which every message must come back. Returns its outcome, and the
/// microseconds on a core that the generator took per message.
pub(crate) fn load(running: &Running, connections: u32, lasts: Duration) -> Result<(Outcome, f64), String> {
    let plan = Plan {
        address: running.address,
        connections,
        depth: 1,
        length: LENGTH,
        first: 0,
        reconnect: false,
        lasts,
        drain: DRAIN,
    };
    load_as(running, &plan)
}

/// As [`load`], with a plan.
pub(crate) fn load_as(running: &Running, plan: &Plan) -> Result<(Outcome, f64), String> {
    let before = on_core()?;
    let outcome = run_warm(plan, WARM_UP, &AtomicBool::new(false))
        .map_err(|e| running.complaint(&format!("cannot load {}: {e}", plan.address)))?;
    let took = on_core()?.saturating_sub(before).as_secs_f64() * 1e6 / outcome.echoed().max(1) as f64;
    whole(outcome).map(|outcome| (outcome, took)).map_err(|why| running.complaint(&why))
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

/// How long this thread was on a core.
fn on_core() -> Result<Duration, String> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map(Duration::from).map_err(|e| format!("cannot read the clock: {e}"))
}

pub(crate) fn rates(rounds: &[Measured]) -> Vec<f64> {
    rounds.iter().map(|round| round.rate).collect()
}

/// `echo 4.9 us, logger 2.2 us`: the median for each process.
fn costs(rounds: &[Measured]) -> String {
    let Some(first) = rounds.first() else { return String::new() };
    let of = |name: &str| {
        let all = rounds.iter().flat_map(|round| &round.costs).filter(|(other, _)| other == name);
        median(&all.map(|(_, cost)| *cost).collect::<Vec<f64>>())
    };
    let costs = first.costs.iter().map(|(name, _)| format!("{name} {} us", short(of(name))));
    costs.collect::<Vec<String>>().join(", ")
}
