//! What the supervisor says to the logger (signals), and what it is told
//! (notifications): while a trouble lasts, both ways stay open.

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
    /// It was told to stop.
    Stop,
    /// It can't go on, and says why.
    Failed(String),
}

impl From<String> for Halt {
    fn from(why: String) -> Halt {
        Halt::Failed(why)
    }
}

/// How much longer than now a start may take, told again each second.
const EXTENSION: &str = "EXTEND_TIMEOUT_USEC=10000000";

/// A logger whose supervisor is dead endures a trouble for this long: nobody is
/// left to restart it, and the lock that it holds is in the next one's way.
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
    /// Since when nothing has been saved for a trouble while the supervisor is dead.
    abandoned: Option<Instant>,
    /// Whether the trouble lasts, whatever succeeds meanwhile.
    lasting: bool,
    /// What keeps it from going on at all.
    stuck: String,
    /// What is wrong though it goes on, by [`Flaw`].
    flaws: [String; 4],
}

/// What may be wrong though the logger goes on, the gravest first.
#[derive(Debug, Clone, Copy)]
pub enum Flaw {
    /// The message file has lost its name.
    Name,
    /// It can't be rotated.
    Rotation,
    /// It lacks an owner, group or right that it should have.
    Access,
    /// Its archives are not what they should be.
    Archives,
}

impl Orders {
    /// None yet.
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
            flaws,
        }
    }

    /// Takes in the signals that came.
    pub fn collect(&mut self) {
        for signal in self.signals.pending() {
            match signal {
                SIGTERM => self.stop = self.stop.or(Some(Instant::now())),
                SIGUSR1 => self.reopen = true,
                _ => {}
            }
        }
    }

    /// Whether it shall stop. When the supervisor is dead, it goes on until its
    /// links end: nobody would start the next one.
    pub fn stop(&self) -> bool {
        self.stop.is_some() && getppid() == self.supervisor
    }

    /// When it was told to stop, whoever lives.
    pub fn told_to_stop(&self) -> Option<Instant> {
        self.stop
    }

    /// Whether it shall open its file anew.
    pub fn reopen(&self) -> bool {
        self.reopen
    }

    /// It did, or could not.
    pub fn reopened(&mut self) {
        self.reopen = false;
    }

    /// Says that the logger is ready.
    pub fn ready(&mut self) {
        self.ready = true;
        notify("READY=1");
    }

    /// Reports work that takes long, once, and keeps the start from timing out
    /// meanwhile.
    ///
    /// # Errors
    /// It shall stop.
    pub fn at_work(&mut self, what: &str) -> Result<(), Halt> {
        if self.stuck != what {
            what.clone_into(&mut self.stuck);
            log::warn!("{what}");
            self.tell();
        }
        self.ask_for_time();
        self.collect();
        if self.stop() { Err(Halt::Stop) } else { Ok(()) }
    }

    /// What a start does now may take a while.
    pub fn ask_for_time(&mut self) {
        if !self.ready && self.extended.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.extended = Some(Instant::now());
            notify(EXTENSION);
        }
    }

    /// Waits a while for a trouble to pass, and says so once.
    ///
    /// # Errors
    /// It shall stop; or its supervisor is dead, and the trouble does not pass.
    pub fn endure(&mut self, trouble: &str, wait: Duration) -> Result<(), Halt> {
        if self.stuck != trouble {
            trouble.clone_into(&mut self.stuck);
            log::error!("{trouble}; trying again until it passes");
            self.tell();
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

    /// Says whether the trouble is one that no single success ends: a file that
    /// can't be synced can well be opened and written to.
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
            "{stuck}; the supervisor is dead, so this logger ends, whatever its links still hold"
        )))
    }

    /// The trouble has passed.
    #[inline]
    pub fn endured(&mut self) {
        if !self.stuck.is_empty() && !self.lasting {
            log::info!("it has passed: {}", self.stuck);
            self.stuck.clear();
            self.tell();
        }
    }

    /// What is wrong though the logger goes on; empty: nothing any more of that kind.
    pub fn set_flaw(&mut self, kind: Flaw, flaw: &str) {
        let known = &mut self.flaws[kind as usize];
        if known != flaw {
            flaw.clone_into(known);
            if !flaw.is_empty() {
                log::warn!("{flaw}");
            }
            self.tell();
        }
    }

    fn tell(&self) {
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
