//! The names of Unix sockets, made by a process aside, because their folders may be on
//! file systems that do not answer. The sockets themselves belong to this process; a
//! process that shares one can bind it.

use crate::config::model::Address;
use crate::supervisor::family::mark;
use crate::supervisor::kept::unix_name::{self, Access, Inode, Name};
use crate::sys::aside::Keeps;
use crate::sys::cause::cause;
use crate::sys::look::{Answers, Look, Scribe};
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How many clients may wait until this process listens itself.
const BACKLOG: i32 = 128;

/// The names that are to be made or looked at.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// The control socket.
    pub(crate) control: Option<PathBuf>,
    /// Listening sockets.
    pub(crate) listeners: BTreeSet<PathBuf>,
    /// The names that sockets of these listeners had: if one still belongs to that socket, no
    /// other is made.
    pub(crate) known: Vec<(PathBuf, Inode)>,
    /// Names that belong to the service manager.
    pub(crate) lent: BTreeSet<PathBuf>,
}

impl Wanted {
    pub(crate) fn is_empty(&self) -> bool {
        self.control.is_none() && self.listeners.is_empty() && self.lent.is_empty()
    }

    /// Prepares to make them.
    ///
    /// # Errors
    /// The system is short of something.
    pub(crate) fn prepare(self) -> Result<Making, String> {
        let control = self.control.iter().map(|path| (path.clone(), Access::Private));
        let listeners = self.listeners.iter().map(|path| (path.clone(), Access::Umask));
        let all = control.chain(listeners).map(|(path, access)| Ok((path, access, unix_name::socket_to_bind()?)));
        let sockets: Vec<_> = all.collect::<io::Result<_>>().map_err(cannot)?;
        Ok(Making { sockets, wanted: self })
    }

    /// Begins to make them.
    ///
    /// # Errors
    /// The system is short of something.
    pub(crate) fn begin(self) -> Result<(Making, Look), String> {
        let making = self.prepare()?;
        let look = Look::begin(Keeps::Only(&making.sockets()), |scribe| making.make(scribe)).map_err(cannot)?;
        Ok((making, look))
    }

    /// Makes them and waits for that, before the loop begins.
    ///
    /// # Errors
    /// It took too long, or the system is short of something.
    pub(crate) fn make(self) -> Result<Names, String> {
        if self.is_empty() {
            return Ok(Names::default());
        }
        let (making, look) = self.begin()?;
        Ok(making.made(&look.wait()?))
    }
}

/// Names that are being made. If this is dropped before they are made, they are given up: a
/// process aside that was killed may not be dead yet, and its copies must not look like
/// sockets in use.
#[derive(Debug)]
pub(crate) struct Making {
    sockets: Vec<(PathBuf, Access, OwnedFd)>,
    wanted: Wanted,
}

/// What the process aside reports about one name.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Made {
    inode: String,
    local: bool,
}

/// An error that one process reports to another.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Refused {
    /// 0 if it does not come from a system call.
    errno: i32,
    text: String,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        Refused { errno: error.raw_os_error().unwrap_or(0), text: error.to_string() }
    }
}

impl From<Refused> for io::Error {
    fn from(Refused { errno, text }: Refused) -> io::Error {
        if errno == 0 { io::Error::other(text) } else { Errno::from_raw(errno).into() }
    }
}

fn made(path: &Path, inode: Inode) -> Made {
    let folder = path.parent().unwrap_or(Path::new("/"));
    Made { inode: inode.to_string(), local: crate::sys::at_hand::is_way_local(folder) }
}

fn looking_at(path: &Path) -> String {
    format!("looking at {}", path.display())
}

fn missing(path: &Path) -> String {
    format!("missing {}", path.display())
}

fn name(path: &Path) -> String {
    format!("name {}", path.display())
}

fn origin(path: &Path) -> String {
    format!("origin {}", path.display())
}

fn cannot(error: io::Error) -> String {
    format!("cannot make the names of Unix sockets: {}", cause(&error))
}

impl Making {
    /// Whether it makes one of the `wanted` names.
    pub(crate) fn makes_one_of(&self, wanted: &Wanted) -> bool {
        self.sockets.iter().any(|(path, ..)| wanted.listeners.contains(path))
    }

    /// The sockets, which the process aside must not close.
    pub(crate) fn sockets(&self) -> Vec<BorrowedFd<'_>> {
        self.sockets.iter().map(|(.., socket)| socket.as_fd()).collect()
    }

    /// Makes and looks at the names; the process aside calls this.
    pub(crate) fn make(&self, scribe: &Scribe<'_>) {
        let Making { sockets, wanted } = self;
        for path in &wanted.lent {
            let is_missing = || path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            scribe.ask(&missing(path), &looking_at(path), is_missing);
        }
        for (path, access, socket) in sockets {
            let what = looking_at(path);
            if *access == Access::Private {
                scribe.does(&what);
                scribe.says(&origin(path), &mark::origin(path).map_err(Refused::from));
            }
            let before = wanted.known.iter().filter(|(known, _)| known == path);
            let make = || {
                for (_, inode) in before {
                    if unix_name::is_still(path, *inode)? {
                        return Ok(made(path, *inode));
                    }
                }
                Ok(made(path, unix_name::bind_at(socket, path, *access, BACKLOG)?))
            };
            scribe.does(&what);
            scribe.says(&name(path), &make().map_err(|error: io::Error| Refused::from(error)));
        }
    }

    /// The names, according to the answers of the process aside.
    pub(crate) fn made(mut self, answers: &Answers) -> Names {
        let (sockets, wanted) = (std::mem::take(&mut self.sockets), std::mem::take(&mut self.wanted));
        let missing = wanted.lent.into_iter().filter(|path| answers.get(&missing(path)) == Some(true)).collect();
        let mut names = Names { made: BTreeMap::new(), origin: None, missing };
        for (path, access, socket) in sockets {
            if access == Access::Private {
                let found: Option<Result<String, Refused>> = answers.get(&origin(&path));
                names.origin = found.map(|found| found.map_err(io::Error::from));
            }
            let Some(answer) = answers.get::<Result<Made, Refused>>(&name(&path)) else { continue };
            let answer = answer.map_err(io::Error::from).and_then(|Made { inode, local }| {
                let inode = Inode::parse(&inode).ok_or(Errno::EINVAL)?;
                let name = Name::new(&path, inode, local);
                let is_new = !wanted.known.contains(&(path.clone(), inode));
                Ok((is_new.then_some(socket), name))
            });
            names.made.insert(path, answer);
        }
        names
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        for (path, _, socket) in &self.sockets {
            // Clients are refused from now on, whether it listens already or later
            // (unix_stream_connect in the kernel's net/unix/af_unix.c), so the next try
            // replaces its name.
            if let Err(errno) = shutdown(socket.as_raw_fd(), Shutdown::Both) {
                log::debug!("cannot shut down a socket for {}: {}", path.display(), errno.desc());
            }
        }
    }
}

/// Names that were made or found.
#[derive(Debug, Default)]
pub(crate) struct Names {
    made: BTreeMap<PathBuf, io::Result<(Option<OwnedFd>, Name)>>,
    origin: Option<io::Result<String>>,
    missing: BTreeSet<PathBuf>,
}

/// A name that was made or found.
#[derive(Debug)]
pub(crate) enum Found {
    /// A new socket with that name, on which the process aside listens.
    New(OwnedFd, Name),
    /// The name, which an earlier socket still has.
    Known(Name),
}

impl Names {
    /// Takes the name at that path.
    ///
    /// # Errors
    /// It could not be made, with EADDRINUSE if somebody listens there; or nobody tried.
    pub(crate) fn take(&mut self, path: &Path) -> io::Result<Found> {
        match self.made.remove(path) {
            Some(Ok((Some(socket), name))) => Ok(Found::New(socket, name)),
            Some(Ok((None, name))) => Ok(Found::Known(name)),
            Some(Err(error)) => Err(error),
            None => Err(io::Error::other("nobody has made its name")),
        }
    }

    /// Whether the name of that address was made or looked at.
    pub(crate) fn has(&self, address: &Address) -> bool {
        matches!(address, Address::Unix(path) if self.made.contains_key(path))
    }

    /// Whether the service manager's socket there has lost its name.
    pub(crate) fn is_missing(&self, address: &Address) -> bool {
        matches!(address, Address::Unix(path) if self.missing.contains(path))
    }

    /// Whether a control socket was to be made.
    pub(crate) fn has_control(&self) -> bool {
        self.origin.is_some()
    }

    /// The control socket's origin, for [`mark::Own`].
    ///
    /// # Errors
    /// The folder can't be looked at.
    pub(crate) fn origin(&mut self) -> io::Result<String> {
        self.origin.take().unwrap_or_else(|| Err(io::Error::other("nobody has looked at it")))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for (socket, name) in std::mem::take(&mut self.made).into_values().flatten() {
            if socket.is_some() {
                name.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_given_up_is_replaced_even_if_the_process_that_made_it_is_not_dead() {
        let folder = tempfile::tempdir().unwrap();
        for has_name in [true, false] {
            let path = folder.path().join("s");
            let making = Wanted { listeners: BTreeSet::from([path.clone()]), ..Wanted::default() }.prepare().unwrap();
            // The process aside has a copy.
            let copy = making.sockets[0].2.try_clone().unwrap();
            if has_name {
                unix_name::bind_at(&copy, &path, Access::Umask, BACKLOG).unwrap();
            }
            drop(making);
            if !has_name {
                unix_name::bind_at(&copy, &path, Access::Umask, BACKLOG).unwrap();
            }
            let (_socket, name) = unix_name::listen_at(&path, Access::Umask, BACKLOG).unwrap();
            std::os::unix::net::UnixStream::connect(&path).unwrap();
            name.remove();
        }
    }
}
