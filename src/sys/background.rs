//! Work in the background: a process that stands back.

use nix::errno::Errno;
use nix::libc;
use std::io;

/// This process gets the processor and the disk when nobody else wants them:
/// nice 19 (setpriority(2)) and the idle class of ioprio_set(2).
///
/// # Errors
/// None that is known: to stand back needs no privilege.
pub fn stand_back() -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    #[allow(unsafe_code)]
    // SAFETY: both take integers alone; 0 is this process.
    unsafe {
        Errno::result(libc::setpriority(libc::PRIO_PROCESS, 0, 19))?;
        Errno::result(libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE))?;
    }
    Ok(())
}
