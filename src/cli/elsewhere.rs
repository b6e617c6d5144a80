//! Where daemons run, for an operator who asked at a socket where none answers.

use super::socket::Socket;
use super::{Failure, output};
use crate::control::client::{self, ask_within};
use crate::control::{Request, Response};
use crate::supervisor::holder;
use crate::sys::descendants::{self, Process};
use nix::unistd::{Pid, Uid, User, geteuid};
use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a daemon that is not the one that was asked may take to say which one it is.
const PATIENCE: Duration = Duration::from_millis(500);

/// No more daemons than this are listed.
const MOST: usize = 5;

/// The failure of a command that could not reach its daemon, with what may help.
pub(super) fn unreachable(status: u8, failure: &client::Failure) -> Failure {
    let mut why = failure.to_string();
    if let client::Failure::Unreachable { path, cause } = failure {
        if cause.kind() == std::io::ErrorKind::PermissionDenied {
            why.push_str(&format!("; it belongs to {}: use sudo", owner(path)));
        } else if failure.no_daemon() {
            running().iter().for_each(|daemon| why.push_str(&format!("\nrunning here: {daemon}")));
        }
    }
    Failure::new(status, why)
}

/// For a shutdown that finds no daemon: it is done, and says so, unless a daemon with the same
/// configuration runs at another socket.
pub(super) fn has_ended(socket: &Socket, path: &Path, failure: &client::Failure) -> Result<u8, Failure> {
    let file = match socket {
        Socket::Configured(file) => crate::config::find(file.as_deref()),
        Socket::Given(_) => None,
    };
    let own = file.and_then(|file| file.canonicalize().ok());
    let runs = |process: &Process, all: &[Process]| {
        let config = control(process, all).as_deref().and_then(config);
        config.and_then(|config| Path::new(&config).canonicalize().ok()) == own
    };
    let (daemons, all) = daemons();
    if own.is_some() && daemons.iter().any(|daemon| runs(daemon, &all)) {
        return Err(unreachable(Failure::FAILED, failure));
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    output::tell(&format!("plumbd: no daemon runs at {}", path.display()));
    Ok(0)
}

/// The user who owns that socket or, if that may not be seen, its folder.
fn owner(path: &Path) -> String {
    let owners = path.ancestors().take(2).find_map(|path| path.symlink_metadata().ok()).map(|found| found.uid());
    owners.map_or_else(|| "another user".to_owned(), name)
}

fn name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| format!("user {uid}"), |user| user.name)
}

/// Every daemon of this machine that can be seen, in words.
fn running() -> Vec<String> {
    let (daemons, all) = daemons();
    daemons.iter().take(MOST).map(|process| described(process, &all)).collect()
}

/// Every daemon, and every process.
fn daemons() -> (Vec<Process>, Vec<Process>) {
    let mut all = descendants::all().unwrap_or_default();
    all.sort_by_key(|process| process.pid);
    let mut daemons: Vec<Process> = all.iter().copied().filter(|process| is_daemon(process.pid)).collect();
    let pids: BTreeSet<Pid> = daemons.iter().map(|process| process.pid).collect();
    // Processes with which a daemon looks at the system have its words.
    daemons.retain(|process| !pids.contains(&process.parent));
    (daemons, all)
}

/// Whether it was started as `plumbd run`.
fn is_daemon(pid: Pid) -> bool {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = words.split(|&byte| byte == 0);
    let program = words.next().and_then(|word| word.rsplit(|&byte| byte == b'/').next());
    program == Some(b"plumbd") && words.next() == Some(b"run")
}

fn described(process: &Process, all: &[Process]) -> String {
    let pid = process.pid;
    let Some(control) = control(process, all) else {
        let user = Process::user(pid).map_or_else(|| "another user".to_owned(), name);
        let advice = if geteuid().is_root() { "" } else { ": `sudo plumbd` may find it" };
        return format!("process {pid} of {user}{advice}");
    };
    let config = config(&control).map_or_else(String::new, |config| format!(", {config}"));
    format!("process {pid}{config} (--control {})", control.display())
}

/// Its control socket, which it has to itself, and so has its user: root or this one. Another user's
/// process may only look like a daemon, and is asked nothing.
fn control(process: &Process, all: &[Process]) -> Option<PathBuf> {
    Process::user(process.pid).filter(|user| [0, geteuid().as_raw()].contains(user))?;
    let mut own = holder::sockets_of(process.pid);
    for child in all.iter().filter(|other| other.parent == process.pid) {
        let given = holder::sockets_of(child.pid);
        own.retain(|inode| !given.contains(inode));
    }
    let is_control = |path: &PathBuf| {
        let found = path.symlink_metadata();
        found.is_ok_and(|found| found.file_type().is_socket() && found.mode() & 0o777 == 0o600)
    };
    let listeners = holder::unix_listeners().into_iter().filter(|(inode, _)| own.contains(inode));
    listeners.map(|(_, path)| path).find(is_control)
}

/// The configuration of the daemon at that socket.
fn config(socket: &Path) -> Option<String> {
    let mut config = None;
    let asked = ask_within(PATIENCE, socket, &Request::Status, |response| {
        if let Response::Status(status) = response {
            config = Some(status.config.unwrap_or_else(|| "the built-in configuration".to_owned()));
        }
        Ok(())
    });
    asked.ok().and(config)
}
