//! A logger that is stopped for a moment just before each of its writes, which is the worst
//! moment for another process to change its file.

use crate::daemon::wait_for;
use crate::disk_site::Site;
use crate::strace::Strace;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// When this is dropped, the logger is as before, except for [`Held::is_not_appending`].
pub(crate) struct Held<'a> {
    pub(crate) site: &'a Site,
    logger: i32,
    /// The descriptor of its message file.
    number: i32,
    _slow: Strace,
}

impl Held<'_> {
    pub(crate) fn new(site: &Site) -> Held<'_> {
        let logger = site.logger();
        let fds = std::fs::read_dir(format!("/proc/{logger}/fd")).unwrap().map(|fd| fd.unwrap().path());
        let number = fds.filter(|fd| std::fs::read_link(fd).is_ok_and(|to| to == site.file)).last().unwrap();
        let number = number.file_name().unwrap().to_str().unwrap().parse().unwrap();
        Held { site, logger, number, _slow: site.inject("pwrite64", "delay_enter=100000") }
    }

    /// Takes a protection away: the file is no longer open for appending
    /// (fcntl(2)), so a write that is under way goes where the file ended before.
    pub(crate) fn is_not_appending(&self) {
        let same = same_description(self.logger, self.number);
        fcntl(&same, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    }

    /// Does something at a moment when a later write has begun and not written anything yet. If
    /// the moment was missed, tries again.
    pub(crate) fn before_a_write(&self, mut act: impl FnMut()) {
        let length = || std::fs::metadata(&self.site.file).unwrap().len();
        let begin = format!("{} {:#x} ", nix::libc::SYS_pwrite64, self.number);
        let path = format!("/proc/{}/syscall", self.logger);
        // The number and arguments of the system call that it is in (proc_pid_syscall(5)).
        let call = || std::fs::read_to_string(&path).ok().filter(|call| call.starts_with(&begin));
        wait_for("a moment before a write", || {
            let before = call().filter(|_| length() > 0)?;
            act();
            // If it is still in the same call, nothing was written meanwhile.
            (call()? == before).then_some(())
        });
        let after = length();
        wait_for("the write", || (length() > after || call().is_none()).then_some(()));
    }
}

/// The open file description of that descriptor in another process (pidfd_getfd(2)).
fn same_description(pid: i32, number: i32) -> OwnedFd {
    #[allow(unsafe_code)]
    // SAFETY: both calls take only numbers, and return a descriptor of our own or -1.
    unsafe {
        let process = nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0);
        assert!(process >= 0, "{}", std::io::Error::last_os_error());
        let process = OwnedFd::from_raw_fd(i32::try_from(process).unwrap());
        let fd = nix::libc::syscall(nix::libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(i32::try_from(fd).unwrap())
    }
}
