//! Descriptors that this process was started with, and their
//! names: sd_listen_fds_with_names(3). The supervisor gets them from systemd, and plugins
//! from the supervisor.

use crate::sys;
use std::os::fd::{OwnedFd, RawFd};

/// The first one (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// Takes the `LISTEN_FDS` descriptors from number 3 on, with their names from
/// `LISTEN_FDNAMES`, if `LISTEN_PID` says that they are meant for this process.
/// Must be called once, before anything else is opened.
///
/// # Errors
/// A descriptor was announced but is not open, or `LISTEN_FDS` is not a number.
pub fn take() -> Result<Vec<(String, OwnedFd)>, String> {
    let variable = |name: &str| std::env::var(name).ok();
    let (Some(pid), Some(count)) = (variable("LISTEN_PID"), variable("LISTEN_FDS")) else {
        return Ok(Vec::new());
    };
    if pid.parse() != Ok(std::process::id()) {
        return Ok(Vec::new());
    }
    let end =
        count.parse::<u16>().map_err(|_| format!("cannot take LISTEN_FDS={count}: it is not a number of sockets"))?;
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    (FIRST..FIRST + RawFd::from(end))
        .zip(names)
        .map(|(fd, name)| match sys::inherited(fd) {
            Ok(owned) => Ok((name, owned)),
            Err(e) => Err(format!("cannot take descriptor {fd} of LISTEN_FDS={count}: {e}")),
        })
        .collect()
}
