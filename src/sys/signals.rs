//! Signals as something to poll: signal-hook's self-pipe.

use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Signals that were asked for, delivered through a descriptor.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
}

impl Signals {
    /// Catches these signals from now on.
    ///
    /// # Errors
    /// EMFILE, ENFILE; EINVAL for a signal that can't be caught.
    pub fn catch(signals: &[i32]) -> io::Result<Signals> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, signals)?;
        Ok(Signals { delivery })
    }

    /// The signals that came since the last call, each once however often it
    /// came (signal(7): standard signals don't queue).
    pub fn pending(&mut self) -> impl Iterator<Item = i32> {
        self.delivery.pending()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}
