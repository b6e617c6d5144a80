//! Pipes, and moving bytes between them without taking them out.
//!
//! `splice` and `tee` work on whole pipe buffers inside the kernel
//! (splice(2), tee(2)): at any instant a byte is in exactly one of the two
//! pipes, whatever is killed.

use super::anew;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The two ends of one pipe, as pipe(2) gives them.
#[derive(Debug)]
pub struct Pipe {
    /// The end that bytes come out of.
    pub read: OwnedFd,
    /// The end that bytes go into.
    pub write: OwnedFd,
}

impl Pipe {
    /// A pipe of at least `capacity` bytes, or of as many as the kernel grants
    /// ([`set_capacity`]). Getting less is no error here: [`capacity`] returns what was
    /// granted. Both ends are close-on-exec and blocking.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM from pipe2(2).
    pub fn new(capacity: usize) -> io::Result<Pipe> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let pipe = Pipe { read, write };
        // If it is refused, `capacity` shows that.
        let _refused = set_capacity(&pipe.write, capacity);
        Ok(pipe)
    }
}

/// A pipe's write end, opened from its read end by its name in /proc (proc(5));
/// blocking and close-on-exec.
///
/// # Errors
/// EACCES if the pipe is another user's, ENOENT without /proc.
pub fn writer_of(read: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(anew::open(read.as_fd(), OFlag::O_WRONLY)?)
}

/// The pipe's name, as a link in /proc/PID/fd shows it (proc_pid_fd(5)).
///
/// # Errors
/// From fstat(2).
pub fn name(end: &OwnedFd) -> io::Result<String> {
    Ok(format!("pipe:[{}]", nix::sys::stat::fstat(end)?.st_ino))
}

/// Gives the pipe the capacity that it was made with, if a process that had an
/// end of it changed that. Returns what it has now: less if the kernel does
/// not grant as much any more, more if it holds too much to shrink.
///
/// # Errors
/// EBADF if `end` is not a pipe.
pub fn restore_capacity(end: impl AsFd, bytes: usize) -> io::Result<usize> {
    let is = capacity(end.as_fd())?;
    if is == bytes {
        return Ok(is);
    }
    match set_capacity(end, bytes) {
        Err(e) if e.raw_os_error() == Some(Errno::EBUSY as i32) => Ok(is),
        other => other,
    }
}

/// Asks for a capacity in bytes (F_SETPIPE_SZ); the kernel rounds it up to a
/// power of two of pages. Returns what it granted.
///
/// Without CAP_SYS_RESOURCE it grants nothing above
/// `/proc/sys/fs/pipe-max-size`, and no growth past
/// `pipe-user-pages-soft` (pipe(7)). Then this asks for half as much, again
/// and again, until it gets the most that can be had.
///
/// # Errors
/// EBUSY if the pipe holds more than that now.
pub fn set_capacity(end: impl AsFd, bytes: usize) -> io::Result<usize> {
    let mut wanted = i32::try_from(bytes).unwrap_or(i32::MAX);
    let is = fcntl(end.as_fd(), FcntlArg::F_GETPIPE_SZ)?;
    loop {
        match fcntl(end.as_fd(), FcntlArg::F_SETPIPE_SZ(wanted)) {
            // Try the next lower power of two, because the kernel refused the one that it
            // rounded this up to.
            Err(Errno::EPERM) if wanted > is => wanted = 1 << (wanted - 1).ilog2(),
            Err(errno) => return Err(errno.into()),
            Ok(granted) => return Ok(usize::try_from(granted).unwrap_or(0)),
        }
    }
}

/// How many bytes the pipe can hold (F_GETPIPE_SZ).
///
/// # Errors
/// EBADF if `end` is not a pipe.
pub fn capacity(end: impl AsFd) -> io::Result<usize> {
    let bytes = fcntl(end, FcntlArg::F_GETPIPE_SZ)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// How many bytes the pipe holds now (FIONREAD, pipe(7)).
///
/// # Errors
/// ENOTTY if `end` is not a pipe.
pub fn bytes_in(end: impl AsFd) -> io::Result<usize> {
    nix::ioctl_read_bad!(fionread, nix::libc::FIONREAD, nix::libc::c_int);
    let mut bytes: nix::libc::c_int = 0;
    #[allow(unsafe_code)]
    // SAFETY: FIONREAD stores one int through the pointer, which outlives the call.
    unsafe { fionread(end.as_fd().as_raw_fd(), &raw mut bytes) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Whether the pipe of this write end has a free page, so that a write of one page does not
/// wait (poll(2), and `pipe_poll` in the kernel's fs/pipe.c). A pipe may hold fewer bytes than
/// its capacity and have none, because short writes do not fill pages.
///
/// # Errors
/// ENOMEM.
pub fn has_room(write: impl AsFd) -> io::Result<bool> {
    let mut ends = [PollFd::new(write.as_fd(), PollFlags::POLLOUT)];
    Ok(poll(&mut ends, PollTimeout::ZERO)? > 0)
}

/// The result of moving bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// This many bytes were moved, at least one.
    Bytes(usize),
    /// There is nothing to move now, or no room: try again when poll(2) says so.
    NotNow,
    /// There is nothing to move, and nobody holds a write end: the end of the file.
    End,
}

fn moved(result: nix::Result<usize>) -> io::Result<Moved> {
    match result {
        Ok(0) => Ok(Moved::End),
        Ok(n) => Ok(Moved::Bytes(n)),
        Err(Errno::EAGAIN) => Ok(Moved::NotNow),
        Err(e) => Err(e.into()),
    }
}

/// Moves up to `len` bytes from one pipe to another (splice(2)) without
/// waiting.
///
/// O_NONBLOCK belongs to the open file description, which several processes may
/// share; SPLICE_F_NONBLOCK belongs to this call alone.
///
/// # Errors
/// EINTR is retried; others from splice(2).
pub fn splice(from: impl AsFd, to: impl AsFd, len: usize) -> io::Result<Moved> {
    loop {
        match nix::fcntl::splice(from.as_fd(), None, to.as_fd(), None, len, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Err(Errno::EINTR) => {}
            other => return moved(other),
        }
    }
}

/// Copies up to `len` bytes from the head of one pipe to another (tee(2))
/// without consuming them and without waiting. A `len` that is too short cuts
/// the last buffer, so pass the capacity.
///
/// # Errors
/// EINTR is retried; others from tee(2).
pub fn tee(from: impl AsFd, to: impl AsFd, len: usize) -> io::Result<Moved> {
    loop {
        match nix::fcntl::tee(from.as_fd(), to.as_fd(), len, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Err(Errno::EINTR) => {}
            other => return moved(other),
        }
    }
}

/// Sets or clears O_NONBLOCK on the open file description, for all processes that
/// share it.
///
/// # Errors
/// EBADF.
pub fn set_nonblocking(end: impl AsFd, on: bool) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(end.as_fd(), FcntlArg::F_GETFL)?);
    let wanted = if on { flags | OFlag::O_NONBLOCK } else { flags - OFlag::O_NONBLOCK };
    if wanted != flags {
        fcntl(end.as_fd(), FcntlArg::F_SETFL(wanted))?;
    }
    Ok(())
}
