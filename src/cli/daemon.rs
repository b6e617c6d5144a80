//! Going to the background, with a pipe to the process that waits in the foreground.

use crate::supervisor::ready::{self, Awaited, Ready};
use crate::sys;
use crate::sys::cause::cause;
use daemonize::{Daemonize, Outcome};
use std::path::PathBuf;

/// When it ends, the kernel ends all others of its pid namespace (pid_namespaces(7)).
const FIRST: &str =
    "cannot go to the background: process 1 of a container ends all others when it ends; leave --daemon out";

/// Which of the two processes this is.
#[derive(Debug)]
pub(super) enum Side {
    /// The one that was called: it waits until the daemon reports.
    Caller(Awaited),
    /// The daemon: it has a session of its own, and /dev/null as its standard streams.
    Daemon(Ready),
    /// The one that should have become the daemon but failed; it has reported why to the
    /// caller.
    Failed,
}

/// Becomes two processes. This one must have no thread, no open descriptor
/// above standard error, and nothing half-written.
///
/// The daemon's working directory is `/`, so that it keeps no file system
/// busy. If `stay` is set, it does not change, because the paths of the built-in
/// configuration are relative to it, at a reload too.
///
/// # Errors
/// It could not be done; only in the process that was called.
pub(super) fn fork(stay: bool) -> Result<Side, String> {
    if std::process::id() == 1 {
        return Err(FIRST.to_owned());
    }
    let directory = if stay {
        std::env::current_dir().map_err(|e| format!("cannot find the working directory: {}", cause(&e)))?
    } else {
        PathBuf::from("/")
    };
    sys::close_inherited();
    sys::signals::hear_of_children();
    let (mut ready, awaited) = ready::pair().map_err(|e| format!("cannot make a pipe to the daemon: {e}"))?;
    // Each child has a umask of its own; the daemon's files name their modes.
    match Daemonize::new().working_directory(directory).umask(0o022).execute() {
        // Dropping `ready` closes this process's copy of the daemon's end of the pipe.
        // Otherwise the wait would not see the daemon's death.
        Outcome::Parent(Ok(_)) => Ok(Side::Caller(awaited)),
        Outcome::Parent(Err(error)) => Err(format!("cannot go to the background: {error}")),
        Outcome::Child(Ok(_)) => Ok(Side::Daemon(ready)),
        Outcome::Child(Err(error)) => {
            ready.failed(&format!("cannot go to the background: {error}"));
            Ok(Side::Failed)
        }
    }
}
