//! A line of a message file: its time, who sent it, and the message.

use crate::plugin::logger::escape;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// A time as it stands in a line. Times sort as these bytes do.
pub(super) type Time = [u8; 27];

/// How a file's lines are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The formats `text` and `json`. Each line shows by itself which of them it has: the
    /// format may have been changed in the middle of a file.
    Timed,
    /// The format `raw`.
    Raw,
}

impl Shape {
    /// What a first line shows.
    pub(super) fn of(line: &[u8]) -> Shape {
        if time_of(line).is_some() { Shape::Timed } else { Shape::Raw }
    }
}

/// What is in a line, which comes without its newline.
#[derive(Debug)]
pub(super) enum Line<'a> {
    /// `TIME PEER MESSAGE`.
    Text {
        /// When it was received.
        time: &'a Time,
        /// Who sent it.
        peer: &'a [u8],
        /// The message, escaped.
        message: &'a [u8],
    },
    /// An object.
    Json(Object),
    /// A message as it was sent.
    Raw(&'a [u8]),
}

/// A line of the format `json`.
#[derive(Debug)]
pub(super) struct Object {
    peer: String,
    message: Vec<u8>,
}

impl Object {
    /// `None`: it is not one. Later versions may add keys.
    fn of(line: &[u8]) -> Option<Object> {
        let mut object: Value = serde_json::from_slice(line).ok()?;
        let mut text = |key| match object.get_mut(key).map(Value::take) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let message = match text("message") {
            Some(message) => message.into_bytes(),
            None => STANDARD.decode(text("message_base64")?).ok()?,
        };
        Some(Object { peer: text("peer")?, message })
    }
}

const OBJECT: &[u8] = br#"{"time":""#;

/// When the message was received, if the line says so.
pub(super) fn time_of(line: &[u8]) -> Option<&Time> {
    let (time, end) = match line.strip_prefix(OBJECT) {
        Some(rest) => (rest, b'"'),
        None => (line, b' '),
    };
    let (time, rest) = time.split_first_chunk()?;
    (rest.first() == Some(&end) && is_time(time)).then_some(time)
}

fn is_time(time: &Time) -> bool {
    const SHAPE: &Time = b"0000-00-00T00:00:00.000000Z";
    time.iter().zip(SHAPE).all(|(&byte, &shape)| if shape == b'0' { byte.is_ascii_digit() } else { byte == shape })
}

/// What is in a line. One that has not the shape that it should have is raw.
pub(super) fn line(line: &[u8], shape: Shape) -> Line<'_> {
    let time = match shape {
        Shape::Timed => time_of(line),
        Shape::Raw => None,
    };
    let Some(time) = time else { return Line::Raw(line) };
    if line.first() == Some(&b'{') {
        return Object::of(line).map_or(Line::Raw(line), Line::Json);
    }
    let rest = &line[time.len() + 1..];
    match memchr::memchr(b' ', rest) {
        Some(at) => Line::Text { time, peer: &rest[..at], message: &rest[at + 1..] },
        None => Line::Raw(line),
    }
}

impl Line<'_> {
    /// Who sent it.
    pub(super) fn peer(&self) -> Option<&[u8]> {
        match self {
            Line::Text { peer, .. } => Some(peer),
            Line::Json(object) => Some(object.peer.as_bytes()),
            Line::Raw(_) => None,
        }
    }

    /// The message as it was sent; `room` is for the bytes of one that must be unescaped.
    pub(super) fn message<'a>(&'a self, room: &'a mut Vec<u8>) -> &'a [u8] {
        match self {
            Line::Text { message, .. } => {
                if memchr::memchr(b'\\', message).is_none() {
                    return message;
                }
                room.clear();
                // A person may have edited the file.
                if escape::unescape_into(message, room).is_some() { room } else { message }
            }
            Line::Json(object) => &object.message,
            Line::Raw(message) => message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-22T15:04:05.123456Z";

    fn read(text: &[u8], shape: Shape) -> (Option<Vec<u8>>, Vec<u8>) {
        let (line, mut room) = (line(text, shape), Vec::new());
        (line.peer().map(<[u8]>::to_vec), line.message(&mut room).to_vec())
    }

    fn timed(rest: &str) -> (Option<Vec<u8>>, Vec<u8>) {
        read(format!("{TIME}{rest}").as_bytes(), Shape::Timed)
    }

    #[test]
    fn a_line_of_text_has_a_time_a_peer_and_a_message() {
        let sent = |peer: &str, message: &[u8]| (Some(peer.as_bytes().to_vec()), message.to_vec());
        assert_eq!(timed(" 127.0.0.1:40312 hello you"), sent("127.0.0.1:40312", b"hello you"));
        assert_eq!(timed(r" [::1]:1 caf\xc3 back\\slash"), sent("[::1]:1", b"caf\xc3 back\\slash"));
        assert_eq!(timed(" - "), sent("-", b""));
        assert_eq!(timed(r" - \n is edited"), sent("-", br"\n is edited"));
    }

    #[test]
    fn an_object_has_them_too() {
        let line = format!(r#"{{"time":"{TIME}","child":"echo","peer":"unix:7","message":"a\n\"b\"","more":true}}"#);
        assert_eq!(read(line.as_bytes(), Shape::Timed), (Some(b"unix:7".to_vec()), b"a\n\"b\"".to_vec()));
        let line = format!(r#"{{"time":"{TIME}","child":"echo","peer":"-","message_base64":"Y2Fmww=="}}"#);
        assert_eq!(read(line.as_bytes(), Shape::Timed), (Some(b"-".to_vec()), b"caf\xc3".to_vec()));
        assert_eq!(time_of(line.as_bytes()).map(|time| &time[..]), Some(TIME.as_bytes()));
    }

    #[test]
    fn any_other_line_is_raw() {
        let raw = |text: &[u8]| (None, text.to_vec());
        for text in [&b""[..], b"hello", b"{}", b"2026-11-22T15:04:05Z 1.2.3.4:5 hello", TIME.as_bytes(), b"\xff {"] {
            assert_eq!(read(text, Shape::Timed), raw(text));
            assert_eq!(Shape::of(text), Shape::Raw);
        }
        let text = format!("{TIME} - x");
        assert_eq!(read(text.as_bytes(), Shape::Raw), raw(text.as_bytes()));
        assert_eq!(Shape::of(text.as_bytes()), Shape::Timed);
        let no_peer = format!("{TIME} x");
        assert_eq!(read(no_peer.as_bytes(), Shape::Timed), raw(no_peer.as_bytes()));
    }
}
