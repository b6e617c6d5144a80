//! The message file against what its clients sent and got back.
//!
//! It reads the file by the manual's words alone (section "message file"), not
//! with plumbd's own code, so the two can't be wrong together.

use super::generator::Connection;
use super::message;
use base64::Engine;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead};

/// So many problems are told in full; all are counted.
const TOLD: usize = 10;
/// So many bytes of a line are shown.
const SHOWN: usize = 200;
/// `2026-11-22T15:04:05.123456Z`, digits as `0`.
const TIME: &[u8] = b"0000-00-00T00:00:00.000000Z";

/// How a message stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `TIME PEER MESSAGE`, escaped.
    Text,
    /// The message's bytes and a newline.
    Raw,
    /// An object a line.
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

/// What the file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Lines, of any kind.
    pub(crate) lines: u64,
    /// Echoed messages that are there.
    pub(crate) echoed: u64,
    /// Messages that are there though they were not echoed, which may be.
    pub(crate) unechoed: u64,
    /// Beginnings of messages whose connection broke before the rest was sent, which may be.
    pub(crate) parts: u64,
    /// Echoed messages that are not there.
    pub(crate) lost: u64,
    /// Lines that repeat a message.
    pub(crate) doubled: u64,
    /// Lines that stand behind a later message of their connection.
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
        self.lost + self.doubled + self.disordered + self.torn + self.forged == 0
    }

    fn problem(&mut self, what: impl FnOnce() -> String) {
        if self.problems.len() < TOLD {
            self.problems.push(what());
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lines: {} echoed, {} not echoed, {} parts; {} lost, {} doubled, {} out of order, {} torn, {} forged",
            self.lines,
            self.echoed,
            self.unechoed,
            self.parts,
            self.lost,
            self.doubled,
            self.disordered,
            self.torn,
            self.forged
        )?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Reads the file (or several, one chained to the other: [`super::rotated`]) and compares.
///
/// # Errors
/// Where it can't be read.
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
    /// The message behind the last one that is there.
    next: u32,
}

impl<'a> Check<'a> {
    fn new(connections: &'a [Connection]) -> Check<'a> {
        let seen = |c: &'a Connection| Seen { connection: c, messages: vec![false; c.sent as usize], next: 0 };
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
        let known = message::numbers(&entry.message)
            .and_then(|(connection, sequence)| Some((self.connections.get_mut(&connection)?, sequence)))
            .filter(|(seen, sequence)| *sequence < seen.connection.sent);
        let Some((seen, sequence)) = known else {
            if self.is_part(&entry) {
                self.verdict.parts += 1;
            } else {
                self.verdict.forged += 1;
                self.verdict.problem(|| format!("{}: nobody sent this", shown()));
            }
            return;
        };
        if entry.peer.as_ref().is_some_and(|peer| *peer != seen.connection.peer) {
            self.verdict.forged += 1;
            self.verdict.problem(|| format!("{}: {} sent this", shown(), seen.connection.peer));
            return;
        }
        self.expected.clear();
        message::append(seen.connection.number, sequence, seen.connection.length, &mut self.expected);
        if *entry.message != self.expected[..self.expected.len() - 1] {
            self.verdict.torn += 1;
            self.verdict.problem(|| format!("{}: not as it was sent", shown()));
            return;
        }
        let there = &mut seen.messages[sequence as usize];
        if std::mem::replace(there, true) {
            self.verdict.doubled += 1;
            self.verdict.problem(|| format!("{}: there before", shown()));
            return;
        }
        if sequence < seen.next {
            self.verdict.disordered += 1;
            self.verdict.problem(|| format!("{}: behind message {} of its connection", shown(), seen.next - 1));
        }
        seen.next = seen.next.max(sequence + 1);
        if sequence < seen.connection.echoed {
            self.verdict.echoed += 1;
        } else {
            self.verdict.unechoed += 1;
        }
    }

    /// Whether it is what a connection could send of a message before it
    /// broke: once, and the last of it.
    fn is_part(&mut self, entry: &Entry<'_>) -> bool {
        let line = &*entry.message;
        for seen in self.connections.values_mut() {
            let c = seen.connection;
            let from_there = entry.peer.as_ref().is_none_or(|peer| *peer == c.peer);
            if !from_there || line.is_empty() || line.len() > c.part || seen.next > c.sent {
                continue;
            }
            self.expected.clear();
            message::append(c.number, c.sent, c.length, &mut self.expected);
            if self.expected.starts_with(line) {
                seen.next = c.sent + 1;
                return true;
            }
        }
        false
    }

    fn finish(mut self) -> Verdict {
        for seen in self.connections.values() {
            let echoed = &seen.messages[..seen.connection.echoed as usize];
            for (sequence, _) in echoed.iter().enumerate().filter(|(_, there)| !**there) {
                self.verdict.lost += 1;
                self.verdict.problem(|| {
                    format!("connection {}, message {sequence}: echoed, and not in the file", seen.connection.number)
                });
            }
        }
        self.verdict
    }
}

/// One line of the file, as it was meant.
pub(crate) struct Entry<'a> {
    /// Who sent it; `None` where the format doesn't say.
    pub(crate) peer: Option<Cow<'a, str>>,
    /// Its bytes without their newline.
    pub(crate) message: Cow<'a, [u8]>,
}

/// `None` where the line is not whole, or not of this format.
pub(crate) fn entry(line: &[u8], format: Format) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n")?;
    match format {
        Format::Raw => Some(Entry { peer: None, message: Cow::Borrowed(line) }),
        Format::Text => {
            let (time, rest) = line.split_at_checked(TIME.len())?;
            let rest = rest.strip_prefix(b" ")?;
            let space = rest.iter().position(|byte| *byte == b' ')?;
            let peer = std::str::from_utf8(&rest[..space]).ok()?;
            let message = unescape(&rest[space + 1..])?;
            is_time(time).then_some(Entry { peer: Some(Cow::Borrowed(peer)), message })
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
            is_time(text("time")?.as_bytes()).then_some(Entry { peer: Some(peer), message: Cow::Owned(message) })
        }
    }
}

fn is_time(text: &[u8]) -> bool {
    let same = |(byte, model): (&u8, &u8)| if *model == b'0' { byte.is_ascii_digit() } else { byte == model };
    text.len() == TIME.len() && text.iter().zip(TIME).all(same)
}

/// The bytes that an escaped text stands for; `None` where it is no escaped text.
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
