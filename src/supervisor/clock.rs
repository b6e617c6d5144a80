//! When something happened, by a clock that nobody sets: a machine's wall clock may be
//! decades wrong when the daemon starts, and be put right later.

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// The wall clock is taken to have been set if it is this far from where it should be.
/// Less is the time that passes between reading two clocks: times that are shown twice
/// are to be the same.
const STEP: SignedDuration = SignedDuration::from_millis(100);

/// An instant, as the time since the machine was booted. The time for which it was
/// suspended counts (CLOCK_BOOTTIME, clock_gettime(2)), as a person counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// This one.
    pub fn now() -> Moment {
        // There since Linux 2.6.39.
        Moment(clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
    }

    /// How long ago it was.
    pub fn elapsed(self) -> Duration {
        Moment::now().0.saturating_sub(self.0)
    }
}

/// What the wall clock shows of moments.
#[derive(Debug)]
pub struct Wall {
    /// When the machine was booted, by what the wall clock shows now.
    boot: Timestamp,
}

impl Wall {
    /// By the wall clock as it is now.
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

    /// When that was, by what the wall clock shows now.
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
    fn what_is_shown_follows_a_clock_that_is_set_and_stands_still_otherwise() {
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
    fn a_moment_is_now_by_the_wall_clock() {
        let (wall, now) = (Wall::new(), Timestamp::now());
        assert!(wall.time(Moment::now()).duration_since(now).abs() < SignedDuration::from_secs(10));
    }
}
