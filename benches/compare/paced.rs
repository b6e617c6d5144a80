//! Clients that send at a given rate, whatever the server does.
//!
//! Each message is due at its time. If every connection still waits for an
//! echo, the message waits for a free one, and that wait counts.

use crate::load::generator::Connection;
use crate::load::histogram::Histogram;
use crate::load::message;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How often messages become due.
const TICK: Duration = Duration::from_micros(200);
/// How long the echoes that are due at the end may take.
const DRAIN: Duration = Duration::from_secs(5);
const TIMER: u64 = u64::MAX;

struct Client {
    stream: TcpStream,
    connection: Connection,
    /// When its message under way became due.
    since: Option<Instant>,
    /// Bytes of its echo that have come.
    came: usize,
}

struct Clients {
    all: Vec<Client>,
    /// The clients with nothing under way.
    free: Vec<usize>,
    /// When each message that has no connection yet became due.
    due: VecDeque<Instant>,
    latency: Histogram,
}

/// Sends `rate` messages of `length` bytes per second for a time, after a warm-up that doesn't count.
pub(crate) fn run(
    address: SocketAddr,
    connections: u32,
    length: usize,
    rate: f64,
    (warm_up, lasts): (Duration, Duration),
) -> io::Result<(Vec<Connection>, Histogram)> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    timer.set(Expiration::Interval(TimeSpec::from_duration(TICK)), TimerSetTimeFlags::empty())?;
    epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
    let mut clients = Clients::connect(&epoll, address, connections, length)?;
    let mut events = [EpollEvent::empty(); 256];
    let start = Instant::now();
    let (mut made, mut warm) = (0, false);
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::from(100u8))?;
        let now = Instant::now();
        if !warm && now - start > warm_up {
            warm = true;
            clients.latency = Histogram::new();
        }
        let sending = now - start < warm_up + lasts;
        let late = now - start > warm_up + lasts + DRAIN;
        if late || !sending && clients.due.is_empty() && clients.free.len() == clients.all.len() {
            return Ok((clients.all.into_iter().map(|client| client.connection).collect(), clients.latency));
        }
        for event in &events[..ready] {
            match event.data() {
                TIMER if sending => {
                    // EAGAIN: it has not expired since then, which does not matter.
                    let _expired = timer.wait();
                    let wanted = ((now - start).as_secs_f64() * rate) as u64;
                    clients.due.extend((made..wanted).map(|_| now));
                    made = made.max(wanted);
                }
                TIMER => drop(timer.wait()),
                slot => clients.read(slot as usize)?,
            }
        }
        clients.send()?;
    }
}

impl Clients {
    fn connect(epoll: &Epoll, address: SocketAddr, connections: u32, length: usize) -> io::Result<Clients> {
        let mut all = Vec::new();
        for number in 0..connections {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(number)))?;
            let peer = stream.local_addr()?.to_string();
            let connection = Connection::new(number, peer, length);
            all.push(Client { stream, connection, since: None, came: 0 });
        }
        Ok(Clients { free: (0..all.len()).collect(), all, due: VecDeque::new(), latency: Histogram::new() })
    }

    /// Sends the messages that are due on connections that are free.
    fn send(&mut self) -> io::Result<()> {
        while let (Some(&due), Some(&slot)) = (self.due.front(), self.free.last()) {
            let client = &mut self.all[slot];
            let mut text = Vec::with_capacity(client.connection.length);
            message::append(client.connection.number, client.connection.sent, client.connection.length, &mut text);
            // The socket has room, because nothing is under way.
            client.stream.write_all(&text)?;
            client.connection.sent += 1;
            client.since = Some(due);
            self.due.pop_front();
            self.free.pop();
        }
        Ok(())
    }

    fn read(&mut self, slot: usize) -> io::Result<()> {
        let client = &mut self.all[slot];
        let mut buffer = [0; 4096];
        let n = match client.stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        let mut text = Vec::with_capacity(client.connection.length);
        message::append(client.connection.number, client.connection.echoed, client.connection.length, &mut text);
        if text.get(client.came..client.came + n) != Some(&buffer[..n]) {
            return Err(io::Error::other("an echo is not what was sent"));
        }
        client.came += n;
        if client.came == text.len() {
            client.came = 0;
            client.connection.echoed += 1;
            self.latency.record(client.since.take().map_or(Duration::ZERO, |since| since.elapsed()));
            self.free.push(slot);
        }
        Ok(())
    }
}
