//! The executable: its size, and how long it takes from nothing to ready.

use crate::echo::load;
use crate::rig::{self, Rig};
use crate::servers::{Server, configuration};
use crate::table::{Line, Part, median, seconds, short, size, time};
use crate::{Row, Scale, proc};
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The targets: bytes of the executable, and seconds until it is ready.
const SIZE: f64 = 3.0 * 1024.0 * 1024.0;
const START: f64 = 0.015;
/// The pause after a load, so that work that is due soon is done.
const SETTLE: Duration = Duration::from_secs(1);

pub(crate) const ROWS: &[Row] =
    &[Row { name: "footprint", about: "the executable's size; start to ready; memory after a load", measure }];

fn measure(scale: &Scale) -> Result<Part, String> {
    let program = env!("CARGO_BIN_EXE_plumbd");
    let bytes = fs::metadata(program).map_err(|e| format!("cannot look at {program}: {e}"))?.len();
    let mut starts = Vec::new();
    for _ in 0..scale.pick(20, 5) {
        let (folder, address) = (rig::folder()?, rig::free_address()?);
        let begin = Instant::now();
        let (mut rig, ready) = Rig::start_notifying(folder, &configuration(address, "saved", 1))?;
        ready()?;
        starts.push(seconds(begin.elapsed()));
        rig.stop()?;
    }
    let mut lines = vec![
        Line::at_most("the executable, stripped", bytes as f64, SIZE, size),
        Line::at_most("exec to READY=1, echo and logger up, median", median(&starts), START, time),
    ];
    after_a_load(scale, &mut lines)?;
    Ok(Part { lines, ..Part::default() })
}

/// The memory of each process after a load, and whether all of them sleep then.
fn after_a_load(scale: &Scale, lines: &mut Vec<Line>) -> Result<(), String> {
    let running = Server::Plumbd("saved", 1).start()?;
    let (outcome, _) = load(&running, 50, scale.load)?;
    sleep(SETTLE);
    let switches = || running.processes().into_iter().filter_map(|(pid, _)| proc::switches(pid)).sum::<u64>();
    let before = switches();
    sleep(SETTLE);
    let switched = switches() - before;
    for (pid, name) in running.processes() {
        let (resident, share) = (proc::resident(pid), proc::proportional_size(pid));
        let figure = format!("{} (PSS {})", size(resident.unwrap_or(0.0)), size(share.unwrap_or(0.0)));
        lines.push(Line::figure(&format!("{name}'s memory after a load, 50 connections: VmRSS"), figure));
    }
    let what = "echo, logger and supervisor after a load: context switches in a second";
    lines.push(Line::at_most(what, switched as f64, 0.0, short));
    running.finish(&outcome.connections)
}
