//! Messages in the bytes of a program that writes lines.

/// The most bytes of a line that is saved as one message. A longer one is saved in parts.
pub const LINE_MAX: usize = 64 * 1024;

/// A line, or a part of a long one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its bytes, without the line end (`\n` or `\r\n`).
    pub bytes: &'a [u8],
    /// Whether it is a part of a long line, and not the last part.
    pub more: bool,
    /// How many bytes it takes, including the line end.
    pub len: usize,
}

/// The line at the head of `bytes`; `None` if it is not whole yet. At the
/// end of the link (`last`), it needs no newline.
pub fn next_line(bytes: &[u8], last: bool) -> Option<Line<'_>> {
    // With room for "\r\n" after the longest line, the place where a line is cut does
    // not depend on how its bytes arrived.
    let near = &bytes[..bytes.len().min(LINE_MAX + 2)];
    let (line, len) = match memchr::memchr(b'\n', near) {
        Some(at) => (near[..at].strip_suffix(b"\r").unwrap_or(&near[..at]), at + 1),
        None if near.len() == LINE_MAX + 2 || last && !near.is_empty() => (near, near.len()),
        None => return None,
    };
    if line.len() <= LINE_MAX {
        return Some(Line { bytes: line, more: false, len });
    }
    let part = &line[..cut(line)];
    Some(Line { bytes: part, more: true, len: part.len() })
}

/// Whole lines at the head of `bytes`, at most `most` bytes of them, that can be saved just
/// as they are: each ends with `\n` alone and is no longer than [`LINE_MAX`].
/// It is faster to look through many lines at once than one by one.
pub fn same_lines(bytes: &[u8], most: usize) -> Option<&[u8]> {
    // If all lines together fit into LINE_MAX, so does each of them.
    let near = &bytes[..bytes.len().min(most).min(LINE_MAX)];
    let near = &near[..memchr::memchr(b'\r', near).unwrap_or(near.len())];
    Some(&near[..=memchr::memrchr(b'\n', near)?])
}

/// Where a part ends: at [`LINE_MAX`] or a little before it, but not inside a character.
fn cut(line: &[u8]) -> usize {
    let is_inside = |at: usize| line[at] & 0xc0 == 0x80;
    (LINE_MAX - 3..=LINE_MAX).rev().find(|&at| !is_inside(at)).unwrap_or(LINE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(mut bytes: &[u8], last: bool) -> (Vec<(Vec<u8>, bool)>, usize) {
        let mut lines = Vec::new();
        while let Some(line) = next_line(bytes, last) {
            lines.push((line.bytes.to_vec(), line.more));
            bytes = &bytes[line.len..];
        }
        (lines, bytes.len())
    }

    #[test]
    fn a_line_ends_at_lf_or_crlf() {
        let (lines, left) = all(b"one\ntwo\r\n\n\r\nthree\r", false);
        let texts: Vec<&[u8]> = lines.iter().map(|(text, _)| &text[..]).collect();
        assert_eq!((texts, left), (vec![&b"one"[..], b"two", b"", b""], 6));
        assert_eq!(all(b"three\r", true), (vec![(b"three\r".to_vec(), false)], 0));
        assert_eq!(all(b"", true), (vec![], 0));
    }

    #[test]
    fn lines_that_need_no_change_are_taken_as_they_are() {
        assert_eq!(same_lines(b"one\n\ntwo\nthree", 100), Some(&b"one\n\ntwo\n"[..]));
        assert_eq!(same_lines(b"one\ntwo\n", 7), Some(&b"one\n"[..]));
        assert_eq!(same_lines(b"one\ntwo\r\n", 100), Some(&b"one\n"[..]));
        assert_eq!(same_lines(b"two\r\none\n", 100), None);
        assert_eq!(same_lines(b"one", 100), None);
        let mut long = vec![b'x'; LINE_MAX];
        long.push(b'\n');
        assert_eq!(same_lines(&long, usize::MAX), None);
        assert_eq!(same_lines(&long[1..], usize::MAX), Some(&long[1..]));
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        for (len, end, parts) in [
            (LINE_MAX, "\n", vec![LINE_MAX]),
            (LINE_MAX, "\r\n", vec![LINE_MAX]),
            (LINE_MAX, "", vec![LINE_MAX]),
            (LINE_MAX + 1, "\n", vec![LINE_MAX, 1]),
            (LINE_MAX + 1, "\r\n", vec![LINE_MAX, 1]),
            (LINE_MAX + 1, "", vec![LINE_MAX, 1]),
            (3 * LINE_MAX, "\n", vec![LINE_MAX; 3]),
        ] {
            let mut bytes = vec![b'x'; len];
            bytes.extend_from_slice(end.as_bytes());
            let (lines, left) = all(&bytes, true);
            assert_eq!(left, 0);
            assert_eq!(lines.iter().map(|(text, _)| text.len()).collect::<Vec<_>>(), parts, "{len} {end:?}");
            assert!(lines.iter().rev().skip(1).all(|(_, more)| *more) && !lines.last().unwrap().1);
        }
        assert_eq!(next_line(&vec![b'x'; LINE_MAX + 1], false), None);
    }

    #[test]
    fn a_part_does_not_end_inside_a_character() {
        for before in 0..4 {
            let text = "x".repeat(before) + &"😀".repeat(LINE_MAX / 4 + 10);
            let part = next_line(text.as_bytes(), false).unwrap();
            assert!(part.more && part.bytes.len() > LINE_MAX - 4);
            assert!(std::str::from_utf8(part.bytes).is_ok());
        }
        let part = next_line(&[0x80; LINE_MAX + 2], false).map(|part| part.len);
        assert_eq!(part, Some(LINE_MAX));
    }

    proptest! {
        #[test]
        fn lines_taken_as_they_are_equal_lines_taken_one_by_one(bytes in prop::collection::vec(prop::sample::select(&b"a\n\r"[..]), 0..40), most in 0usize..50) {
            if let Some(lines) = same_lines(&bytes, most) {
                let (mut one_by_one, mut at) = (Vec::new(), 0);
                while at < lines.len() {
                    let line = next_line(&bytes[at..], false).expect("whole");
                    one_by_one.extend_from_slice(line.bytes);
                    one_by_one.push(b'\n');
                    at += line.len;
                }
                prop_assert_eq!(one_by_one, lines);
            }
        }

        #[test]
        fn where_lines_end_does_not_depend_on_how_bytes_arrive(
            runs in proptest::collection::vec((any::<u8>(), 0usize..70_000, "(\n|\r\n|\r)"), 0..4),
            steps in proptest::collection::vec(1usize..70_000, 1..30),
        ) {
            let mut bytes = Vec::new();
            for (byte, len, end) in runs {
                bytes.resize(bytes.len() + len, byte);
                bytes.extend_from_slice(end.as_bytes());
            }
            let mut lines = Vec::new();
            let (mut at, mut end) = (0, 0);
            for step in steps.into_iter().chain([bytes.len()]) {
                end = (end + step).min(bytes.len());
                while let Some(line) = next_line(&bytes[at..end], false) {
                    lines.push((line.bytes.to_vec(), line.more));
                    at += line.len;
                }
            }
            let (rest, left) = all(&bytes[at..], true);
            lines.extend(rest);
            prop_assert_eq!((lines, left), all(&bytes, true));
        }
    }
}
