//! How each plugin starts up: descriptors, signals, settings, links, in this order.
//!
//! A plugin gets everything through its environment, in the formats of
//! sd_listen_fds(3) and sd_notify(3) where they apply.

use crate::link::handover::{self, Links};
use crate::plugin::shared::{MOST_INSTANCES, Shared};
use crate::sys;
use crate::sys::listen_fds;
use crate::sys::map::SharedMap;
use crate::sys::signals::Signals;
use nix::libc::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use std::env::VarError;
use std::io::{Read, Seek};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a plugin starts with.
#[derive(Debug)]
pub struct Start {
    /// The child's name.
    pub child: String,
    /// Its settings, as JSON text, already checked by the plugin's own rules.
    pub settings: String,
    /// Its listening sockets, non-blocking.
    pub listeners: Vec<OwnedFd>,
    /// Its links, by descriptor number; [`take`] makes them owned.
    pub links: Links,
    /// Its counters.
    pub metrics: Metrics,
    /// What it shares with other instances of the child, if there are any.
    pub shared: Option<Shared>,
    /// SIGTERM (stop) and SIGUSR1 (reopen).
    pub signals: Signals,
    /// The process that started it. If the parent is a different one later, the
    /// supervisor is dead.
    pub supervisor: nix::unistd::Pid,
}

impl Start {
    /// Takes everything from the environment.
    ///
    /// # Errors
    /// Says what is missing or wrong, for people who run `plumbd plugin` by hand
    /// or write a supervisor of their own.
    pub fn from_environment() -> Result<Start, String> {
        let supervisor = nix::unistd::getppid();
        sys::signals::ignore(sys::signals::accidental());
        // `pkill -HUP plumbd` hits plugins too, because their names contain "plumbd". The
        // supervisor ends them itself, in an order that loses nothing.
        sys::signals::ignore([SIGHUP, SIGINT, SIGQUIT]);
        let signals = Signals::catch(&[SIGTERM, SIGUSR1]).map_err(|e| format!("cannot catch signals: {e}"))?;
        let child = std::env::var("PLUMBD_CHILD")
            .map_err(|_| "cannot start: PLUMBD_CHILD is not set; plugins are started by `plumbd run`".to_owned())?;
        let settings = match descriptor("PLUMBD_SETTINGS")? {
            Some(fd) => read_all(take(fd)).map_err(|e| format!("cannot read PLUMBD_SETTINGS: {e}"))?,
            None => "{}".to_owned(),
        };
        let links = links()?;
        let metrics = match descriptor("PLUMBD_METRICS")? {
            Some(fd) => Metrics::shared(take(fd)).map_err(|e| format!("cannot map PLUMBD_METRICS: {e}"))?,
            None => Metrics::private(),
        };
        let shared = shared()?;
        Ok(Start {
            child,
            settings,
            listeners: listen_fds::take()?.into_iter().map(|(_scheme, socket)| socket).collect(),
            links,
            metrics,
            shared,
            signals,
            supervisor,
        })
    }

    /// Whether the supervisor that started this process is dead.
    pub fn orphaned(&self) -> bool {
        nix::unistd::getppid() != self.supervisor
    }
}

/// Takes ownership of a descriptor that the environment names. Each is named once.
///
/// # Panics
/// If it is not open, which is the fault of the process that named it.
pub fn take(fd: RawFd) -> OwnedFd {
    sys::inherited(fd).unwrap_or_else(|e| panic!("cannot take descriptor {fd}: {e}"))
}

/// Reads the description of its links, from the environment or from a file.
fn links() -> Result<Links, String> {
    let (variable, json) = match (std::env::var(handover::VARIABLE), descriptor(handover::FILE_VARIABLE)?) {
        (Ok(json), _) => (handover::VARIABLE, json),
        (Err(VarError::NotPresent), Some(fd)) => {
            let text = read_all(take(fd)).map_err(|e| format!("cannot read {}: {e}", handover::FILE_VARIABLE))?;
            (handover::FILE_VARIABLE, text)
        }
        (Err(VarError::NotPresent), None) => return Ok(Links::default()),
        (Err(error), _) => return Err(format!("cannot read {}: {error}", handover::VARIABLE)),
    };
    serde_json::from_str(&json).map_err(|e| format!("cannot read {variable}: {e}"))
}

/// The memory that it shares with other instances, and its own instance number.
fn shared() -> Result<Option<Shared>, String> {
    let Some(fd) = descriptor("PLUMBD_SHARED")? else { return Ok(None) };
    let text = std::env::var("PLUMBD_INSTANCE").map_err(|e| format!("cannot read PLUMBD_INSTANCE: {e}"))?;
    let instance = text.parse().ok().filter(|instance| *instance < MOST_INSTANCES);
    let instance = instance.ok_or_else(|| {
        format!("cannot use PLUMBD_INSTANCE={text}: it is not a number from 0 to {}", MOST_INSTANCES - 1)
    })?;
    Ok(Some(Shared { file: take(fd), instance }))
}

fn descriptor(variable: &str) -> Result<Option<RawFd>, String> {
    match std::env::var(variable) {
        Err(VarError::NotPresent) => Ok(None),
        Err(error) => Err(format!("cannot read {variable}: {error}")),
        Ok(text) => match text.parse() {
            Ok(fd) if fd > 2 => Ok(Some(fd)),
            _ => Err(format!("cannot use {variable}={text}: it is not a descriptor number above 2")),
        },
    }
}

fn read_all(fd: OwnedFd) -> std::io::Result<String> {
    let mut file = std::fs::File::from(fd);
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Sends a notification to the supervisor (sd_notify(3)): READY=1, STATUS=...,
/// EXTEND_TIMEOUT_USEC=..., or `X_PLUMBD_PROBLEM=...`, which `plumbd status` shows as the
/// child's problem (an empty one clears it).
pub fn notify(lines: &str) {
    if let Err(error) = sys::notify::send(lines) {
        log::warn!("cannot notify the supervisor: {error}");
    }
}

/// Counters that `plumbd status` shows: a page of 8-byte words in a memory
/// file that the supervisor holds, one word for each metric in the plugin's row.
#[derive(Debug)]
pub struct Metrics {
    page: Option<SharedMap>,
    own: Vec<AtomicU64>,
}

/// How many counters a page has.
pub const SLOTS: usize = sys::map::PAGE / 8;

impl Metrics {
    /// Counters in the supervisor's page, all set to zero.
    ///
    /// # Errors
    /// From mmap(2).
    pub fn shared(fd: OwnedFd) -> std::io::Result<Metrics> {
        let page = SharedMap::new(fd, sys::map::PAGE)?;
        for word in page.words(SLOTS) {
            word.store(0, Ordering::Relaxed);
        }
        Ok(Metrics { page: Some(page), own: Vec::new() })
    }

    /// Counters that nobody else can see.
    pub fn private() -> Metrics {
        Metrics { page: None, own: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Adds to a counter.
    pub fn add(&self, slot: usize, n: u64) {
        let word = &self.words()[slot];
        // This process is the only writer, and it has one thread.
        word.store(word.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, slot: usize, value: u64) {
        self.words()[slot].store(value, Ordering::Relaxed);
    }

    fn words(&self) -> &[AtomicU64] {
        self.page.as_ref().map_or(&self.own, |page| page.words(SLOTS))
    }
}
