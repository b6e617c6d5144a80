//! Extended attributes of an open file (xattr(7)), including access control lists.

use nix::errno::Errno;
use nix::libc;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The value of an attribute; `None` if the file, or its file system, has none.
///
/// # Errors
/// From fgetxattr(2).
pub fn get(file: &File, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let value = sized(|buffer| {
        #[allow(unsafe_code)]
        // SAFETY: the name ends with NUL, and at most the buffer's length is stored in it.
        unsafe {
            libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        }
    });
    match value {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets an attribute.
///
/// # Errors
/// From fsetxattr(2).
pub fn set(file: &File, name: &CStr, value: &[u8]) -> io::Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: the name ends with NUL, and no more than the value's length is read.
    let result = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Ok(Errno::result(result).map(drop)?)
}

/// Removes an attribute.
///
/// # Errors
/// From fremovexattr(2).
pub fn remove(file: &File, name: &CStr) -> io::Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: the name ends with NUL.
    let result = unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) };
    Ok(Errno::result(result).map(drop)?)
}

/// The names of all attributes.
///
/// # Errors
/// From flistxattr(2).
pub fn list(file: &File) -> io::Result<Vec<CString>> {
    let names = sized(|buffer| {
        #[allow(unsafe_code)]
        // SAFETY: at most the buffer's length is stored in it.
        unsafe {
            libc::flistxattr(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
        }
    });
    match names {
        Ok(names) => {
            Ok(names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).flat_map(CString::new).collect())
        }
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(errno.into()),
    }
}

/// The bytes that such a call stores in a buffer that is large enough (XATTR_SIZE_MAX).
fn sized(call: impl Fn(&mut [u8]) -> isize) -> nix::Result<Vec<u8>> {
    let mut buffer = vec![0; 64 * 1024];
    let len = Errno::result(call(&mut buffer))?;
    buffer.truncate(usize::try_from(len).unwrap_or(0));
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_what_it_was_set_to_until_it_is_removed() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        if set(&file, c"user.a", b"one").is_err() {
            println!("left out: this file system has no attributes");
            return;
        }
        set(&file, c"user.b", b"").unwrap();
        assert_eq!(get(&file, c"user.a").unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(get(&file, c"user.b").unwrap().as_deref(), Some(&b""[..]));
        let names = list(&file).unwrap();
        assert!([c"user.a", c"user.b"].iter().all(|name| names.iter().any(|n| n.as_c_str() == *name)), "{names:?}");
        remove(&file, c"user.a").unwrap();
        assert_eq!(get(&file, c"user.a").unwrap(), None);
    }
}
