//! Other programs, which run while they are measured.

use crate::rig::{FOLDER, LOOK, PATIENCE};
use crate::roles;
use nix::unistd::Pid;
use plumbd::sys::process::force;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Instant;

/// The environment variable by which all processes that a run started are found. Its value is
/// the run's process id and a number.
const MARK: &str = "PLUMBD_COMPARE";

/// A peer. It and all that it started is killed when this is dropped.
pub(crate) struct Peer {
    name: String,
    process: Child,
    mark: String,
}

/// The beginning of all marks of this run.
pub(crate) fn run() -> String {
    format!("{MARK}={}.", std::process::id())
}

/// Puts a mark into a command's environment, and returns it.
pub(crate) fn mark(command: &mut Command) -> String {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let value = format!("{}.{}.", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
    command.env(MARK, &value);
    format!("{MARK}={value}")
}

/// Processes whose mark begins with this, in the order of their ids.
fn marked(mark: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_marked = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(mark.as_bytes()))
    };
    let mut all: Vec<u32> = pids.filter(is_marked).collect();
    all.sort_unstable();
    all
}

/// Kills them in order, because a program that starts others has a lower id, and would
/// start them again.
pub(crate) fn end_all(mark: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = marked(mark);
        if left.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in left {
            i32::try_from(pid).map(Pid::from_raw).into_iter().for_each(force);
        }
    }
}

/// Ends what this run started even if the run itself is killed or interrupted.
pub(crate) struct Janitor(Child);

impl Janitor {
    /// Starts it, in a process group of its own, so that it does not get a terminal's Ctrl-C.
    ///
    /// # Errors
    /// It can't be run.
    pub(crate) fn start() -> Result<Janitor, String> {
        let started = roles::janitor_command()?.stdin(Stdio::piped()).process_group(0).spawn();
        started.map(Janitor).map_err(|e| format!("cannot run the janitor: {e}"))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _reaped = self.0.wait();
    }
}

impl Peer {
    /// Runs a command. Its standard input ends when this program ends.
    ///
    /// # Errors
    /// It can't be run.
    pub(crate) fn start(command: &mut Command) -> Result<Peer, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mark = mark(command);
        let process = command.stdin(Stdio::piped()).spawn().map_err(|e| format!("cannot run {name}: {e}"))?;
        Ok(Peer { name, process, mark })
    }

    /// The peer and all that it started, in the order of their ids.
    pub(crate) fn processes(&self) -> Vec<u32> {
        marked(&self.mark)
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    /// It ends before that, or takes too long.
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
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
        end_all(&self.mark);
    }
}

/// One of the programs in C beside this file, compiled once.
///
/// # Errors
/// There is no compiler, or it fails.
pub(crate) fn probe() -> Result<&'static Path, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    // A stack canary would be read from a place that only a C library sets up.
    built(&BUILT, "probe", include_str!("probe.c"), &["-nostdlib", "-fno-stack-protector"])
}

/// The server of the textbooks: `textbook PORT FILE`.
///
/// # Errors
/// As [`probe`].
pub(crate) fn textbook() -> Result<&'static Path, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    built(&BUILT, "textbook", include_str!("textbook.c"), &[])
}

fn built(
    once: &'static OnceLock<Result<PathBuf, String>>,
    name: &str,
    source: &str,
    flags: &[&str],
) -> Result<&'static Path, String> {
    let outcome = once.get_or_init(|| compile(name, source, flags));
    outcome.as_deref().map_err(Clone::clone)
}

fn compile(name: &str, source: &str, flags: &[&str]) -> Result<PathBuf, String> {
    let program = Path::new(FOLDER).join(name);
    let text = program.with_extension("c");
    fs::write(&text, source).map_err(|e| format!("cannot write {}: {e}", text.display()))?;
    // Without a dynamic linker it begins sooner, so less of the measured time is its own.
    let compiled = ["-static", "-g0"].iter().any(|how| {
        let mut cc = Command::new("cc");
        cc.args(["-O2", how]).args(flags).arg("-o").args([&program, &text]).stderr(Stdio::null());
        cc.status().is_ok_and(|status| status.success())
    });
    if compiled { Ok(program) } else { Err(format!("cannot compile {name}.c: cc is missing or refuses it")) }
}
