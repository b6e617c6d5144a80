//! What keeps the log from being flooded, pure: a line that comes again and
//! again is counted and summed up; so is what a child writes past its share.

use super::entry::Priority;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So often the same line goes within [`WINDOW`]; more of it is counted.
const SAME: u32 = 5;
/// What was counted is summed up after so long; a line that goes on and on is
/// summed up after twice the time, each time, up to [`LONGEST_WINDOW`].
const WINDOW: Duration = Duration::from_secs(5);
const LONGEST_WINDOW: Duration = Duration::from_secs(60);
/// A line is compared with so many others, the latest of the same speaker: a
/// crash has several lines.
const KNOWN: usize = 16;
/// Longer lines are not compared, in bytes.
const COMPARED: usize = 1024;
/// A child's share: so many lines at once, and so many a second for good. In
/// half a minute that is less than the 10,000 that systemd's journal takes of
/// a service in that time (journald.conf(5), RateLimitBurst=).
const BURST: f64 = 2000.0;
const RATE: f64 = 100.0;
/// The last of the share is for errors and warnings, so that no flood of
/// chatter hides them.
const RESERVE: f64 = 500.0;

/// What somebody has logged of late.
#[derive(Debug)]
pub(super) struct Flow {
    known: VecDeque<Known>,
    /// Lines that may go at once.
    share: f64,
    refilled: Option<Instant>,
    /// Lines that were past the share, since when.
    left_out: Option<(u64, Instant)>,
}

/// A line that went.
#[derive(Debug)]
struct Known {
    priority: Priority,
    line: Vec<u8>,
    /// How often it came.
    seen: u32,
    /// How often it came and did not go, since `since`.
    counted: u64,
    since: Instant,
    window: Duration,
}

/// What sums up lines that did not go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sum {
    /// This line came so often more.
    Again { priority: Priority, line: Vec<u8>, times: u64, within: Duration },
    /// So many lines were past the share.
    LeftOut { lines: u64, within: Duration },
}

impl Default for Flow {
    fn default() -> Flow {
        Flow { known: VecDeque::new(), share: BURST, refilled: None, left_out: None }
    }
}

impl Flow {
    /// Whether that line goes; else it is counted. For who is never cut off:
    /// the supervisor itself.
    pub(super) fn admit(&mut self, priority: Priority, line: &[u8], now: Instant) -> bool {
        if line.len() > COMPARED {
            return true;
        }
        self.known.retain(|known| known.counted > 0 || now < known.until());
        if let Some(known) = self.known.iter_mut().find(|known| known.priority == priority && known.line == line) {
            known.seen = known.seen.saturating_add(1);
            if known.seen > SAME {
                known.counted += 1;
            }
            return known.counted == 0;
        }
        if self.known.len() == KNOWN {
            // One that is counted stays, or it would go on as if it were new.
            match self.known.iter().position(|known| known.counted == 0) {
                Some(oldest) => self.known.remove(oldest),
                None => return true,
            };
        }
        self.known.push_back(Known { priority, line: line.to_vec(), seen: 1, counted: 0, since: now, window: WINDOW });
        true
    }

    /// [`Flow::admit`] for who has a share.
    pub(super) fn admit_share(&mut self, priority: Priority, line: &[u8], now: Instant) -> bool {
        if !self.admit(priority, line, now) {
            return false;
        }
        let passed = self.refilled.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        self.share = (self.share + passed.as_secs_f64() * RATE).min(BURST);
        self.refilled = Some(now);
        // A long line takes as much room as several.
        let price = f64::from(1 + u32::try_from(line.len() / COMPARED).unwrap_or(u32::MAX));
        let kept = if priority.is_trouble() { 0.0 } else { RESERVE };
        if self.share - price >= kept {
            self.share -= price;
            return true;
        }
        self.left_out.get_or_insert((0, now)).0 += 1;
        false
    }

    /// When something is to be summed up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let again = self.known.iter().filter(|known| known.counted > 0).map(Known::until);
        again.chain(self.left_out.map(|(_, since)| since + WINDOW)).min()
    }

    /// What is to be summed up by now; at the `end` all there is.
    pub(super) fn sums(&mut self, now: Instant, end: bool) -> Vec<Sum> {
        let mut sums = Vec::new();
        for known in self.known.iter_mut().filter(|known| known.counted > 0) {
            if end || now >= known.until() {
                sums.push(known.sum(now));
            }
        }
        if let Some((lines, since)) = self.left_out.filter(|&(_, since)| end || now >= since + WINDOW) {
            sums.push(Sum::LeftOut { lines, within: now.saturating_duration_since(since) });
            self.left_out = None;
        }
        sums
    }

    /// Whether it need not be remembered.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let full = self
            .refilled
            .is_none_or(|then| self.share + now.saturating_duration_since(then).as_secs_f64() * RATE >= BURST);
        full && self.left_out.is_none() && self.known.iter().all(|known| known.counted == 0 && now >= known.until())
    }
}

impl Known {
    fn until(&self) -> Instant {
        self.since + self.window
    }

    /// Sums up, and goes on counting.
    fn sum(&mut self, now: Instant) -> Sum {
        let sum = Sum::Again {
            priority: self.priority,
            line: self.line.clone(),
            times: self.counted,
            within: now.saturating_duration_since(self.since),
        };
        self.counted = 0;
        self.since = now;
        self.window = (self.window * 2).min(LONGEST_WINDOW);
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;
    use proptest::prelude::*;

    fn info() -> Priority {
        Priority::from(Level::Info)
    }

    fn error() -> Priority {
        Priority::from(Level::Error)
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn the_same_line_goes_five_times_and_is_summed_up() {
        let start = Instant::now();
        let mut flow = Flow::default();
        let went = (0..100).filter(|n| flow.admit(info(), b"again", after(start, *n))).count();
        assert_eq!(went, 5);
        assert_eq!(flow.deadline(), Some(start + WINDOW));
        assert_eq!(flow.sums(after(start, 4999), false), []);
        let sum = Sum::Again { priority: info(), line: b"again".to_vec(), times: 95, within: WINDOW };
        assert_eq!(flow.sums(start + WINDOW, false), [sum]);
        assert_eq!(flow.deadline(), None);
    }

    #[test]
    fn what_goes_on_is_summed_up_ever_more_seldom_and_no_more_than_once_a_minute() {
        let start = Instant::now();
        let mut flow = Flow::default();
        let mut sums = Vec::new();
        for second in 0..1000 {
            let now = after(start, second * 1000);
            for _ in 0..10 {
                flow.admit(info(), b"again", now);
            }
            if !flow.sums(now, false).is_empty() {
                sums.push(second);
            }
        }
        assert_eq!(sums[..6], [5, 15, 35, 75, 135, 195]);
    }

    #[test]
    fn a_line_that_comes_now_and_then_always_goes() {
        let start = Instant::now();
        let mut flow = Flow::default();
        assert!((0..100).all(|n| flow.admit(info(), b"tick", after(start, n * 1001))));
        assert_eq!(flow.deadline(), None);
    }

    #[test]
    fn after_a_pause_it_goes_again() {
        let start = Instant::now();
        let mut flow = Flow::default();
        for _ in 0..10 {
            flow.admit(info(), b"again", start);
        }
        assert_eq!(flow.sums(after(start, 5000), false).len(), 1);
        assert!(!flow.admit(info(), b"again", after(start, 6000)), "it still goes on");
        assert_eq!(flow.sums(after(start, 15_000), false).len(), 1);
        assert!(flow.admit(info(), b"again", after(start, 40_000)));
    }

    #[test]
    fn lines_that_take_turns_are_known_all_the_same() {
        let start = Instant::now();
        let mut flow = Flow::default();
        let went = (0..50).flat_map(|_| [&b"panic"[..], b"exited"]).filter(|line| flow.admit(error(), line, start));
        assert_eq!(went.count(), 10);
        assert_eq!(flow.sums(start, true).len(), 2);
    }

    #[test]
    fn a_child_past_its_share_is_cut_off_and_its_errors_are_not() {
        let start = Instant::now();
        let mut flow = Flow::default();
        let went = (0..10_000).filter(|n| flow.admit_share(info(), format!("{n}").as_bytes(), start)).count();
        assert_eq!(went, 1500);
        assert!(flow.admit_share(error(), b"an error", start));
        let sums = flow.sums(after(start, 5000), false);
        assert_eq!(sums, [Sum::LeftOut { lines: 8500, within: WINDOW }]);
        let later = (0..10_000).filter(|n| flow.admit_share(info(), format!("{n}").as_bytes(), after(start, 6000)));
        assert_eq!(later.count(), 599, "a hundred a second, less the error");
    }

    #[test]
    fn long_lines_take_more_of_the_share() {
        let start = Instant::now();
        let mut flow = Flow::default();
        let line = [b'x'; 7 * 1024];
        assert_eq!((0..10_000).filter(|_| flow.admit_share(info(), &line, start)).count(), 187);
    }

    proptest! {
        #[test]
        fn each_line_goes_or_is_summed_up(lines in prop::collection::vec((0u8..30, 0u64..300, any::<bool>()), 0..500)) {
            let mut now = Instant::now();
            let mut flow = Flow::default();
            let (mut went, mut summed) = (0, 0);
            let mut take = |sums: Vec<Sum>| for sum in sums {
                summed += match sum {
                    Sum::Again { times, .. } => times,
                    Sum::LeftOut { lines, .. } => lines,
                };
            };
            for (line, pause, ask) in &lines {
                now += Duration::from_millis(*pause);
                went += u64::from(flow.admit_share(info(), &[*line], now));
                if *ask {
                    take(flow.sums(now, false));
                }
            }
            take(flow.sums(now, true));
            prop_assert_eq!(went + summed, lines.len() as u64);
            prop_assert!(flow.deadline().is_none());
            prop_assert!(flow.is_idle(now + LONGEST_WINDOW));
        }
    }
}
