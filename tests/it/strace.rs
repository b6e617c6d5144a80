//! strace(1) on a running process: what it sees, and the faults that it injects.

use crate::daemon::{kill, wait_for};
use nix::libc::SIGTERM;
use std::process::{Child, Command, Stdio};

/// An strace. It detaches from the process when this is dropped.
pub(crate) struct Strace(Child);

impl Strace {
    /// Makes these system calls of that process fail in that way ("Tampering" in strace(1)).
    pub(crate) fn inject(pid: i32, calls: &str, fault: &str) -> Strace {
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{fault}"));
        Strace::attach(pid, &["-o", "/dev/null", "-e", &trace, "-e", &inject])
    }

    /// Attaches with these options.
    pub(crate) fn attach(pid: i32, options: &[&str]) -> Strace {
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-p", &pid.to_string()]).args(options);
        let strace = Strace(strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_for("strace is attached", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            (!status.contains("TracerPid:\t0\n")).then_some(())
        });
        strace
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        kill(i32::try_from(self.0.id()).unwrap(), SIGTERM);
        let _reaped = self.0.wait();
    }
}
