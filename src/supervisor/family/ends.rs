//! How a child ended: how often in what time although nobody had asked, its last line, and its
//! last ends. Pure.

use crate::supervisor::clock::Moment;
use crate::sys::process::Exit;
use crate::sys::text::clipped;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// An end this long after the one before begins a new row.
const ROW: Duration = Duration::from_secs(60);
/// From so many ends in a row on, a child that is up again is called a problem.
const FLAPPING: u32 = 3;
/// A last line is cut to this many characters.
const LINE: usize = 200;
/// Operators are shown this many ends.
const KEPT: usize = 10;

/// Ends of one child.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ends {
    row: Option<Row>,
    /// Why it was ended, if it did not end by itself.
    cause: Option<String>,
    last_line: Option<String>,
}

/// Ends that came soon after each other.
#[derive(Debug, Clone, Copy)]
struct Row {
    count: u32,
    first: Instant,
    last: Instant,
}

impl Ends {
    /// The last line that it wrote before its end, if it wrote any.
    pub(crate) fn wrote(&mut self, line: Option<String>) {
        self.last_line = line.map(|line| clipped(&line, LINE));
    }

    /// It ended, and nobody had asked; `cause` says why it was ended, if it was.
    pub(crate) fn ended(&mut self, now: Instant, cause: Option<String>) {
        self.cause = cause;
        let row = self.row.filter(|row| now.saturating_duration_since(row.last) < ROW);
        self.row = Some(match row {
            Some(row) => Row { count: row.count.saturating_add(1), last: now, ..row },
            None => Row { count: 1, first: now, last: now },
        });
    }

    /// What was before does not count any more.
    pub(crate) fn forgive(&mut self) {
        self.row = None;
    }

    /// Why it ended: as `unhealthy: ...`, or how its process did.
    pub(crate) fn how(&self, exit: Exit) -> String {
        self.cause.clone().unwrap_or_else(|| exit.to_string())
    }

    /// As `, 7 times in 14 s`; empty for a single end.
    pub(crate) fn times(&self) -> String {
        match self.row {
            Some(Row { count, first, last }) if count > 1 => {
                format!(", {count} times in {} s", last.duration_since(first).as_secs().max(1))
            }
            _ => String::new(),
        }
    }

    /// As `; its last line: "no such file"`; empty if it wrote nothing.
    pub(crate) fn last_line(&self) -> String {
        self.last_line.as_ref().map_or_else(String::new, |line| format!("; its last line: \"{line}\""))
    }

    /// Whether it has ended so often lately that it is a problem even while it is up.
    pub(crate) fn is_flapping(&self, now: Instant) -> bool {
        self.row.is_some_and(|row| row.count >= FLAPPING && now.saturating_duration_since(row.last) < ROW)
    }
}

/// An end as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// How its process ended.
    pub(crate) exit: Exit,
    /// When it was reaped.
    pub(crate) at: Moment,
    /// How long it ran.
    pub(crate) ran: Duration,
    /// Whether somebody had asked for it.
    pub(crate) asked: bool,
    /// Why it could not be started, or was ended.
    pub(crate) reason: Option<String>,
    /// The last line that it wrote.
    pub(crate) last_line: Option<String>,
}

/// The last ends of one child, whoever asked for them.
#[derive(Debug, Default)]
pub(crate) struct LastEnds(VecDeque<End>);

impl LastEnds {
    /// It ended once more.
    pub(crate) fn push(&mut self, end: End) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        let last_line = end.last_line.map(|line| clipped(&line, LINE));
        self.0.push_back(End { last_line, ..end });
    }

    /// Those that are kept, the newest last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &End> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ends_are_kept_and_the_newest_is_last() {
        let mut ends = LastEnds::default();
        for code in 0..25 {
            ends.push(End {
                exit: Exit::Code(code),
                at: Moment::now(),
                ran: Duration::ZERO,
                asked: false,
                reason: None,
                last_line: Some("x".repeat(1000)),
            });
        }
        let codes: Vec<Exit> = ends.iter().map(|end| end.exit).collect();
        assert_eq!(codes, (15..25).map(Exit::Code).collect::<Vec<_>>());
        assert!(ends.iter().all(|end| end.last_line.as_ref().is_some_and(|line| line.len() == LINE + 3)));
    }

    #[test]
    fn ends_in_a_row_are_counted_with_their_time() {
        let start = Instant::now();
        let mut ends = Ends::default();
        ends.ended(start, None);
        assert_eq!(ends.times(), "");
        (1..7).for_each(|n| ends.ended(start + Duration::from_secs(2 * n), None));
        assert_eq!(ends.times(), ", 7 times in 12 s");
        assert!(ends.is_flapping(start + Duration::from_secs(13)));
        assert!(!ends.is_flapping(start + Duration::from_secs(72)));
        ends.ended(start + Duration::from_secs(72), None);
        assert_eq!(ends.times(), "");
        ends.ended(start + Duration::from_secs(72), None);
        assert_eq!(ends.times(), ", 2 times in 1 s");
        ends.forgive();
        assert_eq!(ends.times(), "");
    }

    #[test]
    fn a_long_last_line_is_cut_between_letters() {
        let mut ends = Ends::default();
        assert_eq!(ends.last_line(), "");
        ends.wrote(Some("é".repeat(LINE)));
        assert_eq!(ends.last_line(), format!("; its last line: \"{}\"", "é".repeat(LINE)));
        ends.wrote(Some("é".repeat(LINE + 1)));
        assert_eq!(ends.last_line(), format!("; its last line: \"{}...\"", "é".repeat(LINE)));
        ends.wrote(None);
        assert_eq!(ends.last_line(), "");
    }
}
