//! Waiting for a fact, with a deadline.

use std::time::{Duration, Instant};

/// Every wait ends with this; on a loaded machine it is long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `fact` gives something.
///
/// # Panics
/// With `what`, when it does not within the deadline.
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
