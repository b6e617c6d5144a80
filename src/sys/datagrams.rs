//! A datagram socket that any local process may send to, descriptors included.
//!
//! Each descriptor that comes with a datagram (SCM_RIGHTS, unix(7)) is a chance to hold
//! this process up. close(2) on one asks its file system to flush it (FUSE_FLUSH), which
//! may take forever. So the buffer has room for the sender's credentials alone, and the
//! kernel drops the rest without installing or flushing anything (MSG_CTRUNC). If the sender
//! has already closed its own copy, that is the last use of the file: a TCP connection with
//! SO_LINGER then waits for its peer, and only a signal interrupts that. So a timer
//! sends signals meanwhile.

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, getsockname, setsockopt, socket, sockopt};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// How long files that a process sent may delay this one, in microseconds.
const PATIENCE: libc::suseconds_t = 1000;

/// A non-blocking datagram socket in the abstract namespace.
#[derive(Debug)]
pub struct Datagrams {
    fd: OwnedFd,
    name: Vec<u8>,
    /// Fields are dropped in order, so at the end this still exists while `fd`, and what
    /// waits in it, is closed.
    closing: Option<Interrupted>,
}

/// The process that sent a datagram, according to the kernel (SCM_CREDENTIALS, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// Its process id.
    pub pid: i32,
    /// Its user id.
    pub uid: u32,
}

/// Room for exactly one control message; the kernel puts the credentials there.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    credentials: libc::ucred,
}

impl Datagrams {
    /// A socket with a name of the kernel's choice (autobind, unix(7)).
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOBUFS.
    pub fn new() -> io::Result<Datagrams> {
        Interrupted::prepare()?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        setsockopt(&fd, sockopt::PassCred, &true)?;
        bind(fd.as_raw_fd(), &UnixAddr::new_unnamed())?;
        let address: UnixAddr = getsockname(fd.as_raw_fd())?;
        let name = address.as_abstract().ok_or(Errno::EINVAL)?.to_owned();
        Ok(Datagrams { fd, name, closing: None })
    }

    /// Its name in the abstract namespace, without the NUL that it begins with.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Receives the next datagram: its length and its sender. `None`: there is none now.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn receive(&self, bytes: &mut [u8]) -> io::Result<Option<(usize, Option<Sender>)>> {
        let _interrupted = Interrupted::soon();
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        loop {
            #[allow(unsafe_code)]
            // SAFETY: both are plain C structures, for which all zeros are valid.
            let (mut control, mut message): (Control, libc::msghdr) = unsafe { std::mem::zeroed() };
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = (&raw mut control).cast();
            message.msg_controllen = size_of::<Control>() as _;
            #[allow(unsafe_code)]
            // SAFETY: recvmsg writes at most `bytes.len()` bytes to `bytes` and the size of
            // `control` to `control`; all that `message` points to outlives the call.
            let received = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
            match Errno::result(received) {
                Ok(length) => return Ok(Some((usize::try_from(length).unwrap_or(0), control.sender()))),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Control {
    fn sender(&self) -> Option<Sender> {
        let is = (self.header.cmsg_level, self.header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS);
        is.then_some(Sender { pid: self.credentials.pid, uid: self.credentials.uid })
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.closing = Some(Interrupted::soon());
    }
}

/// While this exists, SIGALRM comes every [`PATIENCE`], so that no wait lasts longer. It
/// comes more than once because the first may come just before the wait begins.
#[derive(Debug)]
struct Interrupted;

impl Interrupted {
    /// Catches the signal, which would otherwise end this process.
    fn prepare() -> io::Result<()> {
        static CAUGHT: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
        let mut caught = CAUGHT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*caught {
            // Nobody reads the flag that it sets; only the interruption matters.
            signal_hook::flag::register(libc::SIGALRM, Arc::new(AtomicBool::new(false)))?;
            // This process's parent may have blocked it.
            sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::from(Signal::SIGALRM)), None)?;
            *caught = true;
        }
        Ok(())
    }

    fn soon() -> Interrupted {
        set_timer(PATIENCE);
        Interrupted
    }
}

impl Drop for Interrupted {
    fn drop(&mut self) {
        set_timer(0);
    }
}

fn set_timer(every: libc::suseconds_t) {
    let time = libc::timeval { tv_sec: 0, tv_usec: every };
    let timer = libc::itimerval { it_interval: time, it_value: time };
    #[allow(unsafe_code)]
    // SAFETY: setitimer reads `timer`, which outlives the call, and writes nothing because
    // the pointer for the old value is null. It can't fail with these arguments.
    unsafe {
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
    }
}
