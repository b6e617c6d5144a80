//! Which archive comes before a message file, noted at the file itself (xattr(7)). Names
//! alone can't show that an archive between two others is missing.

use super::archives;
use crate::sys::cause::cause;
use crate::sys::xattr;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::path::Path;

/// The attribute. Its value is the time in the name of the archive before.
pub const ATTRIBUTE: &CStr = c"user.plumbd.follows";

/// Notes at the file which takes the place of `path` that it follows that archive. What
/// can't be noted is not: a file system may have no attributes, or no room for one.
pub fn note(file: &File, path: &Path, archive: &Path) {
    let Some((_, time, _)) = archives::of_path(archive) else { return };
    if let Err(error) = xattr::set(file, ATTRIBUTE, time.as_bytes()) {
        log::debug!("cannot note at {} which archive comes before it: {}", path.display(), cause(&error));
    }
}

/// The time of the archive that a file follows; `None` if that is not known.
pub fn of(file: &File) -> Option<String> {
    let value = xattr::get(file, ATTRIBUTE).ok()??;
    // Anybody who may write to the file may have put something else there.
    String::from_utf8(value).ok().filter(|time| archives::micros(time).is_some())
}

/// Gives the compressed form what the raw one has.
pub fn keep(raw: &File, compressed: &File) {
    let kept = xattr::get(raw, ATTRIBUTE).and_then(|value| match value {
        Some(value) => xattr::set(compressed, ATTRIBUTE, &value),
        None => Ok::<(), io::Error>(()),
    });
    if let Err(error) = kept {
        log::debug!("cannot note at a compressed archive which one comes before it: {}", cause(&error));
    }
}
