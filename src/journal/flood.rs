//! Keeps the log from being flooded. Pure: a line that is repeated again and again is
//! counted and summed up; so are the lines that a child writes past its share.

use super::entry::Priority;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often the same line is logged within [`WINDOW`]; after that, it is only counted.
const SAME: u32 = 5;
/// What was counted is summed up after this long. For a line that keeps coming, the time
/// doubles with each sum, up to [`LONGEST_WINDOW`].
const WINDOW: Duration = Duration::from_secs(5);
const LONGEST_WINDOW: Duration = Duration::from_secs(60);
/// A line is compared with this many others, the latest of the same speaker, because a
/// crash writes several different lines.
const KNOWN: usize = 16;
/// Lines longer than this, in bytes, are not compared.
const COMPARED: usize = 1024;
/// The common share of all children whose limits are no higher than the default. In
/// half a minute it allows 7,500 lines. systemd's journal takes 10,000 from a service in
/// that time (journald.conf(5), RateLimitBurst=), so some are left for the supervisor.
const COMMON_BURST: f64 = 3000.0;
const COMMON_RATE: f64 = 150.0;
/// The last of the common share is kept for errors and warnings, so that no flood of
/// chatter hides them.
const COMMON_RESERVE: f64 = 500.0;
/// A child that has used up its own share leaves this much of the common share to the
/// others; a child that has used half of its own, half as much. So a child that has
/// logged less goes first.
const LEFT_TO_OTHERS: f64 = 1000.0;

/// How many lines of a child are logged: its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimit {
    /// In a burst.
    pub lines: u32,
    /// In the long run. What was logged counts less and less as time passes, so a child
    /// that has logged little lately may log more at once.
    pub per_second: u32,
}

impl Default for LogLimit {
    fn default() -> LogLimit {
        LogLimit { lines: 2000, per_second: 100 }
    }
}

impl LogLimit {
    fn burst(self) -> f64 {
        f64::from(self.lines)
    }

    /// The last of a share is kept for errors and warnings.
    fn reserve(self) -> f64 {
        self.burst() / 4.0
    }

    /// The time in seconds in which what was logged decays by a factor of e.
    fn fades(self) -> f64 {
        (self.burst() - self.reserve()) / f64::from(self.per_second)
    }

    /// Whether it also takes from the common share. A child with a limit above the
    /// default does not: it is meant to have that much.
    fn is_common(self) -> bool {
        let LogLimit { lines, per_second } = LogLimit::default();
        self.lines <= lines && self.per_second <= per_second
    }
}

/// What a speaker has logged lately.
#[derive(Debug, Default)]
pub(super) struct Flow {
    known: VecDeque<Known>,
    /// Its share, as of the last line.
    limit: LogLimit,
    /// What counts against its share, as of `spent_at`.
    spent: f64,
    spent_at: Option<Instant>,
    /// How many lines were past the share, and since when.
    left_out: Option<(u64, Instant)>,
}

/// The common share, which children's lines are taken from in addition to their own.
#[derive(Debug)]
pub(super) struct Common {
    /// Lines that may be logged at once.
    left: f64,
    refilled: Option<Instant>,
}

impl Default for Common {
    fn default() -> Common {
        Common { left: COMMON_BURST, refilled: None }
    }
}

impl Common {
    fn refill(&mut self, now: Instant) {
        self.left = (self.left + since(self.refilled, now) * COMMON_RATE).min(COMMON_BURST);
        self.refilled = Some(now);
    }
}

/// The time that has passed, in seconds; none if there was no time before.
fn since(before: Option<Instant>, now: Instant) -> f64 {
    before.map_or(Duration::ZERO, |then| now.saturating_duration_since(then)).as_secs_f64()
}

/// A line that was logged.
#[derive(Debug)]
struct Known {
    priority: Priority,
    line: Vec<u8>,
    /// How often it came.
    seen: u32,
    /// How often it came and was not logged, since `since`.
    counted: u64,
    since: Instant,
    window: Duration,
}

/// Sums up lines that were not logged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sum {
    /// This line came this many more times.
    Again { priority: Priority, line: Vec<u8>, times: u64, within: Duration },
    /// This many lines were past the share.
    LeftOut { lines: u64, within: Duration },
}

impl Flow {
    /// Whether that line is logged; if not, it is counted. Used for the supervisor, which is
    /// never rate-limited.
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
            // A line that is being counted stays, or it would be logged as if it were new.
            match self.known.iter().position(|known| known.counted == 0) {
                Some(oldest) => self.known.remove(oldest),
                None => return true,
            };
        }
        self.known.push_back(Known { priority, line: line.to_vec(), seen: 1, counted: 0, since: now, window: WINDOW });
        true
    }

    /// [`Flow::admit`] for a child, which has a share.
    pub(super) fn admit_share(
        &mut self,
        common: &mut Common,
        limit: LogLimit,
        priority: Priority,
        line: &[u8],
        now: Instant,
    ) -> bool {
        if !self.admit(priority, line, now) {
            return false;
        }
        self.limit = limit;
        self.spent = self.spent(now);
        self.spent_at = Some(now);
        common.refill(now);
        // A long line costs as much as several, but even the smallest share has room for one.
        let price = f64::from(1 + u32::try_from(line.len() / COMPARED).unwrap_or(u32::MAX)).min(limit.reserve());
        let spent = self.spent + price;
        let (kept, kept_in_common) = if priority.is_trouble() { (0.0, 0.0) } else { (limit.reserve(), COMMON_RESERVE) };
        let left_to_others = LEFT_TO_OTHERS * spent / limit.burst();
        let has_room = !limit.is_common() || common.left - price >= kept_in_common + left_to_others;
        if spent <= limit.burst() - kept && has_room {
            self.spent = spent;
            if limit.is_common() {
                common.left -= price;
            }
            return true;
        }
        self.left_out.get_or_insert((0, now)).0 += 1;
        false
    }

    fn spent(&self, now: Instant) -> f64 {
        self.spent * (-since(self.spent_at, now) / self.limit.fades()).exp()
    }

    /// When there will be something to sum up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let again = self.known.iter().filter(|known| known.counted > 0).map(Known::until);
        again.chain(self.left_out.map(|(_, since)| since + WINDOW)).min()
    }

    /// The sums that are due now; at the `end`, all of them.
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

    /// Whether it can be forgotten.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let forgiven = self.spent(now) < 1.0;
        forgiven && self.left_out.is_none() && self.known.iter().all(|known| known.counted == 0 && now >= known.until())
    }
}

impl Known {
    fn until(&self) -> Instant {
        self.since + self.window
    }

    /// Sums up, and counts on from zero.
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
    fn the_same_line_is_logged_five_times_and_then_summed_up() {
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
    fn a_line_that_keeps_coming_is_summed_up_ever_more_seldom_down_to_once_a_minute() {
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
    fn a_line_that_comes_now_and_then_is_always_logged() {
        let start = Instant::now();
        let mut flow = Flow::default();
        assert!((0..100).all(|n| flow.admit(info(), b"tick", after(start, n * 1001))));
        assert_eq!(flow.deadline(), None);
    }

    #[test]
    fn after_a_pause_it_is_logged_again() {
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
    fn repeats_are_found_even_if_lines_alternate() {
        let start = Instant::now();
        let mut flow = Flow::default();
        let went = (0..50).flat_map(|_| [&b"panic"[..], b"exited"]).filter(|line| flow.admit(error(), line, start));
        assert_eq!(went.count(), 10);
        assert_eq!(flow.sums(start, true).len(), 2);
    }

    #[test]
    fn a_child_past_its_share_is_cut_off_and_its_errors_are_not() {
        let start = Instant::now();
        let (mut flow, mut common) = (Flow::default(), Common::default());
        let went = (0..10_000)
            .filter(|n| flow.admit_share(&mut common, LogLimit::default(), info(), format!("{n}").as_bytes(), start))
            .count();
        assert_eq!(went, 1500);
        assert!(flow.admit_share(&mut common, LogLimit::default(), error(), b"an error", start));
        let sums = flow.sums(after(start, 5000), false);
        assert_eq!(sums, [Sum::LeftOut { lines: 8500, within: WINDOW }]);
        let later = (0..10_000).filter(|n| {
            flow.admit_share(&mut common, LogLimit::default(), info(), format!("{n}").as_bytes(), after(start, 6000))
        });
        assert_eq!(later.count(), 493, "what has faded in six seconds");
    }

    #[test]
    fn long_lines_take_more_of_the_share() {
        let start = Instant::now();
        let (mut flow, mut common) = (Flow::default(), Common::default());
        let line = [b'x'; 7 * 1024];
        assert_eq!(
            (0..10_000).filter(|_| flow.admit_share(&mut common, LogLimit::default(), info(), &line, start)).count(),
            187
        );
    }

    #[test]
    fn a_limit_of_its_own_bounds_a_child_in_a_burst_and_in_the_long_run() {
        for (lines, per_second) in [(10, 1), (100, 100), (20_000, 3000)] {
            let limit = LogLimit { lines, per_second };
            let start = Instant::now();
            let (mut flow, mut common) = (Flow::default(), Common::default());
            let mut went_by = |millis: u64, n: u32| {
                let line = format!("{millis} {n}");
                u32::from(flow.admit_share(&mut common, limit, error(), line.as_bytes(), after(start, millis)))
            };
            assert_eq!((0..2 * lines).map(|n| went_by(0, n)).sum::<u32>(), lines, "at once");
            let rest: u32 = (1..=2000).map(|tick| (0..20).map(|n| went_by(tick * 50, n)).sum::<u32>()).sum();
            // Errors may use the whole share, which is a third more than other lines may.
            let most = (per_second * 100 * 4).div_ceil(3) + 1;
            let asked = 20 * 20 * 100;
            assert!((most.min(asked) * 9 / 10..=most.min(asked)).contains(&rest), "{rest} in 100 s of {per_second}");
        }
    }

    #[test]
    fn even_the_smallest_share_has_room_for_a_long_line() {
        let (mut flow, mut common) = (Flow::default(), Common::default());
        let limit = LogLimit { lines: 10, per_second: 1 };
        assert!(flow.admit_share(&mut common, limit, info(), &[b'x'; 7 * 1024], Instant::now()));
    }

    #[test]
    fn a_child_with_more_than_the_default_takes_nothing_from_the_others() {
        let start = Instant::now();
        let mut common = Common::default();
        let (mut loud, mut quiet) = (Flow::default(), Flow::default());
        let limit = LogLimit { lines: 100_000, per_second: 100 };
        for n in 0..50_000 {
            assert!(loud.admit_share(&mut common, limit, info(), n.to_string().as_bytes(), start));
        }
        let lines = (0..1500).map(|n: u32| n.to_string());
        assert!(lines.into_iter().all(|l| quiet.admit_share(
            &mut common,
            LogLimit::default(),
            info(),
            l.as_bytes(),
            start
        )));
    }

    /// Has this many children write in turn for a minute, as fast as they are read. Returns
    /// when each logged line was logged, and whose it is.
    fn endless(writers: usize, priority: Priority) -> Vec<(u64, usize)> {
        let start = Instant::now();
        let mut common = Common::default();
        let mut flows: Vec<Flow> = (0..writers).map(|_| Flow::default()).collect();
        let mut went = Vec::new();
        for millis in (0..60_000).step_by(50) {
            for (writer, flow) in flows.iter_mut().enumerate() {
                for n in 0..5 {
                    let line = format!("{millis} {n}");
                    if flow.admit_share(
                        &mut common,
                        LogLimit::default(),
                        priority,
                        line.as_bytes(),
                        after(start, millis),
                    ) {
                        went.push((millis, writer));
                    }
                }
                flow.sums(after(start, millis), false);
            }
        }
        went
    }

    #[test]
    fn no_number_of_endless_writers_fills_the_journal_and_each_gets_its_share() {
        for (writers, priority) in [(4, info()), (4, error()), (20, error())] {
            let went = endless(writers, priority);
            let within = |from: u64| went.iter().filter(|(at, _)| (from..from + 30_000).contains(at)).count();
            let most = (0..30).map(|second| within(second * 1000)).max().unwrap();
            assert!((4000..=7500).contains(&most), "{most} lines in half a minute");
            for writer in 0..writers {
                let part = went.iter().filter(|(_, whose)| *whose == writer).count();
                assert!(part * writers * 2 > went.len(), "{part} of {} lines for one of {writers}", went.len());
            }
        }
    }

    #[test]
    fn errors_of_a_quiet_child_are_logged_while_others_write_without_end() {
        let start = Instant::now();
        let mut common = Common::default();
        let (mut noisy, mut quiet) = ([(); 4].map(|()| Flow::default()), Flow::default());
        for millis in (0..60_000).step_by(50) {
            let now = after(start, millis);
            let line = millis.to_string();
            for flow in &mut noisy {
                for priority in [info(), error()] {
                    flow.admit_share(&mut common, LogLimit::default(), priority, line.as_bytes(), now);
                }
            }
            if millis % 1000 == 0 {
                assert!(
                    quiet.admit_share(&mut common, LogLimit::default(), error(), line.as_bytes(), now),
                    "at {millis} ms"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn each_line_is_logged_or_summed_up(lines in prop::collection::vec((0u8..30, 0u64..300, any::<bool>()), 0..500)) {
            let mut now = Instant::now();
            let (mut flow, mut common) = (Flow::default(), Common::default());
            let (mut went, mut summed) = (0, 0);
            let mut take = |sums: Vec<Sum>| for sum in sums {
                summed += match sum {
                    Sum::Again { times, .. } => times,
                    Sum::LeftOut { lines, .. } => lines,
                };
            };
            for (line, pause, ask) in &lines {
                now += Duration::from_millis(*pause);
                went += u64::from(flow.admit_share(&mut common, LogLimit::default(), info(), &[*line], now));
                if *ask {
                    take(flow.sums(now, false));
                }
            }
            take(flow.sums(now, true));
            prop_assert_eq!(went + summed, lines.len() as u64);
            prop_assert!(flow.deadline().is_none());
            prop_assert!(flow.is_idle(now + 2 * LONGEST_WINDOW));
        }
    }
}
