//! Locks on files that other users may read, and so may lock (flock(2)).
//!
//! A lock counts if a process of this user or of root holds it, such as another logger
//! or archivist, even one that knows the file by another name. All other locks are
//! ignored, because otherwise anyone who may read the messages could keep them from
//! being saved.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{O_ACCMODE, O_RDONLY};
use nix::unistd::geteuid;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file, locked against those whose locks count.
#[derive(Debug)]
pub enum Locked {
    /// By flock(2).
    Alone(Flock<File>),
    /// Not locked: another user has locked it, and that lock does not count.
    Beside(File),
}

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Locked::Alone(file) => file,
            Locked::Beside(file) => file,
        }
    }
}

impl Locked {
    /// Locks a file that is still unlocked, if that is possible now, because otherwise a
    /// later process would take it for free. Returns whether it did.
    pub fn again(&mut self, how: FlockArg) -> bool {
        let Locked::Beside(file) = self else { return false };
        // A lock belongs to the open file description, however many descriptors that has.
        let locked = file.try_clone().ok().and_then(|file| Flock::lock(file, how).ok());
        locked.map(|file| *self = Locked::Alone(file)).is_some()
    }
}

/// Locks a file, without waiting. `None`: another process has it locked.
///
/// # Errors
/// From flock(2), and from finding out who holds the lock.
pub fn lock(file: File, how: FlockArg) -> io::Result<Option<Locked>> {
    // A process that got past a lock that does not count holds no lock of its own, so those
    // that write to the file are looked for too.
    lock_unless(file, how, |file| Ok(is_listed(file)? || is_written_to(file)?))
}

/// As [`lock`]; `counts` says whether a process whose locks count is using that file.
fn lock_unless(
    mut file: File,
    how: FlockArg,
    mut counts: impl FnMut(&Metadata) -> io::Result<bool>,
) -> io::Result<Option<Locked>> {
    // By the second attempt, the holder may have released the lock, and another process may
    // have taken it.
    for _ in 0..2 {
        file = match Flock::lock(file, how) {
            Ok(file) => return Ok(Some(Locked::Alone(file))),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, Errno::EINTR)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        };
        if counts(&file.metadata()?)? {
            return Ok(None);
        }
    }
    Ok(Some(Locked::Beside(file)))
}

/// Whether a process whose locks count has that file locked, according to the kernel's list
/// (proc_locks(5)), which has the locks of all processes that this one can see.
///
/// # Errors
/// The list can't be read.
pub fn is_listed(file: &Metadata) -> io::Result<bool> {
    let locks = std::fs::read_to_string("/proc/locks")?;
    let number = file.ino().to_string();
    // `1: FLOCK  ADVISORY  WRITE 708 08:02:1573 0 EOF`. The device is not compared, because
    // some file systems report two for one file. A waiting lock has `->` before its kind.
    let holders = locks.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (pid, at) = (words.get(4)?, words.get(5)?);
        (at.rsplit(':').next() == Some(&number)).then(|| (*pid).to_owned())
    });
    let mut holders = holders.filter(|pid| pid.parse::<u32>().is_ok());
    Ok(holders.any(|pid| counts(&pid) && may_have_open(&pid, file)))
}

/// Whether another process whose locks count has the file open for writing. Each process
/// opens the file first and looks then, so of two at least one finds the other.
fn is_written_to(file: &Metadata) -> io::Result<bool> {
    let own = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc")? {
        let pid = entry?.file_name();
        let Some(pid) = pid.to_str().filter(|pid| pid.parse::<u32>().is_ok() && *pid != own) else { continue };
        let writes = |number: &str| {
            let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            flags
                .and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok())
                .is_some_and(|flags| flags & O_ACCMODE != O_RDONLY)
        };
        if counts(pid) && descriptors(pid, file).is_ok_and(|mut numbers| numbers.any(|number| writes(&number))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The numbers by which a process has that file open.
fn descriptors<'a>(pid: &str, file: &'a Metadata) -> io::Result<impl Iterator<Item = String> + 'a> {
    let is_it =
        |path: &Path| std::fs::metadata(path).is_ok_and(|open| (open.dev(), open.ino()) == (file.dev(), file.ino()));
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    Ok(open.filter(move |entry| is_it(&entry.path())).map(|entry| entry.file_name().to_string_lossy().into_owned()))
}

/// Whether all user ids of that process are this user's or root's: a process that runs a
/// set-user-ID program still has its caller's id. A process that is gone has left its
/// descriptor to another, which no logger does.
fn counts(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let own = geteuid().as_raw();
    let is_ours = |id: &str| id.parse().is_ok_and(|id: u32| id == 0 || id == own);
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .is_some_and(|ids| ids.split_ascii_whitespace().all(is_ours))
}

/// Whether that process has the file open, or that can't be seen. A number in the list may
/// belong to another process by now.
fn may_have_open(pid: &str, file: &Metadata) -> bool {
    match descriptors(pid, file) {
        Ok(mut numbers) => numbers.next().is_some(),
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    fn file() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode).unwrap();
        file
    }

    #[test]
    fn a_lock_of_this_user_counts_however_often_the_file_is_open() {
        let file = file();
        let first = lock(File::open(file.path()).unwrap(), FlockArg::LockExclusiveNonblock).unwrap().unwrap();
        assert!(matches!(first, Locked::Alone(_)));
        for how in [FlockArg::LockExclusiveNonblock, FlockArg::LockSharedNonblock] {
            assert!(lock(File::open(file.path()).unwrap(), how).unwrap().is_none());
        }
        drop(first);
        assert!(!is_listed(&file.as_file().metadata().unwrap()).unwrap());
    }

    #[test]
    fn a_process_that_takes_the_lock_at_the_last_moment_is_noticed() {
        let file = file();
        let open = || File::open(file.path()).unwrap();
        let mut held = Some(Flock::lock(open(), FlockArg::LockExclusiveNonblock).unwrap());
        let mut looks = 0;
        let locked = lock_unless(open(), FlockArg::LockExclusiveNonblock, |_| {
            looks += 1;
            drop(held.take());
            held = Some(Flock::lock(open(), FlockArg::LockExclusiveNonblock).unwrap());
            Ok(looks > 1)
        });
        assert!(locked.unwrap().is_none());
    }

    #[test]
    fn a_file_that_could_not_be_locked_is_locked_later() {
        let (file, how) = (file(), FlockArg::LockExclusiveNonblock);
        let open = || File::open(file.path()).unwrap();
        let other = Flock::lock(open(), how).unwrap();
        let mut locked = lock_unless(open(), how, |_| Ok(false)).unwrap().unwrap();
        assert!(matches!(locked, Locked::Beside(_)) && !locked.again(how));
        drop(other);
        assert!(locked.again(how) && matches!(locked, Locked::Alone(_)) && !locked.again(how));
        assert!(lock(open(), how).unwrap().is_none());
        drop(locked);
        assert!(lock(open(), how).unwrap().is_some());
    }

    /// Another user who may read the file, in three ways: a shared and an exclusive lock
    /// whose process is gone and left it to another, and a lock whose process still runs.
    #[test]
    fn a_lock_of_another_user_does_not_count() {
        if !geteuid().is_root() {
            println!("left out: needs root");
            return;
        }
        for script in [
            "exec 9<\"$0\"; flock -s 9; echo; exec sleep 1000",
            "exec 9<\"$0\"; flock -x 9; echo; exec sleep 1000",
            "flock -x \"$0\" sh -c 'echo; exec sleep 1000'",
        ] {
            let file = file();
            let mut other = Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script])
                .arg(file.path())
                .stdout(Stdio::piped())
                .process_group(0)
                .spawn()
                .unwrap();
            let mut line = [0];
            io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut line).unwrap();
            let locked = lock(File::open(file.path()).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
            assert!(matches!(locked, Some(Locked::Beside(_))), "{script}");
            let group = nix::unistd::Pid::from_raw(other.id().try_into().unwrap());
            nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
            other.wait().unwrap();
        }
    }
}
