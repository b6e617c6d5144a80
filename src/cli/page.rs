//! `plumbd status` for people: the daemon, its children, its links, and
//! what is wrong. Pure.

use super::table::{Colour, Column, Paper, bar, table};
use crate::control::status::{Child, ChildState, DaemonState, Ended, Link, Status};
use crate::sys::plural::counted;
use jiff::Timestamp;
use std::path::Path;
use std::time::Duration;

/// How long a sink may take nothing before that is reported as a problem.
const STALLED: Duration = Duration::from_secs(1);

/// The width of the `! ` before a problem.
const MARGIN: usize = 2;
/// Text is not wrapped narrower than this.
const NARROWEST: usize = 20;

/// The parts of a page; each consists of whole lines.
#[derive(Debug)]
pub(super) struct Page {
    /// The daemon.
    pub(super) head: String,
    /// Children and links.
    pub(super) tables: String,
    /// What is wrong, one entry per problem; may be empty.
    pub(super) problems: Vec<String>,
}

/// Shows a status. Ages are counted up to `now`.
pub(super) fn page(status: &Status, now: Timestamp, paper: Paper) -> Page {
    let mut tables = table(children(status, now), paper);
    if !status.links.is_empty() {
        tables.push('\n');
        tables += &table(links(&status.links, paper), paper);
    }
    let shown = |mark: String, text: String| {
        // These are a child's words, and no child may control the terminal.
        let text = text.replace(char::is_control, "\u{fffd}");
        let lines = wrapped(&text, paper.width.unwrap_or(usize::MAX).saturating_sub(MARGIN));
        format!("{mark} {}\n", lines.join("\n  "))
    };
    let wrong = problems(status).into_iter().chain(not_in_force(status, now));
    let mut problems: Vec<String> = wrong.map(|problem| shown(paper.paint(Colour::Bad, "!"), problem)).collect();
    problems.extend(unlogged(status).map(|note| shown("-".to_owned(), note)));
    Page { head: head(status, now, paper), tables, problems }
}

impl Page {
    /// The problems come last, just above the next prompt, where people look.
    pub(super) fn print(&self) -> String {
        let gap = if self.problems.is_empty() { "" } else { "\n" };
        format!("{}\n{}{gap}{}", self.head, self.tables, self.problems.concat())
    }

    /// The problems come first, so that even the smallest window shows them.
    pub(super) fn watch(&self) -> String {
        let gap = if self.problems.is_empty() { "" } else { "\n" };
        format!("{}{gap}{}\n{}", self.head, self.problems.concat(), self.tables)
    }
}

fn head(status: &Status, now: Timestamp, paper: Paper) -> String {
    let count = |is: fn(&Child) -> bool| status.children.iter().filter(|child| is(child)).count();
    let (up, finished) = (count(|child| child.state == ChildState::Up), count(|child| child.finished));
    let finished = if finished == 0 { String::new() } else { format!(", {finished} finished") };
    let colour = match status.state {
        _ if is_well(status) => Colour::Good,
        DaemonState::Running => Colour::Bad,
        _ => Colour::Wait,
    };
    let problems = match problems(status).len() {
        0 => String::new(),
        1 => ", with 1 problem".to_owned(),
        n => format!(", with {n} problems"),
    };
    let counts = format!("{up} of {} up{finished}", counted(status.children.len() as u64, "child", "children"));
    let reloads = match status.reloads {
        0 => String::new(),
        1 => ", reloaded once".to_owned(),
        n => format!(", reloaded {n} times"),
    };
    let version = match status.program.as_str() {
        "" => String::new(),
        program => format!("version {}, ", program.replace(char::is_control, "\u{fffd}")),
    };
    let config = status.config.as_deref().unwrap_or("the built-in configuration");
    format!(
        "plumbd {}: {}\nprocess {} for {}, {version}{}{reloads}\n",
        paper.paint(colour, &format!("{}{problems}", status.state)),
        paper.paint(colour, &counts),
        status.pid,
        age(status.since, now),
        config.replace(char::is_control, "\u{fffd}"),
    )
}

fn children(status: &Status, now: Timestamp) -> Vec<Column> {
    let all = || status.children.iter();
    let counts = |name: &str| all().any(|child| child.metrics.contains_key(name));
    let mut columns = vec![
        Column::text("CHILD", all().map(|child| (child.name.clone(), Colour::None))),
        Column::text("STATE", all().map(state)),
        Column::number("PID", all().map(|child| or_dash(child.pid))),
        Column::text("SINCE", all().map(|child| (age(child.since, now), Colour::None))).optional(),
        Column::number("RESTARTS", all().map(|child| child.restarts.to_string())),
        Column::text("LAST EXIT", all().map(|child| last_exit(child, now))).optional(),
    ];
    if counts("messages") {
        columns.push(Column::number("MSG/S", all().map(|child| rate(child, "messages", count))));
    }
    if counts("bytes") {
        columns.push(Column::number("B/S", all().map(|child| rate(child, "bytes", size))));
    }
    if counts("connections") {
        columns.push(Column::number("CONNS", all().map(|child| or_dash(child.metrics.get("connections")))));
    }
    columns
}

fn state(child: &Child) -> (String, Colour) {
    let colour = match child.state {
        _ if child.finished => return ("finished".to_owned(), Colour::Quiet),
        ChildState::Up if child.problem.is_some() => Colour::Wait,
        ChildState::Up => Colour::Good,
        ChildState::Starting | ChildState::Stopping => Colour::Wait,
        ChildState::Down | ChildState::Backoff | ChildState::Failed => Colour::Bad,
    };
    (child.state.to_string(), colour)
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn rate(child: &Child, name: &str, shown: fn(f64) -> String) -> String {
    or_dash(child.rates.get(name).map(|rate| shown(*rate)))
}

fn last_exit(child: &Child, now: Timestamp) -> (String, Colour) {
    let Some(exit) = &child.last_exit else { return ("-".to_owned(), Colour::None) };
    let (how, colour) = match &exit.how {
        Ended::Code(0) => ("exit 0".to_owned(), Colour::None),
        Ended::Code(code) => (format!("exit {code}"), Colour::Wait),
        Ended::Signal(name) => (name.clone(), Colour::Wait),
    };
    // An exit that somebody asked for, or that counts as success, needs no attention.
    let colour = if child.finished || exit.asked { Colour::None } else { colour };
    // The largest unit is enough.
    let ago = age(exit.at, now);
    let unit = ago.find(|c: char| !c.is_ascii_digit()).unwrap_or_default();
    (format!("{how} {} ago", &ago[..=unit]), colour)
}

fn links(links: &[Link], paper: Paper) -> Vec<Column> {
    let stalled = |link: &Link| {
        let stalled = Duration::from_millis(link.stalled_for_ms);
        match stalled >= STALLED {
            true => (short(stalled), Colour::Bad),
            false => ("-".to_owned(), Colour::None),
        }
    };
    vec![
        Column::text("LINK", links.iter().map(|link| (link.title(), Colour::None))),
        Column::number("QUEUED", links.iter().map(|link| bytes(link.queued_bytes))),
        Column::number("OF", links.iter().map(|link| bytes(link.capacity_bytes))),
        Column::text("FULL", links.iter().map(|link| bar(link.queued_bytes, link.capacity_bytes, paper))),
        Column::text("STALLED", links.iter().map(stalled)),
    ]
}

/// A hint if the configuration file was changed and not reloaded.
fn not_in_force(status: &Status, now: Timestamp) -> Option<String> {
    let file = Path::new(status.config.as_ref()?).file_name()?.to_string_lossy();
    let ago = age(status.config_changed?, now);
    Some(format!("{file} was changed {ago} ago and is not in force: see `plumbd plan`"))
}

/// Whether every child is up, or has finished, and nothing is a problem.
pub(super) fn is_well(status: &Status) -> bool {
    status.all_up() && problems(status).is_empty()
}

fn problems(status: &Status) -> Vec<String> {
    let children = status.children.iter().filter_map(|child| {
        let name = &child.name;
        let why = match (&child.problem, child.state) {
            (Some(problem), _) => problem.clone(),
            (None, ChildState::Failed) => format!("it is past its start limit; `plumbd start {name}` tries again"),
            (None, ChildState::Down) if !child.finished && status.state == DaemonState::Running => {
                format!("it is down; `plumbd start {name}` starts it")
            }
            (None, ChildState::Backoff) => "it waits before it is started again".to_owned(),
            _ => return None,
        };
        Some(format!("{name}: {why}"))
    });
    let links = status.links.iter().filter_map(|link| {
        let stalled = Duration::from_millis(link.stalled_for_ms);
        (stalled >= STALLED).then(|| format!("{}: {} has taken nothing for {}", link.title(), link.to, short(stalled)))
    });
    children.chain(links).collect()
}

/// A note that log entries wait. This is not a problem of what the daemon does: where no syslog
/// daemon runs, they always do.
fn unlogged(status: &Status) -> Option<String> {
    (status.unlogged > 0).then(|| {
        let entries = counted(status.unlogged, "log entry waits", "log entries wait");
        format!("{entries}: the reader of the log, such as a syslog daemon, takes none")
    })
}

/// Wraps a text between words, into lines of at most that width if the words allow it.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(NARROWEST);
    let mut lines: Vec<String> = Vec::new();
    let mut room = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        match lines.last_mut().filter(|_| length < room) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
                room -= length + 1;
            }
            None => {
                lines.push(word.to_owned());
                room = width.saturating_sub(length);
            }
        }
    }
    lines
}

/// How long ago, for people. If the clock was set back, this is zero.
fn age(since: Timestamp, now: Timestamp) -> String {
    short(Duration::from_secs(u64::try_from(now.as_second() - since.as_second()).unwrap_or(0)))
}

/// A duration in its two largest units.
fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if !duration.is_zero() => format!("{}ms", duration.as_millis()),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A count per second; a small one has one decimal place.
fn count(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn bytes(bytes: u64) -> String {
    size(bytes as f64)
}

/// A size in the largest unit that leaves it at least 1, in
/// powers of 1024 and at most five characters.
fn size(bytes: f64) -> String {
    let mut left = bytes;
    for unit in ["B", "K", "M", "G"] {
        if left < 99.95 && unit != "B" && (left * 10.0).round() % 10.0 != 0.0 {
            return format!("{left:.1}{unit}");
        }
        // 1023.5 would be shown as 1024.
        if left < 1023.5 {
            return format!("{left:.0}{unit}");
        }
        left /= 1024.0;
    }
    format!("{left:.0}T")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paper = Paper { width: None, colours: false };

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn status(json: serde_json::Value) -> Status {
        serde_json::from_value(json).unwrap()
    }

    fn well() -> Status {
        status(serde_json::json!({
            "version": 1, "pid": 4242, "state": "running", "config": "/etc/plumbd/plumbd.toml",
            "program": "1.2.3", "since": "2026-11-22T15:00:00Z", "reloads": 2,
            "children": [
                {"name": "echo", "state": "up", "pid": 4243, "ready": true, "since": "2026-11-22T15:00:00Z",
                 "restarts": 0, "last_exit": null, "problem": null,
                 "metrics": {"connections": 3, "accepted": 10, "refused": 0, "messages": 1234, "bytes": 56789},
                 "rates": {"messages": 1234.5, "bytes": 56789.0}},
                {"name": "logger", "state": "up", "pid": 4244, "ready": true, "since": "2026-11-22T16:58:00Z",
                 "restarts": 1, "last_exit": {"signal": "SIGKILL", "at": "2026-11-22T16:58:00Z"}, "problem": null,
                 "metrics": {"messages": 1234, "bytes": 99000}, "rates": {"messages": 0.5, "bytes": 0.0}},
                {"name": "setup", "state": "down", "pid": null, "ready": false, "since": "2026-11-22T15:00:01Z",
                 "finished": true, "restarts": 0, "last_exit": {"code": 0, "at": "2026-11-22T15:00:01Z"},
                 "problem": null, "metrics": {}}
            ],
            "links": [
                {"from": "echo", "to": "logger", "queued_bytes": 0, "capacity_bytes": 1048576, "stalled_for_ms": 0}
            ]
        }))
    }

    #[test]
    fn all_is_well() {
        insta::assert_snapshot!(page(&well(), at("2026-11-22T17:03:20Z"), PLAIN).print(), @r"
        plumbd running: 2 of 3 children up, 1 finished
        process 4242 for 2h3m, version 1.2.3, /etc/plumbd/plumbd.toml, reloaded 2 times

        CHILD   STATE      PID  SINCE  RESTARTS  LAST EXIT       MSG/S    B/S  CONNS
        echo    up        4243  2h3m          0  -                1234  55.5K      3
        logger  up        4244  5m20s         1  SIGKILL 5m ago    0.5     0B      -
        setup   finished     -  2h3m          0  exit 0 2h ago       -      -      -

        LINK            QUEUED  OF  FULL  STALLED
        echo -> logger      0B  1M  0%    -
        ");
    }

    #[test]
    fn a_status_without_problems_fits_a_terminal_of_80_columns_with_colours() {
        let shown = page(&well(), at("2026-11-22T17:03:20Z"), Paper { width: Some(80), colours: true }).watch();
        let text: String = shown
            .split('\x1b')
            .map(|part| part.split_once('m').filter(|_| part.starts_with('[')).map_or(part, |(_, text)| text))
            .collect();
        assert!(text.lines().all(|line| line.chars().count() <= 80) && text.contains("LAST EXIT"), "{text}");
        assert!(shown.contains("\x1b[32mup\x1b[0m") && text.contains("[..........]   0%"), "{shown}");
    }

    #[test]
    fn problems_are_reported_in_words() {
        let status = status(serde_json::json!({
            "version": 1, "pid": 4242, "state": "running", "config": null,
            "since": "2026-11-22T15:00:00Z", "reloads": 0, "unlogged": 3,
            "children": [
                {"name": "ticker", "state": "failed", "pid": null, "ready": false, "since": "2026-11-22T15:00:30Z",
                 "restarts": 10, "last_exit": {"code": 1, "at": "2026-11-22T15:00:30Z"}, "problem": null, "metrics": {}},
                {"name": "logger", "state": "up", "pid": 4244, "ready": true, "since": "2026-11-22T15:00:00Z",
                 "restarts": 0, "last_exit": null,
                 "problem": "cannot write /var/log/m.log: No space left on device\u{1b}[2J", "metrics": {}},
                {"name": "web", "state": "down", "pid": null, "ready": false, "since": "2026-11-22T15:00:00Z",
                 "restarts": 0, "last_exit": {"signal": "SIGTERM", "at": "2026-11-22T15:00:30Z"},
                 "problem": null, "metrics": {}}
            ],
            "links": [
                {"from": "ticker", "to": "logger", "queued_bytes": 1000000, "capacity_bytes": 1048576,
                 "stalled_for_ms": 62500},
                {"from": "ticker", "stream": "stderr", "to": "logger", "queued_bytes": 0, "capacity_bytes": 4096,
                 "stalled_for_ms": 0}
            ]
        }));
        // A short window shows the problems too, because only the end is cut off.
        let watched = page(&status, at("2026-11-22T15:01:00Z"), PLAIN).watch();
        let at_line = |text: &str| watched.lines().position(|line| line.contains(text)).unwrap();
        assert!(at_line("No space left") < at_line("CHILD") && at_line("ticker") < at_line("LINK"), "{watched}");
        insta::assert_snapshot!(page(&status, at("2026-11-22T15:01:00Z"), PLAIN).print(), @r"
        plumbd running, with 4 problems: 1 of 3 children up
        process 4242 for 1m0s, the built-in configuration

        CHILD   STATE    PID  SINCE  RESTARTS  LAST EXIT
        ticker  failed     -  30s          10  exit 1 30s ago
        logger  up      4244  1m0s          0  -
        web     down       -  1m0s          0  SIGTERM 30s ago

        LINK                       QUEUED  OF  FULL  STALLED
        ticker -> logger             977K  1M  95%   1m2s
        ticker (stderr) -> logger      0B  4K  0%    -

        ! ticker: it is past its start limit; `plumbd start ticker` tries again
        ! logger: cannot write /var/log/m.log: No space left on device�[2J
        ! web: it is down; `plumbd start web` starts it
        ! ticker -> logger: logger has taken nothing for 1m2s
        - 3 log entries wait: the reader of the log, such as a syslog daemon, takes none
        ");
    }

    #[test]
    fn a_file_that_was_changed_and_not_reloaded_is_hinted_at() {
        let mut status = well();
        status.config_changed = Some(at("2026-11-22T17:01:20Z"));
        let shown = page(&status, at("2026-11-22T17:03:20Z"), Paper { width: Some(80), colours: false }).print();
        let hint = "! plumbd.toml was changed 2m0s ago and is not in force: see `plumbd plan`\n";
        assert!(shown.ends_with(&format!("\n\n{hint}")), "{shown}");
    }

    #[test]
    fn words_stay_whole_and_a_long_one_has_a_line_of_its_own() {
        let text = "cannot write /var/log/plumbd/a-rather-long-name.log: No space left on device";
        let lines = ["cannot write", "/var/log/plumbd/a-rather-long-name.log:", "No space left on", "device"];
        assert_eq!(wrapped(text, 0), lines);
        assert_eq!(wrapped(text, usize::MAX), [text]);
        let fits = wrapped("one two three four five six seven", 23);
        assert_eq!(fits, ["one two three four five", "six seven"]);
    }

    #[test]
    fn sizes_are_short() {
        let shown = [0, 1023, 1024, 1536, 1_048_000, 1_048_576, 1_258_292, 1 << 45].map(bytes);
        assert_eq!(shown, ["0B", "1023B", "1K", "1.5K", "1023K", "1M", "1.2M", "32T"]);
    }

    #[test]
    fn rates_are_short() {
        assert_eq!([0.0, 0.04, 0.5, 9.96, 10.4, 105_000.0].map(count), ["0", "0.0", "0.5", "10.0", "10", "105000"]);
    }

    #[test]
    fn durations_are_short() {
        let shown = [0, 1, 999, 1000, 59_999, 60_000, 3_725_000, 90_000_000].map(|ms| short(Duration::from_millis(ms)));
        assert_eq!(shown, ["0s", "1ms", "999ms", "1s", "59s", "1m0s", "1h2m", "1d1h"]);
    }

    #[test]
    fn a_clock_that_was_set_back_shows_no_age() {
        assert_eq!(age(at("2026-11-22T15:00:00Z"), at("2026-11-22T14:00:00Z")), "0s");
    }
}
