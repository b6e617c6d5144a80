//! The table: plumbd's figures, the figures beside them, and whether the targets are reached.

use std::fmt::Write;
use std::time::Duration;

const HEADS: [&str; 7] = ["what", "plumbd", "beside it", "its figure", "ratio (least to most)", "to reach", "reached"];

/// The result of a row of `--list`.
#[derive(Default)]
pub(crate) struct Part {
    /// A line for above the table.
    pub(crate) head: Option<String>,
    pub(crate) lines: Vec<Line>,
    /// Notes that explain the lines.
    pub(crate) notes: Vec<String>,
    pub(crate) charts: Vec<crate::chart::Chart>,
}

/// A line of the table.
#[derive(Default)]
pub(crate) struct Line {
    what: String,
    plumbd: String,
    beside: String,
    theirs: String,
    ratio: String,
    wanted: String,
    reached: Option<bool>,
}

/// The target for plumbd's figure divided by the other one.
#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
    /// No target; for information.
    Nothing,
}

impl Line {
    /// Compares figures from the same rounds.
    pub(crate) fn compare(
        what: &str,
        ours: &[f64],
        beside: &str,
        theirs: &[f64],
        unit: fn(f64) -> String,
        wanted: Wanted,
    ) -> Line {
        // Two zeros are equal.
        let divide = |(ours, theirs): (&f64, &f64)| if ours == theirs { 1.0 } else { ours / theirs };
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(divide).collect();
        let ratio = median(&ratios);
        let (wanted, reached) = match wanted {
            Wanted::AtLeast(least) => (format!("at least {least}"), Some(ratio >= least)),
            Wanted::AtMost(most) => (format!("at most {most}"), Some(ratio <= most)),
            Wanted::Nothing => (String::new(), None),
        };
        Line {
            what: what.to_owned(),
            plumbd: unit(median(ours)),
            beside: beside.to_owned(),
            theirs: unit(median(theirs)),
            ratio: spread(&ratios),
            wanted,
            reached,
        }
    }

    /// A figure of plumbd alone that should be at most `most`.
    pub(crate) fn at_most(what: &str, figure: f64, most: f64, unit: fn(f64) -> String) -> Line {
        let (plumbd, wanted) = (unit(figure), format!("at most {}", unit(most)));
        Line { what: what.to_owned(), plumbd, wanted, reached: Some(figure <= most), ..Line::default() }
    }

    /// A figure of plumbd alone, for information.
    pub(crate) fn figure(what: &str, figure: String) -> Line {
        Line { what: what.to_owned(), plumbd: figure, ..Line::default() }
    }

    /// A line that can't be measured here, and why.
    pub(crate) fn left_out(what: &str, beside: &str, why: &str) -> Line {
        // The whole reason is on standard error.
        let theirs = why.lines().next().unwrap_or_default().chars().take(60).collect();
        let (what, beside) = (what.to_owned(), beside.to_owned());
        Line { what, beside, theirs, ..Line::default() }
    }

    /// Adds another target.
    pub(crate) fn and(mut self, wanted: &str, reached: bool) -> Line {
        self.wanted = if self.wanted.is_empty() { wanted.to_owned() } else { format!("{}; {wanted}", self.wanted) };
        self.reached = Some(self.reached.unwrap_or(true) && reached);
        self
    }

    /// Whether the target is reached.
    pub(crate) fn reaches(&self) -> bool {
        self.reached == Some(true)
    }

    /// Whether the target is missed.
    pub(crate) fn falls_short(&self) -> bool {
        self.reached == Some(false)
    }

    fn cells(&self) -> [String; 7] {
        let reached = self.reached.map_or("", |yes| if yes { "yes" } else { "**no**" });
        let texts = [&self.what, &self.plumbd, &self.beside, &self.theirs, &self.ratio, &self.wanted];
        let [what, plumbd, beside, theirs, ratio, wanted] = texts.map(|text| text.replace('|', "\\|"));
        [what, plumbd, beside, theirs, ratio, wanted, reached.to_owned()]
    }
}

/// Aligned columns, which are also a table in Markdown.
pub(crate) fn render<'a>(lines: impl Iterator<Item = &'a Line>) -> String {
    let rows: Vec<[String; 7]> = std::iter::once(HEADS.map(str::to_owned)).chain(lines.map(Line::cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String can't fail.
            let _infallible = write!(text, "| {cell:<width$} ");
        }
        text += "|\n";
        if number == 0 {
            widths.iter().for_each(|width| text += &format!("|{}", "-".repeat(width + 2)));
            text += "|\n";
        }
    }
    text
}

/// The median; the lower one if there are two in the middle, zero if there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// `0.83 (0.81 to 0.84)`: the median, the least and the most; a single one alone.
fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (middle, least, most) = (short(median(values)), short(least), short(most));
    if values.len() > 1 { format!("{middle} ({least} to {most})") } else { middle }
}

/// Two decimal places for small numbers, none for large ones.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// `131 k/s`.
pub(crate) fn a_second(rate: f64) -> String {
    if rate >= 10_000.0 { format!("{:.0} k/s", rate / 1000.0) } else { format!("{rate:.0} /s") }
}

/// `512 MiB/s`, of bytes a second.
pub(crate) fn mebibytes_a_second(rate: f64) -> String {
    format!("{} MiB/s", short(rate / f64::from(1 << 20)))
}

/// `1.5 ms`, of seconds.
pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        ..0.001 => format!("{} us", short(seconds * 1e6)),
        ..1.0 => format!("{} ms", short(seconds * 1e3)),
        _ => format!("{} s", short(seconds)),
    }
}

/// `3.1 MiB`, of bytes.
pub(crate) fn size(bytes: f64) -> String {
    match bytes {
        ..1024.0 => format!("{bytes:.0} B"),
        ..1_048_576.0 => format!("{} KiB", short(bytes / 1024.0)),
        _ => format!("{} MiB", short(bytes / 1_048_576.0)),
    }
}

/// Seconds.
pub(crate) fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
