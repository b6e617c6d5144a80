//! Programs to compare with, and the Debian packages that have them.

use nix::unistd::geteuid;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAMS: [(&str, &str); 11] = [
    ("tcpserver", "ucspi-tcp"),
    ("socat", "socat"),
    ("xinetd", "xinetd"),
    ("nc.openbsd", "netcat-openbsd"),
    ("s6-svscan", "s6"),
    ("s6-log", "s6"),
    ("runsvdir", "runit"),
    ("svlogd", "runit"),
    ("multilog", "daemontools"),
    ("supervisord", "supervisor"),
    ("rsyslogd", "rsyslog"),
];
/// Where programs are, even if a user's PATH lacks some of these.
const FOLDERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The script that decides whether a package may start its service (invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The path of a program.
///
/// # Errors
/// It is missing; the error names the package that has it.
pub(crate) fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = format!("{path}:{FOLDERS}").split(':').map(|folder| Path::new(folder).join(name)).find(|p| p.is_file());
    let package = PROGRAMS.iter().find(|(program, _)| *program == name).map_or(name, |(_, package)| package);
    found.ok_or_else(|| format!("left out: no {name} here (Debian: {package})"))
}

/// As root, installs the missing packages; otherwise reports what is left out.
pub(crate) fn install() {
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(name, _)| program(name).is_err()).map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() {
        return;
    }
    let names = missing.join(" ");
    if !geteuid().is_root() {
        eprintln!("left out for want of these packages, which root would install: {names}");
        return;
    }
    eprintln!("installs {names}");
    let _policy = NoServices::hold();
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
        apt.status().is_ok_and(|status| status.success())
    };
    let installed =
        apt(&["update", "-qq"]) && apt(&[&["install", "-y", "-qq", "--no-install-recommends"][..], &missing].concat());
    if !installed {
        eprintln!("cannot install all of them: what is missing is left out");
    }
}

/// While this exists, packages that are installed start no services.
struct NoServices;

impl NoServices {
    /// `None` if the machine has a policy of its own.
    fn hold() -> Option<NoServices> {
        let mut policy = OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY).ok()?;
        policy.write_all(b"#!/bin/sh\nexit 101\n").ok()?;
        Some(NoServices)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        let _gone = fs::remove_file(POLICY);
    }
}
