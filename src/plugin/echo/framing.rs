//! Where a message ends. Pure: bytes in, pieces out.
//!
//! With `line`, a message ends at `\n` or `\r\n`, which is echoed but is not
//! part of the message. Furthermore:
//!
//! - an empty line is an empty message;
//! - bytes that stay without a line end for `partial_after` become a message
//!   (a *partial*). A line end that directly follows a partial completes it:
//!   it is echoed, and is not a message of its own. So neither a person who types into
//!   a raw terminal nor a prompt sent in two writes leaves empty lines;
//! - at the end of input, the rest becomes a message;
//! - a line longer than `max_message` is taken in parts. If it is UTF-8, it is cut
//!   between two characters. A line of exactly `max_message`
//!   bytes and its line end are one message.
//!
//! Except for partials, which depend on time, the pieces don't depend on how the
//! bytes were split on the way.

use super::settings::Framing;
use memchr::memchr;

/// The rule for all connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Framer {
    /// Lines, or reads as they are.
    pub(super) rule: Framing,
    /// The most bytes in a message or in a part of one; at least 1.
    pub(super) max: usize,
}

/// What is remembered about one connection between two calls.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State {
    /// How many of the remaining bytes have already been searched for a newline.
    searched: usize,
    /// Whether the last piece was a partial, which a line end would complete.
    completing: bool,
}

/// What is known about the bytes that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// More may come at any time.
    MayCome,
    /// None came for `partial_after`.
    Idle,
    /// None will come.
    End,
}

/// The kind and the length of the bytes at the head of what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// A message or the last part of one, and its line end.
    Message {
        /// Bytes of the message.
        payload: usize,
        /// Bytes of the line end: 0, 1 or 2.
        line_end: usize,
    },
    /// A part of a message, with more to come.
    Part {
        /// Bytes of the part.
        payload: usize,
    },
    /// The line end of the preceding partial.
    Completion {
        /// Its bytes: 1 or 2.
        line_end: usize,
    },
}

impl Piece {
    /// How many bytes it has, including the line end.
    pub(super) fn len(self) -> usize {
        match self {
            Piece::Message { payload, line_end } => payload + line_end,
            Piece::Part { payload } => payload,
            Piece::Completion { line_end } => line_end,
        }
    }
}

impl Framer {
    /// The most bytes that may be read at once.
    pub(super) fn most_at_once(self) -> usize {
        match self.rule {
            Framing::Read => self.max,
            Framing::Line => usize::MAX,
        }
    }

    /// The piece at the head of `left`, if it is known where it ends. The
    /// caller must remove its bytes before the next call.
    pub(super) fn next(self, left: &[u8], state: &mut State, next: Next) -> Option<Piece> {
        if left.is_empty() {
            return None;
        }
        match self.rule {
            Framing::Read => Some(Piece::Message { payload: left.len().min(self.max), line_end: 0 }),
            Framing::Line => self.line(left, state, next),
        }
    }

    fn line(self, left: &[u8], state: &mut State, next: Next) -> Option<Piece> {
        if state.completing {
            match left {
                [b'\n', ..] => return Some(completed(1, state)),
                [b'\r', b'\n', ..] => return Some(completed(2, state)),
                [b'\r'] if next == Next::MayCome => return None,
                _ => state.completing = false,
            }
        }
        // If the newline is further on, the line is too long anyway.
        let window = &left[..left.len().min(self.max + 2)];
        let newline = memchr(b'\n', &window[state.searched.min(window.len())..]).map(|at| at + state.searched);
        let content = match newline {
            Some(at) if at > 0 && left[at - 1] == b'\r' => at - 1,
            Some(at) => at,
            // This `\r` may be the first half of a line end.
            None if next == Next::MayCome && left.len() == self.max + 1 && left[self.max] == b'\r' => self.max,
            None => left.len(),
        };
        if content > self.max {
            state.searched = 0;
            return Some(Piece::Part { payload: cut(left, self.max) });
        }
        match newline {
            Some(at) => {
                state.searched = 0;
                Some(Piece::Message { payload: content, line_end: at + 1 - content })
            }
            None if next == Next::MayCome => {
                state.searched = left.len();
                None
            }
            None => {
                *state = State { searched: 0, completing: true };
                Some(Piece::Message { payload: left.len(), line_end: 0 })
            }
        }
    }
}

fn completed(line_end: usize, state: &mut State) -> Piece {
    *state = State::default();
    Piece::Completion { line_end }
}

/// Where to cut `bytes`, which are longer than `max`: at `max`, or up to three
/// bytes earlier if a UTF-8 character begins there and extends beyond `max`.
fn cut(bytes: &[u8], max: usize) -> usize {
    let character = |at: &usize| match bytes[*at] {
        0xc2..=0xdf => at + 2 > max,
        0xe0..=0xef => at + 3 > max,
        0xf0..=0xf4 => at + 4 > max,
        _ => false,
    };
    let first = max.saturating_sub(3).max(1);
    let start = (first..max).rev().find(character);
    match start {
        Some(at) if bytes[at + 1..=max].iter().all(|b| (0x80..0xc0).contains(b)) => at,
        _ => max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: Framer = Framer { rule: Framing::Line, max: 8 };

    /// A message's bytes, its line end, and whether more parts follow.
    type Got = (Vec<u8>, Vec<u8>, bool);

    /// Feeds the chunks to the framer. The flag says whether silence follows the chunk.
    fn frame(framer: Framer, chunks: &[(&[u8], bool)]) -> (Vec<Got>, Vec<u8>) {
        let (mut left, mut state, mut got, mut all) = (Vec::new(), State::default(), Vec::new(), Vec::new());
        let mut step = |left: &mut Vec<u8>, next| {
            while let Some(piece) = framer.next(left, &mut state, next) {
                let taken: Vec<u8> = left.drain(..piece.len()).collect();
                all.extend_from_slice(&taken);
                match piece {
                    Piece::Message { payload, .. } => {
                        got.push((taken[..payload].to_vec(), taken[payload..].to_vec(), false));
                    }
                    Piece::Part { .. } => got.push((taken, Vec::new(), true)),
                    Piece::Completion { .. } => got.last_mut().expect("follows a partial").1 = taken,
                }
            }
        };
        for (chunk, idle) in chunks {
            left.extend_from_slice(chunk);
            step(&mut left, Next::MayCome);
            if *idle {
                step(&mut left, Next::Idle);
            }
        }
        step(&mut left, Next::End);
        assert!(left.is_empty());
        (got, all)
    }

    fn messages(input: &[u8]) -> Vec<String> {
        frame(LINE, &[(input, false)])
            .0
            .into_iter()
            .map(|(m, _, more)| String::from_utf8(m).expect("text") + if more { "+" } else { "" })
            .collect()
    }

    #[test]
    fn a_line_ends_at_newline_or_carriage_return_newline() {
        assert_eq!(messages(b"a\nb\r\n\n\r\nc\rd\n"), ["a", "b", "", "", "c\rd"]);
    }

    #[test]
    fn the_rest_is_a_message_at_the_end() {
        assert_eq!(messages(b"a\nrest"), ["a", "rest"]);
        assert_eq!(messages(b"a\n"), ["a"]);
        assert_eq!(messages(b"a\n\r"), ["a", "\r"]);
    }

    #[test]
    fn a_line_of_the_most_bytes_is_one_message() {
        assert_eq!(messages(b"12345678\n12345678\r\n12345678"), ["12345678", "12345678", "12345678"]);
    }

    #[test]
    fn a_longer_line_is_taken_in_parts() {
        assert_eq!(messages(b"123456789\n"), ["12345678+", "9"]);
        assert_eq!(messages(b"1234567812345678\r\nx\n"), ["12345678+", "12345678", "x"]);
        assert_eq!(messages(b"12345678\rx\n"), ["12345678+", "\rx"]);
        assert_eq!(messages(b"12345678\r"), ["12345678+", "\r"]);
    }

    #[test]
    fn parts_are_cut_between_characters() {
        assert_eq!(messages("1234567\u{e9}z\n".as_bytes()), ["1234567+", "\u{e9}z"]);
        assert_eq!(messages("123456\u{e9}z\n".as_bytes()), ["123456\u{e9}+", "z"]);
        assert_eq!(messages("12345\u{1f600}\n".as_bytes()), ["12345+", "\u{1f600}"]);
        let (binary, _) = frame(LINE, &[(&[0x80; 20], false)]);
        assert_eq!(binary.iter().map(|m| m.0.len()).collect::<Vec<_>>(), [8, 8, 4]);
    }

    #[test]
    fn a_line_end_after_a_partial_completes_it() {
        let (got, _) = frame(LINE, &[(b"ab", true), (b"\r\ncd", true), (b"\r", false), (b"\n\n", false)]);
        let got: Vec<_> = got.iter().map(|(m, end, _)| (m.as_slice(), end.as_slice())).collect();
        assert_eq!(got, [(&b"ab"[..], &b"\r\n"[..]), (b"cd", b"\r\n"), (b"", b"\n")]);
    }

    #[test]
    fn more_after_a_partial_is_a_message_of_its_own() {
        let (got, _) = frame(LINE, &[(b"ab", true), (b"cd\n", false)]);
        assert_eq!(got.iter().map(|m| m.0.as_slice()).collect::<Vec<_>>(), [b"ab", b"cd"]);
    }

    /// Bytes that lines, characters and cuts are made of.
    fn input() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            4 => Just(b'a'),
            2 => Just(b'\n'),
            2 => Just(b'\r'),
            1 => prop::sample::select(&[0xc3u8, 0xa9, 0xf0, 0x9f, 0x98, 0x80, 0xff][..]),
        ];
        prop::collection::vec(byte, 0..200)
    }

    fn split<'a>(input: &'a [u8], sizes: &[(usize, bool)]) -> Vec<(&'a [u8], bool)> {
        let (mut rest, mut chunks) = (input, Vec::new());
        for (size, idle) in sizes {
            let (head, tail) = rest.split_at((*size).min(rest.len()));
            chunks.push((head, *idle));
            rest = tail;
        }
        chunks.push((rest, false));
        chunks
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(input in input(), sizes in prop::collection::vec(1usize..12, 0..60), max in 1usize..12) {
            let framer = Framer { rule: Framing::Line, max };
            let sizes: Vec<_> = sizes.into_iter().map(|n| (n, false)).collect();
            prop_assert_eq!(frame(framer, &split(&input, &sizes)), frame(framer, &[(&input, false)]));
        }

        #[test]
        fn nothing_is_lost_or_added_whatever_the_silences(
            input in input(),
            sizes in prop::collection::vec((1usize..12, any::<bool>()), 0..60),
            max in 1usize..12,
            lines in any::<bool>(),
        ) {
            let framer = Framer { rule: if lines { Framing::Line } else { Framing::Read }, max };
            let (got, all) = frame(framer, &split(&input, &sizes));
            prop_assert_eq!(&all, &input);
            let joined: Vec<u8> = got.iter().flat_map(|(m, end, _)| [m.as_slice(), end].concat()).collect();
            prop_assert_eq!(&joined, &input);
            for (message, end, more) in &got {
                prop_assert!(message.len() <= max);
                prop_assert!(!more || (end.is_empty() && !message.is_empty()));
                prop_assert!(!lines || !message.contains(&b'\n'));
            }
        }

        #[test]
        fn text_is_cut_between_characters(text in "[a\u{e9}\u{20ac}\u{1f600}]{0,60}", max in 4usize..20) {
            let framer = Framer { rule: Framing::Line, max };
            for (message, _, _) in frame(framer, &[(text.as_bytes(), false)]).0 {
                prop_assert!(String::from_utf8(message).is_ok());
            }
        }
    }
}
