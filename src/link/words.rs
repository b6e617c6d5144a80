//! Words of 8 bytes in memory that outlives the process.
//!
//! Stores are made in program order, and SIGKILL undoes none of them. So another process
//! finds some prefix of the stores of this one.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number of words.
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

/// Called before each change that a sink makes to something that outlives it. A test may
/// kill the sink there.
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
        /// How many stores are left before this process dies. Below zero: a store was lost.
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

    /// Does some work as a sink that is killed after this many points. Returns
    /// whether it was killed.
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

    /// The part of these bytes that a process writes before it is killed. Each word is one store.
    pub(crate) fn as_far_as_it_lives(bytes: &[u8]) -> &[u8] {
        let words = bytes.chunks(8).take_while(|_| !is_dead()).count();
        &bytes[..bytes.len().min(8 * words)]
    }

    /// Does some work as a process that is killed after this many stores. Returns
    /// whether it was killed.
    pub(crate) fn killed_after(stores: i64, work: impl FnOnce()) -> bool {
        LEFT.set(stores);
        work();
        LEFT.replace(i64::MAX) < 0
    }
}
