//! Memory shared through a file: pages that outlive the process that wrote
//! them, as long as any process holds the file.
//!
//! A store to a shared mapping is in the page cache at once; SIGKILL of the
//! process that made it undoes nothing (mmap(2), MAP_SHARED).

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use std::ffi::{CStr, c_void};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// The size of a shared page, in bytes, whatever the machine's page size.
pub const PAGE: usize = 4096;

/// Gives back memory that this process needed only while it started: the free part of
/// its heap, and the pages of code that it has mapped. The pages stay in the page
/// cache, and those that are needed again come from there when they are touched.
///
/// # Errors
/// /proc is not mounted. None from madvise(2) on a mapping that exists.
pub fn give_back() -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: affects only free memory (malloc_trim(3)).
    unsafe {
        nix::libc::malloc_trim(0);
    }
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        // `55d4-55d8 r-xp 0008f000 fe:00 692 /usr/bin/plumbd` (proc_pid_maps(5))
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some("r-xp"), Some(path)) = (words.next(), words.next(), words.nth(3)) else { continue };
        let address = |text| usize::from_str_radix(text, 16).ok();
        let Some((start, end)) = range.split_once('-').and_then(|(from, to)| address(from).zip(address(to))) else {
            continue;
        };
        let Some(at) = NonNull::new(std::ptr::with_exposed_provenance_mut::<c_void>(start)) else { continue };
        if path.starts_with('/') {
            #[allow(unsafe_code)]
            // SAFETY: a private mapping of a file that was never writable, so
            // its pages are the file's, and come back unchanged.
            unsafe { madvise(at, end - start, MmapAdvise::MADV_DONTNEED) }?;
        }
    }
    Ok(())
}

/// Makes a memory file of `len` zero bytes (memfd_create(2)), close-on-exec.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn memory_file(name: &CStr, len: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    nix::unistd::ftruncate(&fd, i64::try_from(len).map_err(io::Error::other)?)?;
    Ok(fd)
}

/// Seals the length of a memory file before other processes get it, because touching a
/// mapping of a file that was cut is SIGBUS. After that, no other seal can be added either.
///
/// # Errors
/// EPERM if it has other seals that forbid it; EINVAL if it is not a memory file.
pub fn seal_size(file: impl AsFd) -> io::Result<()> {
    let size = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    if fcntl(file.as_fd(), FcntlArg::F_GET_SEALS)? & size.bits() != size.bits() {
        fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(size))?;
    }
    Ok(())
}

/// Makes a memory file with those bytes, which no process can change.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn sealed_file(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memory_file(name, 0)?);
    file.write_all(bytes)?;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE))?;
    seal_size(&file)?;
    Ok(file.into())
}

/// Sets `len` bytes of a memory file to zero, from `from` on, for all who have mapped it, and
/// gives their memory back (fallocate(2), FALLOC_FL_PUNCH_HOLE).
///
/// # Errors
/// EPERM if the file is sealed against writing.
pub fn zero(file: impl AsFd, from: usize, len: usize) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (from, len) = (i64::try_from(from).map_err(io::Error::other)?, i64::try_from(len).map_err(io::Error::other)?);
    loop {
        match fallocate(&file, flags, from, len) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// A shared mapping of a file's first `len` bytes.
#[derive(Debug)]
pub struct SharedMap {
    at: NonNull<c_void>,
    len: usize,
}

#[allow(unsafe_code)]
// SAFETY: the mapping is plain memory that this value owns; nothing about it
// belongs to the thread that made it.
unsafe impl Send for SharedMap {}

impl SharedMap {
    /// Maps the first `len` bytes of `file`, which must be that long: touching memory beyond
    /// its end is SIGBUS.
    ///
    /// # Errors
    /// EINVAL for a length of zero or a file that is too short; ENOMEM, EACCES
    /// from mmap(2).
    pub fn new(file: impl AsFd, len: usize) -> io::Result<SharedMap> {
        let size = nix::sys::stat::fstat(file.as_fd())?.st_size;
        if usize::try_from(size).unwrap_or(0) < len {
            return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
        }
        let length = NonZeroUsize::new(len).ok_or(io::Error::from_raw_os_error(nix::libc::EINVAL))?;
        #[allow(unsafe_code)]
        // SAFETY: a fresh mapping at an address of the kernel's choice; it
        // overlays nothing that exists.
        let at =
            unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(SharedMap { at, len })
    }

    /// The first `count` 8-byte words, as atomics: other processes may look at
    /// them at any instant.
    ///
    /// # Panics
    /// If the mapping is shorter.
    pub fn words(&self, count: usize) -> &[AtomicU64] {
        assert!(count * 8 <= self.len, "the mapping has fewer words");
        #[allow(unsafe_code)]
        // SAFETY: a mapping is page-aligned, longer than `count` words, lives
        // as long as `self`, and atomics allow shared changes.
        unsafe {
            std::slice::from_raw_parts(self.at.as_ptr().cast::<AtomicU64>(), count)
        }
    }

    /// The bytes from `from` to the end, to be changed by this process alone
    /// (other processes that map them are dead or wait for a lock).
    ///
    /// # Panics
    /// If the mapping is shorter than `from`.
    pub fn bytes_mut(&mut self, from: usize) -> &mut [u8] {
        assert!(from <= self.len, "the mapping ends before that");
        #[allow(unsafe_code)]
        // SAFETY: inside the mapping, which lives as long as `self`, and
        // `&mut self` keeps every other reference of this process away.
        unsafe {
            std::slice::from_raw_parts_mut(self.at.as_ptr().cast::<u8>().add(from), self.len - from)
        }
    }

    /// The bytes from `from` to the end.
    ///
    /// # Panics
    /// If the mapping is shorter than `from`.
    pub fn bytes(&self, from: usize) -> &[u8] {
        assert!(from <= self.len, "the mapping ends before that");
        #[allow(unsafe_code)]
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe {
            std::slice::from_raw_parts(self.at.as_ptr().cast::<u8>().add(from), self.len - from)
        }
    }

    /// Keeps it out of core dumps, because a dump would fill every hole of a memory file
    /// (core(5), madvise(2)).
    ///
    /// # Errors
    /// None on a mapping that exists.
    pub fn leave_out_of_dumps(&self) -> io::Result<()> {
        #[allow(unsafe_code)]
        // SAFETY: exactly what `new` mapped; its contents do not change.
        Ok(unsafe { madvise(self.at, self.len, MmapAdvise::MADV_DONTDUMP) }?)
    }

    /// How many bytes are mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an empty mapping can't be made.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        #[allow(unsafe_code)]
        // SAFETY: exactly what `new` mapped, and no reference outlives `self`.
        let _unmapped = unsafe { munmap(self.at, self.len) };
    }
}
