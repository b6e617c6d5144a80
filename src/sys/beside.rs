//! Files in folders that others may write to, opened so that nobody can gain anything by
//! what they put there.
//!
//! A name in such a folder may be a symbolic link to any file, a second name of
//! any file (link(2)), a FIFO that is never written to, or another user's file,
//! and it may be something else a moment later. So a file is opened first, in a way
//! that follows nothing and waits for nothing, and is then checked through its
//! descriptor. The folder is found step by step: a symbolic link on the way is
//! followed only if it is where only an administrator can put one.
//! `fs.protected_symlinks` and its like (proc_sys_fs(5)) protect some of this on
//! some systems, but nothing here relies on them.

use super::{name, xattr};
use crate::sys::cause::words;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, umask};
use nix::unistd::{UnlinkatFlags, fchown, getegid, geteuid, unlinkat};
use std::cell::OnceCell;
use std::collections::VecDeque;
use std::ffi::{CStr, OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path};

/// Whose file may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This user's own: its contents are trusted.
    Own,
    /// A file that an administrator may have put there. In a folder that only root and
    /// this user can write to, that is any file, even through a symbolic
    /// link; in any other folder, a file of root or of this user that has one name.
    Administrators,
    /// Anybody's: it is read, but not trusted.
    Anybodys,
}

/// How many symbolic links are followed at most, as in path_resolution(7).
const LINKS: usize = 40;

/// An access control list of a file, which it may have from its folder (acl(5)).
const ACL: &CStr = c"system.posix_acl_access";

/// A folder.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    owner: u32,
    group: u32,
    mode: u32,
    /// The owner that its file system gives to files made by this process.
    gives: OnceCell<nix::Result<u32>>,
}

impl Folder {
    /// The folder that a file is in.
    ///
    /// # Errors
    /// From open(2); [`ErrorKind::PermissionDenied`], with the reason, for a symbolic
    /// link that anybody may have put there.
    pub fn of(path: &Path) -> io::Result<Folder> {
        Place::of(path, false).map(|place| place.folder)
    }

    /// Whether others than root and this user can make, rename or remove names in it.
    pub fn is_shared(&self) -> bool {
        !is_only_ours(self.owner, self.group, self.mode)
    }

    /// Whether only root and that user, who has that group, can do that.
    pub fn is_only_of(&self, user: u32, group: u32) -> bool {
        is_only_of((user, group), self.owner, self.group, self.mode)
    }

    /// Whether only root and its owner can do that.
    pub fn is_one_users(&self) -> bool {
        is_only_of((self.owner, self.owner), self.owner, self.group, self.mode)
    }

    /// Whether that file in it may be an administrator's ([`Whose::Administrators`]).
    pub fn may_have(&self, file: &Metadata) -> bool {
        file.is_file() && self.why_not(Whose::Administrators, file).is_none()
    }

    fn at(fd: OwnedFd, data: &FileStat) -> Folder {
        let (owner, group, mode) = (data.st_uid, data.st_gid, data.st_mode);
        Folder { fd, owner, group, mode, gives: OnceCell::new() }
    }

    /// Why that file must not be used; `None`: it may be.
    fn why_not(&self, whose: Whose, file: &Metadata) -> Option<String> {
        if !file.is_file() {
            return Some(format!("it is {}, no regular file", kind(file)));
        }
        let owner = file.uid();
        let is_trusted = match whose {
            Whose::Anybodys => return None,
            Whose::Own => false,
            Whose::Administrators => !self.is_shared() || owner == 0,
        };
        if !is_trusted && owner != geteuid().as_raw() {
            match self.gives() {
                Ok(own) if own == owner => {}
                Ok(_) => return Some(format!("it belongs to user {owner}")),
                Err(errno) => {
                    let why = words(errno);
                    return Some(format!(
                        "it belongs to user {owner}, and cannot see who owns a new file there: {why}"
                    ));
                }
            }
        }
        // In a folder that is not shared, only an administrator can have made a second name.
        (self.is_shared() && file.nlink() > 1)
            .then(|| format!("it has {} names, in a folder that others may write to", file.nlink()))
    }

    /// The owner of a file that this process makes here, which is found by making one. Some
    /// file systems map owners (NFS that squashes root, CIFS), so it may be another user.
    fn gives(&self) -> nix::Result<u32> {
        *self.gives.get_or_init(|| {
            let name = format!(".plumbd-{}", std::process::id());
            let remove = || unlinkat(&self.fd, name.as_str(), UnlinkatFlags::NoRemoveDir);
            // A process that was killed in here has left its file, and in a container process
            // ids recur.
            let _none = remove();
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | CAREFUL;
            let made = openat(&self.fd, name.as_str(), flags, Mode::S_IRUSR)?;
            let owner = fstat(&made).map(|made| made.st_uid);
            let _stays = remove();
            owner
        })
    }
}

/// Whether nobody but root and this user may change a file or a folder with that
/// owner, group and mode.
pub fn is_only_ours(owner: u32, group: u32, mode: u32) -> bool {
    is_only_of((geteuid().as_raw(), getegid().as_raw()), owner, group, mode)
}

/// As [`is_only_ours`], for another user, given with a group. An access control list shows
/// in the group part of the mode.
fn is_only_of(user: (u32, u32), owner: u32, group: u32, mode: u32) -> bool {
    // A user's private group, as useradd(8) makes it, has nobody else in it.
    let is_private = group == 0 || group == user.0 && group == user.1;
    [0, user.0].contains(&owner) && mode & 0o002 == 0 && (mode & 0o020 == 0 || is_private)
}

/// Flags so that open(2) follows no link, waits for nothing, makes no terminal the controlling
/// one, and the descriptor is not inherited.
const CAREFUL: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC).union(OFlag::O_NOCTTY);

/// A name in a folder.
struct Place {
    folder: Folder,
    name: OsString,
}

impl Place {
    /// Where that path leads. `follow`: follow the last name too, if it is a symbolic link.
    fn of(path: &Path, follow: bool) -> io::Result<Place> {
        let mut left: VecDeque<OsString> = path.components().map(|part| part.as_os_str().to_owned()).collect();
        let mut folder = open_folder(AT_FDCWD, OsStr::new(if path.is_absolute() { "/" } else { "." }))?;
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            let is_last = left.is_empty();
            if part == "/" {
                folder = open_folder(AT_FDCWD, &part)?;
                continue;
            }
            if is_last && !follow {
                return Ok(Place { folder, name: part });
            }
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let look = |flags| retried(|| openat(&folder.fd, part.as_os_str(), flags, Mode::empty()));
            // First as a folder, because only O_DIRECTORY triggers an automount (autofs;
            // O_PATH, open(2)).
            let found = match if is_last { Err(Errno::ENOTDIR) } else { look(flags | OFlag::O_DIRECTORY) } {
                Err(Errno::ENOTDIR) => look(flags),
                other => other,
            };
            let found = match found {
                Err(Errno::ENOENT) if is_last => return Ok(Place { folder, name: part }),
                other => other?,
            };
            let data = fstat(&found)?;
            if SFlag::from_bits_truncate(data.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK {
                // An administrator's link in an administrator's folder is intended, as with
                // /var/log/plumbd in a /var/log that a group may write to. Anybody may give
                // the link another name (link(2)), but that shows in its link count.
                let is_ours = |owner: u32| [0, geteuid().as_raw()].contains(&owner);
                let is_trusted = is_ours(data.st_uid) && is_ours(folder.owner) && data.st_nlink == 1;
                if folder.is_shared() && (is_last || !is_trusted) {
                    return Err(is_link(&part, is_last));
                }
                links += 1;
                if links > LINKS {
                    return Err(Errno::ELOOP.into());
                }
                let target = readlinkat(&found, "")?;
                Path::new(&target).components().rev().for_each(|part| left.push_front(part.as_os_str().to_owned()));
            } else if is_last {
                return Ok(Place { folder, name: part });
            } else {
                folder = Folder::at(found, &data);
            }
        }
        Err(Errno::EISDIR.into())
    }

    fn open(&self, access: OFlag, mode: u32) -> io::Result<File> {
        let mode = Mode::from_bits_truncate(mode);
        match retried(|| openat(&self.folder.fd, self.name.as_os_str(), access | CAREFUL, mode)) {
            Ok(fd) => Ok(fd.into()),
            // It was not a link yet when it was looked at.
            Err(Errno::ELOOP) => Err(is_link(&self.name, true)),
            Err(Errno::EISDIR | Errno::ENXIO | Errno::ENODEV) if self.folder.is_shared() => {
                Err(refused("it is no regular file".to_owned()))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn open_checked(&self, access: OFlag, whose: Whose) -> io::Result<File> {
        let file = self.open(access, 0)?;
        match self.folder.why_not(whose, &file.metadata()?) {
            None => Ok(file),
            Some(why) => Err(refused(why)),
        }
    }

    fn make(&self, access: OFlag, mode: u32) -> io::Result<File> {
        let flags = access | OFlag::O_CREAT | OFlag::O_EXCL;
        if [0, geteuid().as_raw()].contains(&self.folder.owner) {
            return self.open(flags, mode);
        }
        // The folder's owner decides which group and access control list new files get.
        // A process that opened the file before these are removed would keep its access, so
        // the file is made without any rights for others.
        let file = self.open(flags, mode & !0o077)?;
        if xattr::get(&file, ACL)?.is_some() {
            xattr::remove(&file, ACL)?;
        }
        let has_own_group =
            file.metadata()?.gid() == getegid().as_raw() || fchown(&file, None, Some(getegid())).is_ok();
        let mask = umask(Mode::empty());
        umask(mask);
        // A sandbox may refuse chown(2), so the group may still be another one.
        let others_group = if has_own_group { 0 } else { 0o070 };
        fchmod(&file, Mode::from_bits_truncate(mode & !mask.bits() & !others_group))?;
        Ok(file)
    }

    fn remove(&self) -> io::Result<()> {
        Ok(unlinkat(&self.folder.fd, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir)?)
    }
}

fn open_folder(at: impl AsFd, path: &OsStr) -> io::Result<Folder> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = retried(|| openat(&at, path, flags, Mode::empty()))?;
    let data = fstat(&fd)?;
    Ok(Folder::at(fd, &data))
}

fn retried<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

fn is_link(name: &OsStr, is_last: bool) -> io::Error {
    let what = if is_last { "it".to_owned() } else { format!("{} on the way", Path::new(name).display()) };
    refused(format!("{what} is a symbolic link, in a folder that others may write to"))
}

fn refused(why: String) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, why)
}

fn kind(data: &Metadata) -> &'static str {
    let kind = data.file_type();
    match kind {
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

/// Opens a file that exists. A symbolic link at its name is followed only for
/// [`Whose::Administrators`].
///
/// # Errors
/// From open(2); [`ErrorKind::PermissionDenied`], with the reason, if it must not be used.
pub fn open(path: &Path, access: OFlag, whose: Whose) -> io::Result<File> {
    Place::of(path, whose == Whose::Administrators)?.open_checked(access, whose)
}

/// The file with that name, even a symbolic link, opened only to look at it (O_PATH).
///
/// # Errors
/// From open(2); as [`Folder::of`].
pub fn found(path: &Path) -> io::Result<File> {
    let place = Place::of(path, false)?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(retried(|| openat(&place.folder.fd, place.name.as_os_str(), flags, Mode::empty()))?.into())
}

/// Makes a file. At no time does anyone but this user have a right to it that `mode`, less
/// the umask, does not give.
///
/// # Errors
/// From open(2), EEXIST among them.
pub fn make(path: &Path, access: OFlag, mode: u32) -> io::Result<File> {
    Place::of(path, false)?.make(access, mode)
}

/// Opens a file, or makes it if it does not exist; returns whether it was made.
///
/// # Errors
/// As [`open`] and [`make`]. EEXIST: it appears and disappears again and again.
pub fn open_or_make(path: &Path, access: OFlag, mode: u32, whose: Whose) -> io::Result<(File, bool)> {
    let mut attempts = 0;
    loop {
        let place = Place::of(path, whose == Whose::Administrators)?;
        match place.open_checked(access, whose) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return Ok((other?, false)),
        }
        match place.make(access, mode) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && attempts < 100 => attempts += 1,
            other => return Ok((other?, true)),
        }
    }
}

/// Writes a whole file in place of whatever has that name. If that is a file with other
/// names too, it stays as it is under those.
///
/// # Errors
/// As [`remove`] and [`make`]; from write(2).
pub fn write_anew(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    match remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make(path, OFlag::O_WRONLY, mode)?.write_all(bytes)
}

/// Removes a name, unless it is a folder's.
///
/// # Errors
/// From unlink(2); as [`Folder::of`].
pub fn remove(path: &Path) -> io::Result<()> {
    Place::of(path, false)?.remove()
}

/// Renames within a folder, and replaces whatever has the new name.
///
/// # Errors
/// From rename(2); as [`Folder::of`].
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (Place::of(from, false)?, file_name(to)?);
    Ok(nix::fcntl::renameat(&from.folder.fd, from.name.as_os_str(), &from.folder.fd, to)?)
}

/// Renames within a folder, to a name that is free.
///
/// # Errors
/// EEXIST if it is not free; others from rename(2); as [`Folder::of`].
pub fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (Place::of(from, false)?, file_name(to)?);
    name::rename_to_free(from.folder.fd.as_fd(), &from.name, to)
}

/// Brings a file's name to the disk, with fsync(2) of its folder.
///
/// # Errors
/// From open(2) and fsync(2).
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let place = match Place::of(path, true) {
        // Another user has put a link in place of the file that was opened there.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Place::of(path, false)?,
        other => other?,
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = retried(|| openat(&place.folder.fd, ".", flags, Mode::empty()))?;
    match retried(|| nix::unistd::fsync(&folder)) {
        // This file system can't do that for a folder.
        Err(Errno::EINVAL) => Ok(()),
        other => Ok(other?),
    }
}

fn file_name(path: &Path) -> io::Result<&OsStr> {
    match path.components().next_back() {
        Some(Component::Normal(name)) => Ok(name),
        _ => Err(Errno::EINVAL.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};
    use std::path::PathBuf;

    /// A folder that only this user can write to, or that anybody can.
    fn folder(mode: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        folder
    }

    fn why<T: std::fmt::Debug>(result: io::Result<T>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        error.to_string()
    }

    #[test]
    fn a_link_is_followed_only_where_no_one_but_an_administrator_can_put_one() {
        for whose in [Whose::Own, Whose::Administrators] {
            let outside = folder(0o700);
            let real = outside.path().join("real");
            std::fs::write(&real, "").unwrap();
            for (mode, follows) in [(0o755, whose == Whose::Administrators), (0o1777, false), (0o777, false)] {
                let folder = folder(mode);
                let (link, dangling) = (folder.path().join("link"), folder.path().join("dangling"));
                symlink(&real, &link).unwrap();
                symlink(outside.path().join("new"), &dangling).unwrap();
                let opened = open(&link, OFlag::O_RDWR, whose);
                let made = open_or_make(&dangling, OFlag::O_RDWR, 0o600, whose);
                if follows {
                    assert_eq!(opened.unwrap().metadata().unwrap().ino(), real.metadata().unwrap().ino());
                    assert!(made.unwrap().1);
                    std::fs::remove_file(outside.path().join("new")).unwrap();
                } else {
                    assert!(why(opened).contains("it is a symbolic link"));
                    assert!(why(made).contains("it is a symbolic link"));
                    assert!(!outside.path().join("new").exists());
                }
            }
        }
    }

    #[test]
    fn links_on_the_way_are_followed_if_trusted_and_a_loop_ends() {
        let outside = folder(0o700);
        std::fs::write(outside.path().join("f"), "").unwrap();
        for mode in [0o755, 0o1777] {
            let folder = folder(mode);
            symlink(outside.path(), folder.path().join("way")).unwrap();
            symlink("./way", folder.path().join("long")).unwrap();
            for way in ["way/f", "./way/./f", "long/f"] {
                open(&folder.path().join(way), OFlag::O_RDONLY, Whose::Own).unwrap();
            }
            // Anybody may have made a second name of an administrator's link, or a link of
            // their own.
            std::fs::hard_link(folder.path().join("way"), folder.path().join("name")).unwrap();
            symlink(outside.path(), folder.path().join("theirs")).unwrap();
            let made = lchown(folder.path().join("theirs"), Some(65534), None).is_ok();
            for (way, is_anybodys) in [("name/f", true), ("theirs/f", made)] {
                let opened = open(&folder.path().join(way), OFlag::O_RDONLY, Whose::Own);
                assert_eq!(opened.is_err(), is_anybodys && mode == 0o1777, "{way} {mode:o}");
                assert!(opened.is_ok() || why(opened).contains("on the way is a symbolic link"));
            }
        }
        let folder = folder(0o755);
        symlink("loop", folder.path().join("loop")).unwrap();
        let looped = open(&folder.path().join("loop"), OFlag::O_RDONLY, Whose::Administrators).unwrap_err();
        assert_eq!(looped.raw_os_error(), Some(Errno::ELOOP as i32));
    }

    #[test]
    fn only_a_regular_file_with_one_name_is_opened_and_nothing_is_waited_for() {
        let folder = folder(0o1777);
        let at = |name: &str| folder.path().join(name);
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::fs::write(at("one"), "").unwrap();
        for access in [OFlag::O_RDONLY, OFlag::O_WRONLY, OFlag::O_RDWR] {
            for whose in [Whose::Own, Whose::Administrators] {
                open(&at("one"), access, whose).unwrap();
                for (name, what) in [("fifo", "regular file"), ("folder", "regular file"), ("socket", "regular file")] {
                    assert!(why(open(&at(name), access, whose)).contains(what), "{name} {access:?}");
                }
            }
        }
        std::fs::hard_link(at("one"), at("two")).unwrap();
        assert!(why(open(&at("one"), OFlag::O_RDONLY, Whose::Own)).contains("it has 2 names"));
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        open(&at("one"), OFlag::O_RDONLY, Whose::Administrators).unwrap();
    }

    #[test]
    fn a_file_must_belong_to_the_right_user() {
        if !geteuid().is_root() {
            println!("left out: needs root");
            return;
        }
        for (mode, administrators) in [(0o755, true), (0o1777, false)] {
            let folder = folder(mode);
            let path = folder.path().join("f");
            std::fs::write(&path, "").unwrap();
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert_eq!(why(open(&path, OFlag::O_RDONLY, Whose::Own)), "it belongs to user 65534");
            assert_eq!(open(&path, OFlag::O_RDONLY, Whose::Administrators).is_ok(), administrators);
            let names: Vec<_> = folder.path().read_dir().unwrap().collect();
            assert_eq!(names.len(), 1, "{names:?}");
        }
    }

    #[test]
    fn the_owner_that_a_file_system_gives_to_new_files_counts_as_this_user() {
        let folder = folder(0o1777);
        let path = folder.path().join("f");
        let (file, own) = (File::create(&path).unwrap(), geteuid().as_raw());
        let squashing = |gives| Folder { gives: OnceCell::from(gives), ..Folder::of(&path).unwrap() };
        let metadata = file.metadata().unwrap();
        assert_eq!(Folder::of(&path).unwrap().gives(), Ok(own));
        // Left by a killed process that had the same id, as in a container.
        std::fs::write(folder.path().join(format!(".plumbd-{}", std::process::id())), "").unwrap();
        assert_eq!(Folder::of(&path).unwrap().gives(), Ok(own));
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
        if !geteuid().is_root() {
            println!("left out: needs root");
            return;
        }
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        let theirs = file.metadata().unwrap();
        for whose in [Whose::Own, Whose::Administrators] {
            assert_eq!(squashing(Ok(65534)).why_not(whose, &theirs), None);
            let full = squashing(Err(Errno::ENOSPC)).why_not(whose, &theirs).unwrap();
            assert!(full.ends_with("cannot see who owns a new file there: No space left on device"), "{full}");
            assert_eq!(squashing(Err(Errno::ENOSPC)).why_not(whose, &metadata), None);
        }
    }

    #[test]
    fn a_made_file_is_new_and_has_the_mode_that_was_asked_for() {
        for owner in [geteuid().as_raw(), 65534] {
            let folder = folder(0o777);
            if owner == 65534 && std::os::unix::fs::chown(folder.path(), Some(owner), None).is_err() {
                println!("left out: needs root");
                return;
            }
            let path = folder.path().join("f");
            let made = make(&path, OFlag::O_RDWR, 0o604).unwrap().metadata().unwrap();
            assert_eq!((made.mode() & 0o7777, made.gid()), (0o604, getegid().as_raw()));
            assert_eq!(make(&path, OFlag::O_RDWR, 0o604).unwrap_err().kind(), ErrorKind::AlreadyExists);
            symlink("gone", folder.path().join("link")).unwrap();
            assert!(make(&folder.path().join("link"), OFlag::O_RDWR, 0o600).is_err());
        }
    }

    #[test]
    fn names_are_removed_and_changed_without_following_links() {
        let folder = folder(0o1777);
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        symlink("victim", &a).unwrap();
        rename(&a, &b).unwrap();
        std::fs::write(&a, "a").unwrap();
        assert_eq!(rename_to_free(&a, &b).unwrap_err().kind(), ErrorKind::AlreadyExists);
        write_anew(&b, 0o644, b"text").unwrap();
        assert!(b.symlink_metadata().unwrap().is_file() && !folder.path().join("victim").exists());
        sync_folder(&b).unwrap();
        remove(&a).unwrap();
        assert!(!a.exists());
    }

    /// The places where files are opened, made, renamed, removed or changed by name without
    /// this module, and why that is right.
    const ELSEWHERE: &[(&str, &str, &str)] = &[
        ("cli/messages/files.rs", "custom_flags(O_NONBLOCK).open(path)", "a file that the operator names, or may read"),
        (
            "cli/messages/files.rs",
            "custom_flags(O_NOFOLLOW | O_NONBLOCK)",
            "only read, and only if it is a regular file",
        ),
        ("cli/messages/watch.rs", "is_symlink()", "nothing is opened"),
        ("config/mod.rs", "File::options().read(true).custom_flags(flags).open(path)", "its owner is looked at then"),
        ("link/intent.rs", "read_to_string(path)", "the boot id, in /proc"),
        ("supervisor/kept/holder.rs", "read_to_string(table)", "tables of sockets, in /proc"),
        ("supervisor/kept/holder.rs", "std::fs::read(path)", "tables of sockets, in /proc"),
        ("supervisor/kept/sockets.rs", "set_permissions(&path", "in /proc/self/fd"),
        ("sys/at_hand.rs", "File::open(&program)", "a child's program is read, as its user may replace it anyway"),
        ("sys/anew.rs", "fcntl::open(name", "in /proc/self/fd"),
        ("sys/beside.rs", "openat(", "here"),
        ("sys/delay.rs", "path.join(\"status\")", "in /proc"),
    ];

    const CALLS: &[&str] = &[
        " File::open(",
        ":File::open(",
        "(File::open(",
        "File::create",
        "OpenOptions::",
        "File::options(",
        "fs::write(",
        "fs::read(",
        "fs::read_to_string(",
        "fcntl::open(",
        "openat(",
        "fs::copy(",
        "fs::rename(",
        "fs::remove_file(",
        "fs::set_permissions(",
        "fs::hard_link(",
        "symlink(",
        "mkfifo(",
    ];

    fn sources(folder: &Path, all: &mut Vec<PathBuf>) {
        for entry in folder.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
            match entry.file_name().unwrap().to_str().unwrap() {
                "tests" | "tests.rs" => {}
                _ if entry.is_dir() => sources(&entry, all),
                name if name.ends_with(".rs") => all.push(entry),
                _ => {}
            }
        }
    }

    #[test]
    fn no_other_place_opens_or_changes_a_file_by_name() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut all = Vec::new();
        sources(&root, &mut all);
        assert!(all.len() > 100);
        let mut used = vec![false; ELSEWHERE.len()];
        let mut others = Vec::new();
        for path in &all {
            let text = std::fs::read_to_string(path).unwrap();
            let file = path.strip_prefix(&root).unwrap().to_str().unwrap();
            for line in text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().lines() {
                let is_call = CALLS.iter().any(|call| line.contains(call)) && !line.trim_start().starts_with("//");
                // These names are the kernel's, and nobody else can put anything there.
                let is_kernels = ["\"/proc/", "\"/dev/null\""].iter().any(|name| line.contains(name));
                let at = ELSEWHERE.iter().position(|(at, call, _why)| *at == file && line.contains(call));
                match at {
                    Some(at) => used[at] = true,
                    None if is_call && !is_kernels => others.push(format!("{file}: {}", line.trim())),
                    None => {}
                }
            }
        }
        assert!(others.is_empty(), "use sys::beside, or say why not: {others:#?}");
        let unused: Vec<_> = ELSEWHERE.iter().zip(used).filter(|(_, used)| !used).collect();
        assert!(unused.is_empty(), "no longer there: {unused:?}");
    }
}
