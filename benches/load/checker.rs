//! Compares the message file with what its clients sent and got back.
//!
//! It reads the file as the manual describes it (section "message file"), not
//! with plumbd's own code, so the two can't be wrong together.

use super::generator::Connection;
use super::message;
use base64::Engine;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead};

/// This many problems are shown in full; all are counted.
const TOLD: usize = 10;
/// This many bytes of a line are shown.
const SHOWN: usize = 200;
/// A longer message is saved in parts of this many bytes: the default of echo's
/// `max_message`, and the limit for a line of an ordinary program.
const WHOLE: usize = 64 * 1024;
/// `2026-11-22T15:04:05.123456Z`, digits as `0`.
const TIME: &[u8] = b"0000-00-00T00:00:00.000000Z";

/// The format of a message in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `TIME PEER MESSAGE`, escaped.
    Text,
    /// The message's bytes and a newline.
    Raw,
    /// One object per line.
    Json,
}

impl Format {
    /// The format of that name.
    pub(crate) fn named(name: &str) -> Option<Format> {
        [Format::Text, Format::Raw, Format::Json].into_iter().find(|f| f.name() == name)
    }

    /// Its name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Raw => "raw",
            Format::Json => "json",
        }
    }
}

/// The result of the comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Lines, of any kind.
    pub(crate) lines: u64,
    /// Echoed messages that are there.
    pub(crate) echoed: u64,
    /// Messages that are there although they were not echoed, which is allowed.
    pub(crate) unechoed: u64,
    /// Beginnings of messages whose connection broke before the rest was sent
    /// or echoed, which is allowed.
    pub(crate) parts: u64,
    /// Beginnings of messages that were sent whole but had not arrived whole when the server
    /// ended. That is right only if the server was asked to end, and saved what had arrived.
    pub(crate) cut: u64,
    /// Messages that were joined from several lines.
    pub(crate) joined: u64,
    /// Echoed messages that are not there.
    pub(crate) lost: u64,
    /// Lines that repeat a message.
    pub(crate) doubled: u64,
    /// Lines that come after a later message of their connection.
    pub(crate) disordered: u64,
    /// Lines that hold a message that was sent, but not as it was sent.
    pub(crate) torn: u64,
    /// Lines that nobody sent.
    pub(crate) forged: u64,
    /// The first few problems, for a person.
    pub(crate) problems: Vec<String>,
}

impl Verdict {
    /// Whether every echoed message is there exactly once, whole, in order, and nothing else is.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.disordered + self.torn + self.forged + self.cut == 0
    }

    fn problem(&mut self, what: impl FnOnce() -> String) {
        if self.problems.len() < TOLD {
            self.problems.push(what());
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lines: {} echoed, {} not echoed, {} parts", self.lines, self.echoed, self.unechoed, self.parts)?;
        if self.joined > 0 {
            write!(f, ", {} joined", self.joined)?;
        }
        write!(
            f,
            "; {} lost, {} doubled, {} out of order, {} torn, {} forged",
            self.lost, self.doubled, self.disordered, self.torn, self.forged
        )?;
        if self.cut > 0 {
            write!(f, ", {} cut", self.cut)?;
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Reads the file (or several, one chained to the other: [`super::rotated`]) and compares.
///
/// # Errors
/// The file can't be read.
pub(crate) fn check(mut file: impl BufRead, format: Format, connections: &[Connection]) -> io::Result<Verdict> {
    let mut check = Check::new(connections);
    let mut line = Vec::new();
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        check.verdict.lines += 1;
        check.line(&line, format);
    }
    Ok(check.finish())
}

/// A check under way.
struct Check<'a> {
    connections: HashMap<u32, Seen<'a>>,
    expected: Vec<u8>,
    verdict: Verdict,
}

/// What was seen of one connection.
struct Seen<'a> {
    connection: &'a Connection,
    /// Which of its messages are there.
    messages: Vec<bool>,
    /// The message after the last one that is there, or has begun.
    next: u32,
    /// A message whose first parts are there, and how many bytes of it.
    begun: Option<(u32, usize)>,
}

impl Seen<'_> {
    /// Whether a peer of that name may be this connection.
    fn is_from(&self, peer: Option<&str>) -> bool {
        peer.is_none_or(|peer| peer == self.connection.peer)
    }

    /// One of its messages, without the newline.
    fn message<'m>(&self, sequence: u32, bytes: &'m mut Vec<u8>) -> &'m [u8] {
        bytes.clear();
        message::append(self.connection.number, sequence, self.connection.length, bytes);
        &bytes[..bytes.len() - 1]
    }

    /// The end of the part that begins at `from`.
    fn part_end(&self, from: usize) -> usize {
        (from + WHOLE).min(self.connection.length - 1)
    }

    /// Whether the line can be what arrived of a message before its connection broke: the
    /// message was not echoed whole, and it is the connection's last.
    fn can_have_come(&self, sequence: u32, from: usize, line: &[u8], bytes: &mut Vec<u8>) -> bool {
        let c = self.connection;
        let sent = match sequence {
            _ if sequence < c.echoed => return false,
            _ if sequence == c.sent => c.part.min(c.length - 1),
            _ => c.length - 1,
        };
        // After a part that is too short, nothing can follow.
        let is_there = !line.is_empty() && line.len() <= WHOLE && from + line.len() <= sent && from % WHOLE == 0;
        let may_follow = from > 0 || self.next <= sequence;
        is_there && may_follow && self.message(sequence, bytes)[from..].starts_with(line)
    }
}

impl<'a> Check<'a> {
    fn new(connections: &'a [Connection]) -> Check<'a> {
        let seen =
            |c: &'a Connection| Seen { connection: c, messages: vec![false; c.sent as usize], next: 0, begun: None };
        Check {
            connections: connections.iter().map(|c| (c.number, seen(c))).collect(),
            expected: Vec::new(),
            verdict: Verdict::default(),
        }
    }

    fn line(&mut self, line: &[u8], format: Format) {
        let number = self.verdict.lines;
        let shown = || format!("line {number}: {:?}", String::from_utf8_lossy(&line[..line.len().min(SHOWN)]));
        let Some(entry) = entry(line, format) else {
            self.verdict.torn += 1;
            self.verdict.problem(|| format!("{}: no whole {} line", shown(), format.name()));
            return;
        };
        let Some((connection, sequence, from)) = self.place(&entry) else {
            self.verdict.forged += 1;
            self.verdict.problem(|| format!("{}: nobody sent this", shown()));
            return;
        };
        let seen = self.connections.get_mut(&connection).expect("its place is in one of them");
        if !seen.is_from(entry.peer.as_deref()) {
            self.verdict.forged += 1;
            self.verdict.problem(|| format!("{}: {} sent this", shown(), seen.connection.peer));
            return;
        }
        let end = seen.part_end(from);
        let expected = seen.message(sequence, &mut self.expected);
        let is_last = end == expected.len();
        let is_right = sequence < seen.connection.sent
            && *entry.message == expected[from..end]
            && entry.more.is_none_or(|more| more != is_last);
        if !is_right {
            let goes_on = entry.more == Some(true);
            let is_part = entry.message.len() == WHOLE && sequence == seen.connection.sent;
            if (is_part || !goes_on) && seen.can_have_come(sequence, from, &entry.message, &mut self.expected) {
                (seen.next, seen.begun) = (seen.connection.sent + 1, Some((sequence, from + entry.message.len())));
                if sequence == seen.connection.sent {
                    self.verdict.parts += 1;
                } else {
                    self.verdict.cut += 1;
                    self.verdict.problem(|| format!("{}: cut", shown()));
                }
                return;
            }
            self.verdict.torn += 1;
            self.verdict.problem(|| format!("{}: not as it was sent", shown()));
            return;
        }
        if seen.messages[sequence as usize] || from == 0 && seen.begun.is_some_and(|(begun, _)| begun == sequence) {
            self.verdict.doubled += 1;
            self.verdict.problem(|| format!("{}: there before", shown()));
            return;
        }
        if from == 0 {
            if sequence < seen.next {
                self.verdict.disordered += 1;
                self.verdict.problem(|| format!("{}: behind message {} of its connection", shown(), seen.next - 1));
            }
            // A line after the last message of all is already counted as out of order.
            if let Some((before, _)) = seen.begun.filter(|(before, _)| *before < seen.connection.sent) {
                self.verdict.torn += 1;
                self.verdict.problem(|| format!("{}: message {before} before it has no end", shown()));
            }
            seen.next = seen.next.max(sequence + 1);
        }
        if !is_last {
            seen.begun = Some((sequence, end));
            return;
        }
        seen.begun = None;
        self.verdict.joined += u64::from(from > 0);
        seen.messages[sequence as usize] = true;
        if sequence < seen.connection.echoed {
            self.verdict.echoed += 1;
        } else {
            self.verdict.unechoed += 1;
        }
    }

    /// Which message of which connection it is, and from which byte on. If it has no
    /// number, it continues a message in parts, or is all that arrived of a message.
    fn place(&mut self, entry: &Entry<'_>) -> Option<(u32, u32, usize)> {
        if let Some((connection, sequence)) = message::numbers(&entry.message) {
            let seen = self.connections.get(&connection)?;
            let c = seen.connection;
            let is_known = sequence < c.sent || sequence == c.sent && c.part > 0 && seen.next <= c.sent;
            return is_known.then_some((connection, sequence, 0));
        }
        let expected = &mut self.expected;
        self.connections.values().find_map(|seen| {
            let c = seen.connection;
            if !seen.is_from(entry.peer.as_deref()) {
                return None;
            }
            // It continues a message in parts, or is too short to contain its number.
            let (sequence, from) = seen.begun.unwrap_or((seen.next.min(c.sent), 0));
            let goes_on = from > 0 && sequence < c.sent && {
                let end = seen.part_end(from);
                *entry.message == seen.message(sequence, expected)[from..end]
            };
            let is_all = seen.can_have_come(sequence, from, &entry.message, expected);
            (goes_on || is_all).then_some((c.number, sequence, from))
        })
    }

    fn finish(mut self) -> Verdict {
        for seen in self.connections.values() {
            let c = seen.connection;
            let echoed = &seen.messages[..c.echoed as usize];
            for (sequence, _) in echoed.iter().enumerate().filter(|(_, there)| !**there) {
                self.verdict.lost += 1;
                self.verdict
                    .problem(|| format!("connection {}, message {sequence}: echoed, and not in the file", c.number));
            }
            let saved = match seen.begun {
                Some((sequence, saved)) if sequence == c.echoed => saved,
                _ if seen.messages.get(c.echoed as usize) == Some(&true) => c.length,
                _ => 0,
            };
            if saved < c.echoed_part {
                self.verdict.lost += 1;
                self.verdict.problem(|| {
                    let Connection { number, echoed, echoed_part, .. } = c;
                    format!("connection {number}, message {echoed}: {echoed_part} bytes echoed, {saved} in the file")
                });
            }
            let is_begun = |(sequence, saved): (u32, usize)| sequence < c.sent && saved % WHOLE == 0;
            self.verdict.parts += u64::from(seen.begun.is_some_and(is_begun));
        }
        self.verdict
    }
}

/// One line of the file, decoded.
pub(crate) struct Entry<'a> {
    /// Who sent it; `None` if the format doesn't say.
    pub(crate) peer: Option<Cow<'a, str>>,
    /// Its bytes without their newline.
    pub(crate) message: Cow<'a, [u8]>,
    /// Whether it is a part, and not the last; `None` if the format doesn't say.
    pub(crate) more: Option<bool>,
}

/// Decodes a line; `None` if it is not whole, or not in this format.
pub(crate) fn entry(line: &[u8], format: Format) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n")?;
    match format {
        Format::Raw => Some(Entry { peer: None, message: Cow::Borrowed(line), more: None }),
        Format::Text => {
            let (time, rest) = line.split_at_checked(TIME.len())?;
            let rest = rest.strip_prefix(b" ")?;
            let space = rest.iter().position(|byte| *byte == b' ')?;
            let peer = std::str::from_utf8(&rest[..space]).ok()?;
            let message = unescape(&rest[space + 1..])?;
            is_time(time).then_some(Entry { peer: Some(Cow::Borrowed(peer)), message, more: None })
        }
        Format::Json => {
            let object: serde_json::Value = serde_json::from_slice(line).ok()?;
            let text = |key: &str| object.get(key).and_then(serde_json::Value::as_str);
            let message = match (text("message"), text("message_base64")) {
                (Some(message), None) => message.as_bytes().to_vec(),
                (None, Some(encoded)) => base64::engine::general_purpose::STANDARD.decode(encoded).ok()?,
                _ => return None,
            };
            let peer = Cow::Owned(text("peer")?.to_owned());
            let more = Some(object.get("more").is_some_and(|more| more == true));
            is_time(text("time")?.as_bytes()).then_some(Entry { peer: Some(peer), message: Cow::Owned(message), more })
        }
    }
}

fn is_time(text: &[u8]) -> bool {
    let same = |(byte, model): (&u8, &u8)| if *model == b'0' { byte.is_ascii_digit() } else { byte == model };
    text.len() == TIME.len() && text.iter().zip(TIME).all(same)
}

/// The bytes that an escaped text stands for; `None` if it is not an escaped text.
fn unescape(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if text.iter().any(|byte| *byte < b' ' || *byte == 0x7f) {
        return None;
    }
    if !text.contains(&b'\\') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'\\', [b'\\', ..]) => {
                out.push(b'\\');
                rest = &after[1..];
            }
            (b'\\', [b'x', high, low, ..]) => {
                let value = |digit: u8| char::from(digit).to_digit(16);
                out.push(u8::try_from(value(*high)? << 4 | value(*low)?).ok()?);
                rest = &after[3..];
            }
            (b'\\', _) => return None,
            (byte, _) => out.push(*byte),
        }
    }
    Some(Cow::Owned(out))
}
