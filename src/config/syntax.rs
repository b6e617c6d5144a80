//! Syntax: every mistake of a file in one run.
//!
//! A TOML parser that met a mistake can only guess where the next statement
//! begins, and mostly drowns the reader in what follows from a wrong guess.
//! So where a file does not parse, its statements are parsed one by one; those
//! that are wrong are told and blanked out, and the rest is read as it stands,
//! at the same places.

use std::ops::Range;
use toml::de::DeTable;

/// A mistake: where, what, and what would be right.
pub(super) type Mistake = (Range<usize>, String, String);

/// A file's text made readable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Readable {
    /// Parses, as long as the text itself; wrong statements are blank.
    pub(super) text: String,
    /// What is wrong with them.
    pub(super) mistakes: Vec<Mistake>,
}

/// So many mistakes are told; a file with more is something else than TOML.
const MAX_MISTAKES: usize = 100;
/// So many lines that look like statements may be within one, as in a string
/// of several lines.
const MAX_LINES_WITHIN: usize = 64;

/// UTF-8 of any bytes: U+FFFD stands for what is none, and is told.
pub(super) fn decode(bytes: &[u8]) -> (String, Vec<Mistake>) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let (mut text, mut mistakes) = (String::with_capacity(bytes.len()), Vec::new());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if chunk.invalid().is_empty() {
            continue;
        }
        let at = text.len();
        text.push(char::REPLACEMENT_CHARACTER);
        if mistakes.len() < MAX_MISTAKES {
            let bytes = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
            let help = "save the file as UTF-8".to_owned();
            mistakes.push((at..text.len(), format!("{bytes} is no UTF-8"), help));
        }
    }
    (text, mistakes)
}

/// Finds every mistake of syntax.
pub(super) fn readable(text: &str) -> Readable {
    let (_, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Readable { text: text.to_owned(), mistakes: Vec::new() };
    }
    let (mut blanked, mut mistakes) = blank_wrong_statements(text);
    // What is left is wrong only as a whole: a key or a table given twice.
    // A key that is given again is not taken, so the rest can be read.
    let (_, errors) = DeTable::parse_recoverable(&blanked);
    mistakes.extend(errors.iter().map(|error| mistake(text, 0, error)));
    mistakes.sort_by_key(|(span, ..)| span.start);
    mistakes.dedup();
    mistakes.truncate(MAX_MISTAKES);
    if mistakes.is_empty() {
        // The statements are right one by one and yet the file is not: tell what the parser told.
        let (_, errors) = DeTable::parse_recoverable(text);
        mistakes.extend(errors.iter().take(1).map(|error| mistake(text, 0, error)));
        blanked = blank(text);
    }
    Readable { text: blanked, mistakes }
}

/// The text with wrong statements blank, and what is wrong with them.
fn blank_wrong_statements(text: &str) -> (String, Vec<Mistake>) {
    let starts = statement_starts(text);
    let (mut out, mut mistakes) = (String::with_capacity(text.len()), Vec::new());
    // Below a header that is wrong nobody knows whose the keys are.
    let mut lost = false;
    let mut at = 0;
    while at + 1 < starts.len() {
        let (next, errors) = statement(text, &starts, at);
        let part = &text[starts[at]..starts[next]];
        let header = part.trim_start().starts_with('[');
        lost = if header { errors.is_some() } else { lost };
        out.push_str(&if errors.is_none() && !lost { part.to_owned() } else { blank(part) });
        mistakes.extend(errors);
        at = next;
        if mistakes.len() >= MAX_MISTAKES {
            out.push_str(&blank(&text[starts[at]..]));
            break;
        }
    }
    (out, mistakes)
}

/// The statement that starts at `starts[at]`: where the next one starts, and
/// its mistakes. One that only lacks its end goes on over the next starts.
fn statement(text: &str, starts: &[usize], at: usize) -> (usize, Option<Mistake>) {
    let errors_to = |next: usize| {
        let part = &text[starts[at]..starts[next]];
        let (_, errors) = DeTable::parse_recoverable(part);
        let first = errors.into_iter().min_by_key(|error| error.span().map_or(0, |span| span.start));
        first.map(|error| {
            let open = error.span().is_some_and(|span| span.start >= part.trim_end().len());
            (mistake(text, starts[at], &error), open)
        })
    };
    let Some((mistake, open)) = errors_to(at + 1) else {
        return (at + 1, None);
    };
    if open {
        let last = (at + MAX_LINES_WITHIN).min(starts.len() - 1);
        if let Some(next) = (at + 2..=last).find(|next| errors_to(*next).is_none()) {
            return (next, None);
        }
    }
    (at + 1, Some(mistake))
}

/// Where lines start that look like a statement, and the end of the text.
/// What is before the first is of the first.
fn statement_starts(text: &str) -> Vec<usize> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if at > 0 && looks_like_statement(line) {
            starts.push(at);
        }
        at += line.len();
    }
    starts.push(text.len());
    starts
}

/// `[`, or a key and `=`; or a line with neither that is no part of a list.
fn looks_like_statement(line: &str) -> bool {
    let line = line.trim();
    let word = line.trim_start_matches(|c: char| c.is_alphanumeric() || "-_.\"' \t".contains(c));
    let key = word.len() < line.len() && (word.is_empty() || word.starts_with(['=', ':']));
    line.starts_with('[') || (key && !line.ends_with(['"', '\'']) || line.contains('=') && key)
}

fn blank(part: &str) -> String {
    // As many bytes, the same lines.
    part.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// What the parser said, in words for whoever wrote the file.
fn mistake(text: &str, offset: usize, error: &toml::de::Error) -> Mistake {
    let span = error.span().unwrap_or(0..0);
    let span = span.start + offset..span.end + offset;
    let message = error.message();
    let (said, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let found = text.get(span.clone()).unwrap_or_default();
    let (what, help) = match said {
        "string values must be quoted" if found.is_empty() => {
            ("the key has no value".to_owned(), "write one after the `=`".to_owned())
        }
        "string values must be quoted" => (format!("the text {found} is not in quotes"), format!("write \"{found}\"")),
        "key with no value" => {
            ("this is no `key = value`".to_owned(), "a key is followed by `=` and its value".to_owned())
        }
        "unclosed table" => ("the header is not closed".to_owned(), "write `]` at its end".to_owned()),
        "duplicate key" => (format!("{found} is given twice"), "keep one of the two".to_owned()),
        _ => (said.to_owned(), if expected.is_empty() { String::new() } else { format!("expected {expected}") }),
    };
    (span, what, help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<(&str, String)> {
        let readable = readable(text);
        assert_eq!(readable.text.len(), text.len());
        readable.mistakes.iter().map(|(span, what, _)| (&text[span.clone()], what.clone())).collect()
    }

    #[test]
    fn every_statement_is_told_on_its_own() {
        let text = "a = \n[b]\nc = auto\nd = \"x\ne = [1, 2\nf = 1\n[g\nh = 1\n[i]\nf f\nk = 01\nm = 3\n";
        let all = told(text);
        assert_eq!(all.len(), 7, "{all:?}");
        let kept = readable(text).text;
        assert_eq!(kept.split_whitespace().collect::<Vec<_>>().join(" "), "[b] f = 1 [i] m = 3");
    }

    #[test]
    fn a_list_over_several_lines_is_one_statement() {
        assert_eq!(told("a = [\n  [1],\n  [2],\n]\nb = \"\"\"\nx = 1\n[y]\n\"\"\"\nc = oops\n").len(), 1);
    }

    #[test]
    fn what_is_given_twice_is_told() {
        assert_eq!(told("a = 1\na = 2\n[b]\nc = 1\n[b]\nd = 1\n").len(), 2);
    }

    #[test]
    fn bytes_that_are_no_text_keep_their_place() {
        let (text, mistakes) = decode(b"a = \"\xff\xfe\"\n");
        assert_eq!(text, "a = \"\u{fffd}\u{fffd}\"\n");
        assert_eq!(mistakes.iter().map(|(span, ..)| span.clone()).collect::<Vec<_>>(), [5..8, 8..11]);
    }
}
