//! How long to wait before the next start, and how many starts are too many. Pure.

use crate::config::model::{Backoff, StartLimit};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// If `first` is zero, the second start in a row waits this long.
pub const AFTER_AT_ONCE: Duration = Duration::from_millis(100);

/// The delay grows no further after this many failures in a row, whatever the factor.
const ROW_MAX: u32 = 1000;

/// How long to wait before the start after `row` + 1 failures in a row.
pub fn delay(backoff: &Backoff, row: u32) -> Duration {
    if row == 0 {
        return backoff.first.min(backoff.max);
    }
    let (base, exponent) = if backoff.first.is_zero() { (AFTER_AT_ONCE, row - 1) } else { (backoff.first, row) };
    // A loop instead of `powf`, which would bring libm into every process; the
    // maximum is reached within a few steps.
    let mut seconds = base.as_secs_f64();
    let max = backoff.max.as_secs_f64();
    for _ in 0..exponent.min(ROW_MAX) {
        if seconds >= max {
            break;
        }
        seconds *= backoff.factor;
    }
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).min(backoff.max)
}

/// The starts of one child that still count.
#[derive(Debug, Clone, Default)]
pub struct History {
    starts: VecDeque<Instant>,
    row: u32,
}

impl History {
    /// Notes a start.
    pub fn started(&mut self, now: Instant) {
        self.starts.push_back(now);
    }

    /// The delay before the next start, after one more failure.
    pub fn next_delay(&mut self, backoff: &Backoff) -> Duration {
        let wait = delay(backoff, self.row);
        self.row = self.row.saturating_add(1);
        wait
    }

    /// It was up for long enough, so the next failure is the first of a new row.
    pub fn steady(&mut self) {
        self.row = 0;
    }

    /// Whether one more start at `now` is past the limit.
    pub fn exhausted(&mut self, limit: &StartLimit, now: Instant) -> bool {
        while self.starts.front().is_some_and(|&at| now.duration_since(at) >= limit.within) {
            self.starts.pop_front();
        }
        self.starts.len() >= usize::try_from(limit.burst).unwrap_or(usize::MAX)
    }

    /// How many more starts the limit allows at that time.
    pub fn left(&self, limit: &StartLimit, at: Instant) -> usize {
        let counted = self.starts.iter().filter(|&&start| at.saturating_duration_since(start) < limit.within).count();
        usize::try_from(limit.burst).unwrap_or(usize::MAX).saturating_sub(counted)
    }

    /// Nothing that happened before counts any more.
    pub fn forgive(&mut self) {
        *self = History::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Backoff = Backoff {
        first: Duration::ZERO,
        factor: 2.0,
        max: Duration::from_secs(30),
        reset_after: Duration::from_secs(10),
    };

    #[test]
    fn first_zero_means_at_once_then_100ms_doubling_up_to_the_maximum() {
        let ms: Vec<u128> = (0..12).map(|row| delay(&DEFAULT, row).as_millis()).collect();
        assert_eq!(ms, [0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
    }

    #[test]
    fn a_first_delay_doubles_from_itself() {
        let backoff = Backoff { first: Duration::from_millis(50), ..DEFAULT };
        let ms: Vec<u128> = (0..4).map(|row| delay(&backoff, row).as_millis()).collect();
        assert_eq!(ms, [50, 100, 200, 400]);
    }

    #[test]
    fn a_row_of_any_length_stays_at_the_maximum() {
        assert_eq!(delay(&DEFAULT, u32::MAX), DEFAULT.max);
        assert_eq!(delay(&Backoff { factor: 1.0, ..DEFAULT }, u32::MAX), AFTER_AT_ONCE);
    }

    #[test]
    fn the_limit_counts_starts_within_its_window_only() {
        let limit = StartLimit { burst: 2, within: Duration::from_secs(60) };
        let t0 = Instant::now();
        let mut history = History::default();
        history.started(t0);
        assert!(!history.exhausted(&limit, t0));
        history.started(t0 + Duration::from_secs(1));
        assert!(history.exhausted(&limit, t0 + Duration::from_secs(59)));
        assert!(!history.exhausted(&limit, t0 + Duration::from_secs(60)));
        history.started(t0 + Duration::from_secs(60));
        assert!(history.exhausted(&limit, t0 + Duration::from_secs(60)));
        history.forgive();
        assert!(!history.exhausted(&limit, t0 + Duration::from_secs(60)));
    }
}
