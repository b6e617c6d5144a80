//! The logger: saves every message, in order, to a file. It is a loop over two parts:
//! all its links ([`Intakes`], which drives each batch through the law of a link) and
//! the message file as their destination.
//!
//! - [`render`], [`escape`], [`body`]: how a message is written to the file;
//! - `destination`: the steps of a batch that concern the file; `save`: writes bytes to the
//!   file, and syncs them to the disk; `promises`: what is written to the intent file;
//!   `there`: how much of a batch is in a file;
//! - `recover`: completes a batch that an earlier logger left unfinished; `renamed`: does it
//!   in a file that was renamed; `elsewhere`: does it for another file;
//! - [`rotation`]: when and how the file is rotated; [`archives`]: the rotated files;
//!   [`archivist`], [`compress`]: what happens to them, in a separate process;
//! - [`mod@file`]: the message file; `removed`: what happens if it was removed;
//!   `too_large`: what happens if it can't grow; [`torn`]: an end that is not a whole line;
//!   [`access`]: its access rights; [`follows`]: which archive comes before it; [`room`]: what happens on a full disk;
//! - `gathering`: how long messages gather for a batch; [`orders`]: signals and troubles;
//!   `wakeups`: what the loop waits for.

pub(crate) mod access;
pub mod archives;
pub(crate) mod archivist;
pub mod body;
pub(crate) mod compress;
mod destination;
mod elsewhere;
pub mod escape;
pub mod file;
pub mod follows;
mod gathering;
pub(crate) mod orders;
mod promises;
mod recover;
mod removed;
mod renamed;
pub mod render;
pub(crate) mod room;
pub(crate) mod rotation;
mod save;
pub mod settings;
mod there;
mod too_large;
pub(crate) mod torn;
mod wakeups;

use super::start::{Metrics, Start};
use crate::link::batch::{Destination, Intakes};
use crate::link::replies::Replies;
use crate::link::source::Part;
use crate::sys::text::counted;
use destination::{BATCH_BYTES, FileDestination};
use gathering::Gathering;
use nix::errno::Errno;
use orders::{Halt, Orders};
use settings::Settings;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use wakeups::{Wakeup, Wakeups};

pub use settings::METRICS;
const MESSAGES: usize = 0;
const BYTES: usize = 1;
const BATCHES: usize = 2;
const SYNCS: usize = 3;
const INCOMPLETE: usize = 4;
const GARBAGE: usize = 5;
const ROTATIONS: usize = 6;
const FILE_BYTES: usize = 7;

/// If the supervisor is dead and nothing has come for this long, nothing more will.
const FORSAKEN: Duration = Duration::from_secs(10);

/// What makes a logger fast under load but slow to start.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The least size of the intent file's body. It grows with its messages.
    pub body: usize,
    /// The longest that messages of a stream gather for a batch if no client waits for it.
    pub gather: Duration,
    /// Whether a removal of the file is noticed while no message comes. Ending a watch
    /// takes some milliseconds.
    pub watch: bool,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            // A batch, plus the longest line that can come on top of it, in any format.
            body: 2 * BATCH_BYTES,
            // Messages are safe in a queue, and a batch costs the same whether it is small
            // or large.
            gather: Duration::from_millis(4),
            watch: true,
        }
    }
}

/// Saves until its input ends or it is asked to stop.
///
/// # Errors
/// The reason why it ended, for the log.
pub fn run(start: Start) -> Result<(), String> {
    run_at(Pace::default(), start)
}

/// Does what [`run`] does, at another pace.
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
    let (desk, mut intakes) = take_up(pace, start)?;
    let desk = desk.settle_elsewhere(&mut intakes)?;
    let mut destination = FileDestination::open(desk)?;
    intakes.recover(&mut destination)?;
    destination.owe_a_sync()?;
    destination.orders.ready();
    destination.archivist.start_for_work(&destination.settings, &mut destination.orders);
    let mut logger = Logger { intakes, destination, gathering: Gathering::new(pace.gather) };
    let outcome = logger.run();
    logger.destination.leave(outcome)
}

/// A running logger: its inputs, its destination, and its timing.
#[derive(Debug)]
struct Logger {
    intakes: Intakes,
    destination: FileDestination,
    gathering: Gathering,
}

/// What a logger has before it opens a file, and keeps after it closes one.
#[derive(Debug)]
struct Desk {
    pace: Pace,
    settings: Settings,
    /// The settings as it got them, for the archivist.
    text: String,
    orders: Orders,
    metrics: Metrics,
}

/// Takes up everything that it was given.
fn take_up(pace: Pace, start: Start) -> Result<(Desk, Intakes), Halt> {
    let mut settings = Settings::read(&start.settings).map_err(|e| format!("cannot read PLUMBD_SETTINGS: {e}"))?;
    // The ledgers name the file for the next logger, which may start in another folder.
    settings.file = std::path::absolute(&settings.file)
        .map_err(|e| format!("cannot find the absolute path of {}: {e}", settings.file.display()))?;
    let intakes = Intakes::open(&start.links.inbound)?;
    file::check(&settings.file).map_err(|e| format!("cannot open {}: {e}", settings.file.display()))?;
    let orders = Orders::new(start.signals, start.supervisor);
    Ok((Desk { pace, settings, text: start.settings, orders, metrics: start.metrics }, intakes))
}

impl Logger {
    fn run(&mut self) -> Result<(), Halt> {
        let sources = &self.intakes.sources;
        let mut wakeups = Wakeups::new(&self.destination.orders, &self.destination.watch, sources)
            .map_err(|e| format!("cannot poll: {e}"))?;
        loop {
            if self.destination.orders.reopen() {
                self.destination.reopen()?;
            }
            if self.destination.orders.stop() || self.is_finished() {
                return Ok(());
            }
            if !self.intakes.is_busy() {
                self.destination.look_at_file()?;
            }
            self.destination.rotate_if_due()?;
            self.destination.archivist.tend(&mut self.destination.orders);
            wakeups.watch(&self.destination.archivist).map_err(|e| format!("cannot poll: {e}"))?;
            self.wait(&mut wakeups)?;
            self.batch()?;
            self.destination.sync_if_due()?;
            wakeups.update(&self.intakes.sources).map_err(|e| format!("cannot poll: {e}"))?;
        }
    }

    /// Whether nothing will ever come again. Without any links, it ends only when it is
    /// asked to stop.
    fn is_finished(&self) -> bool {
        let asked = self.destination.orders.asked_to_stop();
        // A stray of a source may hold a link open forever. Nothing more comes, and the next
        // logger waits for the lock.
        let forsaken = asked.is_some_and(|at| at.max(self.gathering.batch_at()).elapsed() >= FORSAKEN);
        let has_sources = !self.intakes.sources.is_empty();
        self.intakes.are_finished() && (has_sources || asked.is_some()) || forsaken
    }

    /// Waits until there is something to do.
    fn wait(&mut self, wakeups: &mut Wakeups) -> Result<(), Halt> {
        let Logger { intakes, destination, gathering } = self;
        let busy = intakes.is_busy();
        let timeout = if busy { Some(Duration::ZERO) } else { destination.timeout() };
        gathering.wait(busy);
        for wakeup in wakeups.wait(timeout).map_err(|e| format!("cannot poll: {e}"))? {
            match wakeup {
                Wakeup::Signal => destination.orders.collect(),
                Wakeup::Archivist => destination.archivist.hang_up(),
                Wakeup::File => destination.watch.take_events(),
                Wakeup::Queue(at) => intakes.sources[at as usize].ready = true,
                Wakeup::Replies(at) => intakes.sources[at as usize].replies.iter_mut().for_each(Replies::send_waiting),
            }
        }
        Ok(())
    }

    /// Saves as much of what the links have as fits into one batch.
    fn batch(&mut self) -> Result<(), Halt> {
        if self.intakes.batch(&mut self.destination)? {
            self.destination.orders.saved();
            let now = Instant::now();
            self.count(now);
            self.gathering.saved(&self.intakes, now);
            self.destination.check_names();
        }
        Ok(())
    }

    fn count(&self, now: Instant) {
        let metrics = &self.destination.metrics;
        metrics.add(BATCHES, 1);
        metrics.add(FILE_BYTES, self.destination.length());
        for source in &self.intakes.sources {
            let (Some(Part { tally, .. }), from) = (source.part, || source.intake.origin()) else { continue };
            metrics.add(MESSAGES, tally.messages);
            metrics.add(BYTES, tally.bytes);
            source.intake.count(tally.messages, tally.bytes, self.destination.metrics.time(now));
            if tally.incomplete > 0 {
                metrics.add(INCOMPLETE, tally.incomplete);
                let messages = counted(tally.incomplete, "message", "messages");
                log::warn!("{messages} from {} left out, because the rest never came", from());
            }
            if tally.garbage > 0 {
                metrics.add(GARBAGE, tally.garbage);
                let bytes = counted(tally.garbage, "byte", "bytes");
                log::warn!("{bytes} from {} skipped, because they are not records", from());
            }
        }
        metrics.keep_rates(METRICS, now);
    }
}

/// Opens something that may be locked (`None`), or that can't be opened for
/// now. It does not give up: until a disk is repaired, the logger would be restarted so often
/// that it reaches the limit on starts, and then nothing would open the file again.
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

/// Tries that once. Returns what was opened, or a trouble that may pass.
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

/// Whether an error may go away by itself or because a person acts, without a change of the
/// configuration. A network or user-space file system can report
/// nearly anything while its server is away, so only the errors that never pass
/// are listed. They mean that the path, or this kind of file system, is wrong.
fn may_pass(error: &io::Error) -> bool {
    use Errno::{EBADF, EFAULT, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOSYS, ENOTTY, EOPNOTSUPP};
    match error.raw_os_error().map(Errno::from_raw) {
        Some(EISDIR | ELOOP | ENAMETOOLONG | EINVAL | EOPNOTSUPP | ENOSYS | ENOTTY | EBADF | EFAULT) => false,
        Some(_) => true,
        None => match error.kind() {
            // Another process is writing to the file or truncating it right now.
            io::ErrorKind::ResourceBusy | io::ErrorKind::UnexpectedEof => true,
            // The file there belongs to another user, who may remove it again.
            io::ErrorKind::PermissionDenied => true,
            _ => false,
        },
    }
}
