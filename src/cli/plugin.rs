//! `plumbd plugin NAME`: what the supervisor runs, and what it is.

use super::{Failure, output};
use crate::journal;
use crate::plugin::Plugin;
use crate::plugin::start::Start;
use nix::sys::prctl::set_name;
use std::ffi::CString;
use std::io;

/// Prints its manifest.
pub(super) fn describe(plugin: &Plugin) -> Result<u8, Failure> {
    output::print(format!("{:#}\n", plugin.manifest()))?;
    Ok(0)
}

/// Runs a program of that name. What ends it goes to the log, with its priority.
pub(super) fn run(name: &str, run: fn(Start) -> Result<(), String>) -> Result<u8, Failure> {
    journal::plugin::start();
    // By /proc/self/exe it would be "exe" in top(1) and systemd's messages.
    let process = CString::new(format!("plumbd-{name}")).map_err(io::Error::from);
    if let Err(error) = process.and_then(|process| Ok(set_name(&process)?)) {
        log::warn!("cannot name the process: {error}");
    }
    match Start::from_environment().and_then(run) {
        Ok(()) => Ok(0),
        Err(why) => {
            log::error!("{why}");
            Ok(Failure::FAILED)
        }
    }
}
