//! Which messages are asked for.

use super::parse::{self, Line, Shape, Time};
use crate::plugin::logger::render::line_time;
use memchr::memmem::Finder;
use regex_lite::Regex;
use std::net::{IpAddr, SocketAddr};

/// How far the clock may have been set back without hiding a message. What is received
/// later has a time that is at most this much earlier.
pub(super) const SET_BACK: i64 = 24 * 3600 * 1_000_000;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) shape: Shape,
    since: Option<Bound>,
    until: Option<Bound>,
    peer: Option<Peer>,
    grep: Option<Grep>,
    room: Vec<u8>,
    /// How many lines had no time or peer though that was asked for.
    pub(super) unknown: u64,
}

/// An end of the time that is asked for.
#[derive(Debug)]
struct Bound {
    /// In microseconds since 1970.
    micros: i64,
    time: Time,
    /// A message beyond that shows that no message on its other side is asked for.
    proof: Time,
}

/// What is known of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is asked for.
    Wanted,
    /// It is not.
    Unwanted,
    /// It is not, and neither is any before it.
    Early,
    /// It is not, and neither is any after it.
    Late,
}

/// What was typed of it, with times in microseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) since: Option<i64>,
    pub(super) until: Option<i64>,
    pub(super) peer: Option<String>,
    pub(super) grep: Option<String>,
}

impl Filter {
    /// For lines of that shape.
    ///
    /// # Errors
    /// The regular expression is none.
    pub(super) fn new(wanted: &Wanted, shape: Shape) -> Result<Filter, String> {
        let bound = |micros: i64, proof: i64| Bound { micros, time: line_time(micros), proof: line_time(proof) };
        Ok(Filter {
            shape,
            since: wanted.since.map(|at| bound(at, at.saturating_sub(SET_BACK))),
            until: wanted.until.map(|at| bound(at, at.saturating_add(SET_BACK))),
            peer: wanted.peer.as_deref().map(Peer::new),
            grep: wanted.grep.as_deref().map(Grep::new).transpose()?,
            room: Vec::new(),
            unknown: 0,
        })
    }

    /// Whether every message is asked for.
    pub(super) fn is_all(&self) -> bool {
        self.since.is_none() && self.until.is_none() && self.peer.is_none() && self.grep.is_none()
    }

    /// Whether a message that was saved before that time (in microseconds) can't be asked for.
    pub(super) fn is_early(&self, saved_before: i64) -> bool {
        self.since.as_ref().is_some_and(|since| saved_before.saturating_add(SET_BACK) < since.micros)
    }

    /// Whether no line up to that one, itself included, is asked for. `None`: it has no time.
    pub(super) fn proves_early(&self, line: &[u8]) -> Option<bool> {
        let since = self.since.as_ref()?;
        parse::time_of(line).map(|time| *time < since.proof)
    }

    /// Whether a search for the first message can save reading.
    pub(super) fn has_since(&self) -> bool {
        self.since.is_some() && self.shape == Shape::Timed
    }

    /// What is known of a line.
    pub(super) fn verdict(&mut self, line: &[u8]) -> Verdict {
        if self.since.is_some() || self.until.is_some() {
            let Some(time) = parse::time_of(line) else {
                self.unknown += 1;
                return Verdict::Unwanted;
            };
            if let Some(since) = self.since.as_ref().filter(|since| *time < since.time) {
                return if *time < since.proof { Verdict::Early } else { Verdict::Unwanted };
            }
            if let Some(until) = self.until.as_ref().filter(|until| *time > until.time) {
                return if *time > until.proof { Verdict::Late } else { Verdict::Unwanted };
            }
        }
        if self.peer.is_none() && self.grep.is_none() {
            return Verdict::Wanted;
        }
        let line = parse::line(line, self.shape);
        if self.is_peer(&line) && self.is_matched(&line) { Verdict::Wanted } else { Verdict::Unwanted }
    }

    fn is_peer(&mut self, line: &Line<'_>) -> bool {
        let Some(wanted) = &self.peer else { return true };
        match line.peer() {
            Some(peer) => wanted.is(peer),
            None => {
                self.unknown += 1;
                false
            }
        }
    }

    fn is_matched(&mut self, line: &Line<'_>) -> bool {
        let Some(grep) = &self.grep else { return true };
        grep.matches(line.message(&mut self.room))
    }
}

/// `--peer`.
#[derive(Debug)]
struct Peer {
    exactly: String,
    /// How it begins, if any port will do.
    beginning: Option<String>,
}

impl Peer {
    fn new(text: &str) -> Peer {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let address = bare.split_once('%').map_or(bare, |(address, _zone)| address);
        let beginning = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => Some(format!("{address}:")),
            // As written in the file: shortened, with its zone if it has one.
            Ok(IpAddr::V6(address)) => Some(format!("[{address}{}", &bare[address_length(bare)..])),
            Err(_) => None,
        };
        let exactly = text.parse::<SocketAddr>().map_or_else(|_| text.to_owned(), |address| address.to_string());
        Peer { exactly, beginning }
    }

    fn is(&self, peer: &[u8]) -> bool {
        let begins = |beginning: &String| {
            peer.strip_prefix(beginning.as_bytes()).is_some_and(|rest| match beginning.as_bytes().first() {
                Some(b'[') => matches!(rest.first(), Some(b']' | b'%')),
                _ => true,
            })
        };
        peer == self.exactly.as_bytes() || self.beginning.as_ref().is_some_and(begins)
    }
}

/// Where the zone of an address begins, or its end.
fn address_length(address: &str) -> usize {
    address.find('%').unwrap_or(address.len())
}

/// `--grep`.
#[derive(Debug)]
struct Grep {
    regex: Regex,
    /// Every message that matches has the texts of one of these: to look for them first is
    /// many times as fast. Empty: nothing is known.
    alternatives: Vec<Alternative<Finder<'static>>>,
}

/// What one alternative of a pattern needs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Alternative<T> {
    /// The texts, in the order in which they must stand.
    texts: Vec<T>,
    /// Whether it is just that text.
    is_all: bool,
}

impl Grep {
    fn new(pattern: &str) -> Result<Grep, String> {
        let regex = Regex::new(pattern).map_err(|e| format!("cannot use {pattern:?} as a regular expression: {e}"))?;
        let finders = |needed: Alternative<String>| Alternative {
            texts: needed.texts.iter().map(|text| Finder::new(text).into_owned()).collect(),
            is_all: needed.is_all,
        };
        let alternatives = alternatives(pattern).unwrap_or_default().into_iter().map(finders).collect();
        Ok(Grep { regex, alternatives })
    }

    fn matches(&self, message: &[u8]) -> bool {
        let mut found = self.alternatives.iter().filter(|needed| has_all(message, &needed.texts)).peekable();
        if found.peek().is_none() && !self.alternatives.is_empty() {
            return false;
        }
        // Bytes that are not UTF-8 count as U+FFFD.
        found.any(|needed| needed.is_all) || self.regex.is_match(&String::from_utf8_lossy(message))
    }
}

/// Whether a message has all these texts, one behind the other.
fn has_all(mut message: &[u8], texts: &[Finder<'_>]) -> bool {
    texts.iter().all(|text| {
        let found = text.find(message);
        message = found.map_or(&[], |at| &message[at + text.needle().len()..]);
        found.is_some()
    })
}

/// What each alternative of a pattern needs. `None` if it can't be told for one of them. Texts
/// are looked for only where they are plain: outside of all groups and classes, in a pattern
/// without flags.
fn alternatives(pattern: &str) -> Option<Vec<Alternative<String>>> {
    let mut all = Vec::new();
    let mut this = Needed::default();
    let mut chars = pattern.chars().peekable();
    let mut depth = 0;
    while let Some(char) = chars.next() {
        match char {
            '\\' => {
                let escaped = chars.next()?;
                match escaped {
                    _ if escaped.is_ascii_punctuation() && depth == 0 => this.char(escaped, chars.peek()),
                    _ if escaped.is_ascii_punctuation() => {}
                    // Classes and places. What else begins so may go on with plain letters.
                    'd' | 's' | 'w' | 'D' | 'S' | 'W' | 'b' | 'B' | 'A' | 'z' => this.other(),
                    _ => return None,
                }
            }
            '[' => {
                this.other();
                skip_class(&mut chars)?;
            }
            // A flag changes what letters mean.
            '(' if chars.peek() == Some(&'?') => return None,
            '(' => {
                this.other();
                depth += 1;
            }
            ')' => depth -= 1,
            _ if depth > 0 => {}
            '|' => all.push(std::mem::take(&mut this).end()?),
            '{' => {
                this.other();
                chars.by_ref().find(|&c| c == '}')?;
            }
            '.' | '^' | '$' | '*' | '?' | '+' | '}' => this.other(),
            plain => this.char(plain, chars.peek()),
        }
    }
    all.push(this.end()?);
    Some(all)
}

/// What the alternative needs that is being read.
#[derive(Debug, Default)]
struct Needed {
    texts: Vec<String>,
    text: String,
    has_other: bool,
}

impl Needed {
    /// A letter, and what comes behind it.
    fn char(&mut self, char: char, next: Option<&char>) {
        if matches!(next, Some('*' | '+' | '?' | '{')) {
            self.other();
        } else {
            self.text.push(char);
        }
    }

    /// Something that stands for no certain text.
    fn other(&mut self) {
        self.has_other = true;
        if !self.text.is_empty() {
            self.texts.push(std::mem::take(&mut self.text));
        }
    }

    fn end(mut self) -> Option<Alternative<String>> {
        let is_all = !self.has_other;
        self.other();
        (!self.texts.is_empty()).then_some(Alternative { texts: self.texts, is_all })
    }
}

/// Passes over the rest of `[...]`; `None` if it is not a plain one.
fn skip_class(chars: &mut impl Iterator<Item = char>) -> Option<()> {
    let mut is_first = true;
    loop {
        match chars.next()? {
            '^' if is_first => continue,
            ']' if is_first => return None,
            ']' => return Some(()),
            '[' => return None,
            '\\' => drop(chars.next()?),
            _ => {}
        }
        is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is(wanted: &str, peer: &str) -> bool {
        Peer::new(wanted).is(peer.as_bytes())
    }

    #[test]
    fn a_peer_is_an_address_with_or_without_its_port_or_a_process() {
        for (wanted, peer) in [
            ("127.0.0.1", "127.0.0.1:40312"),
            ("127.0.0.1:40312", "127.0.0.1:40312"),
            ("::1", "[::1]:40313"),
            ("[::1]", "[::1]:40313"),
            ("[::1]:40313", "[::1]:40313"),
            ("[0:0:0:0:0:0:0:1]:40313", "[::1]:40313"),
            ("0::1", "[::1]:40313"),
            ("fe80::1", "[fe80::1%2]:7"),
            ("fe80::1%2", "[fe80::1%2]:7"),
            ("[fe80::1%2]:7", "[fe80::1%2]:7"),
            ("unix:4711", "unix:4711"),
            ("journal", "journal"),
            ("-", "-"),
        ] {
            assert!(is(wanted, peer), "{wanted} {peer}");
        }
        for (wanted, peer) in [
            ("127.0.0.1", "127.0.0.11:40312"),
            ("127.0.0.1:4", "127.0.0.1:40312"),
            ("::1", "[::12]:1"),
            ("fe80::1%2", "[fe80::1%23]:7"),
            ("fe80::1%2", "[fe80::1]:7"),
            ("unix:4", "unix:4711"),
            ("unix", "unix:4711"),
        ] {
            assert!(!is(wanted, peer), "{wanted} {peer}");
        }
    }

    #[test]
    fn the_texts_are_what_every_match_has() {
        let all = |text: &str| vec![Alternative { texts: vec![text.to_owned()], is_all: true }];
        let some = |texts: &[&str]| {
            vec![Alternative { texts: texts.iter().map(|&text| text.to_owned()).collect(), is_all: false }]
        };
        for (pattern, expected) in [
            ("hello", all("hello")),
            (r"10\.0\.0\.1", all("10.0.0.1")),
            ("a|b c", [all("a"), all("b c")].concat()),
            ("^error.*failed$", some(&["error", "failed"])),
            ("colou?r", some(&["colo", "r"])),
            ("ab+cd", some(&["a", "cd"])),
            ("(one|two) three", some(&[" three"])),
            ("[abc]def", some(&["def"])),
            ("x{2}yz", some(&["yz"])),
            (r"\d+ms|login", [some(&["ms"]), all("login")].concat()),
            (r"\.?x", some(&["x"])),
        ] {
            assert_eq!(alternatives(pattern), Some(expected), "{pattern}");
        }
        for pattern in ["a|", "(?i)hello", r"\d+", r"\x41b", r"a\tb", "[]a]b", ""] {
            assert_eq!(alternatives(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn a_message_is_matched_as_it_was_sent() {
        let matches = |pattern: &str, message: &[u8]| Grep::new(pattern).unwrap().matches(message);
        assert!(matches(r"^a\tb\\$", b"a\tb\\") && matches("é", "café".as_bytes()) && matches("x", b"\xff x"));
        assert!(!matches("^b", b"ab") && matches("(?i)HELLO", b"hello") && matches("caf.$", b"caf\xc3"));
        assert!(Grep::new("(").is_err());
    }

    proptest! {
        #[test]
        fn looking_for_texts_first_changes_no_answer(
            pattern in "([a-c]{1,3}|\\\\\\.|\\\\[dwbBx]|\\[\\^?[a-c]\\]|[|.+*?^$]|\\{1\\}|\\(|\\)|\\(\\?:){1,8}",
            message in "[a-c.1 ]{0,12}",
        ) {
            if let Ok(grep) = Grep::new(&pattern) {
                prop_assert_eq!(grep.matches(message.as_bytes()), grep.regex.is_match(&message), "{}", pattern);
            }
        }
    }
}
