//! The interface to the kernel: pipes, shared memory, signals, processes.
//!
//! This is the only module that may hold `unsafe`; each block says what it
//! relies on. Everything above it is safe Rust.

pub mod anew;
pub(crate) mod aside;
pub(crate) mod at_hand;
pub(crate) mod background;
pub(crate) mod beside;
pub(crate) mod cause;
pub(crate) mod datagrams;
pub(crate) mod delay;
pub(crate) mod descendants;
pub(crate) mod executable;
pub(crate) mod inspect;
pub(crate) mod listen_fds;
pub(crate) mod lock;
pub(crate) mod look;
pub mod map;
pub(crate) mod name;
pub mod notify;
pub mod pipe;
pub(crate) mod poll;
pub mod process;
pub(crate) mod rate;
pub mod signals;
pub mod socket;
pub(crate) mod stat;
pub mod stream;
pub(crate) mod text;
pub(crate) mod unix_diag;
pub(crate) mod usage;
pub(crate) mod xattr;

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Closes every descriptor above standard error, as daemon(7) asks: a daemon
/// must not hold what its caller happened to have open, such as a lock or the
/// end of a pipe that someone waits for. Only for a process that does not own any
/// descriptor yet.
pub(crate) fn close_inherited() {
    let first: nix::libc::c_uint = 3;
    #[allow(unsafe_code)]
    // SAFETY: the caller owns none of these descriptors, so nothing uses one
    // that is closed here. close_range(2) fails only if its arguments are
    // wrong; it exists since Linux 5.9.
    unsafe {
        nix::libc::syscall(nix::libc::SYS_close_range, first, nix::libc::c_uint::MAX, 0);
    }
}

/// Owns a descriptor that this process was started with; close-on-exec from now on.
///
/// # Errors
/// EBADF: it is not open, so it was named by mistake.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    #[allow(unsafe_code)]
    // SAFETY: borrowed for one fcntl, which checks that it is open.
    let named = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(named, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    #[allow(unsafe_code)]
    // SAFETY: it is open, came by inheritance, and is named to this process
    // once, so nothing else here owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
