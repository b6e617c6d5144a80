//! Signals through a descriptor that can be polled: signal-hook's self-pipe.

use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::WithRawSiginfo;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Caught signals, delivered through a descriptor.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<UnixStream, WithRawSiginfo>,
}

/// A signal that was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Came {
    /// Its number.
    pub number: i32,
    /// The process that sent it. `None`: the kernel sent it, because of a terminal, a timer or
    /// a descriptor.
    pub sender: Option<Sender>,
}

/// Who sent a signal, according to the kernel (`si_pid` and `si_uid`, sigaction(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// Its process id; 0 if this pid namespace doesn't show it.
    pub pid: i32,
    /// Its real user id.
    pub uid: u32,
}

/// Signals that end a process that neither catches nor ignores them (signal(7)), but with
/// which no user means to end it: timers, limits, and notices sent to the wrong process.
/// Not among them are signals that report a fault of the process itself, SIGABRT, with which
/// a watchdog asks for a core dump, and the signals that a terminal or an operator sends.
pub fn accidental() -> impl Iterator<Item = i32> {
    use libc::{SIGALRM, SIGIO, SIGPROF, SIGPWR, SIGSTKFLT, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ};
    let standard = [SIGUSR2, SIGALRM, SIGSTKFLT, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO, SIGPWR];
    standard.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

impl Signals {
    /// Catches these signals from now on, even if they were blocked when this process was
    /// started: a mask survives fork and exec (signal(7)).
    ///
    /// # Errors
    /// EMFILE, ENFILE; EINVAL for a signal that can't be caught.
    pub fn catch(signals: &[i32]) -> io::Result<Signals> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        // They are blocked meanwhile: a signal that came after the handler's sigaction(2)
        // and before its action is registered would be lost.
        let caught: SigSet = signals.iter().filter_map(|&number| Signal::try_from(number).ok()).collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&caught), None)?;
        let delivery = SignalDelivery::with_pipe(read, write, WithRawSiginfo, signals);
        sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&caught), None)?;
        Ok(Signals { delivery: delivery? })
    }

    /// The signals that were delivered since the last call, lowest numbers first. A signal
    /// that is sent again before it is delivered counts once (signal(7): standard signals
    /// don't queue). If one number came more than five times, the first five are reported.
    pub fn came(&mut self) -> impl Iterator<Item = Came> {
        self.delivery.pending().map(|info| Came { number: info.si_signo, sender: sender(&info) })
    }

    /// As [`Signals::came`], but the numbers alone.
    pub fn pending(&mut self) -> impl Iterator<Item = i32> {
        self.came().map(|came| came.number)
    }
}

fn sender(info: &libc::siginfo_t) -> Option<Sender> {
    if !matches!(info.si_code, libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL) {
        return None;
    }
    #[allow(unsafe_code)]
    // SAFETY: with these codes the kernel fills in both (sigaction(2)).
    let (pid, uid) = unsafe { (info.si_pid(), info.si_uid()) };
    Some(Sender { pid, uid })
}

/// Makes sure that this process can wait for its children, even if it was started with
/// SIGCHLD ignored: that survives exec, and wait(2) then finds no children.
pub fn hear_of_children() {
    #[allow(unsafe_code)]
    // SAFETY: the default disposition runs no code of this process.
    let set = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    debug_assert!(set.is_ok(), "SIGCHLD has a disposition");
}

/// Makes this process ignore these signals from now on. Programs that it starts with
/// [`super::process::spawn`] get the default.
pub fn ignore(signals: impl IntoIterator<Item = i32>) {
    for number in signals {
        #[allow(unsafe_code)]
        // SAFETY: an ignored signal runs no code of this process. For a signal that can't be
        // ignored, the call fails.
        unsafe {
            libc::signal(number, libc::SIG_IGN);
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}
