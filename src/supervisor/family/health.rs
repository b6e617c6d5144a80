//! Whether a child is well: when to check it, and what follows from the checks, from
//! WATCHDOG=1, and from bytes that it does not take. Pure: it takes what happened and when,
//! and returns what to do.
//!
//! The first check of a child begins between `every` and twice `every` after it is up; when, follows
//! from its name. So the checks of many children that are up at the same instant, as after a
//! start, do not all begin at the same instant. With `ready = "health"`, checks begin with the
//! process, and the first one that succeeds sets the pace.
//!
//! A machine that was too busy is no reason to end a child. A failed check does not count
//!
//! - if it began or ended late by [`LATE`] or more: this process, which never waits, got no
//!   processor itself, or was halted;
//! - if one of the check's processes waited for a processor for a quarter of the time that the
//!   check took, or the child's own process did so and got next to none
//!   ([`crate::sys::delay`]).
//!
//! A sink of which nobody can see what it takes is never stalled.
//!
//! A sink that got next to nothing is not stalled either. The deadlines for WATCHDOG=1 and for
//! bytes that wait begin anew if they are noticed late by that much.

use crate::config::model;
use crate::sys::delay::Share;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// This process never waits for anything. If it is late by this much, the machine was busy, or
/// this process was halted.
pub const LATE: Duration = Duration::from_millis(500);
/// Shorter waits for a processor are normal.
const SOME_WAIT: Duration = Duration::from_millis(50);
/// Until a child is ready, the pause between two checks begins with this, doubles each time,
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// and is at most this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait for the process of the check before, which was killed.
const NOT_YET: Duration = Duration::from_millis(50);
/// How many times bytes that wait are looked at in the time that `stalled` allows.
const LOOKS: u32 = 4;

/// What the child's process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has none, or one that is on its way down or has not executed yet.
    Down,
    /// It starts, and a check says when it is ready.
    Starting,
    /// It serves.
    Up,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Its process has got this far.
    Phase(Phase),
    /// A check has ended. It, or the child, waited this long for a processor in vain.
    Ended(Result<(), String>, Duration),
    /// [`Action::Begin`] can't be done yet, because the process of the last check is not gone.
    NotYet,
    /// [`Action::Begin`] failed, because the system is short of something.
    NotBegun(String),
    /// It sent WATCHDOG=1.
    Alive,
    /// It sent WATCHDOG=trigger.
    Broken,
    /// Bytes wait for it.
    Wait(Seen),
    /// The answer to [`Action::Look`]; `None`: no bytes wait.
    Looked(Option<Seen>),
    /// A reload has changed its configuration.
    Changed,
    /// Time has passed.
    Tick,
}

/// What was seen of a child that bytes wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// It has taken some of them exactly if this changes. `None`: that can't be seen.
    pub taken: Option<[u64; 2]>,
    /// What it and the processes below it have got of the processors.
    pub share: Share,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Begin a check, and report its end.
    Begin,
    /// End the check that is under way: it took too long. Report its end with these words.
    TimeOut(String),
    /// End the check that is under way. Its end is of no interest.
    Cancel,
    /// Look whether bytes wait for it, and report that.
    Look,
    /// Report when bytes wait for it.
    Await,
    /// It is ready.
    Ready,
    /// It is not ready yet, and why.
    NotReady(String),
    /// It is unhealthy, and why.
    Unhealthy(String),
    /// It is unhealthy, because it takes nothing of what waits for it.
    Stalled(String),
    /// It is to leave a core dump and end, and why.
    Hung(String),
    /// Log this.
    Say(log::Level, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checking {
    /// There is nothing to check.
    Not,
    /// The next check begins then.
    At(Instant),
    /// A check is under way.
    Since {
        began: Instant,
        /// When it has taken too long; `None`: it has.
        until: Option<Instant>,
        /// It began or ended late.
        late: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    /// What was seen first, and when.
    since: Instant,
    seen: Seen,
    look_at: Instant,
}

/// A number from 0 to 1 that is always the same for that name, and spread evenly over names that
/// differ in a letter (FNV-1a, with the last step of SplitMix64).
fn share_of(name: &str) -> f64 {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let mut mixed = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

/// Whether a process that waited this long for a processor in vain had too little of that time.
fn is_busy(waited: Duration, of: Duration) -> bool {
    waited >= SOME_WAIT && waited * 4 >= of
}

/// What is known of the health of one child.
#[derive(Debug, Clone)]
pub struct Health {
    /// How much later than the others its first check begins, as a share of `every` (0 to 1).
    spread: f64,
    phase: Phase,
    checking: Checking,
    /// When its process was started.
    started: Instant,
    /// Failures in a row that count.
    failed: u32,
    /// The last of them, in words.
    failing: Option<String>,
    pause: Duration,
    /// How often its process was told to send WATCHDOG=1.
    told: Option<Duration>,
    /// When it must have sent WATCHDOG=1.
    alive_by: Option<Instant>,
    waiting: Option<Waiting>,
    /// Whether it was logged that nobody can see what it takes.
    told_unseen: bool,
}

impl Health {
    /// Of a child of that name without a process.
    pub fn new(name: &str, now: Instant) -> Health {
        Health {
            spread: share_of(name),
            phase: Phase::Down,
            checking: Checking::Not,
            started: now,
            failed: 0,
            failing: None,
            pause: FIRST_PAUSE,
            told: None,
            alive_by: None,
            waiting: None,
            told_unseen: false,
        }
    }

    /// How far its process has got, as far as this knows.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Its process was started, and was told to send WATCHDOG=1 this often.
    pub fn started(&mut self, told: Option<Duration>, now: Instant) {
        (self.started, self.told) = (now, told);
    }

    /// That its last checks failed, but not yet so many that it counts, in words.
    pub(crate) fn failing(&self) -> Option<&str> {
        self.failing.as_deref().filter(|_| self.failed > 0)
    }

    /// When [`Event::Tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let check = match self.checking {
            Checking::Not => None,
            Checking::At(at) => Some(at),
            Checking::Since { until, .. } => until,
        };
        [check, self.alive_by, self.waiting.map(|waiting| waiting.look_at)].into_iter().flatten().min()
    }

    /// Handles an event. Returns what to do next, in this order.
    pub fn step(&mut self, event: Event, config: &model::Health, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Phase(phase) => self.go_to(phase, config, now, &mut actions),
            Event::Ended(result, waited) => self.ended(result, waited, config, now, &mut actions),
            Event::NotYet => {
                if self.is_checking() {
                    self.checking = Checking::At(now + NOT_YET);
                }
            }
            Event::NotBegun(why) => {
                if self.is_checking() {
                    actions.push(Action::Say(log::Level::Warn, format!("cannot begin a check: {why}")));
                    self.next(config, now, now);
                }
            }
            Event::Alive => {
                if self.alive_by.is_some() {
                    self.alive_by = self.limit(config).map(|limit| now + limit);
                }
            }
            Event::Broken => {
                if self.phase == Phase::Up {
                    self.alive_by = None;
                    actions.push(Action::Hung("it sent WATCHDOG=trigger".to_owned()));
                }
            }
            Event::Wait(seen) => {
                if let (Phase::Up, Some(stalled), None) = (self.phase, config.stalled, self.waiting) {
                    self.waiting = Some(Waiting { since: now, seen, look_at: now + stalled / LOOKS });
                }
            }
            Event::Looked(seen) => self.looked(seen, config, now, &mut actions),
            Event::Changed => self.changed(config, now, &mut actions),
            Event::Tick => self.tick(config, now, &mut actions),
        }
        actions
    }

    fn is_checking(&self) -> bool {
        matches!(self.checking, Checking::Since { .. })
    }

    fn go_to(&mut self, phase: Phase, config: &model::Health, now: Instant, actions: &mut Vec<Action>) {
        let before = std::mem::replace(&mut self.phase, phase);
        if before == phase {
            return;
        }
        if phase != Phase::Up {
            self.cancel(actions);
            (self.alive_by, self.waiting, self.failed) = (None, None, 0);
        }
        match phase {
            Phase::Down => {}
            Phase::Starting => {
                self.pause = FIRST_PAUSE;
                self.checking = if config.check.is_some() { Checking::At(now) } else { Checking::Not };
            }
            Phase::Up => {
                self.failed = 0;
                self.alive_by = self.limit(config).map(|limit| now + limit);
                if self.checking == Checking::Not {
                    self.first(config, now);
                }
                if config.stalled.is_some() {
                    actions.push(Action::Await);
                }
            }
        }
    }

    fn cancel(&mut self, actions: &mut Vec<Action>) {
        if self.is_checking() {
            actions.push(Action::Cancel);
        }
        self.checking = Checking::Not;
    }

    /// How often its process must send WATCHDOG=1: a process can't know of a shorter time than
    /// it was told.
    fn limit(&self, config: &model::Health) -> Option<Duration> {
        Some(config.watchdog?.max(self.told?))
    }

    fn changed(&mut self, config: &model::Health, now: Instant, actions: &mut Vec<Action>) {
        self.failed = 0;
        match (&config.check, self.checking) {
            (None, _) => self.cancel(actions),
            (Some(check), Checking::At(at)) => self.checking = Checking::At(at.min(now + check.every)),
            (Some(_), Checking::Not) if self.phase == Phase::Up => self.first(config, now),
            (Some(_), Checking::Not | Checking::Since { .. }) => {}
        }
        if self.phase == Phase::Up {
            self.alive_by = self.limit(config).map(|limit| now + limit);
            self.waiting = None;
            if config.stalled.is_some() {
                actions.push(Action::Await);
            }
        }
    }

    /// Plans the first check of a child that is up.
    fn first(&mut self, config: &model::Health, now: Instant) {
        let wait = |check: &model::Check| check.every + check.every.mul_f64(self.spread);
        self.checking = config.check.as_ref().map_or(Checking::Not, |check| Checking::At(now + wait(check)));
    }

    /// Plans the check after one that began at `began`.
    fn next(&mut self, config: &model::Health, began: Instant, now: Instant) {
        let Some(check) = &config.check else {
            self.checking = Checking::Not;
            return;
        };
        let wait = match self.phase {
            Phase::Starting => {
                let pause = self.pause.min(check.every);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                now + pause
            }
            Phase::Down | Phase::Up => began + check.every,
        };
        self.checking = Checking::At(wait.max(now));
    }

    fn ended(
        &mut self,
        result: Result<(), String>,
        waited: Duration,
        config: &model::Health,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Checking::Since { began, late, .. } = self.checking else { return };
        let (Phase::Starting | Phase::Up, Some(check)) = (self.phase, &config.check) else {
            self.checking = Checking::Not;
            return;
        };
        let starting = self.phase == Phase::Starting;
        let why = match result {
            Ok(()) if starting => {
                actions.push(Action::Ready);
                return self.first_is_over(check, began, now);
            }
            Ok(()) => {
                if self.failed > 0 {
                    actions.push(Action::Say(log::Level::Info, "a check succeeds again".to_owned()));
                }
                self.failed = 0;
                return self.next(config, began, now);
            }
            Err(why) => why,
        };
        self.next(config, began, now);
        let busy = late || is_busy(waited, now.duration_since(began));
        if starting {
            actions.push(Action::NotReady(why));
        } else if busy {
            let text = format!("a check failed, which does not count, because the machine was too busy: {why}");
            actions.push(Action::Say(log::Level::Warn, text));
        } else if began.duration_since(self.started) < check.start {
            actions.push(Action::Say(log::Level::Info, format!("a check failed, which does not count yet: {why}")));
        } else {
            self.failed += 1;
            if self.failed < check.failures {
                let text = format!("a check failed, {} of {} in a row: {why}", self.failed, check.failures);
                self.failing = Some(text.clone());
                actions.push(Action::Say(log::Level::Warn, text));
                return;
            }
            let text = match self.failed {
                1 => format!("unhealthy: a check failed: {why}"),
                many => format!("unhealthy: {many} checks failed in a row; the last one: {why}"),
            };
            self.failed = 0;
            actions.push(Action::Unhealthy(text));
        }
    }

    /// The check that showed that it is ready is over.
    fn first_is_over(&mut self, check: &model::Check, began: Instant, now: Instant) {
        self.checking = Checking::At((began + check.every).max(now));
    }

    fn looked(&mut self, seen: Option<Seen>, config: &model::Health, now: Instant, actions: &mut Vec<Action>) {
        let (Some(waiting), Some(stalled)) = (self.waiting, config.stalled) else { return };
        let look_at = now + stalled / LOOKS;
        self.waiting = match seen {
            None => {
                actions.push(Action::Await);
                None
            }
            Some(seen) if seen.taken.is_none() => {
                if !std::mem::replace(&mut self.told_unseen, true) {
                    let text = "cannot see whether it takes what waits for it, because it may not be looked at \
                                (/proc/PID/io): `stalled` has no effect";
                    actions.push(Action::Say(log::Level::Warn, text.to_owned()));
                }
                Some(Waiting { since: now, seen, look_at })
            }
            Some(seen) if seen.taken != waiting.seen.taken => Some(Waiting { since: now, seen, look_at }),
            Some(seen) if now.duration_since(waiting.since) >= stalled => {
                let got = seen.share.since(waiting.seen.share);
                if is_busy(got.in_vain(), stalled) {
                    self.waiting = Some(Waiting { since: now, seen, look_at });
                    return;
                }
                let text = format!("stalled: bytes wait for it, and it took none for {} s", stalled.as_secs_f64());
                actions.push(Action::Stalled(text));
                None
            }
            Some(_) => Some(Waiting { look_at: look_at.min(waiting.since + stalled), ..waiting }),
        };
    }

    fn tick(&mut self, config: &model::Health, now: Instant, actions: &mut Vec<Action>) {
        match (self.checking, &config.check) {
            (Checking::At(at), Some(check)) if at <= now => {
                let late = now.duration_since(at) >= LATE;
                self.checking = Checking::Since { began: now, until: Some(now + check.timeout), late };
                actions.push(Action::Begin);
            }
            (Checking::At(at), None) if at <= now => self.checking = Checking::Not,
            (Checking::Since { began, until: Some(at), late }, _) if at <= now => {
                let late = late || now.duration_since(at) >= LATE;
                self.checking = Checking::Since { began, until: None, late };
                let after = at.duration_since(began).as_secs_f64();
                actions.push(Action::TimeOut(format!("timed out after {after} s")));
            }
            _ => {}
        }
        if let Some(at) = self.alive_by.filter(|&at| at <= now) {
            self.alive_by = None;
            match self.limit(config) {
                Some(limit) if now.duration_since(at) >= LATE => self.alive_by = Some(now + limit),
                Some(limit) => {
                    actions.push(Action::Hung(format!("watchdog: no WATCHDOG=1 for {} s", limit.as_secs_f64())));
                }
                None => {}
            }
        }
        if let (Some(waiting), Some(stalled)) = (&mut self.waiting, config.stalled) {
            if waiting.look_at <= now {
                if now.duration_since(waiting.look_at) >= LATE {
                    waiting.since = now;
                }
                waiting.look_at = now + stalled / LOOKS;
                actions.push(Action::Look);
            }
        }
    }
}
