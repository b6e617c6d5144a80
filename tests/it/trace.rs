//! Kills a process at an exact place: before or after any of its system
//! calls, or a number of instructions later (ptrace(2)).

use crate::mini::{Logger, Rig, wait_until};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use std::path::PathBuf;

/// A place in the run of a logger, counted from its first flock(2). Before that it has
/// changed nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// How many stops later. Each system call has one before it and one after it.
    pub(crate) stop: usize,
    /// How many instructions after that.
    pub(crate) steps: usize,
}

/// A wrapper that stops itself before it executes the program.
pub(crate) const STOPPED: [&str; 4] = ["/bin/sh", "-c", "kill -STOP $$; exec \"$@\"", "sh"];

/// Runs a logger to that place and kills it there. `false`: it ended successfully before it
/// got there.
pub(crate) fn kill_at(rig: &Rig, place: Place) -> bool {
    kill_started_at(|wrapper| rig.start_under(wrapper), place)
}

/// Like [`kill_at`], for any program that begins with a flock(2), started under a wrapper.
pub(crate) fn kill_started_at(start: impl FnOnce(&[&str]) -> Logger, place: Place) -> bool {
    let logger = start(&STOPPED);
    seize(logger.pid());
    let reached = run_to(logger.pid(), nix::libc::SYS_flock, place);
    if reached {
        logger.signal(Signal::SIGKILL);
    }
    assert_eq!(logger.wait_killed(), reached);
    reached
}

/// A logger that is stopped at that place.
pub(crate) fn held_at(rig: &Rig, first: i64, place: Place) -> Logger {
    let logger = rig.start_under(&STOPPED);
    seize(logger.pid());
    assert!(run_to(logger.pid(), first, place), "it ended before it got there");
    logger
}

/// A logger that is stopped just before it writes to its message file.
pub(crate) fn held_before_a_write(rig: &Rig) -> Logger {
    let logger = held_at(rig, nix::libc::SYS_pwrite64, Place { stop: 0, steps: 0 });
    while current_file(logger.pid()) != rig.path() {
        ptrace::syscall(logger.pid(), None).unwrap();
        let more = run_to(logger.pid(), nix::libc::SYS_pwrite64, Place { stop: 0, steps: 0 });
        assert!(more, "it ended before it wrote to its message file");
    }
    logger
}

/// Lets it go on for this many more stops, each before or after a system call.
pub(crate) fn go_on(logger: &Logger, stops: usize) {
    for _ in 0..stops {
        assert!(try_go_on(logger), "it ended before it got there");
    }
}

/// Lets it go on to the next stop. `false`: it ended before that.
pub(crate) fn try_go_on(logger: &Logger) -> bool {
    ptrace::syscall(logger.pid(), None).unwrap();
    next_stop(logger.pid()).is_some()
}

/// The file that its current system call is about.
fn current_file(pid: Pid) -> PathBuf {
    let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    let number = text.split_whitespace().nth(1).and_then(|word| word.strip_prefix("0x")).unwrap();
    let number = u32::from_str_radix(number, 16).unwrap();
    std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap()
}

/// Lets it go on by itself.
pub(crate) fn let_go(logger: &Logger) {
    ptrace::detach(logger.pid(), None).unwrap();
}

/// Begins to trace a process that was started under [`STOPPED`].
pub(crate) fn seize(pid: Pid) {
    wait_until("it has stopped itself", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('T').then_some(())
    });
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
    kill(pid, Signal::SIGCONT).unwrap();
}

/// Runs it to that place, counted from the first system call of that number.
/// `false`: it ended before that.
pub(crate) fn run_to(pid: Pid, first: i64, place: Place) -> bool {
    let mut stops = None;
    while let Some(status) = next_stop(pid) {
        match status {
            WaitStatus::PtraceSyscall(_) => {
                let at = match stops {
                    None if current_call(pid) == first => 0,
                    None => {
                        ptrace::syscall(pid, None).unwrap();
                        continue;
                    }
                    Some(before) => before + 1,
                };
                if at == place.stop {
                    return step(pid, place.steps);
                }
                stops = Some(at);
                ptrace::syscall(pid, None).unwrap();
            }
            // Signals are passed on. Group stops and the like are ignored.
            WaitStatus::Stopped(_, signal)
                if !matches!(signal, Signal::SIGSTOP | Signal::SIGTRAP | Signal::SIGCONT) =>
            {
                ptrace::syscall(pid, signal).unwrap();
            }
            _ => ptrace::syscall(pid, None).unwrap(),
        }
    }
    false
}

fn step(pid: Pid, steps: usize) -> bool {
    for _ in 0..steps {
        ptrace::step(pid, None).unwrap();
        if next_stop(pid).is_none() {
            return false;
        }
    }
    true
}

/// The next stop; `None` if it has ended. Its parent still has to reap it.
fn next_stop(pid: Pid) -> Option<WaitStatus> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(pid), flags).unwrap() {
        WaitStatus::Exited(..) | WaitStatus::Signaled(..) => None,
        _ => Some(waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap()),
    }
}

/// Its current system call (proc(5), /proc/PID/syscall).
fn current_call(pid: Pid) -> i64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap_or(-1)
}
