//! Clients that send and never read, beside others that are served.
//!
//! Latency is compared within one run: rounds with them and rounds without
//! follow each other, and medians over the rounds count, so that whatever else
//! the machine does falls on both alike.

use crate::clients_service::{Service, Wanted, counts, mib};
use crate::daemon::kill;
use crate::load::checker::Format;
use crate::load::generator::{Connection, Outcome};
use crate::load::message;
use crate::trial::{Tried, scaled};
use nix::libc::{SIGCONT, SIGSTOP};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MANY: u32 = 100;
/// How long others are measured in a round.
const ROUND: Duration = Duration::from_millis(250);
/// Where a comparison is not clear after the usual number of rounds, more are
/// made, up to so many times as many.
const PATIENCE: u32 = 4;
/// Others' latency may be so many times what it is without.
const MOST: f64 = 2.0;
/// Bytes of a message of those that never read.
const LENGTH: usize = 4096;
/// max_message, as it is by default, and where memory is to be found out.
const USUAL: u64 = 64 << 10;
const FOUR_TIMES: u64 = 256 << 10;

pub(crate) fn never_read(times: f64) -> Tried {
    let service = Service::start(&Wanted { echo: "partial_after = \"10s\"", ..wanted() });
    let before = service.memory("echo");
    let mut trial = Rounds { service: &service, next: 0, connections: Vec::new(), memory: 0 };
    let rounds = scaled(6, times);
    let one = trial.compare(1, rounds, PATIENCE, false);
    let many = trial.compare(MANY, rounds, PATIENCE, false);
    assert!(one.holds() && many.holds(), "one: {one}; {MANY}: {many}");
    let stalled = trial.compare(1, 2, 1, true);
    assert!(!stalled.holds(), "a stall was not found out: {stalled}");
    let Rounds { connections, memory, .. } = trial;
    let bound = bound(before);
    assert!(memory <= bound, "echo has {}, more than {}", mib(memory), mib(bound));
    let checked = service.end(&connections);
    let unbounded = four_times_as_much();
    assert!(unbounded > bound, "an echo that takes four times as much was not found out: {}", mib(unbounded));
    Tried {
        count: format!(
            "{} rounds with one and {} with {MANY} clients that never read, as many without, {} messages",
            one.with.len(),
            many.with.len(),
            checked.verdict.echoed
        ),
        outcome: format!(
            "others' latency with one: {one}; with {MANY}: {many}; {}; echo {} (at most {}: twice max_message a client and 6 MiB)",
            counts(&checked.verdict),
            mib(memory),
            mib(bound)
        ),
        control: format!(
            "echo stopped for 5 ms again and again: {stalled}, found out; max_message four times as large: {}, found out; {}",
            mib(unbounded),
            checked.control
        ),
    }
}

fn wanted() -> Wanted<'static> {
    Wanted { format: Format::Raw, ..Wanted::default() }
}

/// What an echo may have with [`MANY`] clients that hold all they may.
fn bound(before: u64) -> u64 {
    before + u64::from(MANY) * 2 * USUAL + (6 << 20)
}

/// What it has where each may hold more.
fn four_times_as_much() -> u64 {
    let echo = format!("partial_after = \"10s\"\nmax_message = {FOUR_TIMES}");
    let mut service = Service::start(&Wanted { echo: &echo, ..wanted() });
    let mut trial = Rounds { service: &service, next: 0, connections: Vec::new(), memory: 0 };
    let hogs = trial.fill(MANY);
    let memory = service.memory("echo");
    trial.let_go(hogs);
    service.daemon.stop();
    memory
}

/// A client that never reads.
struct Hog {
    stream: TcpStream,
    connection: Connection,
    /// What of its message under way is not sent yet.
    unsent: Vec<u8>,
}

struct Rounds<'a> {
    service: &'a Service,
    next: u32,
    connections: Vec<Connection>,
    memory: u64,
}

impl Rounds<'_> {
    fn compare(&mut self, hogs: u32, rounds: u32, patience: u32, stall: bool) -> Latency {
        let mut latency = Latency { with: Vec::new(), without: Vec::new() };
        for round in 1..=rounds * patience {
            let filled = self.fill(hogs);
            self.memory = self.memory.max(self.service.memory("echo"));
            let with = if stall { stalling(self.service, || self.measure()) } else { self.measure() };
            self.let_go(filled);
            let without = self.measure();
            latency.with.push(quantiles(&with));
            latency.without.push(quantiles(&without));
            self.connections.extend(with.connections);
            self.connections.extend(without.connections);
            if round >= rounds && latency.holds() {
                break;
            }
        }
        latency
    }

    fn measure(&self) -> Outcome {
        // Far from the numbers of those that never read.
        let outcome = self.service.load_for(ROUND, 1 << 20 | u32::try_from(self.connections.len()).unwrap());
        assert!(outcome.wrong.is_empty(), "{:?}", outcome.wrong);
        assert_eq!((outcome.disconnected, outcome.unanswered()), (0, 0));
        outcome
    }

    /// Clients that have sent all that is taken of them.
    fn fill(&mut self, count: u32) -> Vec<Hog> {
        let mut hogs: Vec<Hog> = (0..count).map(|_| self.hog()).collect();
        let mut other = self.service.connect();
        let mut in_vain = 0;
        // Until nothing more is taken of any while somebody else is served so often.
        while in_vain < 200 {
            let took = hogs.iter_mut().map(Hog::push).filter(|took| *took).count();
            in_vain = if took > 0 { 0 } else { in_vain + 1 };
            other.write_all(b"\n").unwrap();
            other.read_exact(&mut [0]).unwrap();
        }
        hogs
    }

    fn hog(&mut self) -> Hog {
        let stream = self.service.connect();
        // So that what the kernel holds is little beside what the echo holds.
        setsockopt(&stream, sockopt::RcvBuf, &(16 << 10)).unwrap();
        setsockopt(&stream, sockopt::SndBuf, &(16 << 10)).unwrap();
        stream.set_nonblocking(true).unwrap();
        let peer = stream.local_addr().unwrap().to_string();
        let number = self.next;
        self.next += 1;
        let connection = Connection { number, peer, length: LENGTH, sent: 0, part: 0, echoed: 0 };
        Hog { stream, connection, unsent: Vec::new() }
    }

    /// At last they read: everything is there.
    fn let_go(&mut self, hogs: Vec<Hog>) {
        for Hog { mut stream, mut connection, unsent } in hogs {
            stream.set_nonblocking(false).unwrap();
            connection.part = if unsent.is_empty() { 0 } else { LENGTH - unsent.len() };
            connection.sent -= u32::from(!unsent.is_empty());
            setsockopt(&stream, sockopt::RcvBuf, &(1 << 20)).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            let mut sent = Vec::new();
            for sequence in 0..=connection.sent {
                message::append(connection.number, sequence, LENGTH, &mut sent);
            }
            sent.truncate(connection.sent as usize * LENGTH + connection.part);
            assert!(back == sent, "client {}: {} bytes sent, {} back", connection.number, sent.len(), back.len());
            connection.echoed = connection.sent;
            self.connections.push(connection);
        }
    }
}

impl Hog {
    /// Sends what is taken; whether anything was.
    fn push(&mut self) -> bool {
        let mut took = false;
        loop {
            if self.unsent.is_empty() {
                message::append(self.connection.number, self.connection.sent, LENGTH, &mut self.unsent);
                self.connection.sent += 1;
            }
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return took,
                Err(error) => panic!("cannot send: {error}"),
            }
            took = true;
        }
    }
}

/// The echo is stopped for 5 ms again and again meanwhile.
fn stalling(service: &Service, measure: impl FnOnce() -> Outcome) -> Outcome {
    let pid = service.daemon.child_pid("echo");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for signal in [SIGSTOP, SIGCONT] {
                    kill(pid, signal);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        let outcome = measure();
        done.store(true, Ordering::Relaxed);
        outcome
    })
}

/// Median and 99th percentile, in microseconds.
fn quantiles(outcome: &Outcome) -> [f64; 2] {
    [0.5, 0.99].map(|share| outcome.latency.quantile(share).as_secs_f64() * 1e6)
}

/// Quantiles a round.
struct Latency {
    with: Vec<[f64; 2]>,
    without: Vec<[f64; 2]>,
}

impl Latency {
    /// Times what it is without: the median, and the 99th percentile.
    fn ratios(&self) -> [f64; 2] {
        [0, 1].map(|which| median(&self.with, which) / median(&self.without, which))
    }

    fn holds(&self) -> bool {
        self.ratios().iter().all(|ratio| *ratio <= MOST)
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [middle, late] = self.ratios();
        write!(f, "{middle:.2} times (99 in 100: {late:.2} times)")
    }
}

fn median(rounds: &[[f64; 2]], which: usize) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(|round| round[which]).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
