//! Supervisors with children that report when they began; all run the same program.

use crate::packages::program;
use crate::peer::{self, Peer};
use crate::probes::Probes;
use crate::proc;
use crate::rig::{self, Rig};
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A program that starts others and restarts them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Supervisor {
    Plumbd,
    S6,
    Runit,
    Supervisord,
}

/// The supervisors other than plumbd.
pub(crate) const OTHERS: [(Supervisor, &str); 3] = [
    (Supervisor::S6, "s6-svscan, s6-supervise"),
    (Supervisor::Runit, "runsvdir, runsv"),
    (Supervisor::Supervisord, "supervisord"),
];

/// A running supervisor. It is ended, with all of its children, when this is dropped.
pub(crate) struct Supervising {
    pub(crate) probes: Probes,
    process: Process,
}

enum Process {
    Plumbd(Rig),
    Peer(Peer, #[allow(dead_code, reason = "a guard")] TempDir),
}

impl Supervisor {
    /// Starts it with this many children, without waiting until they have begun.
    ///
    /// # Errors
    /// It is missing, or can't be run.
    pub(crate) fn start(self, children: usize) -> Result<Supervising, String> {
        let folder = rig::folder()?;
        let fifo = folder.path().join("began");
        let probes = Probes::listen(&fifo)?;
        let probe = peer::probe()?;
        if self == Supervisor::Plumbd {
            let rig = Rig::start(folder, &configuration(probe, &fifo, children))?;
            return Ok(Supervising { probes, process: Process::Plumbd(rig) });
        }
        let mut command = match self {
            Supervisor::Supervisord => supervisord(folder.path(), probe, &fifo, children)?,
            _ => {
                let services = folder.path().join("services");
                make_services(&services, probe, &fifo, children)?;
                let mut command = Command::new(program(if self == Supervisor::S6 { "s6-svscan" } else { "runsvdir" })?);
                if self == Supervisor::S6 {
                    command.args(["-c", "1100"]);
                }
                command.arg(services);
                command
            }
        };
        let log = File::create(folder.path().join("log")).map_err(|e| format!("cannot create a log: {e}"))?;
        let also = log.try_clone().map_err(|e| format!("cannot create a log: {e}"))?;
        let peer = Peer::start(command.stdout(log).stderr(also))?;
        Ok(Supervising { probes, process: Process::Peer(peer, folder) })
    }
}

impl Supervising {
    /// The processes that supervise, without the children.
    pub(crate) fn processes(&self) -> Vec<u32> {
        match &self.process {
            Process::Plumbd(rig) => vec![rig.pid()],
            Process::Peer(peer, _) => {
                let probe = peer::probe().ok();
                let supervises = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).ok().as_deref() != probe;
                peer.processes().into_iter().filter(supervises).collect()
            }
        }
    }

    /// The bytes of their memory; each page is divided by the number of processes that share it.
    pub(crate) fn memory(&self) -> f64 {
        self.processes().into_iter().filter_map(proc::proportional_size).sum()
    }

    /// What went wrong, with the last lines of its log.
    pub(crate) fn complaint(&self, what: &str) -> String {
        match &self.process {
            Process::Plumbd(rig) => rig.complaint(what),
            Process::Peer(_, folder) => {
                let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                format!("{what} {:?}", log.lines().rev().take(3).collect::<Vec<_>>())
            }
        }
    }
}

fn configuration(probe: &Path, fifo: &Path, children: usize) -> String {
    let mut text = String::new();
    add_children(&mut text, probe, fifo, children);
    text
}

/// Adds a section for each child. A child that was up for a second is restarted at once, as with
/// the other supervisors.
pub(crate) fn add_children(text: &mut String, probe: &Path, fifo: &Path, children: usize) {
    for number in 0..children {
        // Writing to a String can't fail.
        let _infallible = write!(
            text,
            "[children.probe{number}]\ncommand = [{probe:?}, {fifo:?}]\n\
             backoff = {{ first = \"0ms\", reset_after = \"1s\" }}\n\
             start_limit = {{ burst = 100000, within = \"60s\" }}\n\n"
        );
    }
}

/// Makes a folder for each service, which runs the program itself, without a shell.
fn make_services(services: &Path, probe: &Path, fifo: &Path, children: usize) -> Result<(), String> {
    let make = |number: usize| {
        let service: PathBuf = services.join(format!("probe{number}"));
        fs::create_dir_all(&service)?;
        symlink(probe, service.join("run"))
    };
    (0..children).try_for_each(make).map_err(|e| format!("cannot make {}: {e}", services.display()))?;
    // The program looks for it beside its service's folder. The dot hides it from the scan for services.
    symlink(fifo, services.join(".began")).map_err(|e| format!("cannot link the FIFO: {e}"))
}

fn supervisord(folder: &Path, probe: &Path, fifo: &Path, children: usize) -> Result<Command, String> {
    let settings = folder.join("supervisord.conf");
    let text = format!(
        "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={0}/pid\nminfds=8192\n\
         [program:probe]\ncommand={1} {2}\nnumprocs={children}\nprocess_name=probe%(process_num)04d\n\
         autorestart=true\nstartsecs=0\nstdout_logfile=NONE\nstderr_logfile=NONE\n",
        folder.display(),
        probe.display(),
        fifo.display()
    );
    fs::write(&settings, text).map_err(|e| format!("cannot configure supervisord: {e}"))?;
    let mut command = Command::new(program("supervisord")?);
    command.arg("-n").arg("-c").arg(settings);
    Ok(command)
}
