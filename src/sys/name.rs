//! Renames files to names that are free.

use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::libc;
use nix::sys::stat::fstatat;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// Renames a file in a folder to a name that is free there (rename(2), RENAME_NOREPLACE).
///
/// If the file system can't do that in one step (NFS; some in user space), this first checks
/// whether the name is free.
///
/// # Errors
/// EEXIST if it is not free; others from rename(2).
pub fn rename_to_free(folder: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> io::Result<()> {
    let (old, new) = (CString::new(from.as_bytes())?, CString::new(to.as_bytes())?);
    #[allow(unsafe_code)]
    // SAFETY: both names end with NUL and outlive the call, which keeps neither.
    // By libc, because nix has it for one C library only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            folder.as_raw_fd(),
            old.as_ptr(),
            folder.as_raw_fd(),
            new.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        Err(Errno::EINVAL | Errno::ENOSYS) => rename_if_free(folder, from, to),
        Err(errno) => Err(errno.into()),
    }
}

/// Renames only if the name is known to be free: a file that can't be looked at may exist.
fn rename_if_free(folder: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> io::Result<()> {
    match fstatat(folder, to, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EEXIST.into()),
        Err(Errno::ENOENT) => Ok(renameat(folder, from, folder, to)?),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_taken_name_is_not_replaced_whether_or_not_the_kernel_checks() {
        for rename in [rename_to_free, rename_if_free] {
            let folder = tempfile::tempdir().unwrap();
            let opened = std::fs::File::open(folder.path()).unwrap();
            let rename = |from: &str, to: &str| rename(opened.as_fd(), from.as_ref(), to.as_ref());
            let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
            std::fs::write(&a, "a").unwrap();
            rename("a", "b").unwrap();
            std::fs::write(&a, "other").unwrap();
            assert_eq!(rename("a", "b").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&b).unwrap(), b"a");
            assert_eq!(rename("b", "a/c").unwrap_err().kind(), io::ErrorKind::NotADirectory);
            assert_eq!(rename("c", "d").unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }
}
