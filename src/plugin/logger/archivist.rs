//! The archivist: a process that compresses archives and removes those that are too many, at
//! low priority. This file also has the logger's side of it.

use super::archives::{self, Archive, list};
use super::compress::{Outcome, compress, remove_workshop, workshop_path};
use super::orders::{Flaw, Orders};
use super::room;
use super::settings::Settings;
use crate::plugin::start::Start;
use crate::sys::background::stand_back;
use crate::sys::map::memory_file;
use crate::sys::process::{self, Program};
use crate::sys::signals::Signals;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// `plumbd plugin NAME`.
pub const NAME: &str = "logger-archivist";

/// Makes one pass over the archives of a message file. It gets the settings of the file's
/// logger.
///
/// # Errors
/// Something could not be done. Everything else is done.
pub fn run(start: Start) -> Result<(), String> {
    let settings = Settings::read(&start.settings).map_err(|e| format!("cannot read PLUMBD_SETTINGS: {e}"))?;
    if let Err(error) = stand_back() {
        log::warn!("cannot lower the archivist's priority: {error}");
    }
    Pass { settings, signals: start.signals, failed: 0 }.run()
}

/// A pass under way.
struct Pass {
    settings: Settings,
    signals: Signals,
    failed: usize,
}

impl Pass {
    fn run(mut self) -> Result<(), String> {
        let rotate = self.settings.rotate.clone();
        self.remove(rotate.keep, None)?;
        for archive in self.list()? {
            if !self.compress(&archive) {
                return Ok(());
            }
        }
        self.remove(rotate.keep, rotate.keep_size)?;
        if let Err(why) = remove_workshop(&self.settings.file) {
            self.failed += 1;
            log::error!("{why}");
        }
        match self.failed {
            0 => Ok(()),
            _ => Err(format!("cannot take care of every archive of {}", self.settings.file.display())),
        }
    }

    /// Returns false if it was asked to stop.
    fn compress(&mut self, archive: &Archive) -> bool {
        let Some(to) = archive.wanted(self.settings.rotate.compress) else {
            return true;
        };
        let signals = &mut self.signals;
        match compress(&self.settings.file, &archive.time, to, || signals.pending().next().is_some()) {
            Ok(Outcome::Stopped) => return false,
            Ok(Outcome::Done | Outcome::Left) => {}
            Err(why) => {
                self.failed += 1;
                log::error!("{why}");
            }
        }
        true
    }

    fn remove(&mut self, keep: Option<u64>, keep_size: Option<u64>) -> Result<(), String> {
        let archives = self.list()?;
        let count = archives::too_many(&archives, keep, keep_size);
        for archive in &archives[..count] {
            match archives::remove(&self.settings.file, archive) {
                Ok(true) => log::debug!("removed the archive of {}", archive.time),
                Ok(false) => log::warn!("cannot remove the archive of {}: another process has locked it", archive.time),
                Err(error) => {
                    self.failed += 1;
                    log::error!("cannot remove the archive of {}: {error}", archive.time);
                }
            }
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<Archive>, String> {
        let file = &self.settings.file;
        list(file).map_err(|e| format!("cannot look for the archives of {}: {e}", file.display()))
    }
}

/// How long to wait after a failure before the archivist is started again, at first and at
/// most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// How soon an archivist that has hung up but was not dead yet is checked again.
const DYING: Duration = Duration::from_millis(10);

/// How long a killed archivist may take to end.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// The logger's archivist.
#[derive(Debug)]
pub struct Archivist {
    settings: String,
    child: Option<Child>,
    /// Whether more work came while it was running.
    more: bool,
    again_at: Option<Instant>,
    /// How long to wait after the next failure.
    wait: Duration,
}

#[derive(Debug)]
struct Child {
    pid: Pid,
    /// A pipe whose other end only the process has, so it hangs up when the process ends.
    /// A pidfd would report that too, but some containers refuse pidfd_open(2).
    ended: OwnedFd,
    /// Whether the pipe has hung up.
    hung_up: bool,
    exec: OwnedFd,
}

/// The outcome of a pass.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// Everything was done.
    Well,
    /// Something failed, and why.
    Badly(String),
}

impl Archivist {
    /// No process yet, for a logger with these settings.
    pub fn new(settings: String) -> Archivist {
        Archivist { settings, child: None, more: false, again_at: None, wait: AGAIN.0 }
    }

    /// Takes the settings out, because this archivist is given up.
    pub fn take_settings(&mut self) -> String {
        std::mem::take(&mut self.settings)
    }

    /// Starts it if rotation is on and it has something to do.
    pub fn start_for_work(&mut self, settings: &Settings, orders: &mut Orders) {
        if !settings.rotate.is_on() {
            return;
        }
        let left = workshop_path(&settings.file).exists();
        if list(&settings.file).is_ok_and(|archives| left || archives::is_work(&archives, &settings.rotate)) {
            self.start(orders);
        }
    }

    /// Starts it, or makes it start again when it is done. If it can't be started, that
    /// is reported and tried again.
    pub fn start(&mut self, orders: &mut Orders) {
        self.again_at = None;
        if self.child.is_some() {
            self.more = true;
            return;
        }
        match spawn(&self.settings) {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                self.try_later();
                orders.set_flaw(Flaw::Archives, &format!("cannot start {NAME}: {error}"));
            }
        }
    }

    /// Looks after it: reaps it, and starts it again when that is due.
    pub fn tend(&mut self, orders: &mut Orders) {
        match self.reap() {
            Ok(None) => {}
            Ok(Some(Ended::Well)) => orders.set_flaw(Flaw::Archives, ""),
            Ok(Some(Ended::Badly(why))) => orders.set_flaw(Flaw::Archives, &why),
            Err(error) => log::error!("cannot wait for the archivist: {error}"),
        }
        if self.again_at.is_some_and(|at| at <= Instant::now()) {
            self.start(orders);
        }
    }

    /// Frees room if an error says that there is none and the settings allow it.
    /// Returns whether it makes sense to try again.
    pub fn make_room(&mut self, settings: &Settings, error: &io::Error) -> bool {
        // The archive that it is writing takes room too.
        if room::may_make_room(settings, error) {
            self.kill();
        }
        room::make_room(settings, error)
    }

    /// Its process, if it is running, and the pipe that hangs up when that ends.
    pub fn at_work(&self) -> Option<(Pid, BorrowedFd<'_>)> {
        let child = self.child.as_ref().filter(|child| !child.hung_up)?;
        Some((child.pid, child.ended.as_fd()))
    }

    /// The pipe that has hung up, if its process is not reaped yet.
    pub fn hung_up(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref().filter(|child| child.hung_up).map(|child| child.ended.as_fd())
    }

    /// The pipe has hung up, so the process can be reaped now or in a moment.
    pub fn hang_up(&mut self) {
        if let Some(child) = &mut self.child {
            child.hung_up = true;
        }
    }

    /// When to call [`Archivist::tend`] again: it is due to be started, or it has
    /// hung up and was not dead yet.
    pub fn again_at(&self) -> Option<Instant> {
        let dying = self.child.as_ref().filter(|child| child.hung_up).map(|_| Instant::now() + DYING);
        [dying, self.again_at].into_iter().flatten().min()
    }

    /// Reaps it and returns the outcome of its pass; `None` if it has not ended.
    ///
    /// # Errors
    /// From waitpid(2).
    fn reap(&mut self) -> io::Result<Option<Ended>> {
        let Some(child) = &self.child else {
            return Ok(None);
        };
        let Some(exit) = process::reap(child.pid)? else {
            return Ok(None);
        };
        let ended = match process::outcome(&child.exec, Path::new("/proc/self/exe")) {
            Ok(process::Exec::Failed(why)) => Ended::Badly(format!("cannot start {NAME}: {why}")),
            _ if exit.success() => Ended::Well,
            _ => Ended::Badly(format!("{NAME} {exit}: the log says why")),
        };
        self.child = None;
        if ended == Ended::Well {
            self.wait = AGAIN.0;
        } else {
            self.try_later();
        }
        if std::mem::take(&mut self.more) {
            self.again_at = Some(Instant::now());
        }
        Ok(Some(ended))
    }

    fn try_later(&mut self) {
        self.again_at = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(AGAIN.1);
    }

    /// Kills it, whatever it is doing. It is started again later. If SIGKILL does not
    /// end it soon, because its disk does not answer, it is reaped later.
    fn kill(&mut self) {
        let Some(child) = &self.child else { return };
        process::force(child.pid);
        let until = Instant::now() + KILL_WAIT;
        while let Ok(None) = process::reap(child.pid) {
            if Instant::now() >= until {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.child = None;
        self.try_later();
    }
}

impl Drop for Archivist {
    /// Kills it. The kernel would do that when the logger ends; this is sooner. The process
    /// that inherits it reaps it.
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            process::force(child.pid);
        }
    }
}

/// Starts an archivist, which gets its input as a plugin does.
fn spawn(settings: &str) -> io::Result<Child> {
    let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
    let settings_fd = memory_file(c"settings", 0)?;
    File::from(settings_fd.try_clone()?).write_all(settings.as_bytes())?;
    let stderr = io::stderr();
    let mut environment = vec![c"PLUMBD_SETTINGS=3".to_owned()];
    for name in ["PLUMBD_CHILD", "PLUMBD_START", crate::journal::plugin::LEVEL, "TZ"] {
        if let Ok(value) = std::env::var(name) {
            environment.push(CString::new(format!("{name}={value}"))?);
        }
    }
    let (ended, held) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let own: &CStr = c"/proc/self/exe";
    let spawned = process::spawn(&Program {
        // This is the running version, even if its file was replaced or removed since.
        path: own,
        arguments: &[c"plumbd".to_owned(), c"plugin".to_owned(), CString::new(NAME)?],
        environment: &environment,
        descriptors: &[null.as_fd(), null.as_fd(), stderr.as_fd(), settings_fd.as_fd(), held.as_fd()],
        identity: None,
        directory: None,
        umask: 0o077,
        soft_descriptors: None,
        limits: &[],
        death_signal: Signal::SIGKILL,
        at_hand: true,
    })?;
    Ok(Child { pid: spawned.pid, ended, hung_up: false, exec: spawned.status })
}
