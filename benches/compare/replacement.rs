//! How fast a supervisor replaces a child that was killed.

use crate::load::histogram::Histogram;
use crate::peer;
use crate::probes::{Probe, Probes};
use crate::supervisors::{OTHERS, Supervising, Supervisor};
use crate::table::{Line, Part, Wanted, seconds, time};
use crate::{Row, Scale, rig, roles};
use nix::sys::signal::{Signal, kill};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// The target for the median time from SIGKILL to the replacement's first instruction.
const WANTED: f64 = 0.0015;
/// How long a child is up before it is killed: runsv waits if it was less than a second.
pub(crate) const UP: Duration = Duration::from_millis(1100);

pub(crate) const ROWS: &[Row] =
    &[Row { name: "replacement", about: "SIGKILL of a child to its replacement's first instruction", measure }];

fn measure(scale: &Scale) -> Result<Part, String> {
    let rounds = scale.pick(25, 5);
    let mut plumbd = Contender::start(Supervisor::Plumbd)?;
    let mut others = OTHERS.map(|(supervisor, _)| Contender::start(supervisor));
    let mut from_here = Vec::new();
    for _ in 0..rounds {
        plumbd.round()?;
        for other in &mut others {
            if let Err(why) = other.as_mut().map_or(Ok(()), Contender::round) {
                *other = Err(why);
            }
        }
        from_here.push(start()?);
    }
    let what = "SIGKILL of a child to its replacement's first instruction, median";
    let mut part = Part::default();
    let mut least = true;
    for ((_, name), other) in OTHERS.iter().zip(&others) {
        part.lines.push(match other {
            Ok(other) => {
                let line = Line::compare(what, &plumbd.took, name, &other.took, time, Wanted::AtMost(1.0));
                least &= !line.falls_short();
                line
            }
            Err(why) => Line::left_out(what, name, why),
        });
    }
    let beside = "the same program started from here (posix_spawn)";
    part.lines.push(Line::compare(what, &plumbd.took, beside, &from_here, time, Wanted::Nothing));
    let median = crate::table::median(&plumbd.took);
    part.lines.push(Line::at_most(what, median, WANTED, time).and("the least of all", least));
    let mut all = Histogram::new();
    plumbd.took.iter().for_each(|took| all.record(Duration::from_secs_f64(*took)));
    part.notes.push(format!(
        "Replacement: {rounds} kills of each, by turns, each child {} s up: runsv waits a second \
         before it replaces one that was up for less, so that is no part of it; s6-supervise waits a second after \
         each death. plumbd's p99: {}.",
        UP.as_secs_f64(),
        time(seconds(all.quantile(0.99)))
    ));
    Ok(part)
}

/// A supervisor with one child.
struct Contender {
    supervising: Supervising,
    probe: Probe,
    took: Vec<f64>,
}

impl Contender {
    fn start(supervisor: Supervisor) -> Result<Contender, String> {
        let mut supervising = supervisor.start(1)?;
        let probe = supervising.probes.next().map_err(|why| supervising.complaint(&why))?;
        Ok(Contender { supervising, probe, took: Vec::new() })
    }

    fn round(&mut self) -> Result<(), String> {
        sleep((self.probe.at + UP).saturating_sub(roles::now()?));
        let killed = roles::now()?;
        kill(self.probe.pid, Signal::SIGKILL).map_err(|e| format!("cannot kill a child: {e}"))?;
        self.probe = self.supervising.probes.next().map_err(|why| self.supervising.complaint(&why))?;
        self.took.push(seconds(self.probe.at.saturating_sub(killed)));
        Ok(())
    }
}

/// Starts and ends the program, without a supervisor.
fn start() -> Result<f64, String> {
    let folder = rig::folder()?;
    let fifo = folder.path().join("began");
    let mut probes = Probes::listen(&fifo)?;
    let begin = roles::now()?;
    let mut child = Command::new(peer::probe()?)
        .arg(&fifo)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start a child: {e}"))?;
    let began = probes.next();
    child.kill().and_then(|()| child.wait()).map_err(|e| format!("cannot end a child: {e}"))?;
    Ok(seconds(began?.at.saturating_sub(begin)))
}
