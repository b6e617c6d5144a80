//! `plumbd plugin NAME`: what the supervisor runs.

use super::Failure;
use crate::journal;
use crate::plugin::Plugin;
use crate::plugin::start::Start;
use nix::sys::prctl::set_name;
use std::ffi::CString;
use std::io;

/// Runs it. What ends it goes to the log, with its priority.
pub(super) fn plugin(plugin: &Plugin) -> Result<u8, Failure> {
    journal::plugin::start();
    // By /proc/self/exe it would be "exe" in top(1) and systemd's messages.
    let name = CString::new(format!("plumbd-{}", plugin.name)).map_err(io::Error::from);
    if let Err(error) = name.and_then(|name| Ok(set_name(&name)?)) {
        log::warn!("cannot name the process: {error}");
    }
    match Start::from_environment().and_then(plugin.run) {
        Ok(()) => Ok(0),
        Err(why) => {
            log::error!("{why}");
            Ok(Failure::FAILED)
        }
    }
}
