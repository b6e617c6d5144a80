//! Writes the log to standard error, whatever that is, or to /dev/log, and never waits.
//!
//! O_NONBLOCK on standard error would change it for every process that shares
//! it (a shell, a pipeline), so it is never set there. Sockets are written with
//! MSG_DONTWAIT; pipes and terminals are opened a second time through /proc,
//! which gives this process an open file description of its own.

use super::entry::{Local3164, Style};
use super::syslog::Syslog;
use ::syslog::Facility;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// The most bytes in one write to a pipe or terminal whose flags are shared with other
/// processes: if poll(2) says that a pipe has room, it has room for this many.
const SHARED_WRITE: usize = 4096;

/// How long to wait if there is nothing to poll: the disk is full, or no
/// syslog daemon runs.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Where entries go.
#[derive(Debug)]
pub(super) struct Output {
    fd: OwnedFd,
    how: How,
    /// Whether systemd's journal reads it.
    journal: bool,
}

/// How to write without waiting.
#[derive(Debug)]
enum How {
    /// A socket: MSG_DONTWAIT.
    Socket,
    /// A pipe or terminal with an open file description of our own: O_NONBLOCK.
    Own,
    /// A pipe or terminal that could not be opened again: written only when poll(2) says
    /// so, and little at a time.
    Shared,
    /// A regular file never waits (not in the sense of poll(2)).
    File,
    /// A syslog daemon.
    Syslog(Syslog),
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// This many bytes were written.
    Bytes(usize),
    /// There is no room; poll(2) reports when there is.
    Full,
    /// Not possible now, and there is nothing to poll: try again after this time.
    Later(Duration),
    /// There is a new reader: write the entry again from its beginning.
    Anew,
    /// These bytes can never be written, for example because nobody reads any more.
    Never,
}

impl Output {
    /// Standard error.
    ///
    /// # Errors
    /// EBADF if it is closed; EMFILE.
    pub(super) fn stderr() -> io::Result<Output> {
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        let stream = std::env::var("JOURNAL_STREAM").ok();
        Output::over(stderr, stream.as_deref())
    }

    /// A descriptor of any kind; `journal_stream` is what systemd.exec(5) describes.
    fn over(fd: OwnedFd, journal_stream: Option<&str>) -> io::Result<Output> {
        let stat = fstat(&fd)?;
        let journal = journal_stream.is_some_and(|stream| is_stream(stream, &stat));
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        let (fd, how) = match kind {
            SFlag::S_IFSOCK => (fd, How::Socket),
            SFlag::S_IFREG => (fd, How::File),
            _ => match open_again(&fd) {
                Ok(own) => (own, How::Own),
                Err(_) => (fd, How::Shared),
            },
        };
        Ok(Output { fd, how, journal })
    }

    /// The system's log.
    ///
    /// # Errors
    /// EMFILE, ENFILE. It is no error if nobody listens.
    pub(super) fn syslog(facility: Facility) -> io::Result<Output> {
        Output::syslog_at(Path::new(super::syslog::PATH), facility)
    }

    fn syslog_at(path: &Path, facility: Facility) -> io::Result<Output> {
        let (syslog, fd) = Syslog::at(path, facility)?;
        Ok(Output { fd, how: How::Syslog(syslog), journal: false })
    }

    /// How entries are formatted here.
    pub(super) fn style(&self) -> Style {
        match &self.how {
            How::Syslog(syslog) => Style::Syslog(Local3164 { facility: syslog.facility(), pid: std::process::id() }),
            _ if self.journal => Style::Journal,
            _ => Style::Plain,
        }
    }

    /// Writes as much of an entry, or of the rest of one, as it can without waiting.
    pub(super) fn send(&self, bytes: &[u8]) -> Sent {
        loop {
            let result = match &self.how {
                How::Socket => send_now(&self.fd, bytes),
                How::Own | How::File => nix::unistd::write(&self.fd, bytes),
                How::Shared => self.write_shared(bytes),
                How::Syslog(syslog) => return syslog.send(&self.fd, bytes),
            };
            return match result {
                Ok(n) => Sent::Bytes(n),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Sent::Full,
                Err(Errno::ENOSPC | Errno::EDQUOT | Errno::ENOBUFS | Errno::ENOMEM) => Sent::Later(RETRY),
                Err(_) => Sent::Never,
            };
        }
    }

    fn write_shared(&self, bytes: &[u8]) -> nix::Result<usize> {
        let ready = poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO)?;
        if ready == 0 {
            return Err(Errno::EAGAIN);
        }
        nix::unistd::write(&self.fd, &bytes[..bytes.len().min(SHARED_WRITE)])
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sends to a socket without waiting, whatever its flags.
pub(super) fn send_now(socket: &OwnedFd, bytes: &[u8]) -> nix::Result<usize> {
    send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
}

/// Opens the same pipe or terminal with flags of our own (proc(5), /proc/self/fd).
fn open_again(fd: &OwnedFd) -> nix::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    open(path.as_str(), OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Whether standard error is systemd's journal.
pub(super) fn stderr_is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    stream.is_some_and(|stream| fstat(io::stderr()).is_ok_and(|stat| is_stream(&stream, &stat)))
}

/// Whether `DEVICE:INODE` is this file (systemd.exec(5), JOURNAL_STREAM).
fn is_stream(stream: &str, stat: &FileStat) -> bool {
    stream.split_once(':').is_some_and(|(dev, ino)| dev.parse() == Ok(stat.st_dev) && ino.parse() == Ok(stat.st_ino))
}

#[cfg(test)]
pub(super) mod tests;
