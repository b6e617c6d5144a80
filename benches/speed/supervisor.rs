//! The supervisor itself: memory, idleness, and how fast it replaces a child.

use crate::load::histogram::Histogram;
use crate::rig::{self, Rig};
use crate::table::{Table, micros, yes};
use crate::{Options, echo, proc, roles};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::Duration;

/// Resident memory that the supervisor shall stay under, in KiB.
const WANTED_RESIDENT: u64 = 4096;
/// From SIGKILL to the replacement's first act, in the median.
const WANTED_REPLACED: Duration = Duration::from_millis(3);
/// After a load, before idleness begins: what is due in a moment is done.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a child is up before it is killed, well past the `reset_after` of its configuration.
const UP: Duration = Duration::from_millis(30);
/// How long a replacement may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Memory after a load, and context switches while nothing happens.
pub(crate) fn measure_idleness(options: &Options) -> Result<(), String> {
    let address = rig::free_address()?;
    let mut rig = Rig::start(rig::folder()?, &echo::configuration(options, address, "saved"))?;
    rig.wait_for_address(address)?;
    let (warm_up, measured) = echo::load(options, address).map_err(|why| rig.complaint(&why))?;
    sleep(SETTLE);

    let mut processes = vec![(rig.pid(), "supervisor".to_owned())];
    for (pid, command) in proc::children(rig.pid()) {
        processes.push((pid, command.rsplit(' ').next().unwrap_or_default().to_owned()));
    }
    processes[1..].sort();
    let idle = Duration::from_secs(if options.quick { 1 } else { 5 });
    let before: Vec<_> = processes.iter().map(|(pid, _)| proc::switches(*pid)).collect();
    sleep(idle);
    let mut table = Table::new(&["process", "VmRSS", "Pss", "switches when idle", "wanted"]);
    for ((pid, name), before) in processes.iter().zip(before) {
        let switches = proc::switches(*pid).zip(before).map(|(after, before)| after - before);
        let resident = proc::status(*pid, "VmRSS:").unwrap_or_default();
        let mut wanted = format!("0 switches: {}", yes(switches == Some(0)));
        if *pid == rig.pid() {
            let kib: Option<u64> = resident.split(' ').next().and_then(|n| n.parse().ok());
            wanted = format!("under 4 MiB: {}, {wanted}", yes(kib.is_some_and(|kib| kib < WANTED_RESIDENT)));
        }
        let switches = switches.map_or_else(String::new, |n| n.to_string());
        table.row([name.clone(), resident, proc::proportional_size(*pid).unwrap_or_default(), switches, wanted]);
    }
    table.print(&format!("after that load, then {} s without any", idle.as_secs()));

    rig.stop()?;
    let sent = [warm_up.connections, measured.connections].concat();
    rig.check(&rig.path("messages"), options.format, &sent)?;
    Ok(())
}

/// From just before kill(2) of a child to its replacement's first act.
pub(crate) fn measure_replacement(options: &Options) -> Result<(), String> {
    let folder = rig::folder()?;
    let fifo = folder.path().join("began");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| format!("cannot make {}: {e}", fifo.display()))?;
    // With a writer of its own the FIFO has no end of file between two probes (fifo(7)).
    let ends = open(&fifo, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    let mut began = BufReader::new(File::from(ends.map_err(|e| format!("cannot open {}: {e}", fifo.display()))?));
    let command = roles::probe_command(&fifo)?;
    let rig = Rig::start(
        folder,
        &format!(
            r#"[children.probe]
command = {command:?}
backoff = {{ first = "0ms", reset_after = "10ms" }}
start_limit = {{ burst = 100000, within = "60s" }}
"#
        ),
    )?;
    let mut took = Histogram::new();
    let (mut pid, _) = next_probe(&rig, &mut began)?;
    for _ in 0..options.kills {
        sleep(UP);
        let killed = roles::clock().map_err(|e| format!("cannot read the clock: {e}"))?;
        kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|e| format!("cannot kill the probe: {e}"))?;
        let (next, at) = next_probe(&rig, &mut began)?;
        took.record(at.saturating_sub(killed));
        pid = next;
    }
    let median = took.quantile(0.5);
    let mut table = Table::new(&["replacement", "kills", "median", "p99", "wanted"]);
    table.row([
        "SIGKILL to first act".to_owned(),
        took.total().to_string(),
        micros(median),
        micros(took.quantile(0.99)),
        format!("median at most 3 ms: {}", yes(median <= WANTED_REPLACED)),
    ]);
    table.print("a child is killed; its replacement tells the time when its main begins");
    Ok(())
}

/// Process id and time of the probe that begins next.
fn next_probe(rig: &Rig, began: &mut BufReader<File>) -> Result<(i32, Duration), String> {
    let mut line = String::new();
    if began.buffer().is_empty() {
        let mut ready = [PollFd::new(began.get_ref().as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(PATIENCE).map_err(|e| e.to_string())?;
        match poll(&mut ready, timeout) {
            Ok(0) => return Err(rig.complaint("no probe began in time")),
            Ok(_) => {}
            Err(e) => return Err(format!("cannot wait for a probe: {e}")),
        }
    }
    began.read_line(&mut line).map_err(|e| format!("cannot hear of a probe: {e}"))?;
    let told = line.trim().split_once(' ').and_then(|(pid, time)| Some((pid.parse().ok()?, time.parse().ok()?)));
    told.map(|(pid, time)| (pid, Duration::from_nanos(time))).ok_or_else(|| format!("a probe said {line:?}"))
}
