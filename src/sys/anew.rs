//! Separate open file descriptions for each process.
//!
//! Processes that share an open file description share its status flags, its offset
//! and its locks (open(2)): one process that sets O_NONBLOCK on a pipe's end
//! sets it for all of them, and for those that get it later. So a process
//! is never given a description that another one has, or will have: each end
//! is opened again, by its name in /proc.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown, geteuid};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// A new description of the file that `fd` refers to, close-on-exec, with the
/// given access mode and, if asked for, O_NONBLOCK.
///
/// For pipes, files and devices. A socket can't be opened (ENXIO, socket(7)).
///
/// If it can't be opened, because there is no /proc, or because it belongs to another user
/// and this process may not take it (CAP_CHOWN), this returns `fd`'s own description, with
/// its status flags reset, and logs a warning once: changes that the next process makes to
/// the flags affect those that were started before.
///
/// # Errors
/// EMFILE, ENFILE.
pub fn description(fd: impl AsFd, flags: OFlag) -> nix::Result<OwnedFd> {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let why = match open(fd.as_fd(), flags) {
        Err(Errno::ENOENT) => "/proc is not mounted",
        Err(Errno::EACCES) => "a pipe belongs to another user, and CAP_CHOWN is not permitted here",
        other => return other,
    };
    if !TOLD.swap(true, Ordering::Relaxed) {
        log::warn!(
            "{why}: processes with the same pipe share its status flags, and each can change them for the others"
        );
    }
    set_status(fd.as_fd(), flags)?;
    fd.as_fd().try_clone_to_owned().map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))
}

/// Opens the file behind a descriptor. Never waits: opening an unnamed pipe does not wait
/// for its other end (fifo_open in the kernel's fs/pipe.c).
///
/// # Errors
/// ENOENT without /proc; EACCES if it belongs to another user and can't be
/// taken; EMFILE, ENFILE.
pub(super) fn open(fd: BorrowedFd<'_>, flags: OFlag) -> nix::Result<OwnedFd> {
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let opened = || {
        loop {
            match nix::fcntl::open(name.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty()) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    };
    match opened() {
        // It was given to a child's user, and this process is root without CAP_DAC_OVERRIDE.
        Err(Errno::EACCES) => {
            let was = fstat(fd)?;
            permit(fd, geteuid().as_raw(), 0o600).map_err(|_| Errno::EACCES)?;
            let own = opened();
            permit(fd, was.st_uid, was.st_mode & 0o7777)?;
            own
        }
        other => other,
    }
}

/// Sets every changeable status flag of a description (F_SETFL, fcntl(2)) as in `flags`:
/// O_APPEND, O_ASYNC, O_DIRECT, O_NOATIME and O_NONBLOCK.
///
/// # Errors
/// EBADF.
pub fn set_status(fd: impl AsFd, flags: OFlag) -> nix::Result<()> {
    let changeable = OFlag::O_APPEND | OFlag::O_ASYNC | OFlag::O_DIRECT | OFlag::O_NOATIME | OFlag::O_NONBLOCK;
    let is = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    if is & changeable != flags & changeable {
        fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags & changeable))?;
    }
    Ok(())
}

/// Gives a pipe that owner and those permissions, which decide who may open it as
/// `/dev/stdin` or `/dev/stdout`. Only processes that already have an end of it can try:
/// an unnamed pipe has no other name.
///
/// # Errors
/// EPERM: this process may not give it away (CAP_CHOWN), or does not own it.
pub fn permit(pipe: impl AsFd, owner: u32, mode: u32) -> nix::Result<()> {
    let own = geteuid().as_raw();
    let give = |to: u32| fchown(pipe.as_fd(), Some(Uid::from_raw(to)), None::<Gid>);
    let is = fstat(pipe.as_fd())?;
    if is.st_uid == owner && is.st_mode & 0o7777 == mode {
        return Ok(());
    }
    // Without CAP_FOWNER, only the owner can set the permissions.
    if is.st_uid != own {
        give(own)?;
    }
    fchmod(pipe.as_fd(), Mode::from_bits_truncate(mode))?;
    if owner != own { give(owner) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::pipe::Pipe;
    use super::*;
    use std::io::{Read, Write};

    fn flags(fd: impl AsFd) -> OFlag {
        OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap())
    }

    #[test]
    fn flags_of_one_description_do_not_affect_another() {
        let pipe = Pipe::new(4096).unwrap();
        let first = description(&pipe.write, OFlag::O_WRONLY).unwrap();
        let second = description(&pipe.write, OFlag::O_WRONLY).unwrap();
        fcntl(&first, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_DIRECT)).unwrap();
        for other in [&second, &pipe.write, &description(&first, OFlag::O_WRONLY).unwrap()] {
            assert!(!flags(other).intersects(OFlag::O_NONBLOCK | OFlag::O_DIRECT));
        }
        assert!(flags(description(&pipe.read, OFlag::O_NONBLOCK).unwrap()).contains(OFlag::O_NONBLOCK));
    }

    #[test]
    fn all_ends_of_a_pipe_carry_the_same_bytes_and_its_end() {
        let pipe = Pipe::new(4096).unwrap();
        let write = description(&pipe.write, OFlag::O_WRONLY).unwrap();
        let read = description(&pipe.read, OFlag::O_RDONLY).unwrap();
        drop(pipe);
        std::fs::File::from(write).write_all(b"through").unwrap();
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn an_end_without_a_writer_is_opened_at_once() {
        let Pipe { read, write } = Pipe::new(4096).unwrap();
        drop(write);
        let again = description(&read, OFlag::O_RDONLY).unwrap();
        assert_eq!(std::fs::File::from(again).read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn an_owner_and_a_mode_that_were_changed_are_restored() {
        let pipe = Pipe::new(4096).unwrap();
        let own = geteuid().as_raw();
        for wrong in [0o000, 0o777] {
            fchmod(&pipe.read, Mode::from_bits_truncate(wrong)).unwrap();
            permit(&pipe.write, own, 0o622).unwrap();
            assert_eq!(fstat(&pipe.read).unwrap().st_mode & 0o7777, 0o622);
        }
    }
}
