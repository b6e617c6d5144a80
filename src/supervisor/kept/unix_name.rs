//! Names of Unix sockets in the file system: made where nobody listens,
//! recognised later, and removed only by the daemon that made them.
//!
//! A name that was left behind is replaced. Checking whether somebody listens,
//! removing the name and making a new one are several system calls, so each
//! daemon does them under a lock: otherwise, if two start at once, the second
//! would remove the name that the first has just made. The lock is
//! flock(2) on a file beside the name, `.NAME.lock`, which only this user can
//! open, and which is removed before the lock is released. It is held only for a
//! few system calls, so no process that is forked later inherits it.

use crate::sys::aside::{self, Keeps};
use crate::sys::beside::{self, Whose};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often to try to take a lock. It is held only for a few system calls, so this is enough.
const LOCK_TRIES: usize = 20;
/// The pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// Which file a name refers to. A socket keeps its inode even without a name, so no other
/// file can have the same numbers while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    fn of(data: &Metadata) -> Inode {
        Inode { device: data.dev(), number: data.ino() }
    }

    /// Parses what [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Inode> {
        let (device, number) = text.split_once('-')?;
        let hex = |digits| u64::from_str_radix(digits, 16).ok();
        Some(Inode { device: hex(device)?, number: hex(number)? })
    }
}

impl fmt::Display for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.device, self.number)
    }
}

/// The name of a socket that this daemon holds.
#[derive(Debug)]
pub struct Name {
    path: PathBuf,
    inode: Inode,
    /// Whether its folder is on a disk of this machine. If not, looking at it may take forever.
    local: bool,
    /// Whether a process aside saw that it is gone.
    was_lost: bool,
}

/// Whether the name of a socket that was made earlier still refers to that socket.
///
/// # Errors
/// EACCES and the like: this can't be found out.
pub fn is_still(path: &Path, inode: Inode) -> io::Result<bool> {
    Ok(look(path)? == Some(inode))
}

impl Name {
    /// A name that was just made, or that [still](is_still) refers to that socket.
    pub fn new(path: &Path, inode: Inode, local: bool) -> Name {
        Name { path: path.to_owned(), inode, local, was_lost: false }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which file it is.
    pub fn inode(&self) -> Inode {
        self.inode
    }

    /// Whether its folder is on a disk of this machine.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// Whether the name still refers to this socket, as far as this can be seen at once.
    pub fn is_there(&self) -> bool {
        !self.local || look(&self.path).is_ok_and(|there| there == Some(self.inode))
    }

    /// Whether the name is gone or refers to something else, as far as this can be seen at once.
    pub fn is_lost(&self) -> bool {
        if self.local { look(&self.path).is_ok_and(|there| there != Some(self.inode)) } else { self.was_lost }
    }

    /// Notes whether a process aside saw that it is gone.
    pub fn set_lost(&mut self, lost: bool) {
        self.was_lost = lost;
    }

    /// Opens what has the name, to look at it and change it, if it is still this socket.
    ///
    /// # Errors
    /// From open(2); ENOENT: it is not this socket.
    pub fn open(&self) -> io::Result<File> {
        let file = beside::found(&self.path)?;
        if Inode::of(&file.metadata()?) == self.inode { Ok(file) } else { Err(Errno::ENOENT.into()) }
    }

    /// Removes it if it still refers to this socket: what is there now may belong to another
    /// daemon. On a file system that may not answer, a process aside does that, whose process
    /// id is returned.
    pub fn remove(&self) -> Option<Pid> {
        let cannot = |error: io::Error| log::warn!("cannot remove {}: {error}", self.path.display());
        if self.local {
            self.remove_now().unwrap_or_else(cannot);
            return None;
        }
        aside::start(Keeps::Only(&[]), || drop(self.remove_now())).map_err(cannot).ok()
    }

    fn remove_now(&self) -> io::Result<()> {
        remove_own(&self.path, || is_still(&self.path, self.inode))
    }
}

/// Removes a name if it is this daemon's own, as `is_own` says. No other daemon can make its
/// own name there between that check and the removal, because it would need the lock.
///
/// # Errors
/// From `is_own`, or from unlink(2).
pub fn remove_own(path: &Path, is_own: impl Fn() -> io::Result<bool>) -> io::Result<()> {
    if !is_own()? {
        return Ok(());
    }
    let lock = Lock::take_soon(path);
    match &lock {
        // A daemon releases the lock at once if somebody listens on the name. One that holds it
        // for this long is doing something else, so the name is left alone.
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            log::warn!("leaving {} in place: another daemon has locked it", path.display());
            Ok(())
        }
        // If the lock can't be made, for example on a full disk, no other daemon has it either.
        Ok(_) | Err(_) if is_own()? => beside::remove(path),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Who may connect to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Users whom this process's umask allows.
    Umask,
    /// Only this process's user.
    Private,
}

/// A socket that has no name yet.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn socket_to_bind() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Gives a socket the name `path`, in place of a socket on which nobody listens, and
/// listens. When it returns, clients can connect.
///
/// # Errors
/// EADDRINUSE: somebody listens there or is about to, or it is not a socket.
pub fn bind_at(fd: &OwnedFd, path: &Path, access: Access, backlog: i32) -> io::Result<Inode> {
    let address = UnixAddr::new(path)?;
    // Wait for the lock: a process aside of this daemon may be removing an earlier name.
    let _lock = Lock::take_soon(path)?;
    clear_stale(path, &address)?;
    // There is only one thread, so nothing else creates a file meanwhile.
    let before = (access == Access::Private).then(|| umask(Mode::from_bits_truncate(0o177)));
    let bound = bind(fd.as_raw_fd(), &address);
    if let Some(before) = before {
        umask(before);
    }
    bound?;
    let inode = look(path)?.ok_or(Errno::ENOENT)?;
    // Before the lock is released: until it listens, its name looks like one left behind.
    listen_now(fd, backlog).inspect_err(|_| drop(beside::remove(path)))?;
    Ok(inode)
}

/// Listens on a socket that was bound, perhaps not for the first time: clients see the
/// process that did so last as its owner (SO_PEERCRED, unix(7)).
///
/// # Errors
/// None for a socket that is bound.
pub fn listen_now(fd: &OwnedFd, backlog: i32) -> io::Result<()> {
    Ok(listen(fd, Backlog::new(backlog)?)?)
}

/// Makes a socket with the name `path` and listens, all in this process. `path` must be on a
/// disk of this machine.
///
/// # Errors
/// As [`bind_at`].
pub fn listen_at(path: &Path, access: Access, backlog: i32) -> io::Result<(OwnedFd, Name)> {
    let fd = socket_to_bind()?;
    let inode = bind_at(&fd, path, access, backlog)?;
    Ok((fd, Name::new(path, inode, true)))
}

fn look(path: &Path) -> io::Result<Option<Inode>> {
    match std::fs::symlink_metadata(path) {
        Ok(data) => Ok(Some(Inode::of(&data))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes the name of a socket on which nobody listens any more.
fn clear_stale(path: &Path, address: &UnixAddr) -> io::Result<()> {
    let data = match std::fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !data.file_type().is_socket() {
        return Err(Errno::EADDRINUSE.into());
    }
    // Nonblocking, because one that is too busy to accept (EAGAIN, unix(7)) is alive and is
    // not waited for.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => beside::remove(path),
        Err(Errno::ENOENT) => Ok(()),
        _ => Err(Errno::EADDRINUSE.into()),
    }
}

/// The right to make, replace or remove a name, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: Flock<File>,
}

impl Lock {
    /// Takes the lock of that name, and waits if another daemon has it for a moment.
    ///
    /// # Errors
    /// EADDRINUSE: another daemon has it for longer; otherwise it can't be made.
    pub fn take_soon(name: &Path) -> io::Result<Lock> {
        for _ in 1..LOCK_TRIES {
            match Lock::take(name) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => std::thread::sleep(LOCK_PAUSE),
                taken => return taken,
            }
        }
        Lock::take(name)
    }

    fn take(name: &Path) -> io::Result<Lock> {
        let mut hidden = OsString::from(".");
        hidden.push(name.file_name().ok_or(Errno::EINVAL)?);
        hidden.push(".lock");
        let path = name.with_file_name(hidden);
        let cannot =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot lock {}: {error}", path.display()));
        loop {
            let (file, _is_new) = beside::open_or_make(&path, OFlag::O_RDWR, 0o600, Whose::Own).map_err(cannot)?;
            let data = file.metadata().map_err(cannot)?;
            if data.len() > 0 || data.nlink() > 1 {
                return Err(cannot(io::Error::other("it is not a lock file of this user's")));
            }
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EINTR)) => continue,
                // Another daemon is taking this name at the moment.
                Err((_, Errno::EAGAIN)) => return Err(Errno::EADDRINUSE.into()),
                Err((_, error)) => return Err(cannot(error.into())),
            };
            let lock = Lock { path: path.clone(), file };
            // The previous holder may have removed it after we opened it and before we locked it.
            if lock.is_there() {
                return Ok(lock);
            }
        }
    }

    fn is_there(&self) -> bool {
        let ours = self.file.metadata().map(|data| Inode::of(&data));
        ours.is_ok_and(|ours| look(&self.path).is_ok_and(|there| there == Some(ours)))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.is_there() {
            // If an empty file stays, the next daemon takes it over.
            let _stays = beside::remove(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_stale_name_is_replaced_and_no_lock_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (_socket, name) = listen_at(&path, Access::Umask, 8).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(name.is_there());
        assert_eq!(names(folder.path()), ["s"]);
    }

    #[test]
    fn a_name_is_in_use_if_somebody_listens_there_or_is_about_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let live = UnixListener::bind(&path).unwrap();
        assert_eq!(listen_at(&path, Access::Umask, 8).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(live);
        let lock = Lock::take(&path).unwrap();
        assert_eq!(listen_at(&path, Access::Umask, 8).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert!(path.exists(), "only the holder of the lock may remove it");
        drop(lock);
        listen_at(&path, Access::Umask, 8).unwrap();
    }

    #[test]
    fn if_many_start_at_once_on_a_stale_name_one_gets_it_and_can_be_reached() {
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("s");
            drop(UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(4);
            let results: Vec<io::Result<(OwnedFd, Name)>> = std::thread::scope(|scope| {
                let (start, path) = (&start, &path);
                let starts: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(move || {
                            start.wait();
                            listen_at(path, Access::Umask, 8)
                        })
                    })
                    .collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            let (winners, losers): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
            assert_eq!(winners.len(), 1);
            assert!(losers.into_iter().all(|loser| loser.unwrap_err().kind() == ErrorKind::AddrInUse));
            assert!(winners[0].as_ref().unwrap().1.is_there());
            UnixStream::connect(&path).unwrap();
            assert_eq!(names(folder.path()), ["s"]);
        }
    }

    #[test]
    fn a_name_that_now_refers_to_another_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_socket, name) = listen_at(&path, Access::Umask, 8).unwrap();
        let inode = Inode::parse(&name.inode().to_string()).unwrap();
        assert!(is_still(&path, inode).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_still(&path, inode).unwrap());
        let _other = UnixListener::bind(&path).unwrap();
        assert!(!is_still(&path, inode).unwrap());
        name.remove();
        assert!(path.exists());
    }

    #[test]
    fn a_name_is_not_removed_while_another_daemon_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_socket, name) = listen_at(&path, Access::Umask, 8).unwrap();
        let lock = Lock::take(&path).unwrap();
        std::thread::scope(|scope| {
            let removing = scope.spawn(|| name.remove());
            // The other daemon takes the name, which the first one has lost.
            std::fs::remove_file(&path).unwrap();
            let _others = UnixListener::bind(&path).unwrap();
            drop(lock);
            removing.join().unwrap();
        });
        assert!(path.exists());
        assert_eq!(names(folder.path()), ["s"]);
    }

    #[test]
    fn if_one_daemon_ends_while_another_starts_the_second_gets_the_name() {
        for _ in 0..200 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("s");
            let (socket, name) = listen_at(&path, Access::Umask, 8).unwrap();
            let next = std::thread::scope(|scope| {
                // Something cleans up the folder just when the first one ends.
                scope.spawn(|| std::fs::remove_file(&path));
                let next = scope.spawn(|| {
                    loop {
                        // Refused while the first one listens, or because the cleaner took its name.
                        if let Ok(taken) = listen_at(&path, Access::Umask, 8) {
                            break taken;
                        }
                    }
                });
                name.remove();
                drop(socket);
                next.join().unwrap()
            });
            // The cleaner may have come last.
            if next.1.is_there() {
                UnixStream::connect(&path).unwrap();
            }
            next.1.remove();
            assert_eq!(names(folder.path()), [""; 0]);
        }
    }

    #[test]
    fn a_lock_that_is_not_ours_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (path, lock) = (folder.path().join("s"), folder.path().join(".s.lock"));
        let victim = folder.path().join("victim");
        std::os::unix::fs::symlink(&victim, &lock).unwrap();
        let why = listen_at(&path, Access::Umask, 8).unwrap_err().to_string();
        assert!(why.starts_with(&format!("cannot lock {}: ", lock.display())), "{why}");
        assert!(!victim.exists());
        std::fs::remove_file(&lock).unwrap();
        std::fs::write(&lock, "a diary").unwrap();
        assert!(listen_at(&path, Access::Umask, 8).is_err());
        assert_eq!(std::fs::read(&lock).unwrap(), b"a diary");
        std::fs::remove_file(&lock).unwrap();
        nix::unistd::mkfifo(&lock, Mode::S_IRWXU).unwrap();
        assert!(listen_at(&path, Access::Umask, 8).is_err());
        std::fs::remove_file(&lock).unwrap();
        // A lock file that a killed daemon has left.
        std::fs::write(&lock, "").unwrap();
        listen_at(&path, Access::Umask, 8).unwrap();
        assert_eq!(names(folder.path()), ["s"], "a socket that was dropped leaves its name");
    }
}
