//! Programs of others, which run beside plumbd for as long as they are measured.

use crate::rig::{FOLDER, LOOK, PATIENCE};
use nix::unistd::Pid;
use plumbd::sys::process::force;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Instant;

/// In the environment of a peer and of all that it starts: by this they are found when it ends.
const MARK: &str = "PLUMBD_COMPARE";

/// A peer; it and all that it started is killed when it is dropped.
pub(crate) struct Peer {
    name: String,
    process: Child,
    mark: String,
}

impl Peer {
    /// Runs a command. It is told the end of this program by that of its standard input.
    ///
    /// # Errors
    /// Where it can't be run.
    pub(crate) fn start(command: &mut Command) -> Result<Peer, String> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = command.get_program().to_string_lossy().into_owned();
        let value = format!("{}.{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let process =
            command.env(MARK, &value).stdin(Stdio::piped()).spawn().map_err(|e| format!("cannot run {name}: {e}"))?;
        Ok(Peer { name, process, mark: format!("{MARK}={value}\0") })
    }

    /// It and all that it started, in the order of their ids.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let marked = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            [&environment[..], b"\0"].concat().windows(self.mark.len()).any(|part| part == self.mark.as_bytes())
        };
        let mut all: Vec<u32> = pids.filter(marked).collect();
        all.sort_unstable();
        all
    }

    /// Waits until it takes connections.
    ///
    /// # Errors
    /// Where it ends before, or takes too long.
    pub(crate) fn wait_for_address(&mut self, address: SocketAddr) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(format!("{} ended early: {status}", self.name));
            }
            if Instant::now() > deadline {
                return Err(format!("{} takes no connection", self.name));
            }
            sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Who starts others goes first, else it starts them again.
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() > deadline {
                return;
            }
            for pid in left {
                i32::try_from(pid).map(Pid::from_raw).into_iter().for_each(force);
            }
        }
    }
}

/// One of the programs in C beside this file, compiled once.
///
/// # Errors
/// Where there is no compiler, or it refuses.
pub(crate) fn probe() -> Result<&'static Path, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    built(&BUILT, "probe", include_str!("probe.c"))
}

/// The server of the textbooks: `textbook PORT FILE`.
///
/// # Errors
/// As [`probe`].
pub(crate) fn textbook() -> Result<&'static Path, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    built(&BUILT, "textbook", include_str!("textbook.c"))
}

fn built(once: &'static OnceLock<Result<PathBuf, String>>, name: &str, source: &str) -> Result<&'static Path, String> {
    let outcome = once.get_or_init(|| compile(name, source));
    outcome.as_deref().map_err(Clone::clone)
}

fn compile(name: &str, source: &str) -> Result<PathBuf, String> {
    let program = Path::new(FOLDER).join(name);
    let text = program.with_extension("c");
    fs::write(&text, source).map_err(|e| format!("cannot write {}: {e}", text.display()))?;
    // Without a dynamic linker it begins sooner, so less of what is measured is its own.
    let compiled = ["-static", "-g0"].iter().any(|how| {
        let cc = Command::new("cc").args(["-O2", how, "-o"]).args([&program, &text]).stderr(Stdio::null()).status();
        cc.is_ok_and(|status| status.success())
    });
    if compiled { Ok(program) } else { Err(format!("cannot compile {name}.c: cc is missing or refuses it")) }
}
