//! The outcome of kills, in numbers.

use super::halves::Halves;
use crate::load::checker::Verdict;
use crate::load::generator::Connection;
use crate::trial::{Tried, add};

/// Sums over any number of message files.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// A kill of several processes at once counts as one.
    pub(crate) kills: u64,
    /// Kills after which the file ended within a line.
    pub(crate) within_a_line: u64,
    /// Kills that came while the operation that they should disturb was still under way.
    pub(crate) in_time: u64,
    /// What ordinary programs wrote whose writes end within lines.
    pub(crate) halves: Halves,
    /// Rotated files.
    pub(crate) rotated: u64,
    files: u64,
    connections: u64,
    total: Verdict,
    /// Damaged files that were given to the checker.
    pub(crate) doctored: u64,
}

impl Count {
    /// Adds a file, which must be right.
    #[track_caller]
    pub(crate) fn add(&mut self, verdict: &Verdict, connections: &[Connection], when: &str) {
        assert!(verdict.is_clean(), "{when}: {verdict}");
        let echoed: u64 = connections.iter().map(|c| u64::from(c.echoed)).sum();
        assert_eq!(verdict.echoed, echoed, "{when}: {verdict}");
        self.files += 1;
        self.connections += connections.len() as u64;
        add(&mut self.total, verdict);
    }

    /// The sum of both.
    pub(crate) fn and(mut self, other: &Count) -> Count {
        self.kills += other.kills;
        self.within_a_line += other.within_a_line;
        self.in_time += other.in_time;
        self.rotated += other.rotated;
        self.halves += other.halves;
        self.files += other.files;
        self.connections += other.connections;
        self.doctored += other.doctored;
        add(&mut self.total, &other.total);
        self
    }

    /// The result of a trial with these counts.
    pub(crate) fn tried(&self, control: &str) -> Tried {
        let mut count = format!("{} kills", self.kills);
        if self.in_time > 0 {
            count += &format!(", {} of them while it was under way", self.in_time);
        }
        if self.within_a_line > 0 {
            count += &format!(" ({} left the file within a line)", self.within_a_line);
        }
        if self.rotated > 0 {
            count += &format!(", {} rotated files", self.rotated);
        }
        let Halves { runs, bytes, gone_on, ended } = self.halves;
        if runs > 0 {
            count += &format!(", {bytes} bytes of {runs} ordinary programs that were killed within a line");
            let outcome = format!(
                "every byte once, in order: {gone_on} halves continued by the next program, {ended} ended with their link"
            );
            return Tried { count, outcome, control: control.to_owned() };
        }
        count += &format!(
            ", {} echoed messages of {} connections in {} files",
            self.total.echoed, self.connections, self.files
        );
        let mut told = control.to_owned();
        if self.doctored > 0 {
            let doctored = format!("{} damaged files: all found", self.doctored);
            told = if told.is_empty() { doctored } else { format!("{told}; {doctored}") };
        }
        Tried { count, outcome: self.total.to_string(), control: told }
    }
}
