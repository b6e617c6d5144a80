//! Finds out how much of a promised batch is in a file.

use crate::link::intent::Promise;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;

/// The most bytes of another process that may come before a batch: bytes that it wrote
/// between this process's check of the file's length and its write.
const OTHERS: u64 = 1 << 20;

/// How much of a batch a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// Its first `done` bytes are at that offset. They are all of it, or the end of the
    /// file follows, so that the rest can be appended.
    Begun {
        /// The offset.
        at: u64,
        /// How many bytes.
        done: u64,
    },
    /// At least its first line is at that offset, and something else follows.
    Broken {
        /// The offset.
        at: u64,
    },
    /// No line of it.
    Nothing,
}

/// Looks for a batch at the beginning of each line, from where it was promised on.
///
/// # Errors
/// From fstat(2) and pread(2).
pub fn look(file: &File, promise: &Promise, body: &[u8]) -> io::Result<There> {
    let len = file.metadata()?.len();
    if len < promise.offset {
        return Ok(There::Nothing);
    }
    // The newline before the batch is part of the pattern.
    let from = promise.offset.saturating_sub(1);
    let most = (body.len() as u64).saturating_add(OTHERS);
    let mut text = if promise.offset == 0 { vec![b'\n'] } else { Vec::new() };
    let before = text.len() as u64;
    Reading(file, from).take(most).read_to_end(&mut text)?;
    let ends = from + (text.len() as u64 - before) >= len;
    Ok(match find(&text, body, ends) {
        There::Begun { at, done } => There::Begun { at: from + at + 1 - before, done },
        There::Broken { at } => There::Broken { at: from + at + 1 - before },
        There::Nothing => There::Nothing,
    })
}

/// Does that in bytes that begin with the one before the batch. Offsets are those of the
/// newlines before a line. `ends` means that the file has no more bytes.
fn find(text: &[u8], body: &[u8], ends: bool) -> There {
    let line = memchr::memchr(b'\n', body).map_or(body.len(), |at| at + 1);
    let mut matcher = Matcher::new(body);
    let mut broken = None;
    for (at, &byte) in text.iter().enumerate() {
        let matched = matcher.next(byte);
        let newline = (at + 1).saturating_sub(matched) as u64;
        if matched == body.len() + 1 {
            return There::Begun { at: newline, done: body.len() as u64 };
        }
        if matched > line && broken.is_none() {
            broken = Some(newline);
        }
    }
    let matched = matcher.matched;
    match broken {
        Some(at) if !ends || matched <= line => There::Broken { at },
        _ if ends && matched > 0 => There::Begun { at: (text.len() - matched) as u64, done: matched as u64 - 1 },
        _ => There::Nothing,
    }
}

/// Finds a newline followed by a batch, in one pass, whatever the bytes are
/// (Knuth, Morris, Pratt).
struct Matcher<'a> {
    body: &'a [u8],
    /// For each prefix of the pattern, the length of the longest shorter prefix that it ends
    /// with.
    shorter: Vec<usize>,
    /// The length of the longest prefix that the bytes so far end with.
    matched: usize,
}

impl Matcher<'_> {
    fn new(body: &[u8]) -> Matcher<'_> {
        let mut matcher = Matcher { body, shorter: vec![0, 0], matched: 0 };
        for &byte in body {
            let matched = matcher.next(byte);
            matcher.shorter.push(matched);
        }
        matcher.matched = 0;
        matcher
    }

    fn next(&mut self, byte: u8) -> usize {
        while !self.follows(byte) && self.matched > 0 {
            self.matched = self.shorter[self.matched];
        }
        self.matched += usize::from(self.follows(byte));
        self.matched
    }

    fn follows(&self, byte: u8) -> bool {
        match self.matched {
            0 => byte == b'\n',
            n => self.body.get(n - 1) == Some(&byte),
        }
    }
}

/// Reads a file from an offset on.
struct Reading<'a>(&'a File, u64);

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, self.1) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(n) => {
                    self.1 += n as u64;
                    return Ok(n);
                }
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::intent::FileId;
    use proptest::prelude::*;

    fn look_in(text: &[u8], offset: u64, body: &[u8]) -> There {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, text).unwrap();
        let promise = Promise { batch: 1, file: FileId { device: 1, inode: 2 }, offset, length: body.len() as u64 };
        look(&File::open(path).unwrap(), &promise, body).unwrap()
    }

    #[test]
    fn a_batch_is_found_after_what_another_process_wrote() {
        let begun = |at, done| There::Begun { at, done };
        for (text, expected) in [
            ("one\n", begun(4, 0)),
            ("one\nfir", begun(4, 3)),
            ("one\nfirst\nsec", begun(4, 9)),
            ("one\nfirst\nsecond\n", begun(4, 13)),
            ("one\nfirst\nsecond\nodd\n", begun(4, 13)),
            ("one\nodd\n", begun(8, 0)),
            ("one\nodd\nfir", begun(8, 3)),
            ("one\nodd\nfirst\nsecond\nodd", begun(8, 13)),
            ("one\nfirst\nfirst\nsecond\n", begun(10, 13)),
            ("one\nfirst\nodd\n", There::Broken { at: 4 }),
            ("one\nodd\nfirst\nsecoodd\n", There::Broken { at: 8 }),
            ("one\nfirodd\n", begun(11, 0)),
            ("one\nodd", There::Nothing),
            ("one", There::Nothing),
            ("on", There::Nothing),
        ] {
            assert_eq!(look_in(text.as_bytes(), 4, b"first\nsecond\n"), expected, "{text:?}");
        }
        assert_eq!(look_in(b"", 0, b"first\n"), begun(0, 0));
        assert_eq!(look_in(b"fi", 0, b"first\n"), begun(0, 2));
        assert_eq!(look_in(b"odd\nfi", 0, b"first\n"), begun(4, 2));
    }

    #[test]
    fn it_is_found_after_at_most_so_many_other_bytes() {
        let others = vec![b'\n'; OTHERS as usize];
        let found = |more: &[u8]| look_in(&[&others, more, b"first\n", &[b'\n'; 99]].concat(), 0, b"first\n");
        assert_eq!(found(b""), There::Begun { at: OTHERS, done: 6 });
        assert_eq!(found(b"\n"), There::Nothing);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_comparison_at_each_line(text in "[a\n]{0,30}", body in "[a\n]{0,8}\n") {
            let (text, body) = (["\n", &text].concat().into_bytes(), body.as_bytes());
            let rests = || memchr::memchr_iter(b'\n', &text).map(|at| (at as u64, &text[at + 1..]));
            let whole = rests().find(|(_, rest)| rest.starts_with(body));
            let begun = rests().find(|(_, rest)| body.starts_with(rest));
            let line = body.split_inclusive(|&byte| byte == b'\n').next().unwrap();
            let broken = rests().find(|(_, rest)| rest.starts_with(line));
            let expected = match (whole, begun, broken) {
                (Some((at, _)), _, _) => There::Begun { at, done: body.len() as u64 },
                (_, Some((at, rest)), None) => There::Begun { at, done: rest.len() as u64 },
                (_, Some((at, rest)), _) if rest.len() >= line.len() => There::Begun { at, done: rest.len() as u64 },
                (_, _, Some((at, _))) => There::Broken { at },
                (None, None, None) => There::Nothing,
            };
            prop_assert_eq!(find(&text, body, true), expected);
        }
    }
}
