//! A supervisor of two children, and of a thousand: its memory, how long it
//! takes to start all of them and to replace all of them, and what it costs when nothing
//! happens.

use crate::probes::Probe;
use crate::replacement::UP;
use crate::supervisors::{OTHERS, Supervising, Supervisor};
use crate::table::{Line, Part, Wanted, seconds, short, size, time};
use crate::{Row, Scale, proc, roles};
use nix::sys::signal::{Signal, kill};
use std::thread::sleep;
use std::time::Duration;

/// The size of the crowd; runsvdir takes no more.
const CROWD: usize = 1000;
/// The targets: memory of a supervisor of two children, and memory for each further child.
const SMALL: f64 = 3.0 * 1024.0 * 1024.0;
const MORE: f64 = 4096.0;
/// How long it is watched while nothing happens.
const IDLE_FOR: Duration = Duration::from_secs(5);

pub(crate) const ROWS: &[Row] =
    &[Row { name: "crowd", about: "1,000 children: memory, all started, all replaced, idle", measure }];

/// One supervisor, measured.
#[derive(Default)]
struct Rounds {
    /// Bytes of memory with two children, and for each further child.
    two: Vec<f64>,
    more: Vec<f64>,
    /// Bytes of memory with two children, with shared pages counted in full.
    resident: Vec<f64>,
    /// Seconds until all children were there, and until all were there again.
    started: Vec<f64>,
    back: Vec<f64>,
    /// Seconds on a core per second when nothing happens.
    idle: Vec<f64>,
    /// Context switches per second when nothing happens.
    switches: Vec<f64>,
}

fn measure(scale: &Scale) -> Result<Part, String> {
    let mut plumbd = Rounds::default();
    let mut others = OTHERS.map(|_| Err(String::new()));
    plumbd.round(Supervisor::Plumbd, scale)?;
    for ((supervisor, _), other) in OTHERS.iter().zip(&mut others) {
        let mut rounds = Rounds::default();
        *other = match supervisor {
            Supervisor::Supervisord if scale.quick => Err("left out of a short run: it takes a minute".to_owned()),
            _ => rounds.round(*supervisor, scale).map(|()| rounds),
        };
    }
    let mut part = Part::default();
    let beside: [(&str, Figure, Unit, Wanted); 6] = [
        ("supervisor's memory (PSS), 2 children", |rounds| &rounds.two, size, Wanted::Nothing),
        ("supervisor's memory (PSS), each child more, up to 1,000", |rounds| &rounds.more, size, Wanted::Nothing),
        ("1,000 children: start until all began", |rounds| &rounds.started, time, Wanted::AtMost(1.0)),
        ("1,000 children: all killed until all are back", |rounds| &rounds.back, time, Wanted::AtMost(1.0)),
        ("1,000 children, idle: time on a core, a second", |rounds| &rounds.idle, time, Wanted::Nothing),
        ("1,000 children, idle: context switches, a second", |rounds| &rounds.switches, short, Wanted::Nothing),
    ];
    for (what, of, unit, wanted) in beside {
        for ((_, name), other) in OTHERS.iter().zip(&others) {
            part.lines.push(match other {
                Ok(other) => Line::compare(what, of(&plumbd), name, of(other), unit, wanted),
                Err(why) => Line::left_out(what, name, why),
            });
        }
    }
    let worst = |of: Figure| of(&plumbd).iter().copied().fold(0.0, f64::max);
    let resident = "supervisor's memory (VmRSS, shared pages in full), 2 children";
    part.lines.push(Line::at_most(resident, worst(|rounds| &rounds.resident), SMALL, size));
    part.lines.push(Line::at_most(beside[1].0, worst(|rounds| &rounds.more), MORE, size));
    part.lines.push(Line::at_most(beside[5].0, worst(|rounds| &rounds.switches), 0.0, short));
    part.notes.push(
        "Of s6 and runit, every process that supervises counts: the scanner and one for each child. PSS divides a \
         page by the processes that have it."
            .to_owned(),
    );
    Ok(part)
}

type Figure = fn(&Rounds) -> &Vec<f64>;
type Unit = fn(f64) -> String;

impl Rounds {
    fn round(&mut self, supervisor: Supervisor, scale: &Scale) -> Result<(), String> {
        let mut small = supervisor.start(2)?;
        hear(&mut small, 2)?;
        sleep(UP);
        let two = small.memory();
        self.resident.push(small.processes().into_iter().filter_map(proc::resident).sum());
        drop(small);
        let begin = roles::now()?;
        let mut crowd = supervisor.start(CROWD)?;
        let children = hear(&mut crowd, CROWD)?;
        self.started.push(seconds(last(&children).saturating_sub(begin)));
        sleep(UP);
        self.two.push(two);
        self.more.push((crowd.memory() - two) / (CROWD - 2) as f64);
        let (before, idle) = (on_core(&crowd), scale.pick(IDLE_FOR, Duration::from_secs(1)));
        let switched = switches(&crowd);
        sleep(idle);
        self.switches.push((switches(&crowd) - switched) as f64 / seconds(idle));
        self.idle.push(seconds(on_core(&crowd).saturating_sub(before)) / seconds(idle));
        let killed = roles::now()?;
        for child in &children {
            kill(child.pid, Signal::SIGKILL).map_err(|e| format!("cannot kill a child: {e}"))?;
        }
        let back = hear(&mut crowd, CROWD)?;
        self.back.push(seconds(last(&back).saturating_sub(killed)));
        Ok(())
    }
}

fn hear(supervising: &mut Supervising, children: usize) -> Result<Vec<Probe>, String> {
    supervising.probes.take(children).map_err(|why| supervising.complaint(&why))
}

/// When the last child began.
fn last(children: &[Probe]) -> Duration {
    children.iter().map(|child| child.at).max().unwrap_or_default()
}

fn on_core(supervising: &Supervising) -> Duration {
    supervising.processes().into_iter().map(proc::time_on_core).sum()
}

fn switches(supervising: &Supervising) -> u64 {
    supervising.processes().into_iter().filter_map(proc::switches).sum()
}
