//! A plumbd for the benchmark: a folder, a configuration, a supervisor.

use crate::load::checker::{self, Format};
use crate::load::generator::Connection;
use crate::{peer, proc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufReader, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where folders are made: beside the build, on a disk, because /tmp may be in memory.
pub(crate) const FOLDER: &str = env!("CARGO_TARGET_TMPDIR");
/// How long a start or a stop may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How often a fact is checked.
pub(crate) const LOOK: Duration = Duration::from_millis(1);

/// A new folder for one measurement.
///
/// # Errors
/// It can't be made.
pub(crate) fn folder() -> Result<TempDir, String> {
    TempDir::new_in(FOLDER).map_err(|e| format!("cannot make a folder in {FOLDER}: {e}"))
}

/// An address on loopback that nobody listens on now.
///
/// # Errors
/// There is none.
pub(crate) fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map_err(|e| format!("cannot bind 127.0.0.1: {e}"))
}

/// A running supervisor. It is killed, and its folder removed, when this is dropped.
pub(crate) struct Rig {
    supervisor: Child,
    folder: TempDir,
}

impl Rig {
    /// Runs `plumbd run` on this configuration, in this folder.
    ///
    /// # Errors
    /// The configuration can't be written, or the program can't be run.
    pub(crate) fn start(folder: TempDir, configuration: &str) -> Result<Rig, String> {
        Rig::start_with(folder, configuration, |_| ())
    }

    /// As [`Rig::start`]; also returns a function that waits until plumbd reports that all is
    /// up (sd_notify(3)).
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub(crate) fn start_notifying(
        folder: TempDir,
        configuration: &str,
    ) -> Result<(Rig, impl FnOnce() -> Result<(), String> + use<>), String> {
        let path = folder.path().join("notify");
        let cannot = |e| format!("cannot be told that plumbd is ready: {e}");
        let socket = UnixDatagram::bind(&path).map_err(cannot)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(cannot)?;
        let rig = Rig::start_with(folder, configuration, |command| {
            command.env("NOTIFY_SOCKET", path);
        })?;
        let ready = move || {
            let mut told = [0; 4096];
            loop {
                let n = socket.recv(&mut told).map_err(cannot)?;
                if told[..n].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                    return Ok(());
                }
            }
        };
        Ok((rig, ready))
    }

    fn start_with(folder: TempDir, configuration: &str, arrange: impl FnOnce(&mut Command)) -> Result<Rig, String> {
        let cannot = |e| format!("cannot run plumbd in {}: {e}", folder.path().display());
        let file = folder.path().join("plumbd.toml");
        fs::write(&file, format!("[daemon]\ncontrol = \"control\"\nlog = \"stderr\"\n\n{configuration}"))
            .map_err(cannot)?;
        let log = File::create(folder.path().join("log")).map_err(cannot)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumbd"));
        command.args([Path::new("run"), Path::new("-c"), &file]).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(cannot)?).stderr(log);
        arrange(&mut command);
        // The children don't inherit this mark, but they end with the supervisor.
        peer::mark(&mut command);
        let supervisor = command.spawn().map_err(cannot)?;
        Ok(Rig { supervisor, folder })
    }

    /// The supervisor's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.supervisor.id()
    }

    /// The supervisor and its children: process ids, and the plugins' names.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let mut children: Vec<_> = proc::children(self.pid())
            .into_iter()
            .map(|(pid, command)| (pid, command.rsplit(' ').next().unwrap_or_default().to_owned()))
            .collect();
        children.sort_by(|(_, a), (_, b)| a.cmp(b));
        [vec![(self.pid(), "supervisor".to_owned())], children].concat()
    }

    /// A path in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    /// It ends before that, or takes too long.
    pub(crate) fn wait_for_address(&mut self, address: SocketAddr) -> Result<(), String> {
        self.wait_for(|| TcpStream::connect(address).is_ok().then_some(Ok(())))
    }

    /// Waits for a fact while the supervisor runs, for at most [`PATIENCE`].
    ///
    /// # Errors
    /// The fact's own error, or why the wait was given up.
    pub(crate) fn wait_for<T>(&mut self, mut fact: impl FnMut() -> Option<Result<T, String>>) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(outcome) = fact() {
                return outcome;
            }
            if let Ok(Some(status)) = self.supervisor.try_wait() {
                return Err(self.complaint(&format!("plumbd ended early: {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.complaint("plumbd did not do in time what was waited for"));
            }
            sleep(LOOK);
        }
    }

    /// Asks it to drain and waits until it has.
    ///
    /// # Errors
    /// It does not end, or not with exit status 0.
    pub(crate) fn stop(&mut self) -> Result<(), String> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).map_err(|e| e.to_string())?);
        kill(pid, Signal::SIGTERM).map_err(|e| format!("cannot signal plumbd: {e}"))?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.supervisor.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.complaint(&format!("plumbd ended with {status}"))),
                _ => sleep(LOOK),
            }
        }
        Err(self.complaint("plumbd did not stop"))
    }

    /// Compares a message file, from this offset on, with what was sent to it.
    ///
    /// # Errors
    /// The file is wrong, and how; then its folder is kept.
    pub(crate) fn check(&mut self, file: &Path, from: u64, format: Format, sent: &[Connection]) -> Result<(), String> {
        let look = || {
            let mut reader = BufReader::with_capacity(1 << 20, File::open(file)?);
            reader.seek(SeekFrom::Start(from))?;
            checker::check(reader, format, sent)
        };
        let verdict = look().map_err(|e| self.complaint(&format!("cannot read {}: {e}", file.display())))?;
        if verdict.is_clean() {
            return Ok(());
        }
        self.folder.disable_cleanup(true);
        Err(self.complaint(&format!("{} (kept) is not what was sent: {verdict}", file.display())))
    }

    /// What went wrong, with the last lines that plumbd logged.
    pub(crate) fn complaint(&self, what: &str) -> String {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(10)..].join("\n  ");
        format!("{what}; its log ends:\n  {last}")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // If it has already ended, there is nothing to kill.
        let _gone = self.supervisor.kill();
        let _reaped = self.supervisor.wait();
    }
}
