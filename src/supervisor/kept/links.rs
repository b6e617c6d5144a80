//! The links in the supervisor, which holds both ends of every pipe, so that what is in
//! it outlives both processes.

use crate::config::model::{Link as Config, Model, Program};
use crate::link::handover::Protocol;
use crate::link::ledger::{self, View};
use crate::link::{Intake, Kept, Link, replies_capacity};
use crate::plugin::{self, Plugin};
use crate::supervisor::change::steps::LinkSeen;
use crate::supervisor::clock::Moment;
use crate::supervisor::kept::access;
use crate::supervisor::kept::store::{self, Store};
use crate::sys::anew;
use crate::sys::pipe::{self, Pipe};
use crate::sys::rate::Rates;
use crate::sys::stream::Stream;
use jiff::Timestamp;
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

mod fullness;
mod watching;

pub(crate) use fullness::{News, Progress};
pub(crate) use watching::LinkNews;
use watching::Watch;

/// Bytes may wait at any instant. If they wait for this long, their sink is taking none.
const NO_ACCIDENT: Duration = Duration::from_millis(100);

/// A link and its kernel objects.
#[derive(Debug)]
pub struct Held {
    /// Its part of the configuration.
    pub config: Config,
    /// The queue that it uses; several links into one ordinary sink share one.
    pub queue: QueueId,
    /// What only its sink uses, if the sink has an intake.
    pub intake: Option<HeldIntake>,
    /// The pipe for acknowledgements, if it carries records.
    pub replies: Option<Pipe>,
    /// Whether the sink is a plugin.
    sink_is_plugin: bool,
    /// The users as which its source and its sink run.
    users: [u32; 2],
    /// When bytes were first seen to wait, and what showed the sink's progress then.
    seen: Option<(Instant, u64)>,
    /// When it was last seen that none waited.
    idle_at: Moment,
}

/// An intake, and the capacity of its staging.
#[derive(Debug)]
pub struct HeldIntake {
    /// The intake, which belongs to the sink.
    pub intake: Intake,
    /// How much staging can hold.
    granted: usize,
}

/// A queue: what the source writes and the sink reads.
#[derive(Debug)]
pub struct Queue {
    id: QueueId,
    /// The sink's end.
    pub read: OwnedFd,
    /// The source's end; `None` once its input has ended.
    pub write: Option<OwnedFd>,
    /// How much it can hold: as much as was asked for, or as the kernel granted.
    granted: usize,
    /// Whether it was logged that it now holds less and that the kernel does not grant more.
    short_told: bool,
    watch: Watch,
}

/// Which links share a queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueId {
    /// All links into that ordinary sink share one queue, its stdin.
    Of(String),
    /// Every other link has its own queue: the output of that source, into that sink.
    Between(String, Stream, String),
}

impl QueueId {
    /// Its link's name in the store.
    fn name(&self, protocol: Protocol) -> String {
        match self {
            QueueId::Of(to) => store::link_name(protocol, None, to),
            QueueId::Between(from, stream, to) => store::link_name(protocol, Some((from, *stream)), to),
        }
    }

    /// The sink of its links.
    fn sink(&self) -> &str {
        match self {
            QueueId::Of(to) | QueueId::Between(_, _, to) => to,
        }
    }
}

/// All links.
#[derive(Debug, Default)]
pub struct Links {
    held: Vec<Held>,
    queues: Vec<Queue>,
    /// How many queues there have been.
    made: u32,
}

/// Whether the link's sink distinguishes its sources. If so, each link into it has a queue
/// of its own, staging and a ledger.
fn has_intake(model: &Model, link: &Config) -> bool {
    sink(link, model).map_or(link.protocol == Protocol::Records, |plugin| plugin.sink)
}

/// The plugin that is the link's sink; `None` if it is a program.
fn sink(link: &Config, model: &Model) -> Option<&'static Plugin> {
    match &model.child(&link.to)?.program {
        Program::Plugin(name) => plugin::find(name),
        Program::Command(_) => None,
    }
}

impl Held {
    /// Whether this is that link of `model`, whatever its capacity.
    fn is(&self, link: &Config, model: &Model) -> bool {
        let held = &self.config;
        held.from == link.from
            && held.stream == link.stream
            && held.to == link.to
            && held.protocol == link.protocol
            && self.intake.is_some() == has_intake(model, link)
    }

    /// How much its sink has taken, in messages and bytes, with their rates. `None`: the sink
    /// keeps no account of it.
    pub fn flow(&self, now: u64) -> Option<(u64, u64, BTreeMap<&'static str, Rates>)> {
        // A program uses its ledger as it likes.
        let intake = self.intake.as_ref().filter(|_| self.sink_is_plugin)?;
        let flow = intake.view().flow(now).unwrap_or_default();
        Some((flow.messages, flow.bytes, [("messages", flow.message_rates), ("bytes", flow.byte_rates)].into()))
    }

    /// Whether that child is its source or its sink.
    fn touches(&self, child: &str) -> bool {
        self.config.from == child || self.config.to == child
    }

    /// This link's part of `model`, if it has one.
    fn in_model<'a>(&self, model: &'a Model) -> Option<&'a Config> {
        model.links.iter().find(|link| self.is(link, model))
    }
}

impl Links {
    /// The links into that child.
    pub fn flowing_into(&self, sink: &str) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(move |held| held.config.to == sink)
    }

    /// The link that is that output of that child.
    pub fn out_of(&self, source: &str, stream: Stream) -> Option<&Held> {
        self.held.iter().find(|held| held.config.from == source && held.config.stream == stream)
    }

    /// The queues that no link of `new` uses, or all queues if there is no `new`: these inputs
    /// are to end.
    pub fn ending(&self, new: Option<&Model>) -> BTreeSet<QueueId> {
        let ids = self.queues.iter().map(|queue| &queue.id);
        ids.filter(|id| new.is_none_or(|model| !self.stays(id, model))).cloned().collect()
    }

    /// Every link, as a change sees it; [`Links::queued_at`] has their numbers.
    pub fn flows(&self) -> Vec<LinkSeen<'_>> {
        let each = self.held.iter().map(|held| LinkSeen {
            from: &held.config.from,
            stream: held.config.stream,
            to: &held.config.to,
            queue: &held.queue,
            is_open: self.queue(held).write.is_some(),
            saves: held.intake.is_some(),
        });
        each.collect()
    }

    /// Bytes that wait in the link of that number, from 0.
    pub fn queued_at(&self, link: usize) -> usize {
        self.held.get(link).map_or(0, |held| self.queued(held))
    }

    /// Whether a link that is held and that is also in `model` uses that queue.
    fn stays(&self, queue: &QueueId, model: &Model) -> bool {
        self.held.iter().any(|held| held.queue == *queue && held.in_model(model).is_some())
    }

    /// How many bytes a link's queue can hold.
    pub fn capacity(&self, held: &Held) -> usize {
        pipe::capacity(&self.queue(held).read).unwrap_or(held.config.capacity)
    }

    /// Every link.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.held.iter()
    }

    /// The queue of that link.
    ///
    /// # Panics
    /// Never: a link's queue is held as long as the link.
    pub fn queue(&self, held: &Held) -> &Queue {
        self.queues.iter().find(|q| q.id == held.queue).expect("a link's queue is held as long as the link")
    }

    /// Makes the links of `model` that are not held yet, or takes them up as an earlier
    /// supervisor left them, all or none. The caller [keeps](Links::keep) them when everything
    /// else is ready too.
    ///
    /// # Errors
    /// `cannot make the link A -> B: cause` for the first one that failed.
    pub fn make_new(&self, model: &Model, store: &Store) -> Result<Links, String> {
        let mut new = Links::default();
        for link in &model.links {
            if self.held.iter().any(|held| held.is(link, model)) {
                continue;
            }
            self.make(link, model, store, &mut new)
                .map_err(|e| format!("cannot make the link {}: {e}", link.title()))?;
        }
        Ok(new)
    }

    fn make(&self, link: &Config, model: &Model, store: &Store, new: &mut Links) -> io::Result<()> {
        let intake = has_intake(model, link);
        let id = match intake {
            true => QueueId::Between(link.from.clone(), link.stream, link.to.clone()),
            false => QueueId::Of(link.to.clone()),
        };
        // A queue that is removed can't be shared, because its input ends.
        let shared = self.stays(&id, model) || new.queues.iter().any(|q| q.id == id);
        let kept = if shared { None } else { store.link(&id.name(link.protocol))? };
        let made = match (kept, intake) {
            (Some(kept), intake) => Some(take_up(link, kept, intake)?),
            (None, true) => Some(Link::to_intake(link.capacity, link.protocol)?),
            (None, false) if !shared => Some(Link::to_stdin(link.capacity)?),
            (None, false) => None,
        };
        let mut held = Held {
            config: link.clone(),
            queue: id.clone(),
            intake: None,
            replies: None,
            sink_is_plugin: sink(link, model).is_some(),
            users: users(link, model),
            seen: None,
            idle_at: Moment::now(),
        };
        if let Some(made) = made {
            let real = made.capacity()?;
            tell_granted(link, real);
            held.intake = made.intake.map(HeldIntake::new).transpose()?;
            held.replies = made.replies;
            let Pipe { read, write } = made.queue;
            new.queues.push(Queue {
                id,
                read,
                write: Some(write),
                granted: real,
                short_told: false,
                watch: Watch::new(0),
            });
        }
        new.held.push(held);
        Ok(())
    }

    /// The parts of the links that `which` selects that are to outlive this process, by their
    /// names in the store.
    pub fn stored<'a>(&'a self, which: impl Fn(&Held) -> bool + 'a) -> impl Iterator<Item = (String, BorrowedFd<'a>)> {
        self.held.iter().filter(move |held| which(held)).flat_map(|held| {
            let intake = held.intake.as_ref().map(|held| (&held.intake.staging.read, &held.intake.ledger));
            store::parts(&held.queue.name(held.config.protocol), &self.queue(held).read, intake)
        })
    }

    /// Adds these, and sorts all in the order of the configuration.
    pub fn keep(&mut self, new: Links, model: &Model) {
        self.held.extend(new.held);
        for queue in new.queues {
            self.queues.push(Queue { watch: Watch::new(self.made), ..queue });
            self.made += 1;
        }
        let place = |held: &Held| model.links.iter().position(|link| held.is(link, model));
        self.held.sort_by_key(place);
    }

    /// Drops the links that `model` doesn't have, and takes over its settings for the others
    /// (their capacity).
    pub fn retain(&mut self, model: &Model) {
        self.held.retain(|held| held.in_model(model).is_some());
        self.queues.retain(|queue| self.held.iter().any(|held| held.queue == queue.id));
        for held in &mut self.held {
            let Some(config) = held.in_model(model) else { continue };
            if config.capacity != held.config.capacity {
                if let Some(queue) = self.queues.iter_mut().find(|q| q.id == held.queue) {
                    resize(held, queue, config);
                }
            }
            held.sink_is_plugin = sink(config, model).is_some();
            held.users = users(config, model);
            held.config = config.clone();
        }
    }

    /// Takes over the users as which the sources and sinks run.
    pub fn set_users(&mut self, model: &Model) {
        for held in &mut self.held {
            held.users = users(&held.config, model);
        }
    }

    /// Ends the input that this queue provides: once its sink has read everything, it sees
    /// the end of the file.
    pub fn end_input(&mut self, queue: &QueueId) {
        if let Some(queue) = self.queues.iter_mut().find(|held| held.id == *queue) {
            queue.write = None;
            queue.watch.end(Instant::now());
        }
    }

    /// Reopens the inputs that [`Links::end_input`] has ended, as many as it can, except
    /// those that a change under way ends.
    ///
    /// # Errors
    /// The first error (EMFILE, ENFILE), if some could not be reopened.
    pub fn resume_input(&mut self, ends: impl Fn(&QueueId) -> bool) -> io::Result<()> {
        let mut all = Ok(());
        for queue in self.queues.iter_mut().filter(|queue| queue.write.is_none() && !ends(&queue.id)) {
            let records = self.held.iter().any(|h| h.queue == queue.id && h.config.protocol == Protocol::Records);
            let opened = pipe::writer_of(&queue.read).and_then(|write| {
                pipe::set_nonblocking(&write, records)?;
                Ok(write)
            });
            match opened {
                Ok(write) => queue.write = Some(write),
                Err(error) => all = all.and(Err(error)),
            }
        }
        all
    }

    /// Undoes what earlier processes, or the process at the other end, did to the pipes of
    /// that child's links: their capacity, and who may open them.
    ///
    /// # Errors
    /// A capacity can't be read.
    pub fn put_right(&mut self, child: &str) -> io::Result<()> {
        for held in self.held.iter().filter(|held| held.touches(child)) {
            let Some(queue) = self.queues.iter_mut().find(|q| q.id == held.queue) else { continue };
            let title = held.config.title();
            let mut short = pipe::restore_capacity(&queue.read, queue.granted)? < queue.granted;
            if let Some(HeldIntake { intake, granted, .. }) = &held.intake {
                short |= pipe::restore_capacity(&intake.staging.read, *granted)? < *granted;
            }
            if let Some(replies) = &held.replies {
                // A small one delays acknowledgements, but loses none.
                let _granted = pipe::restore_capacity(&replies.read, replies_capacity(queue.granted))?;
            }
            if short && !queue.short_told {
                log::warn!(
                    "link {title}: a process made it smaller, and the kernel does not grant its old size (pipe(7))"
                );
            }
            queue.short_told = short;
            let sources: Vec<u32> = match &held.queue {
                QueueId::Between(..) => vec![held.users[0]],
                QueueId::Of(_) => self.held.iter().filter(|h| h.queue == held.queue).map(|h| h.users[0]).collect(),
            };
            permit(&queue.read, held.users[1], &sources, &title);
        }
        Ok(())
    }

    /// Bytes that wait in a link: in its queue, in staging, and carried over in
    /// the ledger.
    pub fn queued(&self, held: &Held) -> usize {
        self.untaken(held) + held.intake.as_ref().map_or(0, |held| held.view().carried())
    }

    /// Bytes that the sink has not taken: without what it carries over. If it took half a line
    /// and the other half is not written yet, that is not a delay by the sink.
    fn untaken(&self, held: &Held) -> usize {
        let staged = held.intake.as_ref().map_or(0, |held| pipe::bytes_in(&held.intake.staging.read).unwrap_or(0));
        pipe::bytes_in(&self.queue(held).read).unwrap_or(0) + staged
    }

    /// The queues into that child that can still be written to.
    fn queues_into(&self, sink: &str) -> Vec<&Queue> {
        let mut ids = BTreeSet::new();
        let each = self.flowing_into(sink).filter(|held| ids.insert(&held.queue)).map(|held| self.queue(held));
        each.filter(|queue| queue.write.is_some()).collect()
    }

    /// How many bytes wait for that child, and, if it has ledgers, what shows that it takes some
    /// of them.
    pub fn waits_for(&self, sink: &str) -> (u64, Option<u64>) {
        let (mut waits, mut batches) = (0, None::<u64>);
        let mut ids = BTreeSet::new();
        for held in self.flowing_into(sink).filter(|held| ids.insert(&held.queue)) {
            waits += self.untaken(held) as u64;
            // A program uses its ledger as it likes.
            if let Some(intake) = held.intake.as_ref().filter(|_| held.sink_is_plugin) {
                batches = Some(batches.unwrap_or(0).wrapping_add(intake.view().batch()));
            }
        }
        (waits, batches)
    }

    /// How many bytes wait in each link, and for how long they have waited while its sink took
    /// nothing.
    ///
    /// No event reports when bytes arrive, and there is no timer for it. The supervisor knows
    /// only what it saw at earlier looks and, if the sink has a ledger, when the sink last
    /// took something. So a first look only notes what waits.
    pub fn look(&mut self, now: Instant) -> Vec<(usize, Duration)> {
        let sizes: Vec<(usize, usize)> = self.held.iter().map(|held| (self.queued(held), self.untaken(held))).collect();
        let mut answers = Vec::with_capacity(sizes.len());
        for (held, (queued, untaken)) in self.held.iter_mut().zip(sizes) {
            // Another batch shows progress, or, without a ledger, another number of bytes.
            let batch = held.intake.as_ref().map(|intake| intake.view().batch());
            let taken = batch.unwrap_or(untaken as u64);
            held.seen = match held.seen {
                _ if untaken == 0 => None,
                Some((since, before)) if before == taken => Some((since, taken)),
                _ => Some((now, taken)),
            };
            if untaken == 0 {
                held.idle_at = Moment::now();
            }
            let seen = held.seen.map_or(Duration::ZERO, |(since, _)| now.duration_since(since));
            let stalled = |batch| stalled(seen, Timestamp::now(), held.idle_at.elapsed(), batch);
            answers.push((queued, batch.map_or(seen, stalled)));
        }
        answers
    }
}

/// How long a sink with a ledger has taken nothing, if bytes were seen to wait for it for
/// `seen`: since its last batch, whose id is its time (nanoseconds since 1970), or since
/// nothing waited, `idle` ago, whichever was later.
fn stalled(seen: Duration, clock: Timestamp, idle: Duration, batch: u64) -> Duration {
    if seen < NO_ACCIDENT {
        return seen;
    }
    let batch = Timestamp::from_nanosecond(i128::from(batch)).unwrap_or(Timestamp::UNIX_EPOCH);
    // If the clock was set forward since then, this is at most `idle`; if it was set back, it
    // is at least `seen`.
    Duration::try_from(clock.duration_since(batch)).unwrap_or(Duration::ZERO).min(idle).max(seen)
}

/// Takes up a link that an earlier supervisor left.
fn take_up(link: &Config, mut kept: Kept, has_intake: bool) -> io::Result<Link> {
    if has_intake && kept.intake.is_none() {
        log::error!(
            "link {}: the service manager kept its queue alone: what its sink had begun to take is lost",
            link.title()
        );
    }
    if let Some((staging, ledger)) = &mut kept.intake {
        if let Err(why) = ledger::adopt(&*ledger) {
            // The bytes in staging may be saved twice, which is better than losing them.
            log::error!(
                "link {}: {why}: starting with an empty one. The beginning of a message that its sink had set \
                 aside is lost; of {} bytes that it was about to save, some may be saved twice",
                link.title(),
                pipe::bytes_in(staging)?
            );
            *ledger = ledger::create()?;
        }
    }
    let made = kept.again(link.protocol, has_intake)?;
    let staging = made.intake.as_ref().map(|intake| &intake.staging.write);
    for end in [Some(&made.queue.write), staging].into_iter().flatten() {
        // The caller logs it if the kernel refuses.
        let _refused = pipe::restore_capacity(end, link.capacity);
    }
    log::info!(
        "link {}: taken up as the last supervisor left it, with {} bytes",
        link.title(),
        pipe::bytes_in(&made.queue.read)?
    );
    Ok(made)
}

fn resize(held: &mut Held, queue: &mut Queue, link: &Config) {
    let (title, capacity) = (link.title(), &link.capacity);
    let intake = held.intake.as_mut().map(|held| (&held.intake.staging.write, &mut held.granted));
    let mut real = *capacity;
    for (name, pipe) in [("queue", Some((&queue.read, &mut queue.granted))), ("staging", intake)] {
        let Some((end, granted)) = pipe else { continue };
        match pipe::set_capacity(end, *capacity) {
            Ok(bytes) => {
                *granted = bytes;
                real = real.min(bytes);
            }
            // The other pipe may still get it.
            Err(error) => log::warn!(
                "link {title}: cannot set the capacity of its {name} to {capacity} bytes: {error}; the {name} stays as it was"
            ),
        }
    }
    queue.short_told = false;
    tell_granted(link, real);
}

/// Lets a queue's sink and sources open it by name, as far as this process may allow that.
/// They don't need this to read and write through the descriptors that they were given.
fn permit(queue: &OwnedFd, sink: u32, sources: &[u32], title: &str) {
    let own = nix::unistd::geteuid().as_raw();
    let (owner, mode) = access::to_queue(own, sink, sources);
    let permitted = match anew::permit(queue, owner, mode) {
        Err(Errno::EPERM) if owner != own => anew::permit(queue, own, access::to_own_queue(own, sink, sources)),
        other => other,
    };
    if let Err(error) = permitted {
        log::warn!(
            "link {title}: its children may not open it by the names /dev/stdin, /dev/stdout and /dev/stderr: {}",
            error.desc()
        );
    }
}

/// The users as which the source and the sink of a link run.
fn users(link: &Config, model: &Model) -> [u32; 2] {
    let own = nix::unistd::geteuid().as_raw();
    [&link.from, &link.to]
        .map(|name| model.child(name).and_then(|child| child.user.as_ref()).map_or(own, |who| who.uid))
}

fn tell_granted(link: &Config, real: usize) {
    let (title, capacity) = (link.title(), link.capacity);
    if real < capacity {
        log::warn!(
            "link {title}: the kernel grants {real} of {capacity} bytes (pipe-max-size, pipe-user-pages-soft: pipe(7))"
        );
    }
}

impl HeldIntake {
    fn new(intake: Intake) -> io::Result<HeldIntake> {
        let granted = pipe::capacity(&intake.staging.write)?;
        Ok(HeldIntake { intake, granted })
    }

    fn view(&self) -> View<'_> {
        View::of(&self.intake.ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn if_one_input_cannot_be_opened_again_the_others_still_are() {
        let queue = |name: &str, read: OwnedFd| Queue {
            id: QueueId::Of(name.to_owned()),
            read,
            write: None,
            granted: 4096,
            short_told: false,
            watch: Watch::new(0),
        };
        let pipe = || Pipe::new(4096).unwrap().read;
        // A socket can't be opened by its name in /proc (ENXIO).
        let bad = || OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        for place in 0..3 {
            let queues = (0..3).map(|at| queue(&at.to_string(), if at == place { bad() } else { pipe() }));
            let mut links = Links { queues: queues.collect(), ..Links::default() };
            links.resume_input(|_| false).unwrap_err();
            let open: Vec<bool> = links.queues.iter().map(|queue| queue.write.is_some()).collect();
            assert_eq!(open, [place != 0, place != 1, place != 2]);
            links.queues[place].read = pipe();
            links.resume_input(|_| false).unwrap();
            assert!(links.queues[place].write.is_some());
        }
    }

    #[test]
    fn a_stall_is_counted_from_the_last_batch_or_from_when_nothing_waited() {
        let batch = 1000 * 1_000_000_000;
        let (long, secs) = (Duration::from_millis(200), Duration::from_secs);
        assert_eq!(stalled(long, at(1060), secs(160), batch), secs(60));
        assert_eq!(stalled(long, at(1060), secs(10), batch), secs(10));
        assert_eq!(stalled(long, at(1060), secs(160), 0), secs(160));
    }

    #[test]
    fn bytes_that_were_only_just_seen_are_not_a_stall() {
        let just = Duration::from_millis(3);
        assert_eq!(stalled(just, at(5000), Duration::from_secs(4100), 0), just);
    }

    #[test]
    fn a_clock_that_is_set_makes_no_stall_longer_than_bytes_have_waited() {
        let (long, idle, batch) = (Duration::from_secs(7), Duration::from_secs(9), 1000 * 1_000_000_000);
        for back in [0, 10, 999] {
            assert_eq!(stalled(long, at(back), idle, batch), long);
        }
        assert_eq!(stalled(long, at(10), idle, u64::MAX), long);
        for forward in [1010, 90_000, 1_699_920_000] {
            assert_eq!(stalled(long, at(forward), idle, batch), idle);
        }
    }
}
