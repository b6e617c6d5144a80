//! A process aside: it does work that may take for ever, so that the supervisor need not
//! wait for it.

use super::{process, signals};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// The descriptors that a process aside keeps besides the standard three.
#[derive(Debug, Clone, Copy)]
pub enum Keeps<'a> {
    /// All of this process's. Only for a process that holds nothing for others yet.
    All,
    /// Only these, because a copy of a pipe's write end in a process that hangs would keep
    /// the reader from seeing the end.
    Only(&'a [BorrowedFd<'a>]),
}

/// Starts a process that does `work` and exits. It has default signal dispositions
/// and dies with this process; SIGKILL ends it at any time, unless the kernel has it
/// in uninterruptible sleep.
///
/// This process must have one thread: `work` may do what is not
/// async-signal-safe (fork(2)).
///
/// # Errors
/// EAGAIN, ENOMEM from fork(2).
pub fn start(keeps: Keeps<'_>, work: impl FnOnce()) -> io::Result<Pid> {
    let parent = getpid();
    // A signal that arrived in the new process before its dispositions are reset would run
    // this process's handlers there, and they write to a pipe that both share.
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    #[allow(unsafe_code)]
    // SAFETY: one thread, so the copy of the heap and of every lock is consistent.
    let forked = unsafe { fork() };
    if matches!(forked, Ok(ForkResult::Child)) {
        process::default_dispositions();
        // These are meant for the process that started it, but may be sent to a whole
        // control group.
        signals::ignore([libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2]);
        if let Keeps::Only(keep) = keeps {
            close_others(keep);
        }
        let set = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
        let unblocked = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
        // If the parent died before that was set, this process now has another parent.
        let mut status = 1;
        if set.is_ok() && unblocked.is_ok() && getppid() == parent {
            // A panic must not unwind further, because that would drop what the parent owns.
            status = i32::from(catch_unwind(AssertUnwindSafe(work)).is_err());
        }
        #[allow(unsafe_code)]
        // SAFETY: ends this process without running the parent's exit handlers.
        unsafe {
            libc::_exit(status)
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    match forked? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => unreachable!("it has exited"),
    }
}

/// Waits until these have ended, and reaps them, for at most `patience` in all. Those that
/// have not ended by then are given up.
pub fn wait(processes: impl IntoIterator<Item = Pid>, patience: Duration) {
    let until = Instant::now() + patience;
    for pid in processes {
        while matches!(process::reap(pid), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Closes all descriptors above standard error but these.
fn close_others(keep: &[BorrowedFd<'_>]) {
    let number = |fd: &BorrowedFd<'_>| libc::c_uint::try_from(fd.as_raw_fd()).unwrap_or(0);
    let mut kept: Vec<libc::c_uint> = keep.iter().map(number).filter(|&fd| fd > 2).collect();
    kept.sort_unstable();
    let mut first = 3;
    for end in kept.into_iter().map(Some).chain([None]) {
        if end.is_none_or(|end| end > first) {
            let last = end.map_or(libc::c_uint::MAX, |end| end - 1);
            #[allow(unsafe_code)]
            // SAFETY: this is a process of its own, in which the owners of these descriptors
            // are neither dropped nor used (close_range(2)).
            unsafe {
                libc::syscall(libc::SYS_close_range, first, last, 0);
            }
        }
        first = end.map_or(first, |end| end + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pipe::Pipe;
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    /// Tests have threads, so the work here must use no lock that another thread may hold.
    fn end_of(pid: Pid) -> process::Exit {
        loop {
            if let Some(exit) = process::reap(pid).unwrap() {
                return exit;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn it_has_only_the_descriptors_that_it_keeps() {
        let [kept, other] = [Pipe::new(4096).unwrap(), Pipe::new(4096).unwrap()];
        let Pipe { read, write } = other;
        let is_open = |fd: BorrowedFd<'_>| nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).is_ok();
        let pid = start(Keeps::Only(&[kept.write.as_fd()]), || {
            let open = [kept.write.as_fd(), kept.read.as_fd(), read.as_fd(), write.as_fd()].map(is_open);
            nix::unistd::write(&kept.write, &open.map(u8::from)).unwrap();
        })
        .unwrap();
        let mut said = [9; 4];
        std::fs::File::from(kept.read).read_exact(&mut said).unwrap();
        assert_eq!(said, [1, 0, 0, 0]);
        assert_eq!(end_of(pid), process::Exit::Code(0));
    }

    #[test]
    fn it_can_be_killed_and_its_end_is_seen_in_the_pipe_that_it_keeps() {
        let Pipe { read, write } = Pipe::new(4096).unwrap();
        let pid = start(Keeps::Only(&[write.as_fd()]), || {
            loop {
                nix::unistd::pause();
            }
        })
        .unwrap();
        drop(write);
        process::force(pid);
        assert_eq!(std::fs::File::from(read).read(&mut [0; 8]).unwrap(), 0);
        assert_eq!(end_of(pid), process::Exit::Signal(libc::SIGKILL));
    }
}
