//! Turns the bytes of a child's log pipe into lines, and pieces of lines.

use super::entry::{Priority, priority_of};

/// The longest piece of a line, in bytes; a longer line comes in pieces. Even with
/// time, name and process id before it, an entry stays within the 8 KiB at which rsyslog
/// silently cuts one (rsyslog's global option maxMessageSize).
pub const LONGEST: usize = 7 * 1024;

/// A line, or a piece of one, without its newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The priority of the whole line, from its beginning.
    pub(super) priority: Priority,
    pub(super) text: &'a [u8],
    pub(super) continues: bool,
}

impl<'a> Piece<'a> {
    /// What is logged, without the priority.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// Whether the line began in a piece before this one.
    pub fn continues(&self) -> bool {
        self.continues
    }

    /// Its priority, numbered as in sd-daemon(3).
    pub fn priority(&self) -> u8 {
        self.priority.number()
    }
}

/// Cuts what a child wrote into lines, however its bytes arrive.
///
/// Only the beginning of a line can set its priority: bytes in further pieces
/// may come from anyone.
#[derive(Debug, Default)]
pub struct LineSplitter {
    /// The part of an unfinished line that has not been handed on: at most
    /// [`LONGEST`] bytes.
    held: Vec<u8>,
    /// The priority of an unfinished line whose beginning was handed on.
    begun: Option<Priority>,
}

impl LineSplitter {
    /// Takes what was read, and hands on each whole line. A line above 7 KiB is handed on
    /// in pieces, cut between characters.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Piece<'_>)) {
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            let (mut text, ended) = match line.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (line, false),
            };
            while self.held.len() + text.len() > LONGEST {
                let (part, rest) = text.split_at(LONGEST - self.held.len());
                self.held.extend_from_slice(part);
                self.hand_on(cut_at(&self.held), &mut each);
                text = rest;
            }
            self.held.extend_from_slice(text);
            if ended {
                self.end(&mut each);
            }
        }
    }

    /// Hands on what came after the last newline, because the pipe has ended.
    pub fn finish(&mut self, mut each: impl FnMut(Piece<'_>)) {
        if !self.held.is_empty() {
            self.end(&mut each);
        }
        self.begun = None;
    }

    /// Hands on an unfinished line, such as a prompt that waits for an answer, because
    /// nothing has come for a while. The rest will be a piece that continues it.
    pub fn pause(&mut self, mut each: impl FnMut(Piece<'_>)) {
        let whole = cut_at(&self.held);
        // A priority alone, or what may become one, is not text yet.
        let is_priority = matches!(self.held[..whole], [b'<'] | [b'<', b'0'..=b'7'] | [b'<', b'0'..=b'7', b'>']);
        if whole > 0 && (self.begun.is_some() || !is_priority) {
            self.hand_on(whole, &mut each);
        }
    }

    /// Whether it holds an unfinished line.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    fn end(&mut self, each: &mut impl FnMut(Piece<'_>)) {
        let length = self.held.strip_suffix(b"\r").unwrap_or(&self.held).len();
        // An empty line is handed on; an empty rest of a line is not.
        if length > 0 || self.begun.is_none() {
            self.hand_on(length, each);
        }
        self.held.clear();
        self.begun = None;
    }

    fn hand_on(&mut self, length: usize, each: &mut impl FnMut(Piece<'_>)) {
        let text = &self.held[..length];
        let (priority, text) = self.begun.map_or_else(|| priority_of(text), |priority| (priority, text));
        each(Piece { priority, text, continues: self.begun.is_some() });
        self.begun = Some(priority);
        self.held.drain(..length);
    }
}

/// How many of these bytes of a line can be handed on before the rest arrives: the
/// last ones may be the beginning of a character (RFC 3629), or of the line's end.
fn cut_at(bytes: &[u8]) -> usize {
    if bytes.ends_with(b"\r") {
        return bytes.len() - 1;
    }
    let is_first = |byte: &u8| !matches!(byte, 0x80..=0xbf);
    let Some(back) = bytes.iter().rev().take(3).position(is_first).map(|place| place + 1) else {
        return bytes.len();
    };
    let length = match bytes[bytes.len() - back] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    if length > back { bytes.len() - back } else { bytes.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Seen = (u8, String, bool);

    fn seen(piece: Piece<'_>) -> Seen {
        (piece.priority(), String::from_utf8_lossy(piece.text()).into_owned(), piece.continues())
    }

    fn pieces_of(parts: &[&[u8]]) -> Vec<Seen> {
        let mut splitter = LineSplitter::default();
        let mut pieces = Vec::new();
        for part in parts {
            splitter.feed(part, |piece| pieces.push(seen(piece)));
        }
        splitter.finish(|piece| pieces.push(seen(piece)));
        pieces
    }

    fn lines_of(parts: &[&[u8]]) -> Vec<String> {
        pieces_of(parts).into_iter().map(|(_, text, _)| text).collect()
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        assert_eq!(lines_of(&[b"one\ntw", b"o\r\n", b"\nrest"]), ["one", "two", "", "rest"]);
    }

    #[test]
    fn nothing_gives_nothing() {
        assert!(lines_of(&[]).is_empty());
        assert!(lines_of(&[b""]).is_empty());
    }

    #[test]
    fn a_line_of_the_longest_length_is_one_line() {
        let mut line = vec![b'x'; LONGEST];
        line.extend_from_slice(b"\r\n");
        assert_eq!(lines_of(&[&line]), ["x".repeat(LONGEST)]);
    }

    #[test]
    fn the_priority_at_the_beginning_of_a_line_holds_for_all_its_pieces() {
        let (a, c) = ("a".repeat(LONGEST - 3), "c".repeat(LONGEST - 3));
        let text = format!("<3>{a}<0>more\n<6>{c}<0>forged\n{}<1>\n<2>next\n", "p".repeat(LONGEST));
        assert_eq!(
            pieces_of(&[text.as_bytes()]),
            [
                (3, a, false),
                (3, "<0>more".to_owned(), true),
                (6, c, false),
                (6, "<0>forged".to_owned(), true),
                (6, "p".repeat(LONGEST), false),
                (6, "<1>".to_owned(), true),
                (2, "next".to_owned(), false),
            ]
        );
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        for letter in ["\u{e9}", "\u{20ac}", "\u{1f600}"] {
            for before in 0..5 {
                let line = "x".repeat(before) + &letter.repeat(2 * LONGEST / letter.len());
                let pieces = lines_of(&[line.as_bytes()]);
                assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}') && piece.len() <= LONGEST));
                assert_eq!(pieces.concat(), line);
                assert!(pieces[0].len() > LONGEST - letter.len(), "{before}");
            }
        }
    }

    #[test]
    fn invalid_utf8_is_cut_anywhere_and_loses_nothing() {
        for byte in [0x80, 0xbf, 0xc0, 0xf4, 0xff] {
            let mut splitter = LineSplitter::default();
            let mut got = 0;
            splitter.feed(&vec![byte; 3 * LONGEST], |piece| got += piece.text().len());
            splitter.finish(|piece| got += piece.text().len());
            assert_eq!(got, 3 * LONGEST, "{byte:x}");
        }
    }

    #[test]
    fn after_a_pause_an_unfinished_line_is_handed_on_and_the_rest_continues_it() {
        let mut splitter = LineSplitter::default();
        let mut pieces = Vec::new();
        splitter.feed(b"<4>passphrase: ", |piece| pieces.push(seen(piece)));
        assert!(pieces.is_empty() && splitter.holds());
        splitter.pause(|piece| pieces.push(seen(piece)));
        assert!(!splitter.holds());
        splitter.pause(|piece| pieces.push(seen(piece)));
        splitter.feed(b"<0>ok\nnext\n", |piece| pieces.push(seen(piece)));
        let (prompt, rest) = ((4, "passphrase: ".to_owned(), false), (4, "<0>ok".to_owned(), true));
        assert_eq!(pieces, [prompt, rest, (6, "next".to_owned(), false)]);
    }

    #[test]
    fn an_empty_rest_after_a_prompt_is_not_a_line() {
        for rest in [&b"\n"[..], b"\r\n", b""] {
            let mut splitter = LineSplitter::default();
            let mut pieces = Vec::new();
            splitter.feed(b"? ", |piece| pieces.push(seen(piece)));
            splitter.pause(|piece| pieces.push(seen(piece)));
            splitter.feed(rest, |piece| pieces.push(seen(piece)));
            splitter.finish(|piece| pieces.push(seen(piece)));
            splitter.feed(b"<3>new\n", |piece| pieces.push(seen(piece)));
            assert_eq!(pieces, [(6, "? ".to_owned(), false), (3, "new".to_owned(), false)], "{rest:?}");
        }
    }

    #[test]
    fn a_pause_cuts_no_character_and_no_priority() {
        for half in [&b"<"[..], b"<3", b"<3>", b"\xe2", b"\xe2\x82", b"<3>\xe2", b"<3>\xe2\x82", b"<3>\r", b"<\r"] {
            let mut splitter = LineSplitter::default();
            splitter.feed(half, |piece| panic!("{piece:?}"));
            splitter.pause(|piece| panic!("{piece:?}"));
            assert!(splitter.holds());
        }
        let mut splitter = LineSplitter::default();
        splitter.feed(b"<3>\xe2", |piece| panic!("{piece:?}"));
        splitter.pause(|piece| panic!("{piece:?}"));
        splitter.feed(b"\x82\xac ? ", |piece| panic!("{piece:?}"));
        splitter.pause(|piece| assert_eq!(seen(piece), (3, "€ ? ".to_owned(), false)));
        assert!(!splitter.holds());
        let mut splitter = LineSplitter::default();
        splitter.feed("5 €".as_bytes().split_last().unwrap().1, |piece| panic!("{piece:?}"));
        splitter.pause(|piece| assert_eq!(piece.text(), b"5 "));
        splitter.feed(b"\xac\n", |piece| assert_eq!(piece.text(), "€".as_bytes()));
    }

    #[test]
    fn an_endless_line_comes_in_pieces_and_takes_bounded_memory() {
        let mut splitter = LineSplitter::default();
        let mut got = 0;
        for _ in 0..1000 {
            splitter.feed(&[b'x'; 1000], |piece| {
                assert_eq!(piece.text().len(), LONGEST);
                got += piece.text().len();
            });
            assert!(splitter.held.len() <= LONGEST);
        }
        splitter.finish(|piece| got += piece.text().len());
        assert_eq!(got, 1_000_000);
    }

    proptest! {
        #[test]
        fn the_same_lines_however_the_bytes_are_split(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..2000),
            at in prop::collection::vec(0usize..2000, 0..10),
        ) {
            let mut cuts: Vec<usize> = at.into_iter().map(|n| n.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(pieces_of(&parts), pieces_of(&[&bytes]));
        }
    }
}
