//! Children that report when they began (`probe.c`), and the FIFO to which they report.

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use plumbd::sys::pipe::set_capacity;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// How long a child may take to begin.
const PATIENCE: Duration = Duration::from_secs(60);
/// Room for the reports of a thousand of them at once.
const CAPACITY: usize = 1 << 18;

/// A child that began.
pub(crate) struct Probe {
    pub(crate) pid: Pid,
    /// When it began, on CLOCK_MONOTONIC.
    pub(crate) at: Duration,
}

/// The FIFO to which children report that they began.
pub(crate) struct Probes {
    fifo: BufReader<File>,
}

impl Probes {
    pub(crate) fn listen(path: &Path) -> Result<Probes, String> {
        let cannot = |e| format!("cannot listen at {}: {e}", path.display());
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(cannot)?;
        // This keeps a writer open, so that there is no end of file between two children (fifo(7)).
        let both = open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(cannot)?;
        set_capacity(&both, CAPACITY).map_err(|e| format!("cannot widen {}: {e}", path.display()))?;
        Ok(Probes { fifo: BufReader::new(both.into()) })
    }

    /// The next child that begins.
    pub(crate) fn next(&mut self) -> Result<Probe, String> {
        if self.fifo.buffer().is_empty() {
            let mut ready = [PollFd::new(self.fifo.get_ref().as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(PATIENCE).map_err(|e| e.to_string())?;
            if poll(&mut ready, timeout).map_err(|e| format!("cannot wait for a child: {e}"))? == 0 {
                return Err(format!("no child began in {} s", PATIENCE.as_secs()));
            }
        }
        let mut line = String::new();
        self.fifo.read_line(&mut line).map_err(|e| format!("cannot hear of a child: {e}"))?;
        let told = line.trim().split_once(' ').and_then(|(pid, at)| Some((pid.parse().ok()?, at.parse().ok()?)));
        told.map(|(pid, at)| Probe { pid: Pid::from_raw(pid), at: Duration::from_nanos(at) })
            .ok_or_else(|| format!("a child said {line:?}"))
    }

    /// The next `count` children that begin.
    pub(crate) fn take(&mut self, count: usize) -> Result<Vec<Probe>, String> {
        (0..count).map(|_| self.next()).collect()
    }
}
