//! Work in the background: a process that stands back, and one that waits for it.

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// A descriptor that is readable once that child of this process has ended
/// (pidfd_open(2)), close-on-exec.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM; EINVAL where it is no process.
pub fn pidfd(child: Pid) -> io::Result<OwnedFd> {
    #[allow(unsafe_code)]
    // SAFETY: takes two integers; what it returns is a new descriptor that
    // nothing else owns.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, child.as_raw(), 0))?;
        Ok(OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(io::Error::other)?))
    }
}

/// This process gets the processor and the disk when nobody else wants them:
/// nice 19 (setpriority(2)) and the idle class of ioprio_set(2).
///
/// # Errors
/// None that is known: to stand back needs no privilege.
pub fn stand_back() -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    #[allow(unsafe_code)]
    // SAFETY: both take integers alone; 0 is this process.
    unsafe {
        Errno::result(libc::setpriority(libc::PRIO_PROCESS, 0, 19))?;
        Errno::result(libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE))?;
    }
    Ok(())
}
