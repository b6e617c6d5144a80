//! The logger: saves every message, in order, to a file.
//!
//! - [`source`], [`lines`], [`messages`]: what a link's bytes are;
//! - [`render`], [`escape`], [`output`]: how a message stands in the file;
//! - `batch`: one batch, step by step; `save`: its bytes into the file;
//!   `promises`: what the intent file is told; `there`: what a file has of them; `recover`: what another incarnation had under way, `renamed`: in a file that was renamed, `elsewhere`: for another file;
//! - [`rotation`]: when and how the file is rotated; [`archives`]: what that
//!   makes; [`archivist`], [`compress`]: what becomes of it, in a process apart;
//! - [`mod@file`]: the message file; `removed`, `too_large`: when it was, or is;
//!   [`torn`]: an end that is no whole line;
//!   [`access`]: who may do what with it; [`room`]: on a full disk; [`orders`]:
//!   signals and troubles.

pub mod access;
pub mod archives;
pub mod archivist;
mod batch;
pub mod compress;
mod elsewhere;
pub mod escape;
pub mod file;
pub mod lines;
pub mod messages;
pub mod orders;
pub mod output;
mod promises;
mod recover;
mod removed;
mod renamed;
pub mod render;
pub mod room;
pub mod rotation;
mod save;
pub mod settings;
pub mod source;
mod there;
mod too_large;
pub mod torn;

use super::start::{Metrics, Start, take};
use crate::link::intake::{Intake, Tools};
use crate::link::intent::Intent;
use crate::link::replies::Replies;
use crate::sys::poll::{Poll, Token};
use archivist::Archivist;
use file::{MessageFile, intent_path};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::unistd::Pid;
use orders::{Flaw, Halt, Orders};
use removed::Watch;
use render::Renderer;
use rotation::Rotations;
use settings::Settings;
use source::{BATCH_BYTES, Press, Source, Tally};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

pub use settings::METRICS;
const MESSAGES: usize = 0;
const BYTES: usize = 1;
const BATCHES: usize = 2;
const SYNCS: usize = 3;
const INCOMPLETE: usize = 4;
const GARBAGE: usize = 5;
const ROTATIONS: usize = 6;

/// A batch that follows another this soon is one of a stream.
const STREAM: Duration = Duration::from_millis(10);
/// To let one gather for less is not worth a sleep.
const WORTH_IT: Duration = Duration::from_micros(100);
/// The supervisor is dead, and for so long nothing came: nothing will.
const FORSAKEN: Duration = Duration::from_secs(10);

/// What makes a logger fast under load, and slow to start.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many bytes the intent file's body has at least; it grows with its messages.
    pub body: usize,
    /// Batches of a stream that nobody waits for are let gather so long at most.
    pub gather: Duration,
    /// Whether a removal of the file is noticed while no message comes. To end a watch
    /// takes some milliseconds.
    pub watch: bool,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            // A batch, and the longest line that may come on top of it, in any format.
            body: 2 * BATCH_BYTES,
            // What is in a queue is safe there, and a batch costs the same
            // whether it is small or large.
            gather: Duration::from_millis(4),
            watch: true,
        }
    }
}

/// Saves until its input ends or it is told to stop.
///
/// # Errors
/// What ended it, for the log.
pub fn run(start: Start) -> Result<(), String> {
    run_at(Pace::default(), start)
}

/// The same, at another pace.
///
/// # Errors
/// As [`run`].
pub fn run_at(pace: Pace, start: Start) -> Result<(), String> {
    match serve(pace, start) {
        Ok(()) | Err(Halt::Stop) => Ok(()),
        Err(Halt::Failed(why)) => Err(why),
    }
}

fn serve(pace: Pace, start: Start) -> Result<(), Halt> {
    let desk = Desk::open(pace, start)?.settle_elsewhere()?;
    let mut logger = Logger::open(desk)?;
    logger.recover()?;
    logger.owe_a_sync()?;
    logger.orders.ready();
    if logger.settings.rotate.is_on() {
        let started = logger.archivist.start_for_work(&logger.settings);
        logger.archivist_told(started);
    }
    let outcome = logger.run();
    logger.leave(outcome)
}

/// A running logger.
#[derive(Debug)]
struct Logger {
    pace: Pace,
    settings: Settings,
    text: String,
    orders: Orders,
    metrics: Metrics,
    sources: Vec<Source>,
    tools: Tools,
    press: Press,
    intent: Intent,
    file: MessageFile,
    watch: Watch,
    last_batch: u64,
    /// Its own id, in the numbers of its batches.
    process: u32,
    /// A batch ends once it has so many bytes; fewer than usual where a disk is full.
    batch_bytes: usize,
    /// Which link comes first in the next batch.
    turn: usize,
    /// When what is in the file must be on the disk.
    sync_at: Option<Instant>,
    rotations: Rotations,
    archivist: Archivist,
    names_checked: Instant,
    /// When the last batch was saved.
    batch_at: Instant,
    /// When the last one was that somebody waited for.
    awaited_at: Option<Instant>,
    /// How long the next one may be let gather.
    may_gather: Option<Duration>,
}

/// What a logger has before it opens its file, and keeps where it gives up one.
#[derive(Debug)]
struct Desk {
    pace: Pace,
    settings: Settings,
    /// The settings as they came, for the archivist.
    text: String,
    orders: Orders,
    metrics: Metrics,
    sources: Vec<Source>,
    tools: Tools,
}

impl Desk {
    /// Takes up all that it was handed.
    fn open(pace: Pace, start: Start) -> Result<Desk, Halt> {
        let mut settings = Settings::read(&start.settings).map_err(|e| format!("cannot read PLUMBD_SETTINGS: {e}"))?;
        // Its ledgers tell the next logger which file it is, wherever that one starts.
        settings.file = std::path::absolute(&settings.file)
            .map_err(|e| format!("cannot tell where {} is: {e}", settings.file.display()))?;
        let mut sources = Vec::new();
        for inbound in &start.links.inbound {
            let intake = Intake::open(inbound)?;
            let replies = inbound.replies.map(|fd| Replies::new(take(fd)));
            let capacity = intake.capacity().unwrap_or(0);
            sources.push(Source {
                intake,
                replies,
                capacity,
                came: 0,
                ready: true,
                taking: None,
                tally: Tally::default(),
            });
        }
        let capacity = sources.iter().map(|source| source.capacity).max();
        let tools = Tools::new(capacity.unwrap_or(0)).map_err(|e| format!("cannot open an intake: {e}"))?;
        file::check(&settings.file).map_err(|e| format!("cannot open {}: {e}", settings.file.display()))?;
        let orders = Orders::new(start.signals, start.supervisor);
        Ok(Desk { pace, settings, text: start.settings, orders, metrics: start.metrics, sources, tools })
    }
}

impl Logger {
    /// Opens the file, and waits for the locks.
    fn open(mut desk: Desk) -> Result<Logger, Halt> {
        // The intent file first: whoever has it is the one writer of that
        // name, also while the file itself is being replaced.
        let at = intent_path(&desk.settings.file);
        let intent = wait_for(&mut desk.orders, &desk.settings, &at, || Intent::open(&at, desk.pace.body))?;
        file::remove_next(&desk.settings.file);
        let open = || MessageFile::open(&desk.settings.file, &desk.settings.rights());
        let file = wait_for(&mut desk.orders, &desk.settings, &desk.settings.file, open)?;
        desk.orders.set_flaw(Flaw::Access, file.lacks());
        Ok(Logger::at(desk, intent, file))
    }

    /// Works at these.
    fn at(desk: Desk, intent: Intent, file: MessageFile) -> Logger {
        let Desk { pace, settings, text, orders, metrics, sources, tools } = desk;
        let press = Press { renderer: Renderer::new(settings.format), joined: Vec::new(), now: 0 };
        let known = sources.iter().map(|source| source.intake.done_batch());
        let last_batch = known.chain([intent.last_batch()]).max().unwrap_or(0);
        let names_checked = Instant::now();
        let (turn, sync_at) = (0, None);
        Logger {
            pace,
            settings,
            orders,
            metrics,
            sources,
            tools,
            press,
            intent,
            file,
            watch: Watch::new(pace.watch),
            last_batch,
            process: std::process::id(),
            batch_bytes: BATCH_BYTES,
            turn,
            sync_at,
            rotations: Rotations::default(),
            archivist: Archivist::new(text.clone()),
            text,
            names_checked,
            batch_at: names_checked,
            awaited_at: None,
            may_gather: None,
        }
    }

    /// Gives up its file, and the locks.
    fn close(self) -> Desk {
        let Logger { pace, settings, text, orders, metrics, sources, tools, .. } = self;
        Desk { pace, settings, text, orders, metrics, sources, tools }
    }

    fn run(&mut self) -> Result<(), Halt> {
        let mut wakeups =
            Wakeups::new(&self.orders, &self.watch, &self.sources).map_err(|e| format!("cannot poll: {e}"))?;
        loop {
            if self.orders.reopen() {
                self.reopen()?;
            }
            if self.orders.stop() || self.is_finished() {
                return Ok(());
            }
            if !self.is_busy() {
                self.look_at_file()?;
            }
            self.rotate_if_due()?;
            self.tend_archivist();
            wakeups.watch(&self.archivist).map_err(|e| format!("cannot poll: {e}"))?;
            self.wait(&mut wakeups)?;
            self.batch()?;
            if self.sync_at.is_some_and(|at| at <= Instant::now()) {
                self.sync(None)?;
            }
            wakeups.update(&self.sources).map_err(|e| format!("cannot poll: {e}"))?;
        }
    }

    /// Whether nothing will ever come again. With no links at all, only an
    /// order ends it.
    fn is_finished(&self) -> bool {
        let ended = self.sources.iter().all(Source::is_finished);
        let told = self.orders.told_to_stop();
        // Somebody's grandchild may hold a link for ever; nothing more comes,
        // and the next logger waits for the lock.
        let forsaken = told.is_some_and(|at| at.max(self.batch_at).elapsed() >= FORSAKEN);
        ended && (!self.sources.is_empty() || told.is_some()) || forsaken
    }

    /// Whether there is something to save that is known already.
    fn is_busy(&self) -> bool {
        self.sources.iter().any(|source| source.ready || source.has_work())
    }

    /// Waits until there is something to do.
    fn wait(&mut self, wakeups: &mut Wakeups) -> Result<(), Halt> {
        let busy = self.is_busy();
        let timeout = if busy {
            Some(Duration::ZERO)
        } else {
            let forsaken = self.orders.told_to_stop().map(|_| FORSAKEN);
            let later = [self.sync_at, self.rotations.at(), self.archivist.again_at()].into_iter().flatten().min();
            let later = later.map(|at| at.saturating_duration_since(Instant::now()));
            [later, forsaken].into_iter().flatten().min()
        };
        if let (Some(time), false) = (self.may_gather.take(), busy) {
            // A signal cuts it short.
            let _rest = nix::time::clock_nanosleep(
                nix::time::ClockId::CLOCK_MONOTONIC,
                nix::time::ClockNanosleepFlags::empty(),
                &time.into(),
            );
        }
        for wakeup in wakeups.wait(timeout).map_err(|e| format!("cannot poll: {e}"))? {
            match wakeup {
                Wakeup::Signal => self.orders.collect(),
                Wakeup::Archivist => self.archivist.hang_up(),
                Wakeup::File => self.watch.take_events(),
                Wakeup::Queue(at) => self.sources[at as usize].ready = true,
                Wakeup::Replies(at) => self.sources[at as usize].replies.iter_mut().for_each(Replies::send_waiting),
            }
        }
        Ok(())
    }

    /// The last thing: what the settings want on the disk goes there, also
    /// where a batch could not be saved.
    fn leave(&mut self, outcome: Result<(), Halt>) -> Result<(), Halt> {
        if matches!(outcome, Err(Halt::Failed(_))) || self.sync_at.is_none() {
            return outcome;
        }
        if self.intent.is_closed() {
            self.sync(None)?;
        } else if let Err(error) = self.file.sync() {
            // The next one completes what is promised, and puts the file aside.
            log::error!("cannot bring {} to the disk: {error}; it is not trusted again", self.file.path().display());
            // A file that is noted already is the one that is promised to.
            let untrusted = self.intent.untrusted().unwrap_or(self.file.id());
            self.write_intent(|intent| intent.set_untrusted(Some(untrusted)))?;
        }
        outcome
    }

    /// Nobody knows whether the logger before was killed before it synced what
    /// it had saved, as `sync = "1s"` asks for.
    fn owe_a_sync(&mut self) -> Result<(), Halt> {
        if self.file_len()? > 0 {
            self.sync_at = self.due();
        }
        Ok(())
    }

    /// Somebody may have removed the intent file; between two batches it can be made again.
    fn restore_intent(&mut self) {
        let at = self.intent.path().to_owned();
        let there = match self.intent.is_named() {
            Ok(there) => there,
            Err(error) => {
                // The next look comes with a later batch.
                log::warn!("cannot look at {}: {error}", at.display());
                return;
            }
        };
        if !there {
            let made = Intent::open(&at, self.pace.body).and_then(|made| {
                let again = |mut intent: Intent| {
                    intent.take_over(&self.intent)?;
                    intent.reset().map(|()| intent)
                };
                made.map(again).transpose()
            });
            match made {
                Ok(Some(intent)) => {
                    self.intent = intent;
                    log::warn!("{} was removed; made it again", at.display());
                }
                Ok(None) => log::warn!("{} is another process's now", at.display()),
                Err(error) => log::warn!("cannot make {} again: {error}", at.display()),
            }
        }
    }
}

/// Opens something that may be locked (`None`), or that can't be opened for
/// now. To end would be no answer: so many starts in a row as it takes to mend
/// a disk are past every limit on starts, and then nobody would open it again.
fn wait_for<T>(
    orders: &mut Orders,
    settings: &Settings,
    path: &Path,
    mut open: impl FnMut() -> io::Result<Option<T>>,
) -> Result<T, Halt> {
    loop {
        match attempt(settings, path, &mut open)? {
            Ok(opened) => {
                orders.endured();
                return Ok(opened);
            }
            Err(trouble) => orders.endure(&trouble, Duration::from_millis(100))?,
        }
    }
}

/// The same once: what was opened, or the trouble that may pass.
fn attempt<T>(
    settings: &Settings,
    path: &Path,
    mut open: impl FnMut() -> io::Result<Option<T>>,
) -> Result<Result<T, String>, Halt> {
    loop {
        let error = match open() {
            Ok(Some(opened)) => return Ok(Ok(opened)),
            Ok(None) => return Ok(Err(locked(path))),
            Err(error) => error,
        };
        if room::make_room(settings, &error) {
            continue;
        }
        let trouble = format!("cannot open {}: {error}", path.display());
        return if may_pass(&error) { Ok(Err(trouble)) } else { Err(Halt::Failed(trouble)) };
    }
}

fn locked(path: &Path) -> String {
    format!("cannot open {}: another process has locked it", path.display())
}

/// Whether an error may go away by itself, or because a person acts, while the
/// configuration stays as it is. A network or user-space file system can report
/// nearly anything while its server is away, so only the errors that never pass
/// are listed: they say that the path, or this kind of file system, is wrong.
fn may_pass(error: &io::Error) -> bool {
    use Errno::{EBADF, EFAULT, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOSYS, ENOTTY, EOPNOTSUPP};
    match error.raw_os_error().map(Errno::from_raw) {
        Some(EISDIR | ELOOP | ENAMETOOLONG | EINVAL | EOPNOTSUPP | ENOSYS | ENOTTY | EBADF | EFAULT) => false,
        Some(_) => true,
        None => match error.kind() {
            // Another process writes to the file, or cuts it, at this moment.
            io::ErrorKind::ResourceBusy | io::ErrorKind::UnexpectedEof => true,
            // What stands there is somebody else's, who may take it away again.
            io::ErrorKind::PermissionDenied => true,
            _ => false,
        },
    }
}

/// What there is to do.
#[derive(Debug, Clone, Copy)]
enum Wakeup {
    /// A signal came.
    Signal,
    /// The archivist has hung up.
    Archivist,
    /// The message file has changed, and not by a write.
    File,
    /// The queue of that source has something, or its end.
    Queue(u32),
    /// The replies pipe of that source has room again.
    Replies(u32),
}

impl Token for Wakeup {
    fn encode(self) -> u64 {
        let (kind, at) = match self {
            Wakeup::Signal => (0, 0),
            Wakeup::Archivist => (1, 0),
            Wakeup::File => (2, 0),
            Wakeup::Queue(at) => (3, at),
            Wakeup::Replies(at) => (4, at),
        };
        (kind << 32) | u64::from(at)
    }

    fn decode(bits: u64) -> Wakeup {
        #[expect(clippy::cast_possible_truncation, reason = "the low half is the source")]
        let at = bits as u32;
        match bits >> 32 {
            0 => Wakeup::Signal,
            1 => Wakeup::Archivist,
            2 => Wakeup::File,
            3 => Wakeup::Queue(at),
            _ => Wakeup::Replies(at),
        }
    }
}

/// All that the loop waits for.
#[derive(Debug)]
struct Wakeups {
    poll: Poll<Wakeup>,
    events: Vec<(Wakeup, EpollFlags)>,
    /// By source: whether its queue is watched, and its replies.
    watched: Vec<(bool, bool)>,
    /// The archivist that is watched.
    archivist: Option<Pid>,
}

impl Wakeups {
    fn new(orders: &Orders, watch: &Watch, sources: &[Source]) -> io::Result<Wakeups> {
        let poll = Poll::new()?;
        poll.add(orders, EpollFlags::EPOLLIN, Wakeup::Signal)?;
        if let Some(readable) = watch.readable() {
            poll.add(readable, EpollFlags::EPOLLIN, Wakeup::File)?;
        }
        for (at, source) in (0..).zip(sources) {
            poll.add(source.intake.queue(), EpollFlags::EPOLLIN, Wakeup::Queue(at))?;
        }
        let events = Vec::with_capacity(3 + 2 * sources.len());
        let mut wakeups = Wakeups { poll, events, watched: vec![(true, false); sources.len()], archivist: None };
        wakeups.update(sources)?;
        Ok(wakeups)
    }

    /// An end is seen once; room for replies is waited for only where there is none.
    fn update(&mut self, sources: &[Source]) -> io::Result<()> {
        for (at, (source, (queue, replies))) in (0..).zip(sources.iter().zip(&mut self.watched)) {
            if *queue && source.intake.ended() {
                self.poll.remove(source.intake.queue());
                *queue = false;
            }
            if let Some(pipe) = &source.replies {
                match (*replies, pipe.is_waiting()) {
                    (false, true) => self.poll.add(pipe, EpollFlags::EPOLLOUT, Wakeup::Replies(at))?,
                    (true, false) => self.poll.remove(pipe),
                    _ => {}
                }
                *replies = pipe.is_waiting();
            }
        }
        Ok(())
    }

    /// Watches the archivist that is at work, if any. One that has hung up is
    /// not watched any more, because it would be reported again and again.
    fn watch(&mut self, archivist: &Archivist) -> io::Result<()> {
        let at_work = archivist.at_work();
        if let (None, Some(hung_up)) = (at_work, archivist.hung_up()) {
            if self.archivist.is_some() {
                self.poll.remove(hung_up);
            }
        }
        if let Some((_, ended)) = at_work.filter(|(pid, _)| self.archivist != Some(*pid)) {
            self.poll.add(ended, EpollFlags::EPOLLIN, Wakeup::Archivist)?;
        }
        self.archivist = at_work.map(|(pid, _)| pid);
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<impl Iterator<Item = Wakeup> + '_> {
        self.poll.wait(&mut self.events, timeout)?;
        Ok(self.events.iter().map(|&(wakeup, _)| wakeup))
    }
}
