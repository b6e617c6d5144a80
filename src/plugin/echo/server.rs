//! The loop: one thread, one epoll. A round handles everything that is ready: first
//! acknowledgements and the echoes that they release, then new clients, then one read
//! from each socket, beginning with the clients in line, then one batch to the sink.

use super::acceptor::{Acceptor, Listener};
use super::addresses::Addresses;
use super::clients::Clients;
use super::counts::Counts;
use super::fates::{Fate, Fates, Line};
use super::framing::Framer;
use super::memory::{Limit, Memory};
use super::peer::Peer;
use super::settings::Settings;
use super::sink::Sink;
use super::slots::Id;
use super::timeouts::Timeouts;
use super::timers::{Timer, Timers};
use super::transport::Options;
use crate::plugin::start::{Metrics, Start};
use crate::sys::poll::{self, Poll};
use crate::sys::signals::Signals;
use log::log;
use nix::libc::SIGTERM;
use nix::sys::epoll::EpollFlags;
use nix::unistd::Pid;
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The most events handled in one round.
const EVENTS: usize = 1024;

/// Slots of the metrics page, in the order of [`super::METRICS`].
pub(super) const CONNECTIONS: usize = 0;
pub(super) const ACCEPTED: usize = 1;
pub(super) const REFUSED: usize = 2;
pub(super) const MESSAGES: usize = 3;
pub(super) const BYTES: usize = 4;
pub(super) const SEND_TIMEOUTS: usize = 5;
const MEMORY: usize = 6;

/// What a ready descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Client(Id),
    Signals,
    Queue,
    Acknowledgements,
    Listener(u32),
}

/// A bit that is never set in a client's ID: every slot in use has a descriptor, and there
/// are fewer than 2^31 of those.
const NO_CLIENT: u64 = 1 << 31;

impl poll::Token for Token {
    fn encode(self) -> u64 {
        match self {
            Token::Client(id) => id.into(),
            Token::Signals => NO_CLIENT,
            Token::Queue => NO_CLIENT + 1,
            Token::Acknowledgements => NO_CLIENT + 2,
            Token::Listener(n) => (u64::from(n) << 32) + NO_CLIENT + 3,
        }
    }

    fn decode(bits: u64) -> Token {
        #[expect(clippy::cast_possible_truncation, reason = "two halves")]
        let (low, high) = (u64::from(bits as u32), (bits >> 32) as u32);
        match low.checked_sub(NO_CLIENT) {
            None => Token::Client(bits.into()),
            Some(0) => Token::Signals,
            Some(1) => Token::Queue,
            Some(2) => Token::Acknowledgements,
            Some(_) => Token::Listener(high),
        }
    }
}

/// The phase that the server is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Clients are served.
    Serving,
    /// A stop has begun.
    Draining,
    /// The stop took too long.
    GivenUp,
}

/// The time when a round began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) now: Instant,
    /// The wall clock, in microseconds since 1970.
    pub(super) wall: i64,
}

impl Clock {
    fn read() -> Clock {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { now: Instant::now(), wall: i64::try_from(since.as_micros()).unwrap_or(i64::MAX) }
    }
}

/// The echo server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) poll: Poll<Token>,
    pub(super) acceptor: Acceptor,
    pub(super) clients: Clients,
    pub(super) sink: Sink,
    pub(super) framer: Framer,
    pub(super) timeouts: Timeouts,
    pub(super) timers: Timers,
    pub(super) fates: Fates,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
    pub(super) state: State,
    pub(super) supervisor: Pid,
    signals: Signals,
}

impl Server {
    /// Takes what the supervisor passed to it.
    ///
    /// # Errors
    /// Something is missing or wrong.
    pub(super) fn open(start: Start) -> Result<Server, String> {
        let settings = Settings::read(&start.settings).map_err(|e| format!("cannot read the settings: {e}"))?;
        let clock = Clock::read();
        let sink = Sink::open(start.links.outbound, settings.echo_after, epoch(clock.wall))?;
        let max = sink.max_message(settings.max_message);
        let options = Options::new(Duration::from_millis(settings.keepalive_ms));
        let listeners = start
            .listeners
            .into_iter()
            .map(|fd| Listener::new(fd, options).map_err(|e| format!("cannot use a listening socket: {e}")))
            .collect::<Result<Vec<_>, _>>()?;
        // There is shared memory only if several instances count together.
        let counts = start.shared.map(|shared| Counts::open(&shared, settings.max_connections)).transpose();
        let counts = counts.map_err(|e| format!("cannot count addresses together with other instances: {e}"))?;
        let addresses = Addresses::new(settings.max_connections_per_address, settings.ipv6_prefix, counts);
        let mut server = Server {
            poll: Poll::new().map_err(|e| format!("cannot make an epoll: {e}"))?,
            timeouts: Timeouts::new(&settings),
            framer: Framer { rule: settings.framing, max },
            clients: Clients::new(Memory::new(settings.max_memory, settings.max_connections, Limit::for_messages(max))),
            acceptor: Acceptor::new(listeners, settings.max_connections, settings.allow, addresses),
            sink,
            timers: Timers::default(),
            fates: Fates::default(),
            metrics: start.metrics,
            clock,
            state: State::Serving,
            supervisor: start.supervisor,
            signals: start.signals,
        };
        server.watch_all().map_err(|e| format!("cannot watch the descriptors: {e}"))?;
        Ok(server)
    }

    fn watch_all(&mut self) -> io::Result<()> {
        self.poll.add(&self.signals, EpollFlags::EPOLLIN, Token::Signals)?;
        self.sink.watch(&self.poll)?;
        self.acceptor.tend(&self.poll)?;
        Ok(())
    }

    /// Serves until it is asked to stop.
    ///
    /// # Errors
    /// It ended earlier, and why.
    pub(super) fn serve(&mut self) -> Result<(), String> {
        let mut events = Vec::with_capacity(EVENTS);
        while !self.is_drained() {
            if self.state == State::GivenUp {
                return Err("cannot send every echo: the supervisor is dead, and time is up".to_owned());
            }
            self.round(&mut events)?;
        }
        for fate in Fate::ALL {
            self.log_together(fate);
        }
        Ok(())
    }

    fn round(&mut self, events: &mut Vec<(Token, EpollFlags)>) -> Result<(), String> {
        self.poll.wait(events, self.patience()).map_err(|e| format!("cannot wait for events: {e}"))?;
        self.clock = Clock::read();
        for &(token, flags) in &*events {
            match token {
                Token::Signals => self.on_signals(),
                Token::Queue => self.sink.on_queue(flags)?,
                Token::Acknowledgements => self.sink.on_acknowledgements()?,
                Token::Listener(_) | Token::Client(_) => {}
            }
        }
        self.echo_settled();
        while let Some(timer) = self.timers.due(self.clock.now) {
            self.on_timer(timer);
        }
        for &(token, _) in &*events {
            if let Token::Listener(n) = token {
                self.accept(n)?;
            }
        }
        // Clients in line come first. Otherwise the one that sends most always would.
        self.move_line();
        for &(token, flags) in &*events {
            if let Token::Client(id) = token {
                self.on_client(id, flags);
            }
        }
        self.move_memory_lines();
        self.sink.write(&self.poll)?;
        self.echo_settled();
        self.metrics.set(MEMORY, self.clients.memory.held() as u64);
        self.metrics.keep_rates(super::METRICS, self.clock.now);
        self.tend_acceptor()
    }

    /// How long the next round may wait for events.
    fn patience(&self) -> Option<Duration> {
        let work = self.clients.memory.waiting.may_move() || self.clients.in_line() > 0;
        if work && !self.sink.outbox.is_full() {
            return Some(Duration::ZERO);
        }
        self.timers.wait(self.clock.now)
    }

    fn on_signals(&mut self) {
        // SIGUSR1 means reopen, and echo has no file.
        if self.signals.pending().any(|signal| signal == SIGTERM) {
            self.drain();
        }
    }

    fn tend_acceptor(&mut self) -> Result<(), String> {
        if self.acceptor.tend(&self.poll).map_err(|e| format!("cannot watch the listening sockets: {e}"))? {
            for n in 0..self.acceptor.listeners() {
                self.accept(n)?;
            }
        }
        Ok(())
    }

    /// Logs how a client ended, in one line with others of the same fate if there are many.
    pub(super) fn log(&mut self, fate: Fate, peer: Peer) {
        let line = self.fates.met(fate, peer, self.clock.now);
        self.log_line(fate, line);
    }

    /// Logs the clients with that fate that have not been logged yet.
    pub(super) fn log_together(&mut self, fate: Fate) {
        let line = self.fates.due(fate, self.clock.now);
        self.log_line(fate, line);
    }

    fn log_line(&mut self, fate: Fate, line: Line) {
        match line {
            Line::One(peer) => log!(fate.level(), "{peer} {}", fate.text()),
            Line::Many(count, last) => log!(fate.level(), "{count} clients, {last} the last, {}", fate.text()),
            Line::Later(at) => self.timers.set(at, Timer::Log(fate)),
            Line::Nothing => {}
        }
    }
}

/// A number that no other run has had: microseconds (51 bits until
/// 2041), and the process id in case the clock goes back.
fn epoch(time: i64) -> u64 {
    (time.unsigned_abs() << 12) | u64::from(std::process::id() & 0xfff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::Token as _;

    #[test]
    fn a_token_survives_encoding_and_decoding() {
        let names = [0, 7, u64::from(u32::MAX) << 32, (3 << 32) | (NO_CLIENT - 1)].map(Id::from);
        let clients = names.into_iter().map(Token::Client);
        let others = [Token::Signals, Token::Queue, Token::Acknowledgements, Token::Listener(0), Token::Listener(9)];
        for token in clients.chain(others) {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
