//! Others' latency, with clients that misbehave and without.
//!
//! It is compared within one run: rounds at a daemon that has such clients alternate with
//! rounds at a daemon that has none. The result is the medians over the rounds. How busy the
//! machine is shows in how much the rounds without such clients differ. So the latency is
//! too high if three of four rounds with them are too slow, compared with the slowest
//! fourth of those without.

use crate::clients_service::{Checked, Service, Wanted};
use crate::daemon::kill;
use crate::load::checker::Format;
use crate::load::generator::{Connection, Outcome};
use nix::libc::{SIGCONT, SIGSTOP};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long others are measured in a round.
const ROUND: Duration = Duration::from_millis(100);
/// With fewer rounds, quartiles would be a matter of chance.
const ROUNDS: u32 = 15;
/// Others' latency may be this many times what it is without such clients.
const MOST: f64 = 2.0;

/// Others' latency in a round: the median and the 99th percentile, in microseconds.
pub(crate) type Quantiles = [f64; 2];

/// Compares rounds at both daemons in turn.
pub(crate) fn compare(mut with: impl FnMut() -> Quantiles, mut without: impl FnMut() -> Quantiles) -> Latency {
    let (with, without) = (0..ROUNDS).map(|_| (with(), without())).unzip();
    Latency { with, without }
}

/// The control of each comparison: an echo that stalls must be found out.
pub(crate) fn stalled(with: &mut Served, without: &mut Served) -> String {
    let stalled = compare(|| with.measure_stalled(), || without.measure());
    assert!(!stalled.holds(), "a stall was not found out: {stalled}");
    format!("echo stopped for 50 ms again and again: {stalled}, found out")
}

/// A daemon, and all that were its clients.
pub(crate) struct Served {
    pub(crate) service: Service,
    pub(crate) connections: Vec<Connection>,
    next: u32,
}

impl Served {
    /// Starts a daemon with these settings of the echo.
    pub(crate) fn start(echo: &str) -> Served {
        Served::start_as(Format::Raw, echo)
    }

    pub(crate) fn start_as(format: Format, echo: &str) -> Served {
        // Even if the machine is slow, a line is one message.
        let echo = format!("partial_after = \"1h\"\n{echo}");
        let service = Service::start(&Wanted { format, echo: &echo, ..Wanted::default() });
        Served { service, connections: Vec::new(), next: 0 }
    }

    pub(crate) fn end(self) -> Checked {
        self.service.end(&self.connections)
    }

    /// A number for one more client.
    pub(crate) fn number(&mut self) -> u32 {
        self.numbers(1)
    }

    /// The first of this many numbers.
    pub(crate) fn numbers(&mut self, count: u32) -> u32 {
        self.next += count;
        self.next - count
    }

    /// Measures how others are served.
    pub(crate) fn measure(&mut self) -> Quantiles {
        let first = self.numbers(Service::OTHERS);
        let outcome = self.service.load_for(ROUND, first);
        self.take(outcome)
    }

    /// Measures it while something else is done.
    pub(crate) fn measure_while<T: Send>(
        &mut self,
        what: impl FnOnce(&Service, &AtomicBool) -> T + Send,
    ) -> (Quantiles, T) {
        let first = self.numbers(Service::OTHERS);
        let (service, done) = (&self.service, AtomicBool::new(false));
        let (outcome, came) = std::thread::scope(|scope| {
            let beside = scope.spawn(|| what(service, &done));
            let outcome = service.load_for(ROUND, first);
            done.store(true, Ordering::Relaxed);
            (outcome, beside.join().unwrap())
        });
        (self.take(outcome), came)
    }

    fn take(&mut self, outcome: Outcome) -> Quantiles {
        assert!(outcome.wrong.is_empty(), "{:?}", outcome.wrong);
        assert_eq!((outcome.disconnected, outcome.unanswered()), (0, 0));
        self.connections.extend(outcome.connections);
        [0.5, 0.99].map(|share| outcome.latency.quantile(share).as_secs_f64() * 1e6)
    }

    /// Measures it while the echo is stopped for 50 ms again and again.
    pub(crate) fn measure_stalled(&mut self) -> Quantiles {
        let pid = self.service.daemon.child_pid("echo");
        let stall = |_: &Service, done: &AtomicBool| {
            while !done.load(Ordering::Relaxed) {
                for (signal, millis) in [(SIGSTOP, 50), (SIGCONT, 5)] {
                    kill(pid, signal);
                    std::thread::sleep(Duration::from_millis(millis));
                }
            }
        };
        self.measure_while(stall).0
    }
}

/// The quantiles of each round.
pub(crate) struct Latency {
    pub(crate) with: Vec<[f64; 2]>,
    without: Vec<[f64; 2]>,
}

impl Latency {
    /// The ratios of latency with such clients to latency without, for these quartiles of the
    /// rounds: of the median within a round, and of its 99th percentile.
    fn ratios(&self, with: usize, without: usize) -> [f64; 2] {
        [0, 1].map(|which| quartile(&self.with, which, with) / quartile(&self.without, which, without))
    }

    pub(crate) fn holds(&self) -> bool {
        self.ratios(1, 3).iter().all(|ratio| *ratio <= MOST)
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [middle, late] = self.ratios(2, 2);
        write!(f, "{middle:.2} times (99 in 100: {late:.2} times)")
    }
}

fn quartile(rounds: &[Quantiles], which: usize, quartile: usize) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(|round| round[which]).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() * quartile / 4]
}
