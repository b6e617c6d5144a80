//! What children write to the log: each line, in order, as text that can
//! forge no entry and steer no terminal.

use super::{Verdict, hold, is_one_line};
use plumbd::journal::{LONGEST, LineSplitter, escaped_parts};

/// plumbd's own.
pub fn target(bytes: &[u8]) -> Verdict {
    look(bytes, escaped_parts)
}

/// `escape`: a line as text, in parts. The first byte says how the rest is cut.
pub fn look(bytes: &[u8], escape: fn(&[u8]) -> Vec<String>) -> Verdict {
    let Some((&how, bytes)) = bytes.split_first() else {
        return Ok(());
    };
    let expected = lines(bytes);
    let mut got: Vec<Vec<u8>> = Vec::new();
    let mut splitter = LineSplitter::default();
    for piece in bytes.chunks(1 + usize::from(how)) {
        splitter.feed(piece, |line| got.push(line.to_vec()));
    }
    splitter.finish(|line| got.push(line.to_vec()));
    hold!(got == expected, "{} lines, not {}", got.len(), expected.len());
    for line in &got {
        let parts = escape(line);
        hold!(!parts.is_empty(), "a line is left out");
        hold!(parts.iter().all(|part| part.len() <= LONGEST), "an entry is longer than {LONGEST} bytes");
        hold!(parts.iter().all(|part| is_one_line(part)), "{parts:?}");
    }
    Ok(())
}

/// The same by the words of the manual: lines, and long ones in parts.
fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (line, next) = match rest.iter().position(|&byte| byte == b'\n') {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        let parts = line.chunks(LONGEST).map(<[u8]>::to_vec);
        lines.extend(parts);
        if line.is_empty() {
            lines.push(Vec::new());
        }
        rest = next;
    }
    lines
}
