//! How much per second: averages over about a second and about a minute.
//!
//! Whoever counts updates the averages when it counts; whoever reads them lets them decay
//! to the present. So they need no timer, and after a silence they are 0 without any
//! process having woken up. They are kept as words in shared memory.

use nix::time::{ClockId, clock_gettime};
use std::time::Instant;

/// How long a unit counts in each average, in nanoseconds: after that time its weight is 1/e.
const SECOND: f64 = 1e9;
const MINUTE: f64 = 60e9;

/// Two exponentially decaying averages, in units per second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// Over about a second.
    pub second: f64,
    /// Over about a minute.
    pub minute: f64,
}

impl Rates {
    /// The averages after this many nanoseconds in which nothing came.
    #[must_use]
    pub fn decayed(self, elapsed: u64) -> Rates {
        let elapsed = elapsed as f64;
        Rates { second: self.second * (-elapsed / SECOND).exp(), minute: self.minute * (-elapsed / MINUTE).exp() }
    }

    /// The averages once `count` more units came, all at once.
    #[must_use]
    pub fn with(self, count: u64) -> Rates {
        let per_second = count as f64 * 1e9;
        Rates { second: self.second + per_second / SECOND, minute: self.minute + per_second / MINUTE }
    }

    /// The averages as two words.
    pub fn words(self) -> [u64; 2] {
        [self.second.to_bits(), self.minute.to_bits()]
    }

    /// The averages in two words. Another process wrote these, so a word may be anything; one
    /// that is no rate counts as 0.
    pub fn of(words: [u64; 2]) -> Rates {
        let [second, minute] = words.map(f64::from_bits).map(|rate| if rate.is_finite() { rate.max(0.0) } else { 0.0 });
        Rates { second, minute }
    }
}

/// A clock that all processes share and that nobody can set, in nanoseconds since some time
/// (CLOCK_MONOTONIC).
pub fn now() -> u64 {
    // It always exists (clock_getres(2)), and its time is never negative.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec() * 1_000_000_000 + now.tv_nsec());
    u64::try_from(now).unwrap_or(0)
}

/// Converts this process's own instants to the time of [`now`], which saves a look at the
/// clock where one was taken already.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Instant,
    at: u64,
}

impl Clock {
    /// Looks at both clocks.
    pub fn new() -> Clock {
        Clock { began: Instant::now(), at: now() }
    }

    /// The time of [`now`] at that instant.
    pub fn at(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.began).as_nanos();
        self.at.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A steady flow of `each` units every `every` nanoseconds, for that many seconds.
    fn flow(each: u64, every: u64, seconds: u64) -> Rates {
        (0..seconds * 1_000_000_000 / every).fold(Rates::default(), |rates, _| rates.decayed(every).with(each))
    }

    fn is_about(rate: f64, expected: f64) -> bool {
        (rate - expected).abs() <= expected * 0.01
    }

    #[test]
    fn a_steady_flow_is_shown_as_what_it_is_however_it_is_cut() {
        for (each, every) in [(1, 1_000_000), (100, 100_000_000), (7, 7_000_000)] {
            let rates = flow(each, every, 300).decayed(every / 2);
            assert!(is_about(rates.second, 1000.0) && is_about(rates.minute, 1000.0), "{each}: {rates:?}");
        }
    }

    #[test]
    fn the_minute_remembers_what_the_second_has_forgotten() {
        let rates = flow(1, 1_000_000, 300).decayed(20_000_000_000);
        assert!(rates.second < 0.001 && rates.minute > 500.0, "{rates:?}");
    }

    #[test]
    fn after_an_hour_of_silence_nothing_is_left() {
        let rates = flow(1_000_000, 1_000_000, 300).decayed(3_600_000_000_000);
        assert!(rates.second < 0.05 && rates.minute < 0.05, "{rates:?}");
        let rates = rates.decayed(u64::MAX);
        assert_eq!(rates, Rates::default());
    }

    #[test]
    fn a_burst_counts_once_in_the_minute() {
        let rates = Rates::default().with(1_500_000);
        assert!(is_about(rates.minute, 25_000.0) && is_about(rates.second, 1_500_000.0), "{rates:?}");
    }

    #[test]
    fn words_that_are_no_rates_count_as_nothing() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            let word = bad.to_bits();
            assert_eq!(Rates::of([word, word]), Rates::default());
        }
        let rates = Rates { second: 1.5, minute: 0.25 };
        assert_eq!(Rates::of(rates.words()), rates);
    }

    #[test]
    fn instants_are_converted_to_the_time_of_all_processes() {
        let clock = Clock::new();
        let before = now();
        let instant = clock.at(Instant::now());
        let after = now();
        // Both clocks were looked at one after the other.
        let slack = 1_000_000_000;
        assert!(before <= instant + slack && instant <= after + slack, "{before} {instant} {after}");
    }
}
