//! How a message is written to the message file: section 4 of the manual.

use super::body::Body;
use super::escape::{GROWTH, escape, hex, is_plain};
use super::settings::Format;
use crate::link::batch::Message;
use crate::link::record::Peer;
use crate::sys::stream::Stream;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::Write;
use std::net::SocketAddr;

/// Renders messages, one after the other.
#[derive(Debug)]
pub struct Renderer {
    format: Format,
    clock: Clock,
}

impl Renderer {
    /// A renderer for that format.
    pub fn new(format: Format) -> Renderer {
        Renderer { format, clock: Clock::default() }
    }

    /// Whether a message's line is just the message and a newline.
    pub fn is_raw(&self) -> bool {
        self.format == Format::Raw
    }

    /// The most bytes that a message of `len` bytes from `child` can take.
    pub fn room_for(&self, len: usize, child: &str) -> usize {
        match self.format {
            Format::Raw => len + 1,
            Format::Text => len * GROWTH + child.len() + 128,
            Format::Json => len * JSON_GROWTH + 2 * child.len() * JSON_GROWTH + 256,
        }
    }

    /// Appends a message's line. The caller has checked the room ([`Renderer::room_for`]).
    pub fn render(&mut self, message: &Message<'_>, out: &mut Body<'_>) {
        match self.format {
            Format::Raw => out.put(message.bytes),
            Format::Text => self.text(message, out),
            Format::Json => self.json(message, out),
        }
        out.put(b"\n");
    }

    fn text(&mut self, message: &Message<'_>, out: &mut Body<'_>) {
        self.clock.put(message.time, out);
        out.put(b" ");
        put_peer(message, out);
        out.put(b" ");
        escape(message.bytes, out);
    }

    fn json(&mut self, message: &Message<'_>, out: &mut Body<'_>) {
        out.put(br#"{"time":""#);
        self.clock.put(message.time, out);
        out.put(br#"","child":""#);
        json_text(message.child, out);
        out.put(br#"","peer":""#);
        put_peer(message, out);
        if message.stream == Stream::Stderr {
            out.put(br#"","stream":"stderr"#);
        }
        out.put(br#"","#);
        json_message(message.bytes, message.more, out);
    }
}

/// The end of an object: its message, and whether it is a part with more to follow.
pub fn json_message(bytes: &[u8], more: bool, out: &mut Body<'_>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            out.put(br#""message":""#);
            json_text(text, out);
        }
        Err(_) => {
            out.put(br#""message_base64":""#);
            let len = bytes.len().div_ceil(3) * 4;
            STANDARD.encode_slice(bytes, out.next(len)).expect("its room was worked out");
        }
    }
    out.put(if more { br#"","more":true}"# } else { br#""}"# });
}

fn put_peer(message: &Message<'_>, out: &mut Body<'_>) {
    match message.peer {
        None => out.put(message.child.as_bytes()),
        Some(Peer::None) => out.put(b"-"),
        Some(Peer::Process(pid)) => {
            out.put(b"unix:");
            put_number(pid, out);
        }
        // The same as its Display, which would take a quarter of a message's cost.
        Some(Peer::Net(SocketAddr::V4(address))) => {
            let [first, rest @ ..] = address.ip().octets();
            put_number(first, out);
            for octet in rest {
                out.put(b".");
                put_number(octet, out);
            }
            out.put(b":");
            put_number(address.port(), out);
        }
        Some(Peer::Net(SocketAddr::V6(address))) => write!(out, "{address}").expect("there was room for it"),
    }
}

fn put_number(number: impl itoa::Integer, out: &mut Body<'_>) {
    out.put(itoa::Buffer::new().format(number).as_bytes());
}

/// The most bytes that one byte can become in a JSON string.
pub const JSON_GROWTH: usize = 6;

/// Writes text as the contents of a JSON string (RFC 8259). Besides what must be escaped
/// there, DEL and C1 are escaped too, to protect terminals.
pub fn json_text(text: &str, out: &mut Body<'_>) {
    if is_plain(text.as_bytes()) && memchr::memchr(b'"', text.as_bytes()).is_none() {
        return out.put(text.as_bytes());
    }
    let mut kept = 0;
    for (at, char) in text.char_indices() {
        if char != '"' && char != '\\' && !char.is_control() {
            continue;
        }
        out.put(&text.as_bytes()[kept..at]);
        kept = at + char.len_utf8();
        match char {
            '"' => out.put(br#"\""#),
            '\\' => out.put(br"\\"),
            '\n' => out.put(br"\n"),
            '\r' => out.put(br"\r"),
            '\t' => out.put(br"\t"),
            // All control characters are below U+00A0.
            other => {
                let [low, ..] = u32::from(other).to_le_bytes();
                out.put(&[b'\\', b'u', b'0', b'0', hex(low >> 4), hex(low & 15)]);
            }
        }
    }
    out.put(&text.as_bytes()[kept..]);
}

/// Writes `2026-11-22T15:04:05.123456Z`. The text of a second is computed once.
#[derive(Debug, Default)]
struct Clock {
    second: Option<i64>,
    text: [u8; 20],
}

/// The first and the last second of the years 0 to 9999.
const SECONDS: (i64, i64) = (-62_167_219_200, 253_402_300_799);
const MICROS: i64 = 1_000_000;

impl Clock {
    fn put(&mut self, time: i64, out: &mut Body<'_>) {
        let second = time.div_euclid(MICROS).clamp(SECONDS.0, SECONDS.1);
        if self.second != Some(second) {
            self.text = second_text(second);
            self.second = Some(second);
        }
        out.put(&self.text);
        let mut micros = time.rem_euclid(MICROS);
        let mut digits = *b"000000Z";
        for digit in digits[..6].iter_mut().rev() {
            let ones = (micros % 10) as u8;
            *digit = b'0' + ones;
            micros /= 10;
        }
        out.put(&digits);
    }
}

/// `2026-11-22T15:04:05.`
fn second_text(second: i64) -> [u8; 20] {
    let time = jiff::Timestamp::from_second(second).unwrap_or_default();
    let at = jiff::tz::Offset::UTC.to_datetime(time);
    let mut text = *b"0000-00-00T00:00:00.";
    for (place, digits, value) in [
        (0, 4, i32::from(at.year())),
        (5, 2, i32::from(at.month())),
        (8, 2, i32::from(at.day())),
        (11, 2, i32::from(at.hour())),
        (14, 2, i32::from(at.minute())),
        (17, 2, i32::from(at.second())),
    ] {
        let mut value = value.unsigned_abs();
        for digit in text[place..place + digits].iter_mut().rev() {
            let ones = (value % 10) as u8;
            *digit = b'0' + ones;
            value /= 10;
        }
    }
    text
}

/// `2026-11-22T15:04:05.123456Z`, as it stands in a line.
pub fn line_time(time: i64) -> [u8; 27] {
    let mut buffer = [0; 27];
    Clock::default().put(time, &mut Body::new(&mut buffer));
    buffer
}

/// `20261122T150405.123456Z`, as in file names.
pub fn name_time(time: i64) -> String {
    line_time(time).iter().map(|&byte| char::from(byte)).filter(|c| !matches!(c, '-' | ':')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-11-22T15:04:05.123456Z
    const TIME: i64 = 1_795_359_845_123_456;

    fn batch(format: Format, messages: &[Message<'_>]) -> String {
        let mut renderer = Renderer::new(format);
        let mut buffer = vec![0xee; 1 << 16];
        let mut out = Body::new(&mut buffer);
        for message in messages {
            let before = out.len();
            renderer.render(message, &mut out);
            assert!(out.len() - before <= renderer.room_for(message.bytes.len(), message.child));
        }
        let len = out.len();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    fn messages() -> Vec<Message<'static>> {
        let net = |text: &str| Some(Peer::Net(text.parse().unwrap()));
        let base = Message { time: TIME, child: "echo", stream: Stream::Stdout, peer: None, bytes: b"", more: false };
        vec![
            Message { peer: net("127.0.0.1:40312"), bytes: b"hello", ..base },
            Message { time: TIME + 44, peer: net("[::1]:40313"), bytes: b"caf\xc3 tab\x09 back\\slash", ..base },
            Message {
                time: TIME + 900_000,
                peer: Some(Peer::Process(4711)),
                bytes: "a \"local\" café".as_bytes(),
                ..base
            },
            Message { time: 0, peer: Some(Peer::None), ..base },
            Message { time: -1, child: "journal", bytes: b"\x1b[2J\x7f\xc2\x9b", more: true, ..base },
            Message { child: "clock", stream: Stream::Stderr, bytes: b"no time", ..base },
        ]
    }

    #[test]
    fn text_is_time_peer_message() {
        assert_eq!(
            batch(Format::Text, &messages()),
            r#"2026-11-22T15:04:05.123456Z 127.0.0.1:40312 hello
2026-11-22T15:04:05.123500Z [::1]:40313 caf\xc3 tab\x09 back\\slash
2026-11-22T15:04:06.023456Z unix:4711 a "local" café
1970-01-01T00:00:00.000000Z - 
1969-12-31T23:59:59.999999Z journal \x1b[2J\x7f\xc2\x9b
2026-11-22T15:04:05.123456Z clock no time
"#
        );
    }

    #[test]
    fn json_has_one_object_per_line() {
        assert_eq!(
            batch(Format::Json, &messages()),
            r#"{"time":"2026-11-22T15:04:05.123456Z","child":"echo","peer":"127.0.0.1:40312","message":"hello"}
{"time":"2026-11-22T15:04:05.123500Z","child":"echo","peer":"[::1]:40313","message_base64":"Y2FmwyB0YWIJIGJhY2tcc2xhc2g="}
{"time":"2026-11-22T15:04:06.023456Z","child":"echo","peer":"unix:4711","message":"a \"local\" café"}
{"time":"1970-01-01T00:00:00.000000Z","child":"echo","peer":"-","message":""}
{"time":"1969-12-31T23:59:59.999999Z","child":"journal","peer":"journal","message":"\u001b[2J\u007f\u009b","more":true}
{"time":"2026-11-22T15:04:05.123456Z","child":"clock","peer":"clock","stream":"stderr","message":"no time"}
"#
        );
    }

    #[test]
    fn raw_is_the_bytes_and_a_newline() {
        let message = Message { bytes: b"a\\b", ..messages()[0] };
        assert_eq!(batch(Format::Raw, &[message, message]), "a\\b\na\\b\n");
    }

    #[test]
    fn any_time_has_the_same_shape() {
        for time in [i64::MIN, i64::MAX, -62_167_219_200_000_001, 253_402_300_800_000_000, 951_782_400_000_000] {
            let line = batch(Format::Text, &[Message { time, ..messages()[3] }]);
            let shape: String = line.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            assert_eq!(shape, "0000-00-00T00:00:00.000000Z - \n", "{time}");
        }
        assert_eq!(name_time(TIME), "20261122T150405.123456Z");
    }

    proptest! {
        #[test]
        fn json_gives_the_message_back(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "(\\PC|\\p{Cc}|\"){0,100}".prop_map(String::into_bytes),
        ]) {
            let line = batch(Format::Json, &[Message { bytes: &bytes, ..messages()[0] }]);
            prop_assert_eq!(line.lines().count(), 1);
            let object: serde_json::Value = serde_json::from_str(&line).unwrap();
            let back = match object.get("message") {
                Some(text) => text.as_str().unwrap().as_bytes().to_vec(),
                None => STANDARD.decode(object["message_base64"].as_str().unwrap()).unwrap(),
            };
            prop_assert_eq!(back, bytes);
        }

        #[test]
        fn room_is_enough(byte: u8, len in 0usize..300, child in "[a-z.0-9]{1,300}") {
            let bytes = vec![byte; len];
            for format in [Format::Text, Format::Raw, Format::Json] {
                batch(format, &[Message { bytes: &bytes, child: &child, peer: None, ..messages()[0] }]);
            }
        }
    }
}
