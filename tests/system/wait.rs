//! Waiting for a fact, with a deadline.

use std::time::{Duration, Instant};

/// The longest that any wait lasts; it is this long for loaded machines.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `fact` returns a value.
///
/// # Panics
/// With `what`, if it does not within the deadline.
#[track_caller]
pub fn wait_for<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = fact() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
