//! Names of Unix sockets in the file system: made where nobody listens,
//! recognised later, and removed only by the daemon that made them.
//!
//! A name that was left behind is replaced. Looking whether somebody listens,
//! removing the name and making a new one are several system calls, so each
//! daemon does them under a lock: otherwise the second of two that start at
//! once would remove the name that the first has just made. The lock is
//! flock(2) on a file beside the name, `.NAME.lock`, which only this user can
//! open, and which is removed before the lock is released. It is held for a
//! few system calls, so no process that is forked later inherits it.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, umask};
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Which file a name stands for. While a socket lives its inode stays, even
/// without a name, so no other file can have the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    fn of(data: &Metadata) -> Inode {
        Inode { device: data.dev(), number: data.ino() }
    }

    /// What [`Display`](fmt::Display) wrote.
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
}

impl Name {
    /// The name of a socket that was made earlier, if it is still that socket's.
    ///
    /// # Errors
    /// EACCES and its like: nobody can say.
    pub fn again(path: &Path, inode: Inode) -> io::Result<Option<Name>> {
        Ok((look(path)? == Some(inode)).then(|| Name { path: path.to_owned(), inode }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which file it is.
    pub fn inode(&self) -> Inode {
        self.inode
    }

    /// Whether the name is still there and still this socket's.
    pub fn is_there(&self) -> bool {
        look(&self.path).is_ok_and(|there| there == Some(self.inode))
    }

    /// Removes it, unless somebody removed it before: what is there now may be
    /// another daemon's.
    pub fn remove(&self) {
        if !self.is_there() {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Who may connect to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whom this process's umask lets.
    Umask,
    /// This user alone.
    Private,
}

/// Listens at `path`, in place of a socket that nobody listens on. When it
/// returns, clients can connect.
///
/// # Errors
/// EADDRINUSE: somebody listens there, or is about to, or it is no socket.
pub fn listen_at(path: &Path, access: Access, backlog: i32) -> io::Result<(OwnedFd, Name)> {
    let address = UnixAddr::new(path)?;
    let _lock = Lock::take(path)?;
    clear_stale(path, &address)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // There is one thread, so nothing else creates a file meanwhile.
    let before = (access == Access::Private).then(|| umask(Mode::from_bits_truncate(0o177)));
    let bound = bind(fd.as_raw_fd(), &address);
    if let Some(before) = before {
        umask(before);
    }
    bound?;
    let inode = look(path)?.ok_or(Errno::ENOENT)?;
    let name = Name { path: path.to_owned(), inode };
    if let Err(error) = Backlog::new(backlog).and_then(|backlog| listen(&fd, backlog)) {
        name.remove();
        return Err(error.into());
    }
    Ok((fd, name))
}

fn look(path: &Path) -> io::Result<Option<Inode>> {
    match std::fs::symlink_metadata(path) {
        Ok(data) => Ok(Some(Inode::of(&data))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a socket's name that nobody listens on any more.
fn clear_stale(path: &Path, address: &UnixAddr) -> io::Result<()> {
    let data = match std::fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !data.file_type().is_socket() {
        return Err(Errno::EADDRINUSE.into());
    }
    // One that is too busy to accept is alive, and not waited for (EAGAIN, unix(7)).
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => std::fs::remove_file(path),
        Err(Errno::ENOENT) => Ok(()),
        _ => Err(Errno::EADDRINUSE.into()),
    }
}

/// The right to make or replace a name, until it is dropped.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: Flock<File>,
}

impl Lock {
    fn take(name: &Path) -> io::Result<Lock> {
        let mut hidden = OsString::from(".");
        hidden.push(name.file_name().ok_or(Errno::EINVAL)?);
        hidden.push(".lock");
        let path = name.with_file_name(hidden);
        let cannot =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot lock {}: {error}", path.display()));
        loop {
            // Neither through a link, nor waiting at a FIFO.
            let flags = O_NOFOLLOW | O_NONBLOCK;
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(flags)
                .open(&path)
                .map_err(cannot)?;
            let data = file.metadata().map_err(cannot)?;
            if !data.is_file() || data.uid() != nix::unistd::geteuid().as_raw() || data.len() > 0 || data.nlink() > 1 {
                return Err(cannot(io::Error::other("it is not a lock file of this user's")));
            }
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EINTR)) => continue,
                // Another daemon is just taking this name.
                Err((_, Errno::EAGAIN)) => return Err(Errno::EADDRINUSE.into()),
                Err((_, error)) => return Err(cannot(error.into())),
            };
            let lock = Lock { path: path.clone(), file };
            // The one before may have removed it between our opening and our locking.
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
            // An empty file that stays is taken over by the next one.
            let _stays = std::fs::remove_file(&self.path);
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
    fn one_that_is_listened_on_is_in_use_also_by_one_that_is_about_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let live = UnixListener::bind(&path).unwrap();
        assert_eq!(listen_at(&path, Access::Umask, 8).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(live);
        let lock = Lock::take(&path).unwrap();
        assert_eq!(listen_at(&path, Access::Umask, 8).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert!(path.exists(), "nobody but the holder of the lock removes it");
        drop(lock);
        listen_at(&path, Access::Umask, 8).unwrap();
    }

    #[test]
    fn of_many_that_start_at_once_on_a_stale_name_one_has_it_and_can_be_reached() {
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
    fn a_name_that_is_anothers_by_now_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_socket, name) = listen_at(&path, Access::Umask, 8).unwrap();
        let inode = Inode::parse(&name.inode().to_string()).unwrap();
        assert!(Name::again(&path, inode).unwrap().is_some());
        std::fs::remove_file(&path).unwrap();
        assert!(Name::again(&path, inode).unwrap().is_none());
        let _other = UnixListener::bind(&path).unwrap();
        assert!(Name::again(&path, inode).unwrap().is_none());
        name.remove();
        assert!(path.exists());
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
        // One that a killed daemon has left.
        std::fs::write(&lock, "").unwrap();
        listen_at(&path, Access::Umask, 8).unwrap();
        assert_eq!(names(folder.path()), ["s"], "a socket that was dropped leaves its name");
    }
}
