//! Work in the background, at the lowest priority.

use nix::errno::Errno;
use nix::libc;
use std::io;

/// Lets this process have the processor and the disk only when nobody else wants them:
/// nice 19 (setpriority(2)) and the idle class of ioprio_set(2).
///
/// # Errors
/// None that are known: lowering one's priority needs no privilege.
pub fn stand_back() -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    #[allow(unsafe_code)]
    // SAFETY: both take only integers; 0 is this process.
    unsafe {
        Errno::result(libc::setpriority(libc::PRIO_PROCESS, 0, 19))?;
        Errno::result(libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE))?;
    }
    Ok(())
}
