//! Finds every mistake of syntax in one run.
//!
//! After a mistake, a TOML parser can only guess where the next statement begins, and if the
//! guess is wrong, it reports many mistakes that don't exist. So if a file does not parse,
//! its statements are parsed one by one. Those that are wrong are reported and blanked
//! out, and the rest is read as if they were not there.

use crate::schema::table::Span;
use toml::de::DeTable;

/// A mistake: where, what, and what would be right.
pub(super) type Mistake = (Span, String, String);

/// A file's text made readable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Readable {
    /// Text that parses and is as long as the original; wrong statements are blank.
    pub(super) text: String,
    /// What is wrong with them.
    pub(super) mistakes: Vec<Mistake>,
}

/// The most mistakes that are reported. A file with more is probably not TOML.
const MAX_MISTAKES: usize = 100;
/// The most lines in one statement that look like statements of their own, for example in
/// a string of several lines.
const MAX_LINES_WITHIN: usize = 64;

/// Any bytes as UTF-8. Bytes that are not UTF-8 become U+FFFD and are reported.
pub(super) fn decode(bytes: &[u8]) -> (String, Vec<Mistake>) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut text = String::with_capacity(bytes.len());
    let mut mistakes: Vec<Mistake> = Vec::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if chunk.invalid().is_empty() {
            continue;
        }
        let at = text.len();
        text.push(char::REPLACEMENT_CHARACTER);
        let room = mistakes.len() < MAX_MISTAKES;
        match mistakes.last_mut() {
            // Adjacent bytes are reported as one mistake.
            Some((span, ..)) if span.end == at => span.end = text.len(),
            _ if room => {
                let byte = chunk.invalid().first().copied().unwrap_or_default();
                let what = format!("the byte \\x{byte:02x} here is no UTF-8");
                mistakes.push((at..text.len(), what, "save the file as UTF-8".to_owned()));
            }
            _ => {}
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
    // What is left is wrong only as a whole: a key or a table is given twice. The second
    // one is ignored, so that the rest can be read.
    let (_, errors) = DeTable::parse_recoverable(&blanked);
    let twice: Vec<Mistake> = errors.iter().map(|error| mistake(text, 0, error)).collect();
    let bad_headers: Vec<usize> = twice
        .iter()
        .filter(|(span, ..)| in_header(text, span.start))
        .map(|(span, ..)| header_of(text, span.start))
        .collect();
    // If a table is given twice, so are its keys. Only the header is reported.
    mistakes.extend(
        twice
            .into_iter()
            .filter(|(span, ..)| in_header(text, span.start) || !bad_headers.contains(&header_of(text, span.start))),
    );
    mistakes.sort_by_key(|(span, ..)| span.start);
    mistakes.dedup();
    mistakes.truncate(MAX_MISTAKES);
    if mistakes.is_empty() {
        // Each statement is right but the file is not. Report what the parser reported.
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
    // Below a wrong header it is unknown to which table the keys belong.
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

/// Parses the statement that starts at `starts[at]`. Returns where the next one starts,
/// and its mistakes. A statement that only lacks its end extends over the next starts.
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

/// The starts of lines that look like a statement, and the end of the text. What is
/// before the first of them belongs to it.
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

/// Whether a line begins with `[` or with a key and `=`, or looks like a key that lacks its
/// `=` rather than an item of a list.
fn looks_like_statement(line: &str) -> bool {
    let line = line.trim();
    let word = line.trim_start_matches(|c: char| c.is_alphanumeric() || "-_.\"' \t".contains(c));
    let key = word.len() < line.len() && (word.is_empty() || word.starts_with(['=', ':', '[']));
    line.starts_with('[') || key && (line.contains('=') || !line.ends_with(['"', '\'']))
}

/// The start of the line of a place.
fn line_start(text: &str, at: usize) -> usize {
    memchr::memrchr(b'\n', &text.as_bytes()[..at.min(text.len())]).map_or(0, |newline| newline + 1)
}

/// Whether a place is on the line of a header.
fn in_header(text: &str, at: usize) -> bool {
    text[line_start(text, at)..].trim_start_matches([' ', '\t']).starts_with('[')
}

/// The start of the last header up to a place.
fn header_of(text: &str, at: usize) -> usize {
    let mut start = line_start(text, at);
    while start > 0 && !in_header(text, start) {
        start = line_start(text, start - 1);
    }
    start
}

fn blank(part: &str) -> String {
    // The same number of bytes, on the same lines.
    part.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// The parser's message, in words for the author of the file.
fn mistake(text: &str, offset: usize, error: &toml::de::Error) -> Mistake {
    let span = error.span().unwrap_or(0..0);
    let span = span.start + offset..span.end + offset;
    let message = error.message();
    let (said, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let found = text.get(span.clone()).unwrap_or_default();
    let closing = |what: &str| (format!("{what} is not closed"), format!("write {expected} at its end"));
    let say = |what: &str, help: &str| (what.to_owned(), help.to_owned());
    let (what, help) = match (said, found) {
        ("string values must be quoted", "") => say("the key has no value", "write one after the `=`"),
        ("string values must be quoted", found) => {
            (format!("the text {found} is not in quotes"), format!("write \"{found}\""))
        }
        ("key with no value" | "invalid key-value pair", _) => {
            say("this is no `key = value`", "write `=` between a key and its value")
        }
        ("invalid unquoted key", ":") => say("a key can't have `:` in it", "write `=` between a key and its value"),
        ("unclosed table", _) => closing("the header"),
        ("unclosed array", _) => closing("the list"),
        ("unclosed inline table", _) => closing("the table"),
        (said, "") if said.starts_with("invalid") && said.ends_with(" string") => closing("the string"),
        ("missing escaped value", _) => {
            say("this is no escape", "write \\\\ for a backslash, or put the text in single quotes")
        }
        ("duplicate key", found) if in_header(text, span.start) => {
            (format!("the table {found} is given twice"), "put its keys below one header".to_owned())
        }
        ("duplicate key", found) => (format!("{found} is given twice"), "keep one of the two".to_owned()),
        (said, _) if expected.is_empty() => (said.to_owned(), String::new()),
        (said, _) => (said.to_owned(), format!("expected {expected}")),
    };
    (span, what, help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(text: &str) -> Vec<(&str, String)> {
        let readable = readable(text);
        assert_eq!(readable.text.len(), text.len());
        readable.mistakes.iter().map(|(span, what, _)| (&text[span.clone()], what.clone())).collect()
    }

    #[test]
    fn every_wrong_statement_is_reported_on_its_own() {
        let text = "a = \n[b]\nc = auto\nd = \"x\ne = [1, 2\nf = 1\n[g\nh = 1\n[i]\nf f\nk = 01\nm = 3\n";
        let all = reported(text);
        assert_eq!(all.len(), 7, "{all:?}");
        let kept = readable(text).text;
        assert_eq!(kept.split_whitespace().collect::<Vec<_>>().join(" "), "[b] f = 1 [i] m = 3");
    }

    #[test]
    fn a_list_over_several_lines_is_one_statement() {
        assert_eq!(reported("a = [\n  [1],\n  [2],\n]\nb = \"\"\"\nx = 1\n[y]\n\"\"\"\nc = oops\n").len(), 1);
    }

    #[test]
    fn a_key_or_table_that_is_given_twice_is_reported() {
        assert_eq!(reported("a = 1\na = 2\n[b]\nc = 1\n[b]\nd = 1\n").len(), 2);
    }

    #[test]
    fn mistakes_in_the_encoding_have_the_right_place() {
        let (text, mistakes) = decode(b"a = \"\xff\xfe\"\n");
        assert_eq!(text, "a = \"\u{fffd}\u{fffd}\"\n");
        assert_eq!(mistakes.len(), 1);
        assert_eq!(mistakes[0].0, 5..11);
    }
}
