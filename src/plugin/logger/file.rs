//! The message file: opened by its name, locked, only ever grown.

use super::access;
use super::follows;
use super::render::name_time;
use super::settings::Rights;
use crate::link::intent::{FileId, names};
use crate::sys::beside::{self, Folder, Whose, rename_to_free};
use crate::sys::cause::cause;
use crate::sys::lock::{Locked, lock};
use crate::sys::stat::{self, Size};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FlockArg, OFlag, fallocate};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{NFS_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::geteuid;
use std::fs::{File, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The message file, locked.
#[derive(Debug)]
pub struct MessageFile {
    path: PathBuf,
    file: Locked,
    id: FileId,
    /// Whether its name may not be on the disk yet, because the process that made it may have
    /// been killed before it synced the folder.
    name_unsynced: bool,
    /// Whether it is on NFS, where a removal may only rename it.
    on_nfs: bool,
    /// Up to this length nothing is known to prevent a write: neither a lack of room, if its
    /// file system can say, nor a limit.
    reserved: u64,
    /// It can't get longer than this. The largest number until a limit is known.
    longest: u64,
    /// How long it was after this process last wrote to it, if it has.
    left: Option<u64>,
    /// Whether it was made when it was opened.
    is_new: bool,
    /// What it should have but lacks; empty if nothing.
    lacks: String,
}

/// How much room is asked for at once if there is that much, so that small batches rarely
/// ask.
const AHEAD: u64 = 64 * 1024;

impl MessageFile {
    /// Opens it, and makes it with those rights if it does not exist. `None` if
    /// another process has locked it, or has just put another file in its place.
    ///
    /// # Errors
    /// From open(2) and flock(2). [`ErrorKind::PermissionDenied`] with a text means that
    /// another user may have put it there.
    pub fn open(path: &Path, rights: &Rights<'_>) -> io::Result<Option<MessageFile>> {
        let unfinished = if rights.group.is_some() { UNFINISHED } else { 0 };
        let made = || beside::open_or_make(path, APPENDING, rights.mode | unfinished, Whose::Administrators);
        let (file, is_made) = match beside::open(path, APPENDING, Whose::Administrators) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                put_next_in_place(path)?;
                made()?
            }
            other => (other?, false),
        };
        let opened = file.metadata()?;
        let is_new = is_made || is_unfinished(&opened) && opened.uid() == geteuid().as_raw();
        let lacks = if is_new { finish(&file, path, rights) } else { String::new() };
        let id = FileId::of(&opened);
        let Some(file) = lock(file, FlockArg::LockExclusiveNonblock)? else { return Ok(None) };
        if let Locked::Beside(_) = file {
            log::warn!("another user's process has locked {}; messages are saved to it anyway", path.display());
        }
        let file = MessageFile::of(path, file, id, is_new, lacks);
        Ok(file.is_named().then_some(file))
    }

    fn of(path: &Path, file: Locked, id: FileId, is_new: bool, lacks: String) -> MessageFile {
        MessageFile {
            path: path.to_owned(),
            // If this fails, it is taken for another file system.
            on_nfs: fstatfs(&*file).is_ok_and(|system| system.filesystem_type() == NFS_SUPER_MAGIC),
            file,
            id,
            name_unsynced: true,
            reserved: 0,
            longest: u64::MAX,
            left: None,
            is_new,
            lacks,
        }
    }

    /// Tries to lock it again if it could not be locked before.
    pub fn lock_again(&mut self) {
        if self.file.again(FlockArg::LockExclusiveNonblock) {
            log::info!("locked {}", self.path.display());
        }
    }

    /// What it should have but lacks, as the text of a problem; empty if nothing.
    pub fn lacks(&self) -> &str {
        &self.lacks
    }

    /// Gives it the rights of the file that it replaces, if it is new.
    pub fn take_rights(&mut self, before: &MessageFile) {
        if self.is_new {
            self.lacks = same_rights(&before.file, &self.file, &self.path);
        }
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its path still names it.
    pub fn is_named(&self) -> bool {
        names(&self.path, self.id)
    }

    /// Whether it has no name left, or only one that NFS gave it. Some
    /// file systems in user space don't count links, so its own name is checked too.
    ///
    /// # Errors
    /// From fstat(2), readlink(2).
    pub fn is_removed(&self) -> io::Result<bool> {
        let is_gone = self.look()?.links == 0 || self.on_nfs && is_of_nfs(&self.present_path()?);
        Ok(is_gone && !self.is_named())
    }

    /// Its present path, according to the kernel.
    fn present_path(&self) -> io::Result<PathBuf> {
        std::fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// When it was made, in microseconds since 1970, if its file system knows.
    pub fn born(&self) -> Option<i64> {
        let since = self.file.metadata().ok()?.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
        i64::try_from(since.as_micros()).ok()
    }

    /// How long it is.
    ///
    /// # Errors
    /// From fstat(2).
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.look()?.length)
    }

    /// Before an NFS client reports a file's times, it sends what was written to the server
    /// (nfs_getattr, fs/nfs/inode.c). So others see what is acknowledged.
    fn look(&self) -> io::Result<Size> {
        if self.on_nfs { stat::timed_size(&self.file) } else { stat::size(&self.file) }
    }

    /// Remembers that a batch ends at this length.
    pub fn leave_at(&mut self, len: u64) {
        self.left = Some(len);
    }

    /// Whether another process truncated it to that length or wrote to it. If so, it may not
    /// end with a whole line.
    pub fn is_changed(&self, len: u64) -> bool {
        self.left.is_some_and(|left| left != len)
    }

    /// The open file, for writing at its end.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes the disk keep room for `length` bytes at `offset`, its end (fallocate(2)),
    /// within all limits. It asks for some more, so that later calls need not ask. If a limit
    /// is lowered meanwhile, the write will fail.
    ///
    /// # Errors
    /// ENOSPC, EDQUOT, EFBIG; or it can't be written to.
    pub fn reserve(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if self.is_changed(offset) {
            // If it was truncated, the room is gone.
            self.reserved = 0;
        }
        if offset.saturating_add(length) <= self.reserved {
            return Ok(());
        }
        let limit = self.has_room_below_limit(offset, length)?;
        let end = offset + length;
        let ahead = end.next_multiple_of(AHEAD).min(limit);
        let (reserved, outcome) = match self.allocate(offset, ahead - offset) {
            Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => (end, self.allocate(offset, length)),
            // Its file system can't say, so only the write shows whether there is room.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV | Errno::EINVAL) => (ahead, Ok(())),
            // A write would fail too, so nothing must be promised.
            Err(errno) => (0, Err(errno)),
            Ok(()) => (ahead, Ok(())),
        };
        outcome?;
        self.reserved = reserved;
        Ok(())
    }

    /// A write stopped at this length. Unless that is this process's own limit, which may be
    /// raised, the file system refuses more. This is remembered as long as the file is open,
    /// because each new attempt would write half a batch and cut it off again.
    ///
    /// # Errors
    /// From getrlimit(2).
    pub fn note_longest(&mut self, len: u64) -> io::Result<()> {
        let (soft, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
        if len < soft {
            self.longest = len;
        }
        Ok(())
    }

    /// Checks that the limit of this process (RLIMIT_FSIZE) and, as far as it is known, that
    /// of the file system allow this length. fallocate(2)
    /// does not report it, because it does not change the length, and a write would
    /// stop in the middle of a line. Returns how long the file may become.
    ///
    /// # Errors
    /// EFBIG.
    pub fn has_room_below_limit(&self, offset: u64, length: u64) -> io::Result<u64> {
        let (soft, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
        let limit = soft.min(self.longest);
        if offset.saturating_add(length) > limit { Err(Errno::EFBIG.into()) } else { Ok(limit) }
    }

    /// Does not change its length.
    fn allocate(&self, offset: u64, length: u64) -> nix::Result<()> {
        let [offset, length] = [offset, length].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        loop {
            match fallocate(&*self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, length) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    }

    /// Syncs its contents to the disk.
    ///
    /// # Errors
    /// From fdatasync(2). After that the file can't be trusted, because a second
    /// attempt may succeed although bytes are missing on the disk (fsync(2)).
    /// EROFS if the file system has become read-only since the write. If ext4 does that
    /// because of a fault in between, and can't record that bytes were written to
    /// reserved room, fdatasync(2) may still report success (seen with
    /// Linux 6.18: the proof's disk/read-only-by-error).
    pub fn sync(&self) -> io::Result<()> {
        retried(|| self.file.sync_data())?;
        // Once the file system has given up, it refuses any request that it would have to
        // record. So this asks for room that the file already has, which changes nothing
        // (an empty file gets a block).
        let gave_up = matches!(self.allocate(0, 1), Err(Errno::EROFS | Errno::EIO));
        if gave_up || fstatvfs(&*self.file)?.flags().contains(FsFlags::ST_RDONLY) {
            return Err(Errno::EROFS.into());
        }
        Ok(())
    }

    /// Syncs its name to the disk if that was not done yet. If the path is a symbolic link,
    /// it syncs the folder that has the file itself.
    ///
    /// # Errors
    /// Its folder can't be opened or synced. That alone loses nothing.
    pub fn sync_name(&mut self) -> io::Result<()> {
        if self.name_unsynced {
            sync_folder(&self.path)?;
            self.name_unsynced = false;
        }
        Ok(())
    }

    /// Truncates it to `whole` bytes if it has `len`.
    ///
    /// # Errors
    /// From ftruncate(2); [`ErrorKind::ResourceBusy`] if it has another length.
    pub fn cut(&mut self, whole: u64, len: u64) -> io::Result<()> {
        // This must neither lengthen a file that another process truncated meanwhile, nor
        // remove what another process wrote.
        if self.size()? != len {
            return Err(io::Error::new(ErrorKind::ResourceBusy, "another process is writing to it"));
        }
        retried(|| self.file.set_len(whole))?;
        // The room that was reserved after its end is gone too.
        self.reserved = 0;
        Ok(())
    }

    /// Renames it to `FILE.WHY-TIME`, and returns that name. `None` if
    /// its path already names another file.
    ///
    /// # Errors
    /// From rename(2).
    pub fn set_aside(&self, why: &str) -> io::Result<Option<PathBuf>> {
        if !self.is_named() {
            return Ok(None);
        }
        let path = self.beside(why);
        beside::rename(&self.path, &path)?;
        Ok(Some(path))
    }

    /// Steps 2 to 4 of a rotation: gives it the name `archive`, and its own
    /// name to a new file with the same rights, which is returned. `None` if it lost
    /// its name but the new file could not get it. Then the caller must open whatever file
    /// has that name.
    ///
    /// # Errors
    /// From open(2) and rename(2). Then nothing has changed.
    pub fn rotate(&self, archive: &Path) -> io::Result<Option<MessageFile>> {
        if !self.path.symlink_metadata().is_ok_and(|named| FileId::of(&named) == self.id) {
            return Err(io::Error::other("its name is a symbolic link, or is now another file's"));
        }
        let next = next_path(&self.path);
        remove_next(&self.path);
        // 2 make
        let file = beside::make(&next, APPENDING, 0o600 | UNFINISHED)?;
        let lacks = same_rights(&self.file, &file, &self.path);
        follows::note(&file, &self.path, archive);
        let moved = file.metadata().and_then(|metadata| {
            let locked = || io::Error::other(format!("another process has locked {}", next.display()));
            let file = lock(file, FlockArg::LockExclusiveNonblock)?.ok_or_else(locked)?;
            // 3 away: nothing more is written to it
            rename_to_free(&self.path, archive)?;
            Ok((FileId::of(&metadata), file))
        });
        let (id, file) = match moved {
            Ok(moved) => moved,
            Err(error) => {
                remove_next(&self.path);
                return Err(error);
            }
        };
        // 4 into place
        if let Err(error) = rename_to_free(&next, &self.path) {
            log::error!("cannot put a new file in the place of {}: {error}", self.path.display());
            remove_next(&self.path);
            return Ok(None);
        }
        Ok(Some(MessageFile::of(&self.path, file, id, true, lacks)))
    }

    /// Removes it if its path still names it.
    ///
    /// # Errors
    /// From unlink(2).
    pub fn remove(&self) -> io::Result<()> {
        if self.is_named() { beside::remove(&self.path) } else { Ok(()) }
    }

    /// A name beside its own, `FILE.WHY-TIME`.
    pub fn beside(&self, why: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{why}-{}", name_time(now())));
        name.into()
    }
}

pub use crate::link::batch::now;
pub use crate::sys::beside::sync_folder;

/// Finds a file at that path, or under another name in the same folder.
///
/// # Errors
/// The folder or a name in it can't be read, so the file may still be there.
/// A folder that does not exist counts as empty.
pub fn find(path: &Path, id: FileId) -> io::Result<Option<PathBuf>> {
    if id_at(path)? == Some(id) {
        return Ok(Some(path.to_owned()));
    }
    let Some(entries) = unless_gone(folder(path).read_dir())? else { return Ok(None) };
    for entry in entries {
        let entry = entry?;
        if unless_gone(entry.metadata())?.is_some_and(|found| FileId::of(&found) == id) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Which file that path names; `None` if it names none.
///
/// # Errors
/// It can't be looked up, so the file may still be there.
pub fn id_at(path: &Path) -> io::Result<Option<FileId>> {
    Ok(unless_gone(std::fs::metadata(path))?.map(|found| FileId::of(&found)))
}

/// Turns an error that means "not there" into `None`.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if is_gone(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// Whether an error says that there is nothing with that name.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// How many bytes are read at a time.
pub const BLOCK: usize = 64 * 1024;

/// Whether an error says that a file can't grow any further.
pub fn is_too_large(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EFBIG as i32)
}

/// Whether that is a name that the NFS client gives to a file that is removed
/// while it is open on this machine. The name disappears when the file is closed.
fn is_of_nfs(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".nfs"))
}

/// For reading, and for writing at the end of the file, whatever offset is given
/// (pwrite(2), "BUGS"). So there is no gap if another process truncates it between the
/// check of its length and the write.
const APPENDING: OFlag = OFlag::O_RDWR.union(OFlag::O_APPEND);

/// A mode bit (S_ISVTX) that means nothing to Linux on a regular file. If an empty
/// file has it, a logger made the file and was killed before it set its rights.
const UNFINISHED: u32 = 0o1000;

fn is_unfinished(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.len() == 0 && metadata.mode() & UNFINISHED != 0
}

/// Gives a new file its group, and removes the mark. Returns what the file still lacks.
fn finish(file: &File, path: &Path, rights: &Rights<'_>) -> String {
    let group = rights.group.map_or(Ok(()), |group| access::give_group(file, group.id));
    let mode = file.metadata().and_then(|made| match made.mode() & 0o7777 {
        mode if mode & UNFINISHED == 0 => Ok(()),
        mode => file.set_permissions(Permissions::from_mode(mode & !UNFINISHED | rights.mode & UNFINISHED)),
    });
    let (path, group_name) = (path.display(), rights.group.map_or("", |group| &group.name));
    match (group, mode) {
        (Ok(()), Ok(())) => String::new(),
        (Err(error), _) => format!("cannot give {path} the group {group_name}: {}", cause(&error)),
        (_, Err(error)) => format!("cannot give {path} its mode: {}", cause(&error)),
    }
}

/// Gives a file the rights of the one that it replaces. Returns what it still lacks.
fn same_rights(before: &File, file: &File, path: &Path) -> String {
    let lacks = access::give_same(before, file);
    if lacks.is_empty() { String::new() } else { format!("cannot give {} {}", path.display(), lacks.join("; ")) }
}

/// Refuses a path that names something other than a regular file, unless another user may
/// have put it there, because that may pass.
///
/// # Errors
/// It is not a regular file. Errors of opening it are not reported.
pub fn check(path: &Path) -> io::Result<()> {
    let is_trusted = |named: Metadata| named.uid() == 0 || named.uid() == geteuid().as_raw();
    let is_ours =
        || path.symlink_metadata().is_ok_and(is_trusted) || Folder::of(path).is_ok_and(|folder| !folder.is_shared());
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() && is_ours() => Err(io::Error::other("it is no regular file")),
        _ => Ok(()),
    }
}

/// The path of a message file's intent file.
pub fn intent_path(path: &Path) -> PathBuf {
    beside_hidden(path, "intent")
}

/// The path of the next file until it takes the message file's place.
fn next_path(path: &Path) -> PathBuf {
    beside_hidden(path, "new")
}

/// If a rotation got no further than step 3, puts its next file in place, so that rights set
/// by an administrator are not lost.
///
/// # Errors
/// From lstat(2) and rename(2). Then nothing has changed.
fn put_next_in_place(path: &Path) -> io::Result<()> {
    let next = next_path(path);
    let Some(found) = unless_gone(next.symlink_metadata())? else { return Ok(()) };
    if found.len() > 0 || is_unfinished(&found) || !Folder::of(path)?.may_have(&found) {
        return Ok(());
    }
    match rename_to_free(&next, path) {
        // Something has taken the name meanwhile, or it is a dangling symbolic link.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Removes a next file that never took its place, unless its place is still
/// free. A file with contents is not a next file. If it can't be removed, that is reported
/// when the next one is made.
pub fn remove_next(path: &Path) {
    let next = next_path(path);
    let is_useless = |found: Metadata| {
        let is_wanted = !is_unfinished(&found) && path.symlink_metadata().is_err();
        found.is_file() && found.len() == 0 && !is_wanted
    };
    if next.symlink_metadata().is_ok_and(is_useless) {
        let _reported_later = beside::remove(&next);
    }
}

/// `.NAME.WHAT`, in the folder of the file.
pub fn beside_hidden(path: &Path, what: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".");
    name.push(what);
    folder(path).join(name)
}

/// The folder that a file is in.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn retried(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
