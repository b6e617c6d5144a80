//! Clients of an echo server: one thread, one epoll loop, any number of
//! connections, each with any number of messages under way.

use super::histogram::Histogram;
use super::message;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a connection may take until the server's backlog takes it.
const CONNECT: Duration = Duration::from_secs(5);
/// How often the request to stop is checked if nothing happens.
const LOOK: Duration = Duration::from_millis(20);

/// The load to generate.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The echo server.
    pub(crate) address: SocketAddr,
    /// How many connections at a time.
    pub(crate) connections: u32,
    /// How many messages may be under way on each. If they don't all fit
    /// into the socket's buffers, a message may arrive in two pieces, and the
    /// server's `partial_after` decides whether it is saved as one.
    pub(crate) depth: u32,
    /// Bytes of a message with its newline; at least [`message::SHORTEST`].
    pub(crate) length: usize,
    /// The number of the first connection; runs that share a message file have distinct ones.
    pub(crate) first: u32,
    /// Whether a connection that the server ended is followed by a new one, with a number of its own.
    pub(crate) reconnect: bool,
    /// How long to send new messages.
    pub(crate) lasts: Duration,
    /// How long to wait for echoes after that.
    pub(crate) drain: Duration,
}

impl Plan {
    /// The load that most trials need: on this machine, endless, with clients that
    /// reconnect.
    pub(crate) fn usual(port: u16) -> Plan {
        Plan {
            address: ([127, 0, 0, 1], port).into(),
            connections: 20,
            depth: 3,
            length: 128,
            first: 0,
            reconnect: true,
            lasts: Duration::from_secs(86_400),
            drain: Duration::from_secs(30),
        }
    }
}

/// What one connection sent and got back. Its messages are numbered from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Its number, which its messages carry.
    pub(crate) number: u32,
    /// Who sent them, as the message file names the peer.
    pub(crate) peer: String,
    /// Bytes of a message with its newline.
    pub(crate) length: usize,
    /// How many messages were sent whole.
    pub(crate) sent: u32,
    /// How many bytes of the next one were sent.
    pub(crate) part: usize,
    /// How many messages came back, whole and byte for byte. `echoed..sent` did not.
    pub(crate) echoed: u32,
    /// How many bytes of the next one came back.
    pub(crate) echoed_part: usize,
}

impl Connection {
    /// A connection that has not sent anything yet.
    pub(crate) fn new(number: u32, peer: String, length: usize) -> Connection {
        Connection { number, peer, length, sent: 0, part: 0, echoed: 0, echoed_part: 0 }
    }
}

/// The outcome of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// All connections that were made.
    pub(crate) connections: Vec<Connection>,
    /// From handing a message to the kernel to having read its echo.
    pub(crate) latency: Histogram,
    /// From the first message, or the end of a warm-up, to the last echo.
    pub(crate) elapsed: Duration,
    /// Messages that came back before the end of a warm-up.
    before: u64,
    /// Connections that the server ended.
    pub(crate) disconnected: u32,
    /// Connections that the server did not take.
    pub(crate) refused: u32,
    /// Echoes that were not what was sent.
    pub(crate) wrong: Vec<String>,
}

impl Outcome {
    /// How many messages came back.
    pub(crate) fn echoed(&self) -> u64 {
        self.connections.iter().map(|c| u64::from(c.echoed)).sum()
    }

    /// How many messages were sent whole but did not come back.
    pub(crate) fn unanswered(&self) -> u64 {
        self.connections.iter().map(|c| u64::from(c.sent - c.echoed)).sum()
    }

    /// Echoed messages per second, without those of a warm-up.
    pub(crate) fn rate(&self) -> f64 {
        let echoed = (self.echoed() - self.before) as f64;
        echoed / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Sends for as long as the plan says, or until `stop` is set; then waits for
/// the echoes that are due.
///
/// # Errors
/// The first connections can't be made, or an error from epoll(7). It is no error if a
/// connection is lost or refused later, or gets anything but its own messages: the
/// outcome counts that.
pub(crate) fn run(plan: &Plan, stop: &AtomicBool) -> io::Result<Outcome> {
    run_warm(plan, Duration::ZERO, stop)
}

/// As [`run`], but rate and latency are counted only after a warm-up, which takes this
/// long, and until every connection was served.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_warm(plan: &Plan, warm_up: Duration, stop: &AtomicBool) -> io::Result<Outcome> {
    let mut run = Run::new(plan)?;
    let mut warm = warm_up.is_zero();
    for slot in 0..plan.connections as usize {
        run.connect(slot)?;
    }
    run.start = Instant::now();
    run.last_echo = run.start;
    let mut events = vec![EpollEvent::empty(); run.clients.len().clamp(1, 1024)];
    let mut drained_at = None;
    for slot in 0..run.clients.len() {
        run.turn(slot, false, true)?;
    }
    loop {
        let now = Instant::now();
        if !warm && now - run.start >= warm_up && (run.all_served() || now - run.start >= warm_up + plan.drain) {
            warm = true;
            run.count_from(now);
        }
        if drained_at.is_none() && (warm && now - run.start >= plan.lasts || stop.load(Ordering::Relaxed)) {
            drained_at = Some(now + plan.drain);
        }
        let sending = drained_at.is_none();
        let late = drained_at.is_some_and(|at| now >= at);
        if late || !run.clients.iter().flatten().any(|c| sending || c.outstanding() > 0) {
            return Ok(run.finish());
        }
        let timeout = EpollTimeout::try_from(LOOK).map_err(io::Error::other)?;
        let ready = match run.epoll.wait(&mut events, timeout) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        for event in &events[..ready] {
            run.turn(event.data() as usize, true, sending)?;
        }
    }
}

/// A run under way.
struct Run<'a> {
    plan: &'a Plan,
    epoll: Epoll,
    clients: Vec<Option<Client>>,
    /// The number of the next connection.
    next: u32,
    start: Instant,
    last_echo: Instant,
    buffer: Vec<u8>,
    expected: Vec<u8>,
    outcome: Outcome,
}

/// One connection under way. All of its messages have the same length, so
/// bytes tell how many there were.
struct Client {
    stream: TcpStream,
    connection: Connection,
    /// How many messages were made.
    made: u32,
    /// When each message under way was handed over.
    since: VecDeque<Instant>,
    /// Bytes that were made, but that the kernel has not taken yet.
    unsent: Vec<u8>,
    /// Whether epoll was asked to report when there is room.
    waits_for_room: bool,
    /// Bytes that were sent, and bytes that came back right.
    sent: u64,
    echoed: u64,
}

/// Why a connection is over.
enum Over {
    /// The server ended it.
    Ended,
    /// The server sent something that the client had not sent.
    Wrong(String),
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan) -> io::Result<Run<'a>> {
        if plan.length < message::SHORTEST {
            return Err(io::Error::other(format!("a message is at least {} bytes", message::SHORTEST)));
        }
        let start = Instant::now();
        Ok(Run {
            plan,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            clients: (0..plan.connections).map(|_| None).collect(),
            next: plan.first,
            start,
            last_echo: start,
            buffer: vec![0; 64 * 1024],
            expected: Vec::with_capacity(plan.length),
            outcome: Outcome {
                connections: Vec::new(),
                latency: Histogram::new(),
                elapsed: Duration::ZERO,
                before: 0,
                disconnected: 0,
                refused: 0,
                wrong: Vec::new(),
            },
        })
    }

    fn all_served(&self) -> bool {
        self.clients.iter().flatten().all(|client| client.echoed_so_far().0 > 0)
    }

    /// Counts rate and latency from now on.
    fn count_from(&mut self, now: Instant) {
        let under_way: u64 = self.clients.iter().flatten().map(|client| u64::from(client.echoed_so_far().0)).sum();
        self.outcome.before = self.outcome.echoed() + under_way;
        self.outcome.latency = Histogram::new();
        self.start = now;
        self.last_echo = now;
    }

    fn connect(&mut self, slot: usize) -> io::Result<()> {
        let stream = TcpStream::connect_timeout(&self.plan.address, CONNECT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
        let connection = Connection::new(self.next, stream.local_addr()?.to_string(), self.plan.length);
        self.next += 1;
        self.clients[slot] = Some(Client {
            stream,
            connection,
            made: 0,
            since: VecDeque::new(),
            unsent: Vec::new(),
            waits_for_room: false,
            sent: 0,
            echoed: 0,
        });
        Ok(())
    }

    /// Reads what came on a connection, and sends what can be sent.
    fn turn(&mut self, slot: usize, ready: bool, sending: bool) -> io::Result<()> {
        let Some(client) = &mut self.clients[slot] else { return Ok(()) };
        let mut outcome = Ok(());
        if ready {
            outcome = client.read(&mut self.buffer, &mut self.expected, |took, now| {
                self.outcome.latency.record(took);
                self.last_echo = now;
            });
        }
        if outcome.is_ok() {
            if sending {
                client.make(self.plan.depth);
            }
            outcome = client.send();
        }
        let Err(over) = outcome else { return client.watch(&self.epoll, slot) };
        match over {
            Over::Ended => self.outcome.disconnected += 1,
            Over::Wrong(what) => self.outcome.wrong.push(what),
        }
        self.retire(slot);
        if sending && self.plan.reconnect {
            if self.connect(slot).is_ok() {
                return self.turn(slot, false, true);
            }
            self.outcome.refused += 1;
        }
        Ok(())
    }

    fn retire(&mut self, slot: usize) {
        self.outcome.connections.extend(self.clients[slot].take().map(Client::finish));
    }

    fn finish(mut self) -> Outcome {
        for slot in 0..self.clients.len() {
            self.retire(slot);
        }
        self.outcome.elapsed = self.last_echo - self.start;
        self.outcome
    }
}

impl Client {
    fn outstanding(&self) -> usize {
        self.since.len()
    }

    /// Reads once, and compares with what is due.
    fn read(
        &mut self,
        buffer: &mut [u8],
        expected: &mut Vec<u8>,
        mut echoed: impl FnMut(Duration, Instant),
    ) -> Result<(), Over> {
        let mut came = match self.stream.read(buffer) {
            Ok(0) => return Err(Over::Ended),
            Ok(n) => &buffer[..n],
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(_) => return Err(Over::Ended),
        };
        let now = Instant::now();
        let length = self.connection.length;
        while !came.is_empty() {
            let (sequence, at) = self.echoed_so_far();
            expected.clear();
            message::append(self.connection.number, sequence, length, expected);
            let n = came.len().min(length - at);
            if came[..n] != expected[at..at + n] || self.since.is_empty() {
                return Err(Over::Wrong(format!(
                    "connection {}, message {sequence}, from byte {at}: sent {:?}, got {:?}",
                    self.connection.number,
                    String::from_utf8_lossy(&expected[at..]),
                    String::from_utf8_lossy(&came[..n])
                )));
            }
            came = &came[n..];
            self.echoed += n as u64;
            if at + n == length {
                // The loop's condition made sure that there is one.
                let since = self.since.pop_front().unwrap_or(now);
                echoed(now - since, now);
            }
        }
        Ok(())
    }

    /// The message that is due, and how much of it has arrived.
    fn echoed_so_far(&self) -> (u32, usize) {
        split(self.echoed, self.connection.length)
    }

    fn make(&mut self, depth: u32) {
        if self.outstanding() >= depth as usize {
            return;
        }
        let now = Instant::now();
        while self.outstanding() < depth as usize {
            message::append(self.connection.number, self.made, self.connection.length, &mut self.unsent);
            self.made += 1;
            self.since.push_back(now);
        }
    }

    fn send(&mut self) -> Result<(), Over> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        match self.stream.write(&self.unsent) {
            Ok(n) => {
                self.unsent.drain(..n);
                self.sent += n as u64;
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(_) => Err(Over::Ended),
        }
    }

    /// Makes epoll report room only while something waits for it.
    fn watch(&mut self, epoll: &Epoll, slot: usize) -> io::Result<()> {
        let waits = !self.unsent.is_empty();
        if waits != self.waits_for_room {
            self.waits_for_room = waits;
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, waits);
            epoll.modify(&self.stream, &mut EpollEvent::new(flags, slot as u64))?;
        }
        Ok(())
    }

    fn finish(self) -> Connection {
        let (sent, part) = split(self.sent, self.connection.length);
        let (echoed, echoed_part) = self.echoed_so_far();
        Connection { sent, part, echoed, echoed_part, ..self.connection }
    }
}

/// How many whole messages are in these bytes, and how many bytes are left over.
fn split(bytes: u64, length: usize) -> (u32, usize) {
    let length = length as u64;
    (u32::try_from(bytes / length).unwrap_or(u32::MAX), (bytes % length) as usize)
}
