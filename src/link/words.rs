//! Words of 8 bytes in memory that outlives the process.
//!
//! Stores are in program order, and SIGKILL takes none back: what another
//! process finds is some prefix of what this one did.

use std::sync::atomic::{AtomicU64, Ordering};

/// Some words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a>(pub(super) &'a [AtomicU64]);

impl Words<'_> {
    pub(super) fn get(self, at: usize) -> u64 {
        self.0[at].load(Ordering::Acquire)
    }

    pub(super) fn set(self, at: usize, value: u64) {
        kill_point();
        #[cfg(test)]
        if tests::is_dead() {
            return;
        }
        self.0[at].store(value, Ordering::Release);
    }
}

/// The CRC-32 of words with these values.
pub(super) fn crc_of(values: impl IntoIterator<Item = u64>) -> u64 {
    let mut crc = crc32fast::Hasher::new();
    for value in values {
        crc.update(&value.to_le_bytes());
    }
    u64::from(crc.finalize())
}

/// Before each thing that a sink does to what outlives it: a test may kill it there.
#[inline]
pub(super) fn kill_point() {
    #[cfg(test)]
    tests::kill_point();
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    thread_local! {
        /// How many stores are left before this process dies; below zero: one was lost.
        static LEFT: Cell<i64> = const { Cell::new(i64::MAX) };
    }

    thread_local! {
        /// How many points are left before this sink is killed.
        static POINTS: Cell<i64> = const { Cell::new(i64::MAX) };
    }

    struct Killed;

    pub(super) fn kill_point() {
        POINTS.set(POINTS.get() - 1);
        if POINTS.get() < 0 {
            POINTS.set(i64::MAX);
            resume_unwind(Box::new(Killed));
        }
    }

    /// Does something as a sink that is killed after this many points, and
    /// returns whether it was killed.
    pub(crate) fn killed_at(points: i64, work: impl FnOnce()) -> bool {
        POINTS.set(points);
        let outcome = catch_unwind(AssertUnwindSafe(work));
        POINTS.set(i64::MAX);
        match outcome {
            Ok(()) => false,
            Err(payload) if payload.is::<Killed>() => true,
            Err(payload) => resume_unwind(payload),
        }
    }

    pub(super) fn is_dead() -> bool {
        LEFT.set(LEFT.get() - 1);
        LEFT.get() < 0
    }

    /// What a process writes of these bytes before it is killed, a store a word.
    pub(crate) fn as_far_as_it_lives(bytes: &[u8]) -> &[u8] {
        let words = bytes.chunks(8).take_while(|_| !is_dead()).count();
        &bytes[..bytes.len().min(8 * words)]
    }

    /// Does something as a process that is killed after this many stores, and
    /// returns whether it was killed.
    pub(crate) fn killed_after(stores: i64, work: impl FnOnce()) -> bool {
        LEFT.set(stores);
        work();
        LEFT.replace(i64::MAX) < 0
    }
}
