//! How messages are printed.

use super::super::Failure;
use super::parse::{self, Line, Shape};
use crate::plugin::logger::body::Body;
use crate::plugin::logger::render::{JSON_GROWTH, json_message, json_text};
use crate::sys::cause::cause;
use crate::sys::text::steers;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;

/// In which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// The lines that were saved.
    Saved,
    /// The same for a terminal, which no line may control.
    Terminal {
        /// Time and peer are dim.
        colours: bool,
    },
    /// The exact bytes of each message.
    Unescaped,
    /// An object a message.
    Json {
        /// It goes to a terminal.
        terminal: bool,
    },
}

/// Why nothing more is printed.
#[derive(Debug)]
pub(super) enum End {
    /// Nobody reads any more, as with `| head`.
    Unread,
    /// It can't be written.
    Failed(Failure),
}

/// How much is gathered before it is written.
const GATHERED: usize = 64 * 1024;

/// Standard output.
#[derive(Debug)]
pub(super) struct Printer {
    out: File,
    style: Style,
    gathered: Vec<u8>,
    room: Vec<u8>,
}

impl Printer {
    /// Prints in that form.
    ///
    /// # Errors
    /// From dup(2).
    pub(super) fn new(style: Style) -> Result<Printer, Failure> {
        // Standard output as the library has it writes line by line.
        let out = io::stdout().as_fd().try_clone_to_owned();
        let out = out.map_err(|e| Failure::from(format!("cannot write to standard output: {}", cause(&e))))?;
        Ok(Printer { out: out.into(), style, gathered: Vec::with_capacity(2 * GATHERED), room: Vec::new() })
    }

    /// What is written to.
    pub(super) fn out(&self) -> &File {
        &self.out
    }

    /// Whether lines are printed as they are.
    pub(super) fn is_plain(&self) -> bool {
        self.style == Style::Saved
    }

    /// Prints whole lines as they are.
    ///
    /// # Errors
    /// Nobody reads it, or it can't be written.
    pub(super) fn block(&mut self, block: &[u8]) -> Result<(), End> {
        self.flush()?;
        write(&self.out, block)
    }

    /// Prints a message, whose line comes without its newline.
    ///
    /// # Errors
    /// As [`Printer::block`].
    pub(super) fn line(&mut self, line: &[u8], shape: Shape) -> Result<(), End> {
        match self.style {
            Style::Saved => self.gathered.extend_from_slice(line),
            Style::Unescaped => {
                let parsed = parse::line(line, shape);
                self.gathered.extend_from_slice(parsed.message(&mut self.room));
            }
            Style::Json { terminal } => match parse::line(line, shape) {
                Line::Json(_) if terminal => safe(line, &mut self.gathered),
                Line::Json(_) => self.gathered.extend_from_slice(line),
                parsed if terminal => {
                    let mut text = Vec::new();
                    object(&parsed, &mut self.room, &mut text);
                    safe(&text, &mut self.gathered);
                }
                parsed => object(&parsed, &mut self.room, &mut self.gathered),
            },
            Style::Terminal { colours } => match parse::line(line, shape) {
                Line::Text { message, .. } if colours => {
                    let (head, message) = line.split_at(line.len() - message.len());
                    self.gathered.extend_from_slice(b"\x1b[2m");
                    safe(head, &mut self.gathered);
                    self.gathered.extend_from_slice(b"\x1b[0m");
                    safe(message, &mut self.gathered);
                }
                _ => safe(line, &mut self.gathered),
            },
        }
        self.gathered.push(b'\n');
        if self.gathered.len() >= GATHERED { self.flush() } else { Ok(()) }
    }

    /// Writes what was gathered.
    ///
    /// # Errors
    /// As [`Printer::block`].
    pub(super) fn flush(&mut self) -> Result<(), End> {
        let written = write(&self.out, &self.gathered);
        self.gathered.clear();
        written
    }
}

fn write(mut out: &File, mut bytes: &[u8]) -> Result<(), End> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::BrokenPipe => return Err(End::Unread),
                // Another process may have set O_NONBLOCK for all who share it.
                ErrorKind::WouldBlock => wait_writable(out)?,
                _ => return Err(failed(&cause(&error))),
            },
        }
    }
    Ok(())
}

fn wait_writable(out: &File) -> Result<(), End> {
    match poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(failed(errno.desc())),
    }
}

fn failed(cause: &str) -> End {
    End::Failed(Failure::from(format!("cannot write to standard output: {cause}")))
}

/// A message as an object, with what its line tells of it. Only a child's own lines name the
/// child.
fn object(line: &Line<'_>, room: &mut Vec<u8>, out: &mut Vec<u8>) {
    let message = line.message(room);
    let peer = line.peer().map(String::from_utf8_lossy);
    let most = (message.len() + 2 * peer.as_ref().map_or(0, |peer| peer.len())) * JSON_GROWTH + 128;
    let before = out.len();
    out.resize(before + most, 0);
    let mut body = Body::new(&mut out[before..]);
    body.put(b"{");
    if let Line::Text { time, .. } = line {
        body.put(br#""time":""#);
        body.put(*time);
        body.put(br#"","#);
    }
    if let Some(peer) = &peer {
        let is_child = !peer.contains(':') && peer != "-";
        for key in [&br#""child":""#[..], br#""peer":""#].into_iter().skip(usize::from(!is_child)) {
            body.put(key);
            json_text(peer, &mut body);
            body.put(br#"","#);
        }
    }
    json_message(message, false, &mut body);
    let after = before + body.len();
    out.truncate(after);
}

/// Text that controls no terminal. What is saved in the formats `text` and `json` is such text
/// already, unless somebody else has written to the file.
fn safe(text: &[u8], out: &mut Vec<u8>) {
    if text.iter().fold(true, |all, byte| all & (0x20..0x7f).contains(byte)) {
        return out.extend_from_slice(text);
    }
    let escaped = |bytes: &[u8], out: &mut Vec<u8>| {
        bytes.iter().for_each(|byte| out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()));
    };
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            let mut bytes = [0; 4];
            let bytes = char.encode_utf8(&mut bytes).as_bytes();
            if char != '\t' && steers(char) {
                escaped(bytes, out);
            } else {
                out.extend_from_slice(bytes);
            }
        }
        escaped(chunk.invalid(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(line: &[u8], shape: Shape) -> String {
        let (mut room, mut out) = (Vec::new(), Vec::new());
        object(&parse::line(line, shape), &mut room, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_object_has_what_the_line_tells() {
        let time = "2026-11-22T15:04:05.123456Z";
        for (line, expected) in [
            (r#"[::1]:7 say "hi" back\\slash"#, r#""peer":"[::1]:7","message":"say \"hi\" back\\slash"}"#),
            (r"- caf\xc3", r#""peer":"-","message_base64":"Y2Fmww=="}"#),
            ("clock.0 tick", r#""child":"clock.0","peer":"clock.0","message":"tick"}"#),
        ] {
            let line = format!("{time} {line}");
            assert_eq!(json(line.as_bytes(), Shape::Timed), format!(r#"{{"time":"{time}",{expected}"#));
        }
        assert_eq!(json(b"a\tb", Shape::Raw), r#"{"message":"a\tb"}"#);
        assert_eq!(json(b"\xff", Shape::Raw), r#"{"message_base64":"/w=="}"#);
    }

    #[test]
    fn no_line_controls_a_terminal() {
        for (line, shown) in [
            (&b"plain \\x1b"[..], "plain \\x1b"),
            (b"\x1b[2J\x07", r"\x1b[2J\x07"),
            ("café ☕\ttab".as_bytes(), "café ☕\ttab"),
            ("a\u{9b}b\u{202e}c\u{7f}".as_bytes(), r"a\xc2\x9bb\xe2\x80\xaec\x7f"),
            (b"\xff\xfe", r"\xff\xfe"),
        ] {
            let mut out = Vec::new();
            safe(line, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), shown);
        }
    }
}
