//! The loop: one thread, one epoll. A round takes everything that is ready:
//! acknowledgements and the echoes they let go first, then new clients, then
//! one read from each socket, those that stand in line first, then one batch to
//! the sink.

use super::addresses::Addresses;
use super::client::Client;
use super::counts::Counts;
use super::fates::{Fate, Fates, Line};
use super::framing::Framer;
use super::listener::{Accepted, Door, Listener, Options};
use super::memory::{Lines, Memory};
use super::outbox::{Form, Outbox, Settled};
use super::replies::{Replies, Reply};
use super::settings::{EchoAfter, Settings};
use super::stream::Limit;
use super::table::{Table, Token};
use super::timers::{Timer, Timers};
use crate::link::handover::Protocol;
use crate::link::record::Flags;
use crate::plugin::start::{self, Metrics, Start};
use crate::sys::pipe;
use crate::sys::signals::Signals;
use log::{info, log, warn};
use nix::errno::Errno;
use nix::libc::SIGTERM;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::{Pid, getppid};
use std::collections::VecDeque;
use std::io::{self, Stdout};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// At most so many new clients of one listening socket a round: others wait too.
const ACCEPT_AT_ONCE: usize = 64;
/// How long nobody is let in where descriptors or memory ran out.
const EXHAUSTED_FOR: Duration = Duration::from_millis(100);
/// At most so many events a round.
const EVENTS: usize = 1024;

/// Tokens of what is no client, which [`Token`]s never reach: their slot is a
/// descriptor's worth, not four billion.
const STDOUT: u64 = u64::MAX;
const REPLIES: u64 = u64::MAX - 1;
const SIGNALS: u64 = u64::MAX - 2;
const LISTENERS: u64 = u64::MAX - 0xffff;

/// What the queue is watched for, until that is told. Not always: a sink's
/// splice(2) wakes all who watch the pipe, whatever they wait for (fs/splice.c,
/// wakeup_pipe_writers), and one that was told is passed over (fs/eventpoll.c,
/// ep_poll_callback).
const ROOM: EpollFlags = EpollFlags::EPOLLOUT.union(EpollFlags::EPOLLONESHOT);

/// Slots of the metrics page, in the order of [`super::METRICS`].
pub(super) const CONNECTIONS: usize = 0;
const ACCEPTED: usize = 1;
const REFUSED: usize = 2;
pub(super) const MESSAGES: usize = 3;
pub(super) const BYTES: usize = 4;
pub(super) const SEND_TIMEOUTS: usize = 5;
const MEMORY: usize = 6;

/// The echo server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) settings: Settings,
    pub(super) framer: Framer,
    pub(super) limit: Limit,
    pub(super) epoll: Epoll,
    pub(super) door: Door,
    pub(super) clients: Table,
    /// How many of the clients only have to be read and saved: they take no place.
    pub(super) gone: usize,
    pub(super) memory: Memory,
    /// Those that are not read for want of it.
    pub(super) memory_lines: Lines<Token>,
    pub(super) fates: Fates,
    pub(super) timers: Timers,
    pub(super) outbox: Outbox,
    pub(super) metrics: Metrics,
    /// Those whose turn comes in the next round, or when the outbox takes more:
    /// with bytes that are in no message yet, or a socket that was not read empty.
    pub(super) line: VecDeque<Token>,
    /// Those that an echo is due to.
    pub(super) due: Vec<Token>,
    pub(super) draining: bool,
    pub(super) given_up: bool,
    /// When this round began.
    pub(super) now: Instant,
    /// The same by the clock on the wall: microseconds since 1970.
    pub(super) time: i64,
    pub(super) supervisor: Pid,
    /// Where input that nobody wants any more goes.
    pub(super) scratch: Vec<u8>,
    last_client: u32,
    exhausted: bool,
    told_exhausted: bool,
    /// There may be some by now: it is tried even where nobody knocks.
    try_door: bool,
    stdout: Stdout,
    /// The queue is full; epoll says when it is not.
    queue_blocked: bool,
    /// The queue may block: ask before each write.
    ask_first: bool,
    sink: String,
    replies: Option<Replies>,
    epoch: u64,
    signals: Signals,
}

impl Server {
    /// Takes what the supervisor gave.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub(super) fn open(start: Start) -> Result<Server, String> {
        let settings = Settings::read(&start.settings).map_err(|e| format!("cannot read the settings: {e}"))?;
        let (now, time) = (Instant::now(), wall_clock());
        let epoch = epoch(time);
        let (form, replies, sink) = match start.links.outbound {
            Some(link) if link.protocol == Protocol::Records => {
                let flags = match settings.echo_after {
                    EchoAfter::Queued => Flags::QUIET,
                    EchoAfter::Saved => Flags::default(),
                    EchoAfter::Synced => Flags::SYNC,
                };
                (Form::Records { epoch, flags }, link.replies, link.to)
            }
            Some(link) => (Form::Lines, None, link.to),
            None => (Form::Lines, None, "the log".to_owned()),
        };
        let settled = match settings.echo_after {
            EchoAfter::Queued => Settled::Written,
            EchoAfter::Saved | EchoAfter::Synced => Settled::Acknowledged,
        };
        if settled == Settled::Acknowledged && replies.is_none() {
            return Err(format!(
                "cannot serve with echo_after = \"saved\" or \"synced\": {sink:?} does not acknowledge"
            ));
        }
        let stdout = io::stdout();
        let max = effective_max_message(settings.max_message, &stdout);
        let limit = Limit::for_messages(max);
        let options = Options::new(&settings);
        let listeners = start
            .listeners
            .into_iter()
            .map(|fd| Listener::new(fd, options).map_err(|e| format!("cannot use a listening socket: {e}")))
            .collect::<Result<Vec<_>, _>>()?;
        // It is given nothing to share where nothing is to be counted together.
        let counts = start.shared.map(|shared| Counts::open(&shared, settings.max_connections)).transpose();
        let counts = counts.map_err(|e| format!("cannot count addresses together with other instances: {e}"))?;
        let addresses = Addresses::new(settings.max_connections_per_address, settings.ipv6_prefix, counts);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| format!("cannot make an epoll: {e}"))?;
        let mut server = Server {
            framer: Framer { rule: settings.framing, max },
            limit,
            door: Door::new(listeners, LISTENERS, settings.allow.clone(), addresses),
            epoll,
            clients: Table::new(),
            gone: 0,
            memory: Memory::new(settings.max_memory, settings.max_connections, limit.longest()),
            memory_lines: Lines::default(),
            fates: Fates::default(),
            settings,
            timers: Timers::default(),
            outbox: Outbox::new(form, settled),
            metrics: start.metrics,
            line: VecDeque::new(),
            due: Vec::new(),
            draining: false,
            given_up: false,
            now,
            time,
            supervisor: start.supervisor,
            scratch: vec![0; 16 * 1024],
            last_client: 0,
            exhausted: false,
            told_exhausted: false,
            try_door: false,
            stdout,
            queue_blocked: false,
            ask_first: matches!(form, Form::Lines),
            sink,
            replies: replies.map(|fd| Replies::new(start::take(fd))),
            epoch,
            signals: start.signals,
        };
        server.watch().map_err(|e| format!("cannot watch the descriptors: {e}"))?;
        Ok(server)
    }

    fn watch(&mut self) -> io::Result<()> {
        self.epoll.add(&self.signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        if let Some(replies) = &self.replies {
            self.epoll.add(replies, EpollEvent::new(EpollFlags::EPOLLIN, REPLIES))?;
        }
        match self.epoll.add(&self.stdout, EpollEvent::new(ROOM, STDOUT)) {
            // A file: always writable.
            Ok(()) | Err(Errno::EPERM) => {}
            Err(error) => return Err(error.into()),
        }
        self.door.open(&self.epoll)
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// What ended it before.
    pub(super) fn serve(&mut self) -> Result<(), String> {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        while !(self.draining && self.clients.len() == 0 && self.outbox.is_empty()) {
            if self.given_up {
                return Err("cannot send every echo: the supervisor is dead, and time is up".to_owned());
            }
            self.round(&mut events)?;
        }
        for fate in Fate::ALL {
            self.tell_together(fate);
        }
        Ok(())
    }

    fn round(&mut self, events: &mut [EpollEvent]) -> Result<(), String> {
        let ready = match self.epoll.wait(events, self.patience()) {
            Ok(ready) => &events[..ready],
            Err(Errno::EINTR) => &[],
            Err(error) => return Err(format!("cannot wait for events: {error}")),
        };
        (self.now, self.time) = (Instant::now(), wall_clock());
        let clients = |event: &&EpollEvent| event.data() < LISTENERS;
        for event in ready.iter().filter(|event| !clients(event)) {
            match event.data() {
                STDOUT => self.on_queue(event.events())?,
                REPLIES => self.on_replies()?,
                SIGNALS => self.on_signals()?,
                _ => {}
            }
        }
        self.echo_settled();
        while let Some(timer) = self.timers.due(self.now) {
            self.on_timer(timer);
        }
        for event in ready.iter().filter(|event| (LISTENERS..SIGNALS).contains(&event.data())) {
            self.accept(event.data())?;
        }
        // Who stands in line comes first, else who sends most is always before.
        self.move_line();
        for event in ready.iter().filter(clients) {
            self.on_client(Token::from(event.data()), event.events());
        }
        self.move_memory_lines();
        self.write_queue()?;
        self.echo_settled();
        self.memory_lines.memory_came(self.memory.take_came_back());
        self.metrics.set(MEMORY, self.memory.held() as u64);
        self.mind_the_door()
    }

    /// How long the next round may wait for events.
    fn patience(&self) -> EpollTimeout {
        if (self.memory_lines.may_move() || !self.line.is_empty()) && !self.outbox.is_full() {
            return EpollTimeout::ZERO;
        }
        self.timers.wait(self.now).map_or(EpollTimeout::NONE, EpollTimeout::from)
    }

    fn on_replies(&mut self) -> Result<(), String> {
        let Some(replies) = &mut self.replies else { return Ok(()) };
        match replies.read(self.epoch) {
            Ok(Reply::Saved(sequence)) => self.outbox.acknowledge(sequence),
            Ok(Reply::Nothing) => {}
            Ok(Reply::End) => return Err(format!("cannot go on: nobody acknowledges for {:?} any more", self.sink)),
            Err(error) => return Err(format!("cannot read acknowledgements of {:?}: {error}", self.sink)),
        }
        Ok(())
    }

    fn on_signals(&mut self) -> Result<(), String> {
        // SIGUSR1 means reopen: there is no file here.
        if self.signals.pending().any(|signal| signal == SIGTERM) {
            self.drain()?;
        }
        Ok(())
    }

    /// Whether the supervisor that started this process is dead.
    pub(super) fn orphaned(&self) -> bool {
        getppid() != self.supervisor
    }

    /// Sends the echoes whose messages are settled.
    fn echo_settled(&mut self) {
        while let Some(echo) = self.outbox.settled() {
            self.release(echo.token, echo.end);
        }
        let mut due = std::mem::take(&mut self.due);
        for token in due.drain(..) {
            self.flush(token);
        }
        // Keeps the room for the next round.
        self.due = due;
    }

    /// The queue has room again, or nobody can read it any more.
    fn on_queue(&mut self, events: EpollFlags) -> Result<(), String> {
        if events.contains(EpollFlags::EPOLLERR) {
            return Err(self.nobody_reads());
        }
        self.queue_blocked = false;
        Ok(())
    }

    /// The queue is full: asks to be told once when it is not.
    fn wait_for_room(&mut self) -> Result<(), String> {
        self.queue_blocked = true;
        let told = self.epoll.modify(&self.stdout, &mut EpollEvent::new(ROOM, STDOUT));
        told.map_err(|e| format!("cannot watch the queue to {:?}: {e}", self.sink))
    }

    /// Writes what the queue takes.
    fn write_queue(&mut self) -> Result<(), String> {
        while let (Some(bytes), false) = (self.outbox.next_write(), self.queue_blocked) {
            if self.ask_first && !is_writable(&self.stdout) {
                self.wait_for_room()?;
                break;
            }
            match nix::unistd::write(&self.stdout, bytes) {
                Ok(count) => self.outbox.wrote(count),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait_for_room()?,
                Err(Errno::EPIPE) => return Err(self.nobody_reads()),
                Err(error) => return Err(format!("cannot write to {:?}: {error}", self.sink)),
            }
        }
        Ok(())
    }

    /// Seen at a write; while a supervisor lives it holds the queue's other end.
    fn nobody_reads(&self) -> String {
        format!("cannot go on: nobody reads what goes to {:?} any more", self.sink)
    }

    /// Lets new clients of one listening socket in.
    fn accept(&mut self, token: u64) -> Result<(), String> {
        let listener = usize::try_from(token - LISTENERS).unwrap_or(usize::MAX);
        for _ in 0..ACCEPT_AT_ONCE {
            if !self.has_place() {
                return Ok(());
            }
            match self.door.accept(listener) {
                Ok(Accepted::Client(socket, peer)) => {
                    self.metrics.add(ACCEPTED, 1);
                    self.last_client = self.last_client.wrapping_add(1);
                    self.welcome(Client::new(socket, peer, self.last_client, self.now));
                }
                Ok(Accepted::Refused(peer, fate)) => {
                    self.metrics.add(REFUSED, 1);
                    self.met(fate, peer);
                }
                Ok(Accepted::Vanished) => {}
                Ok(Accepted::Nobody) => {
                    self.let_in_again();
                    return Ok(());
                }
                Ok(Accepted::Exhausted(error)) => {
                    self.let_nobody_in(&error);
                    return Ok(());
                }
                Err(error) => return Err(format!("cannot accept clients: {error}")),
            }
        }
        Ok(())
    }

    /// Descriptors or memory ran out: clients wait in the backlog.
    pub(super) fn let_nobody_in(&mut self, error: &io::Error) {
        self.exhausted = true;
        self.timers.set(self.now + EXHAUSTED_FOR, Timer::Accept);
        if !self.told_exhausted {
            self.told_exhausted = true;
            warn!("cannot accept clients for now: {error}");
            start::notify(&format!("X_PLUMBD_PROBLEM=cannot accept clients for now: {error}"));
        }
    }

    fn let_in_again(&mut self) {
        if self.told_exhausted {
            self.told_exhausted = false;
            info!("accepts clients again");
            start::notify("X_PLUMBD_PROBLEM=");
        }
    }

    /// Descriptors or memory may be there again.
    pub(super) fn try_the_door(&mut self) {
        self.exhausted = false;
        self.try_door = self.told_exhausted;
    }

    /// How many clients are served. Those that are gone are not, though what came of
    /// them is still to be saved.
    pub(super) fn places_taken(&self) -> usize {
        self.clients.len() - self.gone
    }

    /// Whether one more may come in. Nor may there be more that are gone than may be
    /// served: each keeps a descriptor until the sink takes more.
    fn has_place(&self) -> bool {
        let most = self.settings.max_connections;
        !self.draining && self.places_taken() < most && self.gone < most
    }

    /// A client ended so: logged, with others of that fate where there are many.
    pub(super) fn met(&mut self, fate: Fate, peer: SocketAddr) {
        let line = self.fates.met(fate, peer, self.now);
        self.tell(fate, line);
    }

    /// Logs those with that fate that were not told yet.
    pub(super) fn tell_together(&mut self, fate: Fate) {
        let line = self.fates.due(fate, self.now);
        self.tell(fate, line);
    }

    fn tell(&mut self, fate: Fate, line: Line) {
        match line {
            Line::One(peer) => log!(fate.level(), "{peer} {}", fate.text()),
            Line::Many(count, last) => log!(fate.level(), "{count} clients, {last} the last, {}", fate.text()),
            Line::Later(at) => self.timers.set(at, Timer::Tell(fate)),
            Line::Nothing => {}
        }
    }

    /// Opens or closes the door, as the number of clients says.
    fn mind_the_door(&mut self) -> Result<(), String> {
        let open = !self.exhausted && self.has_place();
        let changed = match (open, self.door.is_open()) {
            (true, false) => self.door.open(&self.epoll),
            (false, true) => self.door.close(&self.epoll),
            _ => Ok(()),
        };
        changed.map_err(|e| format!("cannot watch the listening sockets: {e}"))?;
        // A door that was closed for want of descriptors opens only with a try.
        if open && std::mem::take(&mut self.try_door) && self.told_exhausted {
            // accept(2) wants a descriptor before it looks whether anybody
            // waits: without this try, nothing would tell that nobody does.
            for token in (LISTENERS..).take(self.door.listeners()) {
                self.accept(token)?;
            }
        }
        Ok(())
    }
}

/// Whether a pipe takes PIPE_BUF bytes now (poll(2)). Shared with other
/// sources it may then still block, for as long as they were quicker.
fn is_writable(pipe: impl AsFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(ready) => ready > 0,
        // The write will tell.
        Err(_) => true,
    }
}

/// A whole message must fit into the queue several times over, so that one
/// that is half there never keeps itself from going on.
fn effective_max_message(asked: usize, queue: impl AsFd) -> usize {
    let most = pipe::capacity(queue).map_or(usize::MAX, |capacity| capacity / 4);
    if asked > most {
        warn!("max_message is {most} bytes, not {asked}: the link holds only {} bytes", most * 4);
    }
    asked.min(most).max(1)
}

fn wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A number that no other running instance had: microseconds (51 bits until
/// 2041), and the process id, should the clock go back.
fn epoch(time: i64) -> u64 {
    (time.unsigned_abs() << 12) | u64::from(std::process::id() & 0xfff)
}
