//! How a message is written as a line of text, and how to recover its bytes.
//!
//! Valid UTF-8 is kept. A backslash becomes `\\`; control characters (C0, DEL, C1)
//! and bytes that are not UTF-8 become `\xNN`, byte by byte. So no message can
//! forge a line or control a terminal, and every byte can be recovered.

use super::body::Body;

/// The most bytes that one byte can become.
pub const GROWTH: usize = 4;

/// Writes a message escaped.
pub fn escape(message: &[u8], out: &mut Body<'_>) {
    if is_plain(message) {
        return out.put(message);
    }
    for chunk in message.utf8_chunks() {
        escape_text(chunk.valid(), out);
        escape_bytes(chunk.invalid(), out);
    }
}

/// Whether it is printable ASCII without a backslash, as most messages are.
pub(super) fn is_plain(message: &[u8]) -> bool {
    // There is no branch per byte within a block, so the compiler vectorizes it.
    let plain = |&byte: &u8| (0x20..0x7f).contains(&byte) & (byte != b'\\');
    message.chunks(64).all(|block| block.iter().map(plain).fold(true, |all, one| all & one))
}

fn escape_text(text: &str, out: &mut Body<'_>) {
    let mut kept = 0;
    for (at, char) in text.char_indices() {
        let len = char.len_utf8();
        if char == '\\' {
            out.put(&text.as_bytes()[kept..at]);
            out.put(br"\\");
        } else if char.is_control() {
            out.put(&text.as_bytes()[kept..at]);
            escape_bytes(&text.as_bytes()[at..at + len], out);
        } else {
            continue;
        }
        kept = at + len;
    }
    out.put(&text.as_bytes()[kept..]);
}

fn escape_bytes(bytes: &[u8], out: &mut Body<'_>) {
    for &byte in bytes {
        out.put(&[b'\\', b'x', hex(byte >> 4), hex(byte & 15)]);
    }
}

/// The digit of a number below 16.
pub(super) const fn hex(nibble: u8) -> u8 {
    b"0123456789abcdef"[nibble as usize]
}

/// The message that was escaped; `None` if [`escape`] can't have written the text.
pub fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(text.len());
    unescape_into(text, &mut message)?;
    Some(message)
}

/// Appends the message that was escaped. `None`: the text is not what [`escape`] writes, and
/// no more than its beginning was appended.
pub fn unescape_into(mut text: &[u8], message: &mut Vec<u8>) -> Option<()> {
    while let Some(at) = memchr::memchr(b'\\', text) {
        message.extend_from_slice(&text[..at]);
        match text[at + 1..] {
            [b'\\', ref rest @ ..] => {
                message.push(b'\\');
                text = rest;
            }
            [b'x', high, low, ref rest @ ..] => {
                message.push(digit(high)? << 4 | digit(low)?);
                text = rest;
            }
            _ => return None,
        }
    }
    message.extend_from_slice(text);
    Some(())
}

fn digit(hex: u8) -> Option<u8> {
    match hex {
        b'0'..=b'9' => Some(hex - b'0'),
        b'a'..=b'f' => Some(hex - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(message: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; message.len() * GROWTH];
        let mut out = Body::new(&mut buffer);
        escape(message, &mut out);
        let len = out.len();
        buffer.truncate(len);
        buffer
    }

    #[test]
    fn text_is_kept_and_the_rest_is_escaped() {
        for (message, text) in [
            (&b"hello"[..], "hello"),
            (b"", ""),
            (b"caf\xc3 tab\x09 back\\slash", r"caf\xc3 tab\x09 back\\slash"),
            ("café ☕ 日本".as_bytes(), "café ☕ 日本"),
            (b"\x00\x1b[2J\x7f", r"\x00\x1b[2J\x7f"),
            ("a\u{85}b\u{9b}".as_bytes(), r"a\xc2\x85b\xc2\x9b"),
            (b"\xf0\x9f\x98", r"\xf0\x9f\x98"),
            (b"one\ntwo\r", r"one\x0atwo\x0d"),
        ] {
            assert_eq!(String::from_utf8(escaped(message)).unwrap(), text);
        }
    }

    #[test]
    fn text_that_escape_does_not_write_is_refused() {
        for text in [r"\", r"\x", r"\x4", r"\xG0", r"\n", r"\x4G"] {
            assert_eq!(unescape(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_can_be_recovered(message in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = escaped(&message);
            prop_assert!(std::str::from_utf8(&text).unwrap().chars().all(|c| !c.is_control()));
            prop_assert_eq!(unescape(&text), Some(message));
        }

        #[test]
        fn text_can_be_recovered(message in "(\\PC|\\\\|\\p{Cc}|[a-z]{20,80}){0,40}") {
            prop_assert_eq!(unescape(&escaped(message.as_bytes())), Some(message.into_bytes()));
        }
    }
}
