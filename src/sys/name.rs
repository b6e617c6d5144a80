//! Names of files.

use nix::errno::Errno;
use nix::libc;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Renames a file to a name that is free (rename(2), RENAME_NOREPLACE).
///
/// A file system that can't do that in one step (NFS; some in user space) is
/// asked first whether the name is free.
///
/// # Errors
/// EEXIST where it is not free; others from rename(2).
pub fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    let (old, new) = (CString::new(from.as_os_str().as_bytes())?, CString::new(to.as_os_str().as_bytes())?);
    #[allow(unsafe_code)]
    // SAFETY: both names end with NUL and outlive the call, which keeps neither.
    // By libc, for nix has it for one C library only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            old.as_ptr(),
            libc::AT_FDCWD,
            new.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        Err(Errno::EINVAL | Errno::ENOSYS) if to.symlink_metadata().is_err() => std::fs::rename(from, to),
        Err(Errno::EINVAL | Errno::ENOSYS) => Err(Errno::EEXIST.into()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_stays_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        std::fs::write(&a, "a").unwrap();
        rename_to_free(&a, &b).unwrap();
        std::fs::write(&a, "other").unwrap();
        assert_eq!(rename_to_free(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&b).unwrap(), b"a");
        assert_eq!(rename_to_free(&folder.path().join("c"), &a).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
