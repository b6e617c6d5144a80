//! What children write to the log: each line, in order, as text that can't
//! forge an entry or control a terminal.

use super::{Verdict, hold, is_one_line};
use plumbd::journal::{LONGEST, LineSplitter, Piece, escaped_parts};

/// Tries plumbd's own function.
pub fn target(bytes: &[u8]) -> Verdict {
    look(bytes, escaped_parts)
}

/// Tries bytes. `escape` turns a line into text, in parts. The first byte decides how the rest is
/// cut.
pub fn look(bytes: &[u8], escape: fn(&[u8]) -> Vec<String>) -> Verdict {
    let Some((&how, bytes)) = bytes.split_first() else {
        return Ok(());
    };
    let expected = lines(bytes);
    let mut got: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    let mut torn = false;
    let mut splitter = LineSplitter::default();
    let mut take = |piece: Piece<'_>| {
        match got.last_mut().filter(|_| piece.continues()) {
            Some((priority, line)) if *priority == piece.priority() => {
                let apart = text_of(line) + &text_of(piece.text());
                line.extend_from_slice(piece.text());
                torn |= apart != text_of(line);
            }
            _ => got.push((piece.priority(), piece.text().to_vec())),
        }
        pieces.push(piece.text().to_vec());
    };
    for (place, part) in bytes.chunks(1 + usize::from(how)).enumerate() {
        splitter.feed(part, &mut take);
        // A child may pause anywhere.
        if place % 3 == 0 {
            splitter.pause(&mut take);
        }
    }
    splitter.finish(&mut take);
    hold!(got == expected, "{} lines, not {}", got.len(), expected.len());
    hold!(!torn, "a character is cut");
    for piece in &pieces {
        hold!(piece.len() <= LONGEST, "a piece is longer than {LONGEST} bytes");
        let parts = escape(piece);
        hold!(!parts.is_empty(), "a line is left out");
        hold!(parts.iter().all(|part| part.len() <= LONGEST), "an entry is longer than {LONGEST} bytes");
        hold!(parts.iter().all(|part| is_one_line(part)), "{parts:?}");
    }
    Ok(())
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the manual demands: the lines, each with the priority that it begins with.
fn lines(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let ended = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    let lines = ended.split(|&byte| byte == b'\n').map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line {
            [b'<', digit @ b'0'..=b'7', b'>', text @ ..] => (digit - b'0', text.to_vec()),
            _ => (6, line.to_vec()),
        }
    });
    lines.collect()
}
