//! How each plugin starts up: descriptors, signals, settings, links, in this order.
//!
//! A plugin gets everything through its environment, in the formats of
//! sd_listen_fds(3) and sd_notify(3) where they apply.

use crate::link::handover::{self, Links};
use crate::plugin::Metric;
use crate::plugin::shared::{MOST_INSTANCES, Shared};
use crate::sys;
use crate::sys::listen_fds;
use crate::sys::map::SharedMap;
use crate::sys::rate::{self, Rates};
use crate::sys::signals::Signals;
use nix::libc::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use std::env::VarError;
use std::io::{Read, Seek};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

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
/// file that the supervisor holds, one word for each metric in the plugin's row. Behind
/// them are four words for each metric, of which the first [`RATED`] may keep
/// rates: its value at the last update, when that was, and the two averages.
#[derive(Debug)]
pub struct Metrics {
    page: Option<SharedMap>,
    own: Vec<AtomicU64>,
    clock: rate::Clock,
}

/// How many words a page has.
pub const SLOTS: usize = sys::map::PAGE / 8;
/// How many metrics may keep rates.
pub const RATED: usize = 96;
/// Words of the rates of one metric.
const RATE: usize = 4;
/// Where these begin.
const RATES: usize = SLOTS - RATE * RATED;

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
        Ok(Metrics { page: Some(page), ..Metrics::private() })
    }

    /// Counters that nobody else can see.
    pub fn private() -> Metrics {
        let own = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Metrics { page: None, own, clock: rate::Clock::new() }
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

    /// Takes what was counted since the last call into the rates of these metrics, a
    /// plugin's row. For each round or batch of a plugin, with the time that it knows already:
    /// it makes no system call.
    pub fn keep_rates(&self, metrics: &[Metric], now: Instant) {
        let words = self.words();
        let rated = metrics.iter().take(RATED).enumerate().filter(|(_, metric)| metric.has_rate);
        for (slot, _) in rated {
            let [total, at, second, minute] = of_slot(words, slot);
            let value = words[slot].load(Ordering::Relaxed);
            let count = value.wrapping_sub(total.load(Ordering::Relaxed));
            if count == 0 {
                continue;
            }
            let now = self.clock.at(now);
            let before = Rates::of([second, minute].map(|word| word.load(Ordering::Relaxed)));
            let elapsed = now.saturating_sub(at.load(Ordering::Relaxed));
            let words = before.decayed(elapsed).with(count).words();
            second.store(words[0], Ordering::Relaxed);
            minute.store(words[1], Ordering::Relaxed);
            total.store(value, Ordering::Relaxed);
            // Last, so that a reader that sees this time sees these averages or later ones: it
            // may show a little less than there was for a moment, but never an old burst as new.
            at.store(now, Ordering::Release);
        }
    }

    /// That instant, by the clock of the rates.
    pub fn time(&self, instant: Instant) -> u64 {
        self.clock.at(instant)
    }

    fn words(&self) -> &[AtomicU64] {
        self.page.as_ref().map_or(&self.own, |page| page.words(SLOTS))
    }
}

/// The rates of the metric in that slot of a page, at the time `now` of [`rate::now`].
pub fn rates(page: &SharedMap, slot: usize, now: u64) -> Rates {
    if slot >= RATED {
        return Rates::default();
    }
    let [_, at, second, minute] = of_slot(page.words(SLOTS), slot);
    let at = at.load(Ordering::Acquire);
    Rates::of([second, minute].map(|word| word.load(Ordering::Relaxed))).decayed(now.saturating_sub(at))
}

fn of_slot(words: &[AtomicU64], slot: usize) -> [&AtomicU64; RATE] {
    std::array::from_fn(|word| &words[RATES + RATE * slot + word])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const METRICS: [Metric; 2] =
        [Metric::gauge("open", "doors", "Doors."), Metric::counter("messages", "messages", "Messages.").rated()];

    #[test]
    fn what_a_plugin_counts_is_shown_as_rates_that_decay() {
        let file = sys::map::memory_file(c"page", sys::map::PAGE).unwrap();
        let page = SharedMap::new(&file, sys::map::PAGE).unwrap();
        let metrics = Metrics::shared(file).unwrap();
        let began = Instant::now();
        let at = |seconds: f64| began + Duration::from_secs_f64(seconds);
        let shown = |seconds: f64| rates(&page, 1, metrics.clock.at(at(seconds)));
        assert_eq!(shown(0.0), Rates::default());
        // 100 a second, in ten rounds a second, for ten minutes.
        for round in 0..6000 {
            metrics.add(1, 10);
            metrics.set(0, round);
            metrics.keep_rates(&METRICS, at(f64::from(u32::try_from(round).unwrap()) / 10.0));
        }
        let now = shown(599.95);
        assert!((95.0..105.0).contains(&now.second) && (95.0..105.0).contains(&now.minute), "{now:?}");
        // A round in which nothing came changes nothing.
        metrics.keep_rates(&METRICS, at(601.0));
        let later = shown(609.95);
        assert!(later.second < 0.1 && (80.0..90.0).contains(&later.minute), "{later:?}");
        let hour = shown(4200.0);
        assert!(hour.second < 0.001 && hour.minute < 0.001, "{hour:?}");
        // A gauge has none.
        assert_eq!(rates(&page, 0, metrics.clock.at(at(599.95))), Rates::default());
        assert_eq!(rates(&page, RATED, 0), Rates::default());
    }

    #[test]
    fn the_rates_of_a_page_fit_behind_its_counters() {
        let most = crate::plugin::PLUGINS.iter().map(|plugin| plugin.metrics.len()).max().unwrap();
        assert!(most <= RATED.min(RATES), "{most}");
    }
}
