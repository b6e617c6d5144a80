//! `plumbd status` for people: children, links, and what is wrong. Pure.

use crate::control::status::{Child, ChildState, Ended, LastExit, Link, Status};
use jiff::Timestamp;
use std::time::Duration;

/// What plugins count that is worth a column where anybody counts it; `--json`
/// has everything.
const METRICS: [&str; 3] = ["messages", "bytes", "connections"];

/// For how long a sink may take nothing before that is called a problem.
const STALLED: Duration = Duration::from_secs(1);

/// The whole page, each line with its newline. `now` is what ages count to.
pub(super) fn render(status: &Status, now: Timestamp) -> String {
    let config = status.config.as_deref().unwrap_or("the built-in configuration");
    let mut page = format!(
        "plumbd {}, process {}, for {}, with {config}{}\n\n",
        status.state,
        status.pid,
        age(status.since, now),
        match status.reloads {
            0 => String::new(),
            1 => ", reloaded once".to_owned(),
            n => format!(", reloaded {n} times"),
        }
    );
    page += &aligned(&children(status, now));
    if !status.links.is_empty() {
        page.push('\n');
        page += &aligned(&links(&status.links));
    }
    let problems = problems(status);
    if !problems.is_empty() {
        page.push('\n');
        for problem in problems {
            // A child's words, and no child may steer the terminal.
            page += &problem.replace(char::is_control, "\u{fffd}");
            page.push('\n');
        }
    }
    page
}

/// A cell, and whether it is a number, which stands to the right.
type Cell = (String, bool);

fn text(text: impl ToString) -> Cell {
    (text.to_string(), false)
}

fn number(number: Option<impl ToString>) -> Cell {
    (number.map_or("-".to_owned(), |n| n.to_string()), true)
}

fn children(status: &Status, now: Timestamp) -> Vec<Vec<Cell>> {
    let counted: Vec<&str> =
        METRICS.into_iter().filter(|name| status.children.iter().any(|c| c.metrics.contains_key(*name))).collect();
    let mut head: Vec<Cell> = ["CHILD", "STATE"].map(text).to_vec();
    head.extend([number(Some("PID")), text("SINCE"), number(Some("RESTARTS")), text("LAST EXIT")]);
    head.extend(counted.iter().map(|name| number(Some(name.to_uppercase()))));
    let rows = status.children.iter().map(|child| {
        let mut row = vec![
            text(&child.name),
            text(child.state),
            number(child.pid),
            text(age(child.since, now)),
            number(Some(child.restarts)),
            text(child.last_exit.as_ref().map_or("-".to_owned(), |exit| last_exit(exit, now))),
        ];
        row.extend(counted.iter().map(|name| metric(child, name)));
        row
    });
    std::iter::once(head).chain(rows).collect()
}

fn metric(child: &Child, name: &str) -> Cell {
    let value = child.metrics.get(name).copied();
    if name == "bytes" { number(value.map(size)) } else { number(value) }
}

fn last_exit(exit: &LastExit, now: Timestamp) -> String {
    let how = match &exit.how {
        Ended::Code(code) => format!("status {code}"),
        Ended::Signal(name) => name.clone(),
    };
    format!("{how}, {} ago", age(exit.at, now))
}

fn links(links: &[Link]) -> Vec<Vec<Cell>> {
    let head = vec![text("LINK"), number(Some("QUEUED")), number(Some("CAPACITY")), text("STALLED")];
    let rows = links.iter().map(|link| {
        let stalled = Duration::from_millis(link.stalled_for_ms);
        vec![
            text(format_args!("{} -> {}", link.from, link.to)),
            number(Some(size(link.queued_bytes))),
            number(Some(size(link.capacity_bytes))),
            text(if stalled.is_zero() { "-".to_owned() } else { short(stalled) }),
        ]
    });
    std::iter::once(head).chain(rows).collect()
}

fn problems(status: &Status) -> Vec<String> {
    let children = status.children.iter().filter_map(|child| match (&child.problem, child.state) {
        (Some(problem), _) => Some(format!("{}: {problem}", child.name)),
        (None, ChildState::Failed) => {
            Some(format!("{0}: it is past its start limit; `plumbd start {0}` tries again", child.name))
        }
        _ => None,
    });
    let links = status.links.iter().filter_map(|link| {
        let stalled = Duration::from_millis(link.stalled_for_ms);
        (stalled >= STALLED)
            .then(|| format!("{} -> {}: {} has taken nothing for {}", link.from, link.to, link.to, short(stalled)))
    });
    let log = (status.unlogged > 0).then(|| format!("log: {} entries are not out", status.unlogged));
    children.chain(links).chain(log).collect()
}

/// Cells in columns, two spaces between them.
fn aligned(rows: &[Vec<Cell>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].0.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let line = |row: &Vec<Cell>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|((cell, right), &width)| if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") })
            .collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// How long ago, for people. A clock that was set back shows nothing odd.
fn age(since: Timestamp, now: Timestamp) -> String {
    short(Duration::from_secs(u64::try_from(now.as_second() - since.as_second()).unwrap_or(0)))
}

/// A duration in its two largest units.
fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if !duration.is_zero() => format!("{}ms", duration.as_millis()),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A size in the largest unit that leaves something before the point.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scale = 1;
    while unit + 1 < UNITS.len() && bytes / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    match (bytes % scale) * 10 / scale {
        0 => format!("{} {}", bytes / scale, UNITS[unit]),
        tenth => format!("{}.{tenth} {}", bytes / scale, UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn status(json: serde_json::Value) -> Status {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn all_is_well() {
        let status = status(serde_json::json!({
            "version": 1, "pid": 4242, "state": "running", "config": "/etc/plumbd/plumbd.toml",
            "since": "2026-11-22T15:00:00Z", "reloads": 2,
            "children": [
                {"name": "echo", "state": "up", "pid": 4243, "ready": true, "since": "2026-11-22T15:00:00Z",
                 "restarts": 0, "last_exit": null, "problem": null,
                 "metrics": {"connections": 3, "accepted": 10, "refused": 0, "messages": 1234, "bytes": 56789}},
                {"name": "logger", "state": "up", "pid": 4244, "ready": true, "since": "2026-11-22T16:58:00Z",
                 "restarts": 1, "last_exit": {"signal": "SIGKILL", "at": "2026-11-22T16:58:00Z"}, "problem": null,
                 "metrics": {"messages": 1234, "bytes": 99000}}
            ],
            "links": [
                {"from": "echo", "to": "logger", "queued_bytes": 0, "capacity_bytes": 1048576, "stalled_for_ms": 0}
            ]
        }));
        insta::assert_snapshot!(render(&status, at("2026-11-22T17:03:20Z")), @r"
        plumbd running, process 4242, for 2h 3m, with /etc/plumbd/plumbd.toml, reloaded 2 times

        CHILD   STATE   PID  SINCE   RESTARTS  LAST EXIT            MESSAGES     BYTES  CONNECTIONS
        echo    up     4243  2h 3m          0  -                        1234  55.4 KiB            3
        logger  up     4244  5m 20s         1  SIGKILL, 5m 20s ago      1234  96.6 KiB            -

        LINK            QUEUED  CAPACITY  STALLED
        echo -> logger     0 B     1 MiB  -
        ");
    }

    #[test]
    fn what_is_wrong_is_said_in_words() {
        let status = status(serde_json::json!({
            "version": 1, "pid": 4242, "state": "starting", "config": null,
            "since": "2026-11-22T15:00:00Z", "reloads": 0,
            "children": [
                {"name": "ticker", "state": "failed", "pid": null, "ready": false, "since": "2026-11-22T15:00:30Z",
                 "restarts": 10, "last_exit": {"code": 1, "at": "2026-11-22T15:00:30Z"}, "problem": null, "metrics": {}},
                {"name": "logger", "state": "up", "pid": 4244, "ready": true, "since": "2026-11-22T15:00:00Z",
                 "restarts": 0, "last_exit": null,
                 "problem": "cannot write /var/log/m.log: No space left on device\u{1b}[2J", "metrics": {}}
            ],
            "links": [
                {"from": "ticker", "to": "logger", "queued_bytes": 1000000, "capacity_bytes": 1048576,
                 "stalled_for_ms": 62500}
            ]
        }));
        insta::assert_snapshot!(render(&status, at("2026-11-22T15:01:00Z")), @r"
        plumbd starting, process 4242, for 1m 0s, with the built-in configuration

        CHILD   STATE    PID  SINCE  RESTARTS  LAST EXIT
        ticker  failed     -  30s          10  status 1, 30s ago
        logger  up      4244  1m 0s         0  -

        LINK                 QUEUED  CAPACITY  STALLED
        ticker -> logger  976.5 KiB     1 MiB  1m 2s

        ticker: it is past its start limit; `plumbd start ticker` tries again
        logger: cannot write /var/log/m.log: No space left on device�[2J
        ticker -> logger: logger has taken nothing for 1m 2s
        ");
    }

    #[test]
    fn sizes_are_short() {
        let shown = [0, 1023, 1024, 1536, 1_048_576, 1_258_292, u64::MAX].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1 KiB", "1.5 KiB", "1 MiB", "1.2 MiB", "16777215.9 TiB"]);
    }

    #[test]
    fn durations_are_short() {
        let shown = [0, 1, 999, 1000, 59_999, 60_000, 3_725_000, 90_000_000].map(|ms| short(Duration::from_millis(ms)));
        assert_eq!(shown, ["0s", "1ms", "999ms", "1s", "59s", "1m 0s", "1h 2m", "1d 1h"]);
    }

    #[test]
    fn a_clock_that_was_set_back_shows_no_age() {
        assert_eq!(age(at("2026-11-22T15:00:00Z"), at("2026-11-22T14:00:00Z")), "0s");
    }
}
