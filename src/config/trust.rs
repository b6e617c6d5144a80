//! Whether a configuration can be trusted. It names programs that run as the user who
//! reads it.

use crate::sys::at_hand::is_local;
use crate::sys::beside::{Folder, is_only_ours};
use nix::sys::statvfs::FsFlags;
use nix::unistd::geteuid;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Why the file that was opened at that path is not trusted. `None` if it belongs to root or
/// to the caller, and no other user can have written it or put it there.
pub(super) fn why_not(path: &Path, opened: &Metadata) -> Option<String> {
    if is_handed_over(path) || is_read_only(path) {
        return None;
    }
    let owner = opened.uid();
    if !is_trusted(owner) {
        return Some(format!("it belongs to user {owner}, who is neither root nor you: chown it, if you trust it"));
    }
    if opened.is_file() && !is_only_ours(owner, opened.gid(), opened.mode()) {
        let mode = opened.mode() & 0o7777;
        return Some(format!("others than its owner may write to it (mode {mode:04o}): chmod go-w, if you trust it"));
    }
    // Any user can link a file that belongs to root into a folder of their own. Relative
    // paths in the file would be relative to that folder.
    let named = path.symlink_metadata().ok()?;
    let is_placed = is_trusted(named.uid()) && (opened.nlink() <= 1 || !opened.is_file());
    let is_shared = || Folder::of(path).map_or(true, |folder| folder.is_shared());
    if !is_placed && is_shared() {
        return Some("another user may have put it there: others may write to its folder".to_owned());
    }
    None
}

/// Whether it is a descriptor that this process was given, as in `| plumbd check -c /dev/stdin`.
fn is_handed_over(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || ["/dev/fd", "/proc/self/fd"].iter().any(|folder| path.starts_with(folder))
}

/// Whether it is on a file system that an administrator has mounted read-only, as one mounts
/// a file into a container. Users mount by FUSE only, which is not local.
fn is_read_only(path: &Path) -> bool {
    let flags = nix::sys::statvfs::statvfs(path).map(|found| found.flags());
    flags.is_ok_and(|flags| flags.contains(FsFlags::ST_RDONLY)) && is_local(path)
}

fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == geteuid().as_raw()
}
