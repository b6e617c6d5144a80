//! What an entry is, and how each destination formats it. Pure but for the clock.

use super::lines::LONGEST;
use jiff::{Timestamp, Zoned};
use log::Level;
use std::fmt::{self, Write};
use std::io;
use syslog::{Facility, LogFormat, Severity};

/// The name on the daemon's own entries.
pub(super) const OWN: &str = "plumbd";

/// How important an entry is, as in syslog(3): 0 the system is unusable, 7 debugging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Priority(u8);

impl Priority {
    pub(super) const WARNING: Priority = Priority(4);
    const INFO: Priority = Priority(6);

    /// The level that decides whether it is logged, and whose name is shown.
    pub(super) fn level(self) -> Level {
        match self.0 {
            0..=3 => Level::Error,
            4 => Level::Warn,
            5 | 6 => Level::Info,
            _ => Level::Debug,
        }
    }

    /// As sd-daemon(3) writes it, without the angle brackets.
    pub(super) fn number(self) -> u8 {
        self.0
    }

    /// Whether it is a warning or worse.
    pub(super) fn is_trouble(self) -> bool {
        self <= Priority::WARNING
    }

    fn severity(self) -> Severity {
        match self.0 {
            0 => Severity::LOG_EMERG,
            1 => Severity::LOG_ALERT,
            2 => Severity::LOG_CRIT,
            3 => Severity::LOG_ERR,
            4 => Severity::LOG_WARNING,
            5 => Severity::LOG_NOTICE,
            6 => Severity::LOG_INFO,
            _ => Severity::LOG_DEBUG,
        }
    }
}

impl From<Level> for Priority {
    fn from(level: Level) -> Priority {
        Priority(match level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        })
    }
}

/// An entry: one line.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) priority: Priority,
    pub(super) child: &'a str,
    /// Escaped: no control character but the tab.
    pub(super) text: &'a str,
}

/// How entries are formatted.
#[derive(Debug)]
pub(super) enum Style {
    /// For people: time, level, child, text.
    Plain,
    /// For systemd's journal, which adds the time itself.
    Journal,
    /// For a syslog daemon: RFC 3164, as syslog(3) writes it to /dev/log, with
    /// a NUL at its end, which is left out in a datagram.
    Syslog(Local3164),
}

/// RFC 3164 with local time, as the RFC asks; the syslog crate's own formatter writes UTC.
#[derive(Debug)]
pub(super) struct Local3164 {
    pub(super) facility: Facility,
    pub(super) pid: u32,
}

impl<T: fmt::Display> LogFormat<T> for Local3164 {
    fn format<W: io::Write>(&self, out: &mut W, severity: Severity, message: T) -> syslog::Result<()> {
        let priority = self.facility as u8 | severity as u8;
        let time = Zoned::now().strftime("%b %e %H:%M:%S");
        write!(out, "<{priority}>{time} {OWN}[{}]: {message}", self.pid).map_err(syslog::Error::Write)
    }
}

impl Entry<'_> {
    /// The bytes to write, with a newline if the style has one.
    pub(super) fn render(&self, style: &Style) -> Vec<u8> {
        let Entry { priority, child, text } = self;
        match style {
            Style::Plain => format!("{:.3} {} {child}: {text}\n", Timestamp::now(), priority.level()).into_bytes(),
            Style::Journal => format!("<{}>{child}: {text}\n", priority.number()).into_bytes(),
            Style::Syslog(formatter) => {
                let mut bytes = Vec::new();
                formatter
                    .format(&mut bytes, priority.severity(), format_args!("{child}: {text}"))
                    .expect("memory takes every byte");
                bytes.push(0);
                bytes
            }
        }
    }
}

/// Whom an entry of the `log` crate is about: its target, unless that is a module of
/// this program.
pub(super) fn child_of(target: &str) -> &str {
    match target.strip_prefix(OWN) {
        Some(rest) if rest.is_empty() || rest.starts_with("::") => OWN,
        _ => target,
    }
}

/// Splits `<N>` off the front of a child's line.
pub(super) fn priority_of(line: &[u8]) -> (Priority, &[u8]) {
    match line {
        [b'<', digit @ b'0'..=b'7', b'>', text @ ..] => (Priority(digit - b'0'), text),
        _ => (Priority::INFO, line),
    }
}

/// The line as text that can't forge an entry or control a terminal: control
/// characters (except the tab) and bytes that are not UTF-8 become `\xNN`. It is cut into
/// parts of at most 7 KiB; there is at least one.
pub fn escaped_parts(line: &[u8]) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut add = |piece: &str| match parts.last_mut() {
        Some(last) if last.len() + piece.len() <= LONGEST => last.push_str(piece),
        _ => parts.push(piece.to_owned()),
    };
    for chunk in line.utf8_chunks() {
        for character in chunk.valid().chars() {
            let mut utf8 = [0; 4];
            let text = character.encode_utf8(&mut utf8);
            if character.is_control() && character != '\t' {
                add(&escaped(text.as_bytes()));
            } else {
                add(text);
            }
        }
        if !chunk.invalid().is_empty() {
            add(&escaped(chunk.invalid()));
        }
    }
    parts
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 4);
    for byte in bytes {
        write!(text, "\\x{byte:02x}").expect("a String takes every character");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(text: &str) -> Entry<'_> {
        Entry { priority: Priority(3), child: "echo", text }
    }

    #[test]
    fn people_see_time_level_child_and_text() {
        let line = String::from_utf8(entry("no room").render(&Style::Plain)).unwrap();
        let (time, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, "ERROR echo: no room\n");
        assert_eq!(time.len(), "2026-11-22T15:04:05.123Z".len());
        assert!(time.parse::<Timestamp>().is_ok());
    }

    #[test]
    fn the_journal_sees_the_priority() {
        assert_eq!(entry("no room").render(&Style::Journal), b"<3>echo: no room\n");
    }

    #[test]
    fn syslog_sees_facility_and_severity_and_the_local_time() {
        let style = Style::Syslog(Local3164 { facility: Facility::LOG_DAEMON, pid: 7 });
        let before = Zoned::now();
        let line = String::from_utf8(entry("no room").render(&style)).unwrap();
        let times = [before, Zoned::now()].map(|time| time.strftime("<27>%b %e %H:%M:%S").to_string());
        let time = line.strip_suffix(" plumbd[7]: echo: no room\0").unwrap_or_else(|| panic!("{line}"));
        assert!(times.contains(&time.to_owned()), "{line}");
    }

    #[test]
    fn a_line_may_begin_with_its_priority() {
        assert_eq!(priority_of(b"<3>broken"), (Priority(3), &b"broken"[..]));
        for plain in [&b"<8>x"[..], b"<33>x", b"<>x", b"<3 x", b"3>x", b"", b"<"] {
            assert_eq!(priority_of(plain), (Priority(6), plain));
        }
    }

    #[test]
    fn no_control_character_gets_through() {
        let parts = escaped_parts(b"a\nb\x1b[2J\x7f\xc2\x9b1m\tcaf\xc3\xa9 \xff\xfe\\");
        assert_eq!(parts, ["a\\x0ab\\x1b[2J\\x7f\\xc2\\x9b1m\tcafé \\xff\\xfe\\"]);
    }

    #[test]
    fn own_modules_are_the_daemon_and_other_targets_are_children() {
        assert_eq!(child_of("plumbd::supervisor::spawn"), "plumbd");
        assert_eq!(child_of("plumbd"), "plumbd");
        assert_eq!(child_of("plumbdog"), "plumbdog");
        assert_eq!(child_of("echo.0"), "echo.0");
    }

    proptest! {
        // The lines are long, so there are few cases.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_bytes_become_parts_of_printable_text(line in prop::collection::vec(any::<u8>(), 0..20_000)) {
            let parts = escaped_parts(&line);
            prop_assert!(!parts.is_empty());
            prop_assert!(parts.iter().all(|p| p.len() <= LONGEST && !p.chars().any(|c| c.is_control() && c != '\t')));
        }
    }
}
