//! When something happened, by a clock that nobody sets: the wall clock may be decades
//! wrong when the daemon starts, and be corrected later.

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// The wall clock counts as set if it is off by this much. Smaller differences come from
/// reading two clocks one after the other, and must not change a time that was already shown.
const STEP: SignedDuration = SignedDuration::from_millis(100);

/// An instant, as the time since the machine was booted. Time spent suspended counts
/// (CLOCK_BOOTTIME, clock_gettime(2)), as people would expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// The present moment.
    pub fn now() -> Moment {
        // Exists since Linux 2.6.39.
        Moment(clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
    }

    /// How long ago it was.
    pub fn elapsed(self) -> Duration {
        Moment::now().0.saturating_sub(self.0)
    }
}

/// Converts moments to wall-clock time.
#[derive(Debug)]
pub struct Wall {
    /// When the machine was booted, according to the wall clock now.
    boot: Timestamp,
}

impl Wall {
    /// Uses the wall clock as it is now.
    pub fn new() -> Wall {
        Wall { boot: boot() }
    }

    /// Follows the wall clock if it was set.
    pub fn look(&mut self) {
        self.follow(boot());
    }

    fn follow(&mut self, boot: Timestamp) {
        if boot.duration_since(self.boot).abs() >= STEP {
            self.boot = boot;
        }
    }

    /// When that moment was, according to the wall clock now.
    pub fn time(&self, moment: Moment) -> Timestamp {
        self.boot.checked_add(moment.0).unwrap_or(Timestamp::MAX)
    }
}

fn boot() -> Timestamp {
    let Moment(up) = Moment::now();
    Timestamp::now().checked_sub(up).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_times_change_only_if_the_clock_is_set() {
        let start: Timestamp = "1970-01-01T00:01:00Z".parse().unwrap();
        let mut wall = Wall { boot: start };
        let moment = Moment(Duration::from_secs(40));
        for (millis, shown) in [(3, "1970-01-01T00:01:40Z"), (-99, "1970-01-01T00:01:40Z")] {
            wall.follow(start + SignedDuration::from_millis(millis));
            assert_eq!(wall.time(moment).to_string(), shown);
        }
        for day in ["2026-11-29T00:00:00Z", "2026-11-28T23:59:59Z", "1970-01-01T00:00:00Z"] {
            let boot: Timestamp = day.parse().unwrap();
            wall.follow(boot);
            assert_eq!(wall.time(moment), boot + SignedDuration::from_secs(40));
        }
    }

    #[test]
    fn the_present_moment_is_what_the_wall_clock_shows() {
        let (wall, now) = (Wall::new(), Timestamp::now());
        assert!(wall.time(Moment::now()).duration_since(now).abs() < SignedDuration::from_secs(10));
    }
}
