//! Finds processes that others left behind, in /proc.

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// How often an environment that is empty is read.
const READS: usize = 6;
/// The pause between two reads.
const READ_AGAIN: Duration = Duration::from_millis(1);
/// The parent of the kernel's own threads, which have no environment.
const KTHREADD: Pid = Pid::from_raw(2);

/// A process, as proc_pid_stat(5) describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// R, S, D, Z and so on.
    pub state: char,
    /// Its parent; 0 if that is in another pid namespace.
    pub parent: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// When it was started, in clock ticks since boot. The number and the start together
    /// identify one process for good.
    pub start: u64,
}

impl Process {
    /// Looks at one process. `None`: it does not exist, or it is another user's and
    /// /proc hides those (`hidepid`).
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn look(pid: Pid) -> io::Result<Option<Process>> {
        match std::fs::read(format!("/proc/{pid}/stat")) {
            Ok(text) => {
                let form = || io::Error::other(format!("/proc/{pid}/stat has another form"));
                parse(pid, &text).ok_or_else(form).map(Some)
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it has ended, though its number is still taken.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether exactly this process still runs.
    ///
    /// # Errors
    /// As [`Process::look`].
    pub fn is_running(&self) -> io::Result<bool> {
        Ok(Process::look(self.pid)?.is_some_and(|now| now.start == self.start && !now.is_dead()))
    }

    /// Its name as shown by ps(1).
    pub fn name(&self) -> String {
        let name = std::fs::read(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(name.trim_ascii_end()).into_owned()
    }

    /// Its environment as of when it was executed; empty if it is gone, or
    /// another user's. `None`: it can't be read just now.
    ///
    /// The environment is in the process's own memory, so it may have been overwritten. A
    /// process in state D may hold the lock of its memory, and reading would wait for that
    /// lock, so such a process is not read. While a program is being executed, the
    /// environment is empty for a moment (its new memory exists before the kernel has noted
    /// where the environment is, fs/binfmt_elf.c), so an empty one is read again.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn environment(&self) -> io::Result<Option<Vec<u8>>> {
        if self.state == 'D' {
            return Ok(None);
        }
        let has_none = self.state == 'Z' || self.parent == KTHREADD;
        let mut reads = if has_none { 1 } else { READS };
        loop {
            reads -= 1;
            match std::fs::read(format!("/proc/{}/environ", self.pid)) {
                Ok(text) if text.is_empty() && reads > 0 => std::thread::sleep(READ_AGAIN),
                Ok(text) => return Ok(Some(text)),
                Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
                    return Ok(Some(Vec::new()));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether it has one of these pipes or sockets open, each given by device and inode.
    /// False if it is another user's.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn holds(&self, files: &[(u64, u64)]) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let entries = match std::fs::read_dir(format!("/proc/{}/fd", self.pid)) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) if is_gone(&error) => return Ok(false),
                Err(error) => return Err(error),
            };
            // Only pipes and sockets are looked at: stat(2) of a file may wait for its file system.
            let is_ours = std::fs::read_link(&path).is_ok_and(|to| is_pipe_or_socket(&to));
            if is_ours && std::fs::metadata(&path).is_ok_and(|file| files.contains(&(file.dev(), file.ino()))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The effective user id of that process now. `None`: it is gone, or can't be looked at.
    pub fn user(pid: Pid) -> Option<u32> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // `Uid: REAL EFFECTIVE SAVED FILESYSTEM` (proc_pid_status(5))
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    }

    /// Sends a signal to exactly this process; if it is gone, that is no error.
    ///
    /// # Errors
    /// EPERM if it is another user's; EMFILE, ENFILE, ENOMEM.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // The check comes after the descriptor is open, so it is about the process that the
        // descriptor names.
        let process = pidfd(self.pid);
        if !self.is_running()? {
            return Ok(());
        }
        match self.send(process.ok().as_ref(), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn send(&self, process: Option<&OwnedFd>, signal: Signal) -> nix::Result<()> {
        let Some(process) = process else {
            // Some container profiles refuse pidfd_open(2). This could hit another process
            // only if all other numbers were used up between the check and the signal.
            return kill(self.pid, signal);
        };
        let none: *const libc::siginfo_t = std::ptr::null();
        #[allow(unsafe_code)]
        // SAFETY: uses no memory of this process; with a null pointer it works like kill(2).
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal as libc::c_int, none, 0) };
        Errno::result(sent).map(drop)
    }
}

/// A descriptor that refers to a process for good, close-on-exec (pidfd_open(2)).
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM; ESRCH; EPERM if a container's profile refuses it.
fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    #[allow(unsafe_code)]
    // SAFETY: takes two integers; what it returns is a new descriptor that
    // nothing else owns.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0))?;
        Ok(OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(io::Error::other)?))
    }
}

/// Whether the process ended before or while its file in /proc was read (proc(5)).
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn is_pipe_or_socket(target: &Path) -> bool {
    let name = target.as_os_str().as_bytes();
    name.starts_with(b"pipe:") || name.starts_with(b"socket:")
}

fn parse(pid: Pid, stat: &[u8]) -> Option<Process> {
    // A name may contain anything, even parentheses and newlines.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace().collect();
    let pid_at = |place: usize| fields.get(place)?.parse().ok().map(Pid::from_raw);
    Some(Process {
        pid,
        state: fields.first()?.chars().next()?,
        parent: pid_at(1)?,
        group: pid_at(2)?,
        session: pid_at(3)?,
        start: fields.get(19)?.parse().ok()?,
    })
}

/// Every process that this one can see.
///
/// # Errors
/// /proc is not mounted, or shows the processes of another pid namespace; EMFILE, ENFILE, ENOMEM.
pub fn all() -> io::Result<Vec<Process>> {
    if std::fs::read_link("/proc/self").ok() != Some(getpid().to_string().into()) {
        return Err(io::Error::other("/proc is not mounted in this pid namespace"));
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.extend(Process::look(Pid::from_raw(number))?);
        }
    }
    Ok(found)
}

/// The list of this process's children, dead ones that are not reaped included.
#[derive(Debug)]
pub struct Children {
    /// proc_tid_children(5); kernels without CONFIG_PROC_CHILDREN don't have it.
    list: Option<File>,
    text: Vec<u8>,
}

impl Children {
    /// Opens the list. This process must have only one thread.
    ///
    /// # Errors
    /// /proc is not mounted, or belongs to another pid namespace.
    pub fn open() -> io::Result<Children> {
        let own = getpid();
        let list = match File::open(format!("/proc/{own}/task/{own}/children")) {
            Ok(list) => Some(list),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                all()?;
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Children { list, text: Vec::new() })
    }

    /// Reads the list again, and returns how many children there are. Only this process
    /// removes children from the list, by reaping them, so none is missed.
    ///
    /// # Errors
    /// From read(2), or from reading /proc, which replaces the list if there is none.
    pub fn read(&mut self) -> io::Result<usize> {
        self.text.clear();
        if let Some(list) = &mut self.list {
            list.rewind()?;
            list.read_to_end(&mut self.text)?;
        } else {
            let own = getpid();
            for process in all()?.iter().filter(|process| process.parent == own) {
                write!(self.text, "{} ", process.pid)?;
            }
        }
        // Each is followed by a space.
        Ok(memchr::memchr_iter(b' ', &self.text).count())
    }

    /// The children as of the last read.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        let words = self.text.split(u8::is_ascii_whitespace).filter_map(|word| std::str::from_utf8(word).ok());
        words.filter_map(|word| word.parse().ok()).map(Pid::from_raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_name_has_parentheses_and_spaces_is_parsed_right() {
        let text = b"7 (a) R 1 (b\n) S 5 6 4 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2 3";
        let found = parse(Pid::from_raw(7), text).unwrap();
        let [parent, group, session] = [5, 6, 4].map(Pid::from_raw);
        assert_eq!(found, Process { pid: Pid::from_raw(7), state: 'S', parent, group, session, start: 12345 });
        assert_eq!(parse(Pid::from_raw(7), b"7 (a) S 5 6"), None);
        assert_eq!(parse(Pid::from_raw(7), b""), None);
    }

    #[test]
    fn a_number_that_now_belongs_to_another_process_is_not_signalled() {
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(other.id()).unwrap());
        let process = Process::look(pid).unwrap().unwrap();
        assert!(process.is_running().unwrap());
        let before = Process { start: process.start - 1, ..process };
        before.signal(Signal::SIGKILL).unwrap();
        assert!(process.is_running().unwrap());
        process.signal(Signal::SIGKILL).unwrap();
        other.wait().unwrap();
        assert!(!process.is_running().unwrap());
        process.signal(Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_process_that_holds_a_pipe_is_found() {
        use std::os::unix::fs::MetadataExt;
        let (read, _write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let file = File::from(read).metadata().unwrap();
        let own = Process::look(getpid()).unwrap().unwrap();
        assert!(own.holds(&[(file.dev(), file.ino())]).unwrap());
        assert!(!own.holds(&[(file.dev(), u64::MAX)]).unwrap());
    }

    #[test]
    fn without_the_list_children_are_found_in_proc() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut children = Children { list: None, text: Vec::new() };
        let count = children.read().unwrap();
        assert_eq!(children.pids().count(), count);
        assert!(children.pids().any(|pid| pid.as_raw().unsigned_abs() == child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
