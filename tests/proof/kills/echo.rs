//! An echo on a rig's link, with a listening socket that outlives it.

use crate::mini::{Rig, wait_until};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use plumbd::plugin::echo::settings::Settings;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;

/// A running echo. It is killed if a trial fails to end it.
pub(crate) struct Running {
    pid: Pid,
    child: Mutex<Child>,
}

/// A script that opens its descriptors, which come through the first three.
const OPEN: &str = "exec 3<&0 4<&2 0</dev/null 2>\"$DIR/echo.log\" 5<\"$DIR/echo.settings\" || exit 99
    export LISTEN_PID=$$\n";

/// Starts it; if `stopped`, like [`crate::trace::STOPPED`].
pub(crate) fn start(rig: &Rig, listener: &TcpListener, echo_after: &str, stopped: bool) -> Running {
    let stop = if stopped { "kill -STOP $$" } else { "" };
    started(rig, listener, echo_after, &format!("{OPEN} {stop}\n exec \"$PLUMBD\" plugin echo"))
}

/// Starts an echo that answers each message once it is in the queue. Its second write to the
/// queue seems to succeed but does not happen. That write must have 4096 bytes, like those of a
/// long message.
pub(crate) fn started_under_strace(rig: &Rig, listener: &TcpListener) -> Running {
    let strace = "exec strace -D -qq -o /dev/null -e trace=write -e inject=write:retval=4096:when=2";
    started(rig, listener, "queued", &format!("{OPEN} {strace} \"$PLUMBD\" plugin echo"))
}

fn started(rig: &Rig, listener: &TcpListener, echo_after: &str, script: &str) -> Running {
    let mut settings = serde_json::to_value(Settings::default()).unwrap();
    settings["echo_after"] = echo_after.into();
    // A pause must end no message, because under a tracer there may be one between any two bytes.
    settings["partial_after"] = 60_000.into();
    let dir = rig.folder.path();
    std::fs::write(dir.join("echo.settings"), settings.to_string()).unwrap();
    let link = &rig.links[0];
    let replies = link.replies.as_ref().unwrap().read.try_clone().unwrap();
    let child = Command::new("/bin/sh")
        .args(["-c", script])
        .env("DIR", dir)
        .env("PLUMBD", env!("CARGO_BIN_EXE_plumbd"))
        .env("LISTEN_FDS", "1")
        .env("PLUMBD_CHILD", "echo")
        .env("PLUMBD_SETTINGS", "5")
        .env("PLUMBD_LINKS", r#"{"out": {"to": "logger", "protocol": "records", "replies": 4}}"#)
        .stdin(OwnedFd::from(listener.try_clone().unwrap()))
        .stdout(OwnedFd::from(link.source()))
        .stderr(replies)
        .spawn()
        .unwrap();
    Running { pid: Pid::from_raw(i32::try_from(child.id()).unwrap()), child: Mutex::new(child) }
}

impl Running {
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal. If it is dead, nothing happens.
    pub(crate) fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.pid, signal).unwrap();
    }

    /// Asks it to end, once it handles the signal, and waits for that.
    pub(crate) fn stop(self) {
        wait_until("it catches SIGTERM", || self.catches_sigterm().then_some(()));
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "{status:?}");
    }

    /// Waits for its end. Returns whether it was killed; otherwise it must have succeeded.
    pub(crate) fn wait_killed(self) -> bool {
        let status = self.wait();
        assert!(status.success() || status.signal() == Some(9), "{status:?}");
        !status.success()
    }

    /// Whether it catches SIGTERM, according to the mask in proc_pid_status(5).
    fn catches_sigterm(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & 1 << (Signal::SIGTERM as i32 - 1) != 0)
    }

    fn wait(&self) -> ExitStatus {
        wait_until("the echo has ended", || self.child.lock().unwrap().try_wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ended = child.kill();
        let _reaped = child.wait();
    }
}
