//! A file's length and number of links, and nothing else of it (statx(2)).

use nix::errno::Errno;
use nix::libc::{AT_EMPTY_PATH, STATX_NLINK, STATX_SIZE, statx};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// A file's length, and how many names it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// In bytes.
    pub length: u64,
    /// Its number of links.
    pub links: u64,
}

/// Looks at an open file without asking for its times: since Linux 6.13 (fs/stat.c,
/// `fill_mg_cmtime`), a file whose times were asked for gets new ones with its next
/// write, and the inode must then be written to the disk.
///
/// # Errors
/// From fstat(2).
pub fn size(file: &File) -> io::Result<Size> {
    let mut found = MaybeUninit::<statx>::uninit();
    #[allow(unsafe_code)]
    // SAFETY: the path is an empty string, and the result has room for what the kernel stores.
    let result =
        unsafe { statx(file.as_raw_fd(), c"".as_ptr(), AT_EMPTY_PATH, STATX_NLINK | STATX_SIZE, found.as_mut_ptr()) };
    if Errno::result(result).is_err() {
        // A sandbox may refuse statx(2).
        return timed_size(file);
    }
    #[allow(unsafe_code)]
    // SAFETY: statx(2) succeeded, so it has filled all of it.
    let found = unsafe { found.assume_init() };
    Ok(Size { length: found.stx_size, links: found.stx_nlink.into() })
}

/// As [`size`], but asks for the times too.
///
/// # Errors
/// From fstat(2).
pub fn timed_size(file: &File) -> io::Result<Size> {
    let metadata = file.metadata()?;
    Ok(Size { length: metadata.len(), links: metadata.nlink() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_as_long_and_has_as_many_names_as_fstat_says() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut file = File::create(at("one")).unwrap();
        let expect = |file: &File, length, links| {
            assert_eq!(size(file).unwrap(), Size { length, links });
            assert_eq!(timed_size(file).unwrap(), Size { length, links });
        };
        expect(&file, 0, 1);
        file.write_all(b"text").unwrap();
        std::fs::hard_link(at("one"), at("two")).unwrap();
        expect(&file, 4, 2);
        std::fs::remove_file(at("one")).unwrap();
        std::fs::remove_file(at("two")).unwrap();
        expect(&file, 4, 0);
    }
}
