//! How fast the supervisor replaces a child that was killed.

use crate::load::histogram::Histogram;
use crate::rig::{self, Rig};
use crate::table::{Table, micros, yes};
use crate::{Options, roles};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// From SIGKILL to the replacement's first act, in the median.
const WANTED: Duration = Duration::from_millis(3);
/// How long a child is up before it is killed, well past the `reset_after` of its configuration.
const UP: Duration = Duration::from_millis(30);
/// How long a replacement may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// From just before kill(2) of a child to its replacement's first act, beside
/// what starting that program takes at all.
pub(crate) fn measure(options: &Options) -> Result<(), String> {
    let folder = rig::folder()?;
    let fifo = folder.path().join("began");
    let mut probes = Probes::listen(&fifo)?;
    let command = roles::probe_command(&fifo)?;
    let started = starts(options.kills, &command, &mut probes)?;
    let configuration = format!(
        r#"[children.probe]
command = {command:?}
backoff = {{ first = "0ms", reset_after = "10ms" }}
start_limit = {{ burst = 100000, within = "60s" }}
"#
    );
    let rig = Rig::start(folder, &configuration)?;
    let replaced = replacements(options.kills, &mut probes).map_err(|why| rig.complaint(&why))?;

    let mut table = Table::new(&["replacement", "times", "median", "p99", "wanted"]);
    let mut row = |name: &str, took: &Histogram, wanted: String| {
        let quantile = |share| micros(took.quantile(share));
        table.row([name.to_owned(), took.total().to_string(), quantile(0.5), quantile(0.99), wanted]);
    };
    row("started from here", &started, String::new());
    let wanted = format!("median at most 3 ms: {}", yes(replaced.quantile(0.5) <= WANTED));
    row("replaced by plumbd", &replaced, wanted);
    table.print("from spawn, or from SIGKILL of the child before it, until a program's main begins");
    Ok(())
}

/// Starts and ends the program without plumbd.
fn starts(times: usize, command: &[String], probes: &mut Probes) -> Result<Histogram, String> {
    let mut took = Histogram::new();
    for _ in 0..times {
        let begin = now()?;
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .spawn()
            .map_err(|e| format!("cannot start the probe: {e}"))?;
        let began = probes.next();
        child.kill().and_then(|()| child.wait()).map_err(|e| format!("cannot end the probe: {e}"))?;
        took.record(began?.at.saturating_sub(begin));
        sleep(UP);
    }
    Ok(took)
}

/// Kills the child and awaits its replacement, again and again.
fn replacements(times: usize, probes: &mut Probes) -> Result<Histogram, String> {
    let mut took = Histogram::new();
    let mut probe = probes.next()?;
    for _ in 0..times {
        sleep(UP);
        let killed = now()?;
        kill(probe.pid, Signal::SIGKILL).map_err(|e| format!("cannot kill the probe: {e}"))?;
        probe = probes.next()?;
        took.record(probe.at.saturating_sub(killed));
    }
    Ok(took)
}

fn now() -> Result<Duration, String> {
    roles::clock().map_err(|e| format!("cannot read the clock: {e}"))
}

/// A probe that began.
struct Probe {
    pid: Pid,
    /// On CLOCK_MONOTONIC.
    at: Duration,
}

/// Where probes tell that they began.
struct Probes {
    fifo: BufReader<File>,
}

impl Probes {
    fn listen(path: &Path) -> Result<Probes, String> {
        let cannot = |e| format!("cannot listen at {}: {e}", path.display());
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(cannot)?;
        // With a writer of its own the FIFO has no end of file between two probes (fifo(7)).
        let both = open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(cannot)?;
        Ok(Probes { fifo: BufReader::new(both.into()) })
    }

    /// The next one that begins.
    fn next(&mut self) -> Result<Probe, String> {
        if self.fifo.buffer().is_empty() {
            let mut ready = [PollFd::new(self.fifo.get_ref().as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(PATIENCE).map_err(|e| e.to_string())?;
            if poll(&mut ready, timeout).map_err(|e| format!("cannot wait for a probe: {e}"))? == 0 {
                return Err("no probe began in time".to_owned());
            }
        }
        let mut line = String::new();
        self.fifo.read_line(&mut line).map_err(|e| format!("cannot hear of a probe: {e}"))?;
        let told = line.trim().split_once(' ').and_then(|(pid, at)| Some((pid.parse().ok()?, at.parse().ok()?)));
        told.map(|(pid, at)| Probe { pid: Pid::from_raw(pid), at: Duration::from_nanos(at) })
            .ok_or_else(|| format!("a probe said {line:?}"))
    }
}
