//! Signals from the supervisor to the logger, and notifications to the supervisor. Both
//! keep working while a trouble lasts.

use crate::plugin::start::notify;
use crate::sys::signals::Signals;
use nix::errno::Errno;
use nix::libc::{SIGTERM, SIGUSR1};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, getppid};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Why the logger does not go on.
#[derive(Debug)]
pub enum Halt {
    /// It was asked to stop.
    Stop,
    /// It can't go on, and says why.
    Failed(String),
}

impl From<String> for Halt {
    fn from(why: String) -> Halt {
        Halt::Failed(why)
    }
}

/// How much longer a start may take from now on. Sent again each second.
const EXTENSION: &str = "EXTEND_TIMEOUT_USEC=10000000";

/// How long a logger whose supervisor is dead endures a trouble. It does not wait longer,
/// because nothing would restart it, and its lock is in the way of the next logger.
const ABANDONED: Duration = Duration::from_secs(8);

/// Orders, and troubles.
#[derive(Debug)]
pub struct Orders {
    signals: Signals,
    supervisor: Pid,
    stop: Option<Instant>,
    reopen: bool,
    ready: bool,
    extended: Option<Instant>,
    /// Since when a trouble has prevented any saving while the supervisor is dead.
    abandoned: Option<Instant>,
    /// Whether the trouble lasts, whatever succeeds meanwhile.
    lasting: bool,
    /// The trouble that keeps it from going on at all.
    stuck: String,
    /// Since when it has not gone on.
    stuck_since: Option<Instant>,
    /// What is wrong although it goes on, by [`Flaw`].
    flaws: [String; 4],
}

/// What may be wrong although the logger goes on, the most serious first.
#[derive(Debug, Clone, Copy)]
pub enum Flaw {
    /// The message file has lost its name.
    Name,
    /// It can't be rotated.
    Rotation,
    /// It lacks an owner, group or right that it should have.
    Access,
    /// Its archives could not all be compressed or removed.
    Archives,
}

impl Orders {
    /// No orders and no troubles yet.
    pub fn new(signals: Signals, supervisor: Pid) -> Orders {
        let (stuck, flaws) = (String::new(), <[String; 4]>::default());
        Orders {
            signals,
            supervisor,
            stop: None,
            reopen: false,
            ready: false,
            extended: None,
            abandoned: None,
            lasting: false,
            stuck,
            stuck_since: None,
            flaws,
        }
    }

    /// Takes the signals that have arrived.
    pub fn collect(&mut self) {
        for signal in self.signals.pending() {
            match signal {
                SIGTERM => self.stop = self.stop.or(Some(Instant::now())),
                SIGUSR1 => self.reopen = true,
                _ => {}
            }
        }
    }

    /// Whether it must stop. If the supervisor is dead, it goes on until its
    /// links end, because nothing would start the next logger.
    pub fn stop(&self) -> bool {
        self.stop.is_some() && getppid() == self.supervisor
    }

    /// When it was asked to stop, whether or not the supervisor lives.
    pub fn asked_to_stop(&self) -> Option<Instant> {
        self.stop
    }

    /// Whether it must reopen its file.
    pub fn reopen(&self) -> bool {
        self.reopen
    }

    /// It has reopened the file, or could not.
    pub fn reopened(&mut self) {
        self.reopen = false;
    }

    /// Reports that the logger is ready.
    pub fn ready(&mut self) {
        self.ready = true;
        notify("READY=1");
    }

    /// Reports once that some work takes long, and keeps the start from timing out
    /// meanwhile.
    ///
    /// # Errors
    /// It must stop.
    pub fn at_work(&mut self, what: &str) -> Result<(), Halt> {
        if self.stuck != what {
            self.stuck_since.get_or_insert_with(Instant::now);
            what.clone_into(&mut self.stuck);
            log::warn!("{what}");
            self.report();
        }
        self.ask_for_time();
        self.collect();
        if self.stop() { Err(Halt::Stop) } else { Ok(()) }
    }

    /// Asks for more time, because the next step of a start may take a while.
    pub fn ask_for_time(&mut self) {
        if !self.ready && self.extended.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.extended = Some(Instant::now());
            notify(EXTENSION);
        }
    }

    /// Reports a trouble once, and waits a while for it to pass.
    ///
    /// # Errors
    /// It must stop; or its supervisor is dead, and the trouble does not pass.
    pub fn endure(&mut self, trouble: &str, wait: Duration) -> Result<(), Halt> {
        if self.stuck != trouble {
            self.stuck_since.get_or_insert_with(Instant::now);
            trouble.clone_into(&mut self.stuck);
            log::error!("{trouble}; trying again until it passes");
            self.report();
        }
        self.ask_for_time();
        self.not_abandoned()?;
        let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Halt::Failed(format!("cannot wait for signals: {errno}"))),
        }
        self.collect();
        if self.stop() { Err(Halt::Stop) } else { Ok(()) }
    }

    /// Sets whether the trouble outlasts a single success. A file that
    /// can't be synced, for example, can still be opened and written to.
    pub fn set_lasting(&mut self, lasting: bool) {
        self.lasting = lasting;
    }

    /// A batch was saved.
    #[inline]
    pub fn saved(&mut self) {
        self.abandoned = None;
    }

    fn not_abandoned(&mut self) -> Result<(), Halt> {
        if getppid() == self.supervisor {
            self.abandoned = None;
            return Ok(());
        }
        let since = *self.abandoned.get_or_insert_with(Instant::now);
        if since.elapsed() < ABANDONED {
            return Ok(());
        }
        let stuck = &self.stuck;
        Err(Halt::Failed(format!(
            "{stuck}; the supervisor is dead, so this logger ends, even if its links still hold messages"
        )))
    }

    /// The trouble has passed.
    #[inline]
    pub fn endured(&mut self) {
        if !self.stuck.is_empty() && !self.lasting {
            let after = self.stuck_since.take().map_or(Duration::ZERO, |since| since.elapsed());
            log::info!("resolved after {:.1} s, nothing was lost: {}", after.as_secs_f64(), self.stuck);
            self.stuck.clear();
            self.report();
        }
    }

    /// Sets what is wrong although the logger goes on. An empty text means that nothing of
    /// that kind is wrong any more.
    pub fn set_flaw(&mut self, kind: Flaw, flaw: &str) {
        let known = &mut self.flaws[kind as usize];
        if known != flaw {
            flaw.clone_into(known);
            if !flaw.is_empty() {
                log::warn!("{flaw}");
            }
            self.report();
        }
    }

    fn report(&self) {
        let all = [&self.stuck].into_iter().chain(&self.flaws);
        let problem = all.into_iter().find(|problem| !problem.is_empty()).map_or("", String::as_str);
        notify(&format!("X_PLUMBD_PROBLEM={}", problem.replace('\n', " ")));
    }
}

impl AsFd for Orders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}
