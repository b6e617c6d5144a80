//! What a message costs as messages, connections, children and the file grow,
//! and what a child's death costs as children grow: microseconds on a core, of
//! all of plumbd's processes. Time on a core is measured, not elapsed time, so that other
//! load on the machine matters less. Each round measures all points.

use crate::chart::Chart;
use crate::echo::{LENGTH, load_as};
use crate::load::generator::Plan;
use crate::replacement::UP;
use crate::rig::{self, PATIENCE};
use crate::servers::{Running, configuration};
use crate::supervisors::{Supervisor, add_children};
use crate::table::{Line, Part, Wanted, median};
use crate::{Row, Scale, peer, proc};
use nix::sys::signal::{Signal, kill};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::thread::sleep;
use std::time::Duration;

/// How much more the last point may cost than the first.
const FLAT: f64 = 1.25;
/// How many deaths are measured per round; fewer if there are few children.
const DEATHS: usize = 20;

/// The value of what grows, and the microseconds on a core there.
type Point = (f64, f64);

pub(crate) const ROWS: &[Row] = &[
    Row { name: "growth/messages", about: "cost of a message as messages grow", measure: messages },
    Row { name: "growth/connections", about: "cost of a message as connections grow", measure: connections },
    Row { name: "growth/children", about: "cost of a message as other children grow", measure: children },
    Row { name: "growth/file", about: "cost of a message as the file grows", measure: file },
    Row { name: "growth/deaths", about: "cost of a child's death as children grow", measure: deaths },
];

fn messages(scale: &Scale) -> Result<Part, String> {
    let rounds = rounds(scale, || {
        let mut service = Service::start("", 0)?;
        let mut points = Vec::new();
        for tenth in [1, 2, 4, 8, 16, 32, 64] {
            let cost = service.load(50, scale.load.mul_f64(f64::from(tenth) / 10.0))?;
            points.push((service.echoed as f64, cost));
        }
        service.finish()?;
        Ok(points)
    })?;
    Ok(part("growth-messages.svg", "a message", "messages so far", &rounds))
}

fn connections(scale: &Scale) -> Result<Part, String> {
    let rounds = rounds_of(scale, &[10, 32, 100, 316, 1000, 4000], |connections| {
        let mut service = Service::start("", 0)?;
        let cost = service.load(connections, scale.load)?;
        service.finish()?;
        Ok((f64::from(connections), cost))
    })?;
    Ok(part("growth-connections.svg", "a message", "connections", &rounds))
}

/// Together with echo and logger, up to as many as a configuration may have.
fn children(scale: &Scale) -> Result<Part, String> {
    let rounds = rounds_of(scale, &[1, 10, 100, 998], |children| {
        let mut more = String::new();
        let folder = rig::folder()?;
        let fifo = folder.path().join("began");
        let mut probes = crate::probes::Probes::listen(&fifo)?;
        add_children(&mut more, peer::probe()?, &fifo, children);
        let mut service = Service::start(&more, 0)?;
        probes.take(children)?;
        let cost = service.load(50, scale.load)?;
        service.finish()?;
        Ok((children as f64, cost))
    })?;
    Ok(part("growth-children.svg", "a message", "other children", &rounds))
}

fn file(scale: &Scale) -> Result<Part, String> {
    let rounds = rounds_of(scale, &[20, 24, 28, 32, 36], |power| {
        let bytes = 1 << power;
        let mut service = Service::start("", bytes)?;
        let cost = service.load(50, scale.load)?;
        service.finish()?;
        Ok((bytes as f64, cost))
    })?;
    Ok(part("growth-file.svg", "a message", "bytes in the message file before it", &rounds))
}

fn deaths(scale: &Scale) -> Result<Part, String> {
    let rounds = rounds_of(scale, &[1, 10, 100, 1000], |children| {
        let mut crowd = Supervisor::Plumbd.start(children)?;
        let mut probes = crowd.probes.take(children)?;
        sleep(UP);
        let pid = crowd.processes()[0];
        let before = proc::time_on_core(pid);
        // Each is killed after it was up for a second, because otherwise its restart would wait.
        let (each, times) = (DEATHS.min(children), DEATHS.div_ceil(children).min(3));
        for _ in 0..times {
            for probe in probes.drain(..each).collect::<Vec<_>>() {
                kill(probe.pid, Signal::SIGKILL).map_err(|e| format!("cannot kill a child: {e}"))?;
                probes.push(crowd.probes.next().map_err(|why| crowd.complaint(&why))?);
            }
            sleep(UP);
        }
        let took = proc::time_on_core(pid).saturating_sub(before);
        Ok((children as f64, took.as_secs_f64() * 1e6 / (each * times) as f64))
    })?;
    Ok(part("growth-deaths.svg", "a child's death", "children", &rounds))
}

/// Measures all points once per round.
fn rounds(scale: &Scale, round: impl FnMut() -> Result<Vec<Point>, String>) -> Result<Vec<Vec<Point>>, String> {
    std::iter::repeat_with(round).take(scale.rounds).collect()
}

/// As [`rounds`], with each point measured by itself.
fn rounds_of<T: Copy>(
    scale: &Scale,
    at: &[T],
    mut point: impl FnMut(T) -> Result<Point, String>,
) -> Result<Vec<Vec<Point>>, String> {
    rounds(scale, || at.iter().map(|&at| point(at)).collect())
}

fn part(file: &'static str, of: &str, x: &'static str, rounds: &[Vec<Point>]) -> Part {
    let at = |point: usize| rounds.iter().map(|round| round[point]).unzip::<f64, f64, Vec<f64>, Vec<f64>>();
    let last = rounds.first().map_or(0, |round| round.len() - 1);
    let points = (0..=last).map(at).map(|(x, costs)| (median(&x), median(&costs))).collect();
    let title = format!("What {of} costs plumbd: microseconds on a core, as {x} grow");
    let chart = Chart { file, title, x, points };
    let what = format!("cost of {of}, on a core, {} {x}", crate::chart::count(chart.points[last].0));
    let beside = format!("the same, {}", crate::chart::count(chart.points[0].0));
    let unit = |cost| crate::table::time(cost / 1e6);
    let line = Line::compare(&what, &at(last).1, &beside, &at(0).1, unit, Wanted::AtMost(FLAT));
    Part { lines: vec![line], charts: vec![chart], ..Part::default() }
}

/// An echo and a logger, with `saved`, under one load after another.
struct Service {
    running: Running,
    sent: Vec<crate::load::generator::Connection>,
    echoed: u64,
}

impl Service {
    /// Starts it with `more` children, and with this many bytes in the message file, most of
    /// them a hole.
    fn start(more: &str, bytes: u64) -> Result<Service, String> {
        let (folder, address) = (rig::folder()?, rig::free_address()?);
        if bytes > 0 {
            let path = folder.path().join("messages");
            let fill = || {
                let mut file = File::create(&path)?;
                file.seek(SeekFrom::Start(bytes - 1))?;
                file.write_all(b"\n")
            };
            fill().map_err(|e| format!("cannot fill {}: {e}", path.display()))?;
        }
        let text = format!("{}\n{more}", configuration(address, "saved", 1));
        let running = Running::plumbd(folder, address, &text, bytes)?;
        Ok(Service { running, sent: Vec::new(), echoed: 0 })
    }

    /// Applies a load; returns the microseconds on a core per message.
    fn load(&mut self, connections: u32, lasts: Duration) -> Result<f64, String> {
        let plan = Plan {
            address: self.running.address,
            connections,
            depth: 1,
            length: LENGTH,
            first: self.sent.len() as u32,
            reconnect: false,
            lasts,
            drain: PATIENCE,
        };
        let before = self.on_core();
        let (outcome, _) = load_as(&self.running, &plan)?;
        let took = self.on_core().saturating_sub(before);
        self.echoed += outcome.echoed();
        let cost = took.as_secs_f64() * 1e6 / outcome.echoed().max(1) as f64;
        self.sent.extend(outcome.connections);
        Ok(cost)
    }

    fn on_core(&self) -> Duration {
        let plumbd = |name: &str| ["supervisor", "echo", "logger"].contains(&name);
        let own = self.running.processes().into_iter().filter(|(_, name)| plumbd(name));
        own.map(|(pid, _)| proc::time_on_core(pid)).sum()
    }

    fn finish(self) -> Result<(), String> {
        self.running.finish(&self.sent)
    }
}
