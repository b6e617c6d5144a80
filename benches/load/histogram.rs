//! A histogram of durations, with buckets that are 1/32 of their value wide.

use std::time::Duration;

/// Buckets per octave.
const STEPS: u64 = 32;

/// Counts of durations in nanoseconds, accurate to about 3%.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// An empty histogram.
    pub(crate) fn new() -> Histogram {
        Histogram { counts: vec![0; bucket(u64::MAX) + 1], total: 0 }
    }

    /// Counts one.
    pub(crate) fn record(&mut self, took: Duration) {
        self.counts[bucket(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))] += 1;
        self.total += 1;
    }

    /// Adds what another counted.
    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// How many were counted.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The duration that `share` (0 to 1) of them did not exceed; zero if there are none.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(last_of(bucket));
            }
        }
        Duration::ZERO
    }
}

/// The bucket that counts this value: the value itself below twice [`STEPS`],
/// then [`STEPS`] buckets for each power of two.
fn bucket(value: u64) -> usize {
    let octave = value.max(STEPS).ilog2() - STEPS.ilog2();
    (u64::from(octave) * STEPS + (value >> octave)) as usize
}

/// The greatest value that this bucket counts.
fn last_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let octave = bucket / STEPS - 1;
    let first = (bucket - octave * STEPS) << octave;
    first + ((1 << octave) - 1)
}
