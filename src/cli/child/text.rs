//! Lines that fit the terminal and can't control it.

use crate::sys::text::plain;

/// Text is not folded narrower than this.
const NARROWEST: usize = 20;

/// A text on one line, safe for a terminal.
pub(super) fn one_line(text: &str) -> String {
    plain(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// A line as lines of at most that width, each with its newline: the first one after `first`,
/// all others after `next`. It is folded between words, or within a word that is longer than a
/// line. Without a width, it stays one line.
pub(super) fn folded(line: &str, width: Option<usize>, first: &str, next: &str) -> String {
    let width = width.map_or(usize::MAX, |width| width.max(NARROWEST));
    let (mut out, mut indent, mut rest) = (String::new(), first, line);
    loop {
        let room = width - indent.len();
        out.push_str(indent);
        let Some((end, _)) = rest.char_indices().nth(room) else {
            out.push_str(rest);
            out.push('\n');
            return out;
        };
        // The space itself needs no room.
        let space = if rest[end..].starts_with(' ') { Some(end) } else { rest[..end].rfind(' ') };
        let (line, after) = match space.filter(|&at| !rest[..at].trim().is_empty()) {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => rest.split_at(end),
        };
        out.push_str(line.trim_end());
        out.push('\n');
        (indent, rest) = (next, after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_and_controls_no_terminal() {
        assert_eq!(one_line("a\nb\tc\u{1b}[2J\u{202e}"), r"a\nb\tc\x1b[2J\xe2\x80\xae");
    }

    #[test]
    fn a_line_is_folded_between_words_and_a_long_word_within() {
        let fold = |text: &str, width| folded(text, Some(width), "> ", "    ");
        assert_eq!(fold("short", 20), "> short\n");
        assert_eq!(fold("one two three four five", 20), "> one two three four\n    five\n");
        assert_eq!(fold("one two three fours five", 20), "> one two three\n    fours five\n");
        assert_eq!(fold("012345678901234567890123456789", 20), "> 012345678901234567\n    890123456789\n");
        assert_eq!(fold("  0  0123456789012345678901234", 20), ">   0\n    0123456789012345\n    678901234\n");
        assert_eq!(fold("éééééééééééééééééé", 20), "> éééééééééééééééééé\n");
        assert_eq!(folded("one two three four five", None, "> ", ""), "> one two three four five\n");
        assert_eq!(fold("", 20), "> \n");
    }
}
