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
        Err(Errno::EINVAL | Errno::ENOSYS) => rename_if_free(from, to),
        Err(errno) => Err(errno.into()),
    }
}

/// Only a name that is known to be free is used: what can't be looked at may be there.
fn rename_if_free(from: &Path, to: &Path) -> io::Result<()> {
    match to.symlink_metadata() {
        Ok(_) => Err(Errno::EEXIST.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::rename(from, to),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_stays_what_it_is_whether_or_not_the_kernel_looks() {
        for rename in [rename_to_free, rename_if_free] {
            let folder = tempfile::tempdir().unwrap();
            let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
            std::fs::write(&a, "a").unwrap();
            rename(&a, &b).unwrap();
            std::fs::write(&a, "other").unwrap();
            assert_eq!(rename(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&b).unwrap(), b"a");
            let below_a_file = rename(&b, &a.join("c")).unwrap_err();
            assert_eq!(below_a_file.kind(), io::ErrorKind::NotADirectory);
            assert_eq!(
                rename(&folder.path().join("c"), &folder.path().join("d")).unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
        }
    }
}
