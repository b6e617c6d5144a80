//! `plumbd status` for people: the daemon, its children, its links, and
//! what is wrong. Pure.

mod buffered;
pub(super) mod places;

use super::table::{Colour, Column, DETAIL, Paper, bar, table};
use crate::control::status::{Child, ChildState, DaemonState, Ended, Link, Status, Usage};
use crate::sys::text::{counted, masked};
use jiff::Timestamp;
use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

/// How long a sink may take nothing before that is reported as a problem.
pub(super) const STALLED: Duration = Duration::from_secs(1);

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
    if !status.listeners.is_empty() || !status.files.is_empty() {
        tables.push('\n');
    }
    tables += &table(places::listeners(&status.listeners), paper);
    tables += &table(places::files(&status.files), paper);
    let shown = |mark: String, text: String| {
        // These are a child's words, and no child may control the terminal.
        let text = masked(&text);
        let lines = wrapped(&text, paper.width.unwrap_or(usize::MAX).saturating_sub(MARGIN));
        format!("{mark} {}\n", lines.join("\n  "))
    };
    let wrong = problems(status);
    let head = head(status, wrong.len(), now, paper);
    let wrong = wrong.into_iter().chain(not_in_force(status, now));
    let mut problems: Vec<String> = wrong.map(|problem| shown(paper.paint(Colour::Bad, "!"), problem)).collect();
    let notes = buffered::notes(status, now).into_iter().chain(notes(status));
    problems.extend(notes.map(|note| shown("-".to_owned(), note)));
    Page { head, tables, problems }
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

fn head(status: &Status, problems: usize, now: Timestamp, paper: Paper) -> String {
    let count = |is: fn(&Child) -> bool| status.children.iter().filter(|child| is(child)).count();
    let (up, finished) = (count(|child| child.state == ChildState::Up), count(|child| child.finished));
    let finished = if finished == 0 { String::new() } else { format!(", {finished} finished") };
    let colour = match status.state {
        _ if status.all_up() && problems == 0 => Colour::Good,
        DaemonState::Running => Colour::Bad,
        _ => Colour::Wait,
    };
    let problems = match problems {
        0 => String::new(),
        some => format!(", with {}", counted(some, "problem", "problems")),
    };
    let counts = format!("{up} of {} up{finished}", counted(status.children.len() as u64, "child", "children"));
    let reloads = match status.reloads {
        0 => String::new(),
        1 => ", reloaded once".to_owned(),
        n => format!(", reloaded {n} times"),
    };
    let version = match status.program.as_str() {
        "" => String::new(),
        program => format!("version {}, ", masked(program)),
    };
    let config = status.config.as_deref().unwrap_or("the built-in configuration");
    let process =
        format!("process {} for {}, {version}{}{reloads}", status.pid, age(status.since, now), masked(config),);
    let first = folded(&format!("plumbd {}{problems}: {counts}", status.state), paper).into_iter();
    let first = first.map(|line| match line.strip_prefix("plumbd ") {
        Some(rest) => format!("plumbd {}", paper.paint(colour, rest)),
        None => paper.paint(colour, &line),
    });
    first.chain(folded(&process, paper)).map(|line| line + "\n").collect()
}

/// A line of the head. If it does not fit, what comes after its first line is indented.
fn folded(text: &str, paper: Paper) -> Vec<String> {
    let width = paper.width.unwrap_or(usize::MAX);
    if text.chars().count() <= width {
        return vec![text.to_owned()];
    }
    let lines = wrapped(text, width.saturating_sub(MARGIN)).into_iter().enumerate();
    lines.map(|(place, line)| if place == 0 { line } else { format!("  {line}") }).collect()
}

fn children(status: &Status, now: Timestamp) -> Vec<Column> {
    let all = || status.children.iter();
    let counts = |name: &str| all().any(|child| child.metrics.contains_key(name));
    let used = |of: fn(&Usage) -> Option<String>| {
        let cell = move |child: &Child| or_dash(child.usage.as_ref().and_then(of));
        all().map(cell).collect::<Vec<_>>().into_iter()
    };
    // The higher the number, the sooner a column is left out where space is short.
    let mut columns = vec![
        Column::text("CHILD", all().map(|child| (child.name.clone(), Colour::None))),
        Column::text("STATE", all().map(state)),
        Column::number("PID", all().map(|child| or_dash(child.pid))).gives_way(1),
        Column::text("SINCE", all().map(|child| (age(child.since, now), Colour::None))).gives_way(5),
        Column::number("RESTARTS", all().map(|child| child.restarts.to_string())).gives_way(3),
        Column::text("LAST EXIT", all().map(|child| last_exit(child, now))).gives_way(6),
    ];
    if counts("messages") {
        let total = |child: &Child| or_dash(child.metrics.get("messages").map(|&messages| total(messages)));
        columns.push(Column::number("MSGS", all().map(total)).gives_way(DETAIL));
        columns.push(Column::number("MSG/S", all().map(|child| rate(child, "messages", count))).gives_way(2));
    }
    let moved = bytes_a_second(status);
    if counts("bytes") || moved.iter().any(Option::is_some) {
        columns.push(Column::number("B/S", moved.iter().map(|rate| or_dash(rate.map(size)))).gives_way(4));
    }
    if all().any(|child| child.usage.is_some()) {
        columns.push(Column::number("CPU", used(|used| used.cpu_percent.map(percent))).gives_way(DETAIL + 2));
        let time = |used: &Usage| Some(time(Duration::from_millis(used.cpu_ms)));
        columns.push(Column::number("CPU TIME", used(time)).gives_way(DETAIL + 4));
        columns.push(Column::number("MEM", used(|used| Some(bytes(used.memory_bytes)))).gives_way(DETAIL + 3));
        let descriptors = |used: &Usage| used.descriptors.map(|count| count.to_string());
        columns.push(Column::number("FDS", used(descriptors)).gives_way(DETAIL + 5));
    }
    if counts("connections") {
        let connections = |child: &Child| or_dash(child.metrics.get("connections"));
        columns.push(Column::number("CONNS", all().map(connections)).gives_way(DETAIL + 1));
    }
    columns
}

pub(super) fn state(child: &Child) -> (String, Colour) {
    let colour = match child.state {
        _ if child.finished => return ("finished".to_owned(), Colour::Quiet),
        ChildState::Up if child.problem.is_some() || child.flapping.is_some() => Colour::Wait,
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

/// How many bytes a second each child moves: what a plugin counts, or else, if there was an
/// earlier look, what a program reads and writes. Of a source of a link, that is what it writes,
/// and of a sink what it reads, because a program that starts others reads these too.
fn bytes_a_second(status: &Status) -> Vec<Option<f64>> {
    let sources: HashSet<&str> = status.links.iter().map(|link| link.from.as_str()).collect();
    let sinks: HashSet<&str> = status.links.iter().map(|link| link.to.as_str()).collect();
    let moved = |child: &Child| {
        let usage = child.usage.as_ref()?;
        let (read, written) = (usage.read_rate?, usage.written_rate?);
        Some(match child.name.as_str() {
            name if sources.contains(name) => written,
            name if sinks.contains(name) => read,
            _ => read.max(written),
        })
    };
    status.children.iter().map(|child| child.rates.get("bytes").copied().or_else(|| moved(child))).collect()
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

pub(super) fn links(links: &[Link], paper: Paper) -> Vec<Column> {
    let stalled = |link: &Link| {
        let stalled = stalled(link);
        match stalled >= STALLED {
            true => (short(stalled), Colour::Bad),
            false => ("-".to_owned(), Colour::None),
        }
    };
    let mut columns = vec![
        Column::text("LINK", links.iter().map(|link| (link.title(), Colour::None))),
        Column::number("QUEUED", links.iter().map(|link| bytes(link.queued_bytes))),
        Column::number("OF", links.iter().map(|link| bytes(link.capacity_bytes))).gives_way(DETAIL + 2),
        Column::text("FULL", links.iter().map(|link| bar(link.queued_bytes, link.capacity_bytes, paper)))
            .gives_way(DETAIL),
        Column::text("STALLED", links.iter().map(stalled)).gives_way(1),
    ];
    if links.iter().any(|link| link.bytes.is_some()) {
        let rate =
            |link: &Link| or_dash(link.rates.as_ref().and_then(|rates| rates.get("bytes")).map(|&rate| size(rate)));
        columns.push(Column::number("B/S", links.iter().map(rate)).gives_way(DETAIL + 1));
        columns.push(
            Column::number("TOTAL", links.iter().map(|link| or_dash(link.bytes.map(bytes)))).gives_way(DETAIL + 3),
        );
    }
    columns
}

/// A hint if the configuration file was changed and not reloaded.
pub(super) fn not_in_force(status: &Status, now: Timestamp) -> Option<String> {
    let file = Path::new(status.config.as_ref()?).file_name()?.to_string_lossy();
    let failed = status.reload_failed.as_ref().map(|why| format!("the last reload failed: {why}"));
    let Some(changed) = status.config_changed else { return failed };
    let failed = failed.map_or_else(String::new, |failed| format!("; {failed}"));
    Some(format!("{file} was changed {} ago and is not in force: see `plumbd plan`{failed}", age(changed, now)))
}

/// Whether every child is up, or has finished, and nothing is a problem.
pub(super) fn is_well(status: &Status) -> bool {
    status.all_up() && problems(status).is_empty()
}

pub(super) fn problems(status: &Status) -> Vec<String> {
    let children = status.children.iter().filter_map(|child| {
        let name = &child.name;
        if let Some(pid) = child.usage.and_then(|usage| usage.stopped) {
            return Some(format!("{name}: process {pid} is stopped; `kill -CONT {pid}` lets it go on"));
        }
        let why = match (&child.problem, child.state) {
            (Some(problem), ChildState::Backoff | ChildState::Failed) if child.last_exit.is_some() => {
                format!("{problem}; see `plumbd log {name}`")
            }
            (Some(problem), _) => problem.clone(),
            (None, ChildState::Starting | ChildState::Up) => {
                format!("{}; see `plumbd log {name}`", child.flapping.as_ref()?)
            }
            (None, ChildState::Failed) => format!("it is past its start limit; `plumbd start {name}` tries again"),
            (None, ChildState::Down) if !child.finished && status.state == DaemonState::Running => {
                format!("it is down; `plumbd start {name}` starts it")
            }
            (None, ChildState::Backoff) => "it waits before it is started again".to_owned(),
            _ => return None,
        };
        Some(format!("{name}: {why}"))
    });
    let links = status.links.iter().filter(|link| stalled(link) >= STALLED).map(|link| {
        let (title, sink, time) = (link.title(), &link.to, short(stalled(link)));
        // What is wrong with the sink is told above.
        let is_well = |child: &Child| child.problem.is_none() && child.usage.is_none_or(|used| used.stopped.is_none());
        let advice = match status.children.iter().find(|child| child.name == *sink) {
            Some(child) if child.state == ChildState::Up && is_well(child) => {
                format!("; if it hangs, `plumbd restart {sink}`")
            }
            Some(_) => String::new(),
            None => format!("; see `plumbd status {sink}`"),
        };
        format!("{title}: {sink} has taken nothing for {time}{advice}")
    });
    let lacks = status.lacks.iter().map(|lack| format!("{lack}; until a reload, this hook does not run"));
    children.chain(links).chain(lacks).collect()
}

/// For how long bytes have waited while the sink took none.
pub(super) fn stalled(link: &Link) -> Duration {
    Duration::from_millis(link.stalled_for_ms)
}

/// That checks of a child fail, but not yet too often.
pub(super) fn failing(child: &Child) -> Option<String> {
    Some(format!("{}: {}", child.name, child.failing.as_ref()?))
}

/// What is worth a look, but no problem of what the daemon does: checks may succeed again, and
/// where no syslog daemon runs, log entries always wait.
fn notes(status: &Status) -> impl Iterator<Item = String> {
    let unlogged = (status.unlogged > 0).then(|| {
        let entries = counted(status.unlogged, "log entry waits", "log entries wait");
        format!("{entries}: the reader of the log, such as a syslog daemon, takes none")
    });
    status.children.iter().filter_map(failing).chain(unlogged)
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
pub(super) fn age(since: Timestamp, now: Timestamp) -> String {
    short(Duration::from_secs(u64::try_from(now.as_second() - since.as_second()).unwrap_or(0)))
}

/// A duration in its two largest units.
pub(super) fn short(duration: Duration) -> String {
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
pub(super) fn count(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// A total, in at most seven characters.
pub(super) fn total(count: u64) -> String {
    match count {
        0..10_000_000 => count.to_string(),
        10_000_000..10_000_000_000 => format!("{:.1}M", count as f64 / 1e6),
        _ => format!("{:.1}G", count as f64 / 1e9),
    }
}

/// A share of one processor; a small one has one decimal place.
pub(super) fn percent(share: f64) -> String {
    count(share) + "%"
}

/// Processor time; a short one has one decimal place.
pub(super) fn time(time: Duration) -> String {
    if time.as_secs() < 60 { format!("{:.1}s", time.as_secs_f64()) } else { short(time) }
}

pub(super) fn bytes(bytes: u64) -> String {
    size(bytes as f64)
}

/// A size in the largest unit that leaves it at least 1, in
/// powers of 1024 and at most five characters.
pub(super) fn size(bytes: f64) -> String {
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
    use crate::sys::stream::Stream;

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
                 "rates": {"messages": 1234.5, "bytes": 56789.0},
                 "usage": {"processes": 1, "cpu_ms": 12_345, "cpu_percent": 3.1, "memory_bytes": 4_300_000, "descriptors": 14}},
                {"name": "logger", "state": "up", "pid": 4244, "ready": true, "since": "2026-11-22T16:58:00Z",
                 "restarts": 1, "last_exit": {"signal": "SIGKILL", "at": "2026-11-22T16:58:00Z"}, "problem": null,
                 "metrics": {"messages": 1234, "bytes": 99000}, "rates": {"messages": 0.5, "bytes": 0.0},
                 "usage": {"processes": 2, "cpu_ms": 3_725_000, "cpu_percent": 0.0, "memory_bytes": 6_500_000}},
                {"name": "setup", "state": "down", "pid": null, "ready": false, "since": "2026-11-22T15:00:01Z",
                 "finished": true, "restarts": 0, "last_exit": {"code": 0, "at": "2026-11-22T15:00:01Z"},
                 "problem": null, "metrics": {}}
            ],
            "links": [
                {"from": "echo", "to": "logger", "queued_bytes": 0, "capacity_bytes": 1048576, "stalled_for_ms": 0,
                 "messages": 1234, "bytes": 99000, "rates": {"messages": 0.5, "bytes": 4096.0}, "rates_1m": {}}
            ],
            "listeners": [
                {"address": "tcp://127.0.0.1:7007", "child": "echo", "backlog": 0, "backlog_max": 4096},
                {"address": "unix:/run/plumbd/a-rather-long-folder/for-a-socket/echo.sock", "child": "echo"}
            ],
            "files": [
                {"path": "/var/log/plumbd/messages.log", "child": "logger", "rate": 12288.0, "rate_1m": 11.0,
                 "size": 905_216, "free": 126_976, "full_in_s": 11_543}
            ]
        }))
    }

    /// Without what colours it.
    fn letters(shown: &str) -> String {
        let parts = shown.split('\x1b');
        parts
            .map(|part| part.split_once('m').filter(|_| part.starts_with('[')).map_or(part, |(_, text)| text))
            .collect()
    }

    #[test]
    fn a_page_fits_every_terminal_and_what_matters_least_goes_first() {
        let titles =
            ["FDS", "CPU TIME", "MEM", "CPU ", "CONNS", "MSGS", "LAST EXIT", "SINCE", "B/S", "RESTARTS", "MSG/S"];
        let gone = [(40, 9), (60, 7), (80, 5), (100, 2), (120, 0), (250, 0)];
        for (colours, (width, gone)) in [(true, gone), (false, gone)].into_iter().flat_map(|(c, g)| g.map(|g| (c, g))) {
            let shown = page(&well(), at("2026-11-22T17:03:20Z"), Paper { width: Some(width), colours }).tables;
            let text = letters(&shown);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            let head = text.lines().next().unwrap();
            let there: Vec<bool> = titles.iter().map(|title| head.contains(title)).collect();
            assert_eq!(there, std::array::from_fn::<bool, 11, _>(|place| place >= gone), "{width}:\n{text}");
            for kept in ["STATE", "PID", "echo -> logger", "LISTEN ", "7007", "FILE ", "s.log"] {
                assert!(text.contains(kept), "{kept} {width}:\n{text}");
            }
        }
    }

    #[test]
    fn the_head_is_wrapped_on_a_narrow_terminal() {
        let mut status = well();
        status.children[1].problem = Some("it is ill".to_owned());
        let paper = Paper { width: Some(40), colours: false };
        insta::assert_snapshot!(page(&status, at("2026-11-22T17:03:20Z"), paper).head, @r"
        plumbd running, with 1 problem: 2 of 3
          children up, 1 finished
        process 4242 for 2h3m, version 1.2.3,
          /etc/plumbd/plumbd.toml, reloaded 2
          times
        ");
        let coloured = page(&status, at("2026-11-22T17:03:20Z"), Paper { colours: true, ..paper }).head;
        assert_eq!(letters(&coloured), page(&status, at("2026-11-22T17:03:20Z"), paper).head);
    }

    #[test]
    fn what_a_program_moves_is_shown_where_no_plugin_counts() {
        let mut status = well();
        status.children[2].usage =
            Some(Usage { read_rate: Some(10.0), written_rate: Some(2048.0), ..Usage::default() });
        let shown = page(&status, at("2026-11-22T17:03:20Z"), PLAIN).tables;
        assert!(shown.lines().any(|line| line.starts_with("setup") && line.contains("2K")), "{shown}");
        // Of a sink, only what it reads matters, and of a source what it writes.
        for (from, to, expected) in [("x", "setup", " 10B"), ("setup", "x", "2K")] {
            status.links = vec![Link::between(from, Stream::Stdout, to)];
            let shown = page(&status, at("2026-11-22T17:03:20Z"), PLAIN).tables;
            assert!(shown.lines().any(|line| line.starts_with("setup") && line.contains(expected)), "{shown}");
        }
    }

    #[test]
    fn totals_and_times_are_short() {
        assert_eq!([0, 9_999_999, 10_000_000, 123_456_789_012].map(total), ["0", "9999999", "10.0M", "123.5G"]);
        assert_eq!(
            [0, 40, 59_940, 61_000].map(|ms| time(Duration::from_millis(ms))),
            ["0.0s", "0.0s", "59.9s", "1m1s"]
        );
        assert_eq!([0.0, 3.12, 250.0].map(percent), ["0%", "3.1%", "250%"]);
    }

    #[test]
    fn all_is_well() {
        insta::assert_snapshot!(page(&well(), at("2026-11-22T17:03:20Z"), PLAIN).print(), @r"
        plumbd running: 2 of 3 children up, 1 finished
        process 4242 for 2h3m, version 1.2.3, /etc/plumbd/plumbd.toml, reloaded 2 times

        CHILD   STATE      PID  SINCE  RESTARTS  LAST EXIT       MSGS  MSG/S    B/S   CPU  CPU TIME   MEM  FDS  CONNS
        echo    up        4243  2h3m          0  -               1234   1234  55.5K  3.1%     12.3s  4.1M   14      3
        logger  up        4244  5m20s         1  SIGKILL 5m ago  1234    0.5     0B    0%      1h2m  6.2M    -      -
        setup   finished     -  2h3m          0  exit 0 2h ago      -      -      -     -         -     -    -      -

        LINK            QUEUED  OF  FULL  STALLED  B/S  TOTAL
        echo -> logger      0B  1M  0%    -         4K  96.7K

        LISTEN tcp://127.0.0.1:7007                                          echo  backlog 0
        LISTEN unix:/run/plumbd/a-rather-long-folder/for-a-socket/echo.sock  echo
        FILE /var/log/plumbd/messages.log  logger  884K  12K/s  124K free  full in 3h12m
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
        status.reload_failed = Some("x.toml:1: unknown key \"a\"".to_owned());
        let shown = page(&status, at("2026-11-22T17:03:20Z"), PLAIN).print();
        assert!(
            shown.ends_with(" see `plumbd plan`; the last reload failed: x.toml:1: unknown key \"a\"\n"),
            "{shown}"
        );
    }

    #[test]
    fn what_a_person_can_do_is_told_with_each_problem() {
        let mut status = well();
        status.links[0].stalled_for_ms = 6000;
        status.children[0].failing = Some("a check failed, 1 of 3 in a row: timed out after 1 s".to_owned());
        let shown = |status: &Status| page(status, at("2026-11-22T17:03:20Z"), PLAIN).problems.concat();
        let stalled = "! echo -> logger: logger has taken nothing for 6s";
        let note = "- echo: a check failed, 1 of 3 in a row: timed out after 1 s\n";
        assert_eq!(shown(&status), format!("{stalled}; if it hangs, `plumbd restart logger`\n{note}"));
        status.children[1].usage.as_mut().unwrap().stopped = Some(7);
        let stopped = "! logger: process 7 is stopped; `kill -CONT 7` lets it go on\n";
        assert_eq!(shown(&status), format!("{stopped}{stalled}\n{note}"));
        (status.links, status.children[0].failing, status.children[1].usage) = (Vec::new(), None, None);
        status.children[1].flapping = Some("keeps ending: exited with status 1".to_owned());
        assert_eq!(shown(&status), "! logger: keeps ending: exited with status 1; see `plumbd log logger`\n");
        (status.children[1].state, status.children[1].flapping) = (ChildState::Failed, None);
        status.children[1].problem = Some("given up".to_owned());
        assert_eq!(shown(&status), "! logger: given up; see `plumbd log logger`\n");
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
