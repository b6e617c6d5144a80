//! Signals as something to poll: signal-hook's self-pipe.

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Signals that were asked for, delivered through a descriptor.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    /// How often each signal came and was not collected yet.
    came: Vec<(i32, Arc<AtomicU32>)>,
}

impl Signals {
    /// Catches these signals from now on, also where whoever started this
    /// process had blocked them: a mask goes through fork and exec (signal(7)).
    ///
    /// # Errors
    /// EMFILE, ENFILE; EINVAL for a signal that can't be caught.
    pub fn catch(signals: &[i32]) -> io::Result<Signals> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        // Held back meanwhile: one that came between the handler's sigaction(2)
        // and the note of what it shall do would be lost.
        let caught: SigSet = signals.iter().filter_map(|&number| Signal::try_from(number).ok()).collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&caught), None)?;
        // Counted first, so that a signal that is reported has been counted.
        let came = signals.iter().map(|&number| Ok((number, counted(number)?))).collect::<io::Result<_>>();
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, signals);
        sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&caught), None)?;
        Ok(Signals { delivery: delivery?, came: came? })
    }

    /// The signals that came since the last call, each once however often it came.
    pub fn pending(&mut self) -> impl Iterator<Item = i32> {
        self.delivery.pending()
    }

    /// How often that signal was delivered since the last call. One that is sent
    /// again before it is delivered is still one (signal(7): standard signals
    /// don't queue).
    pub fn times(&self, number: i32) -> u32 {
        let counted = self.came.iter().find(|(counted, _)| *counted == number);
        counted.map_or(0, |(_, times)| times.swap(0, Ordering::Relaxed))
    }
}

/// A count that goes up with each delivery of that signal.
fn counted(number: i32) -> io::Result<Arc<AtomicU32>> {
    let times = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&times);
    #[allow(unsafe_code)]
    // SAFETY: what runs in the handler is one atomic addition, which is
    // async-signal-safe (signal-safety(7)).
    unsafe {
        signal_hook::low_level::register(number, move || {
            count.fetch_add(1, Ordering::Relaxed);
        })
    }?;
    Ok(times)
}

/// Has this process hear of its children's ends, also where whoever started it
/// ignored SIGCHLD: that goes through exec, and wait(2) then knows no children.
pub fn hear_of_children() {
    #[allow(unsafe_code)]
    // SAFETY: the default disposition runs no code of this process.
    let set = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    debug_assert!(set.is_ok(), "SIGCHLD has a disposition");
}

/// A write past a limit on the size of a file (RLIMIT_FSIZE) fails with EFBIG from
/// now on; by default it would end this process with SIGXFSZ. Programs that this
/// process starts with [`super::process::spawn`] have the default.
pub fn ignore_file_size_signal() {
    #[allow(unsafe_code)]
    // SAFETY: an ignored signal runs no code of this process.
    let set = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    debug_assert!(set.is_ok(), "SIGXFSZ can be ignored");
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}
