//! From the bytes of a child's log pipe to lines.

/// The longest line, in bytes; a longer one comes in parts. With time, name and
/// process id before it an entry is within the 8 KiB that rsyslog takes of one
/// (rsyslog's global option maxMessageSize), and cuts without a word.
pub const LONGEST: usize = 7 * 1024;

/// Cuts what a child wrote into lines, whichever way its bytes arrive.
#[derive(Debug, Default)]
pub struct LineSplitter {
    /// The beginning of a line whose end has not come: at most [`LONGEST`] bytes.
    held: Vec<u8>,
}

impl LineSplitter {
    /// Takes what was read, and hands on each whole line without its newline,
    /// and a line above 7 KiB in parts of that length.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let (mut text, ended) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            while self.held.len() + text.len() > LONGEST {
                let (part, rest) = text.split_at(LONGEST - self.held.len());
                self.held.extend_from_slice(part);
                each(&self.held);
                self.held.clear();
                text = rest;
            }
            self.held.extend_from_slice(text);
            if ended {
                each(&self.held);
                self.held.clear();
            }
        }
    }

    /// The pipe has ended: hands on what came after the last newline.
    pub fn finish(&mut self, mut each: impl FnMut(&[u8])) {
        if !self.held.is_empty() {
            each(&self.held);
            self.held.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines_of(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for piece in pieces {
            splitter.feed(piece, |line| lines.push(line.to_vec()));
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        assert_eq!(lines_of(&[b"one\ntw", b"o\n", b"\nrest"]), [&b"one"[..], b"two", b"", b"rest"]);
    }

    #[test]
    fn nothing_gives_nothing() {
        assert!(lines_of(&[]).is_empty());
        assert!(lines_of(&[b""]).is_empty());
    }

    #[test]
    fn a_line_of_the_longest_length_is_one_line() {
        let mut line = vec![b'x'; LONGEST];
        line.push(b'\n');
        assert_eq!(lines_of(&[&line]).len(), 1);
    }

    #[test]
    fn an_endless_line_comes_in_parts_and_takes_bounded_memory() {
        let mut splitter = LineSplitter::default();
        let mut got = 0;
        for _ in 0..1000 {
            splitter.feed(&[b'x'; 1000], |part| {
                assert_eq!(part.len(), LONGEST);
                got += part.len();
            });
            assert!(splitter.held.len() <= LONGEST);
        }
        splitter.finish(|part| got += part.len());
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
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(lines_of(&pieces), lines_of(&[&bytes]));
        }
    }
}
