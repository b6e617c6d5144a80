//! Who may have written a configuration: it names programs that are run as whoever
//! reads it.

use crate::sys::beside::{Folder, is_only_ours};
use nix::unistd::geteuid;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Why what was opened at that path is not to be believed; `None`: it is root's or
/// the caller's, and nobody else can have written it, or put it there.
pub(super) fn why_not(path: &Path, opened: &Metadata) -> Option<String> {
    let owner = opened.uid();
    if !is_trusted(owner) {
        return Some(format!("it belongs to user {owner}, who is neither root nor you: chown it, if you trust it"));
    }
    if opened.is_file() && !is_only_ours(owner, opened.gid(), opened.mode()) {
        let mode = opened.mode() & 0o7777;
        return Some(format!("others than its owner may write to it (mode {mode:04o}): chmod go-w, if you trust it"));
    }
    // In a folder of theirs, anybody may give a name to a file of root's; relative
    // paths in it are then relative to that folder.
    let named = path.symlink_metadata().ok()?;
    let is_placed = is_trusted(named.uid()) && (opened.nlink() <= 1 || !opened.is_file());
    let is_shared = || Folder::of(path).map_or(true, |folder| folder.is_shared());
    if !is_placed && is_shared() {
        return Some("somebody else may have put it there: others may write to its folder".to_owned());
    }
    None
}

fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == geteuid().as_raw()
}
