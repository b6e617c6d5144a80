//! What is wrong with a file, where, and what would be right.

use crate::sys::text::{masked, steers};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The line, from 1; 0 if the problem is with the file as a whole.
    pub line: usize,
    /// The column, from 1, in characters.
    pub col: usize,
    /// How many characters of the line are wrong; at least 1.
    pub length: usize,
    /// What is wrong.
    pub what: String,
    /// What would be right. May be empty.
    pub help: String,
    /// If an account, a program or a folder does not exist, or not yet: the child that needs
    /// it. `None` if the file is wrong.
    pub lacking: Option<String>,
}

/// Every problem of one file, sorted by position, and the text of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems {
    /// The file's name as it was given.
    name: String,
    /// Its text, with U+FFFD in place of bytes that are not UTF-8.
    text: String,
    list: Vec<Problem>,
}

/// The most characters of a line that are shown.
const WINDOW: usize = 100;
/// How many characters before the column are shown if the line is cut.
const LEAD: usize = 30;
/// How wide a tab is shown.
const TAB: usize = 4;

impl Problems {
    /// The problems of a text. `list` may have any order.
    pub fn new(name: &str, text: &str, mut list: Vec<Problem>) -> Problems {
        list.sort_by_key(|problem| (problem.line, problem.col));
        list.dedup();
        Problems { name: name.to_owned(), text: text.to_owned(), list }
    }

    /// The problem of a file that could not be read.
    pub fn unreadable(name: &str, what: &str, help: &str) -> Problems {
        let problem =
            Problem { line: 0, col: 0, length: 0, what: what.to_owned(), help: help.to_owned(), lacking: None };
        Problems { name: name.to_owned(), text: String::new(), list: vec![problem] }
    }

    /// How many there are; at least 1.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The problems, sorted by position.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// One problem as one line: `FILE:LINE:COL: what; what would be right`.
    pub fn headline(&self, problem: &Problem) -> String {
        let name = masked(&self.name);
        let place = match problem.line {
            0 => name,
            line => format!("{name}:{line}:{}", problem.col),
        };
        let help = if problem.help.is_empty() { String::new() } else { format!("; {}", problem.help) };
        format!("{place}: {}{}", masked(&problem.what), masked(&help))
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    /// For each problem, its headline, the line, and a line of carets. There is no newline at
    /// the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.text.split('\n').collect();
        for (i, problem) in self.list.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.headline(problem))?;
            if problem.line > 0 {
                let line = lines.get(problem.line - 1).copied().unwrap_or_default();
                let (shown, carets) = excerpt(line, problem.col, problem.length);
                let number = problem.line.to_string();
                let gutter = " ".repeat(number.len());
                write!(f, "\n{}\n{gutter} | {carets}", format!("{number} | {shown}").trim_end())?;
            }
        }
        Ok(())
    }
}

/// A line as it is shown, and the carets below it.
fn excerpt(line: &str, col: usize, length: usize) -> (String, String) {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let chars: Vec<char> = line.chars().collect();
    let at = col.saturating_sub(1).min(chars.len());
    let (from, to) = if chars.len() <= WINDOW {
        (0, chars.len())
    } else {
        let from = at.saturating_sub(LEAD);
        (from, chars.len().min(from + WINDOW))
    };
    let (before, after) = (if from > 0 { "..." } else { "" }, if to < chars.len() { "..." } else { "" });
    let shown: String = chars[from..to].iter().map(|c| show(*c)).collect();
    let lead = before.len() + chars[from..at].iter().map(|c| width(*c)).sum::<usize>();
    let meant = &chars[at..to.min(at + length)];
    let carets = meant.iter().map(|c| width(*c)).sum::<usize>().max(1);
    (format!("{before}{shown}{after}"), format!("{}{}", " ".repeat(lead), "^".repeat(carets)))
}

/// A character as it is shown. Nothing in a file may control the terminal.
fn show(c: char) -> String {
    match c {
        '\t' => " ".repeat(TAB),
        c if steers(c) => '\u{fffd}'.to_string(),
        c => c.to_string(),
    }
}

/// How many columns of a terminal a character takes, by the blocks of Unicode's
/// East Asian Width and of combining marks.
fn width(c: char) -> usize {
    match c {
        '\t' => TAB,
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f64f}'
        | '\u{1f900}'..='\u{1f9ff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// Finds lines and columns in a text.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    text: &'a str,
    /// Where each line starts.
    starts: Vec<usize>,
    /// The end of the text without trailing space.
    end: usize,
}

impl<'a> Places<'a> {
    pub(crate) fn new(text: &'a str) -> Places<'a> {
        let starts = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect();
        Places { text, starts, end: text.trim_end().len() }
    }

    /// The line that a byte is on, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    /// A problem with a part of the text. If the part is past the end, the problem is shown at
    /// the end, where an editor can go; if the part has several lines, at the first of them.
    pub(crate) fn problem(&self, span: Range<usize>, what: String, help: String) -> Problem {
        let at = (0..=span.start.min(self.end)).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0);
        let line = self.line(at);
        let start = self.starts[line - 1];
        let rest = &self.text[at..];
        let rest = &rest[..memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len())];
        let rest = rest.trim_end_matches('\r');
        let bytes = span.end.saturating_sub(at);
        let length = rest.char_indices().take_while(|(i, _)| *i < bytes).count().max(1);
        Problem { line, col: self.text[start..at].chars().count() + 1, length, what, help, lacking: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, span: Range<usize>) -> String {
        let problem = Places::new(text).problem(span, "what".to_owned(), "help".to_owned());
        Problems::new("x.toml", text, vec![problem]).to_string()
    }

    #[test]
    fn carets_are_below_the_part_that_is_wrong() {
        assert_eq!(shown("a = 1\nbcd = 2\n", 6..9), "x.toml:2:1: what; help\n2 | bcd = 2\n  | ^^^");
    }

    #[test]
    fn a_tab_is_four_columns_and_one_character() {
        assert_eq!(shown("\tb = 2", 1..2), "x.toml:1:2: what; help\n1 |     b = 2\n  |     ^");
    }

    #[test]
    fn wide_characters_move_the_caret_by_two() {
        assert_eq!(shown("日本 = 2", 9..10), "x.toml:1:6: what; help\n1 | 日本 = 2\n  |        ^");
    }

    #[test]
    fn windows_line_ends_are_not_shown() {
        assert_eq!(shown("a = 1\r\nb\r\n", 4..9), "x.toml:1:5: what; help\n1 | a = 1\n  |     ^");
    }

    #[test]
    fn a_place_past_the_end_is_shown_at_the_end() {
        assert_eq!(shown("a = [\n\n", 7..7), "x.toml:1:6: what; help\n1 | a = [\n  |      ^");
        assert_eq!(shown("", 0..0), "x.toml:1:1: what; help\n1 |\n  | ^");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("a = \"{}\" {}", "x".repeat(500), "y".repeat(500));
        let out = shown(&text, 507..508);
        assert!(out.lines().all(|l| l.chars().count() < 120), "{out}");
        assert!(out.contains("..."), "{out}");
        let caret = out.lines().nth(2).unwrap().find('^').unwrap();
        assert_eq!(out.lines().nth(1).unwrap().chars().nth(caret), Some('y'));
    }

    #[test]
    fn nothing_in_a_file_steers_the_terminal() {
        let out = shown("a = \"\u{1b}[31m\u{202e}\"", 4..5);
        assert!(!out.contains('\u{1b}') && !out.contains('\u{202e}'), "{out:?}");
    }
}
