//! A hint that the output of a filter may be held back by a buffer, which is what surprises most
//! with programs in a pipeline (plumbd-plugin(7)). Pure.
//!
//! Nobody sees what a program does with what it reads. So this is a note and no problem, and it
//! is given only if all of this holds:
//!
//! - the child is a program, is the sink of a link, and its standard output is another link;
//! - it has been up for [`LONG`], and has written nothing to anything, ever: nor has any process
//!   that it started;
//! - it has taken [`MUCH`] from its links. What it has read says little, because an interpreter
//!   reads its modules, and a program that waits may have read its own files. What its sources
//!   have sent and what no longer waits says more, if they were started after it: sinks start
//!   before their sources. It has taken the lesser of the two.

use super::{age, bytes};
use crate::control::status::{Child, ChildState, Link, Status};
use crate::sys::stream::Stream;
use jiff::Timestamp;

/// How long a filter may be silent.
const LONG: i64 = 10;
/// Less than this may be a few lines, none of which the filter lets through; in bytes.
const MUCH: u64 = 4096;

/// A note for each filter that may hold back its output.
pub(super) fn notes(status: &Status, now: Timestamp) -> Vec<String> {
    let silent = status.children.iter().filter(|child| is_silent_filter(status, child, now));
    let much = silent.filter_map(|child| Some((child, taken(status, child)?))).filter(|(_, taken)| *taken >= MUCH);
    much.map(|(child, taken)| {
        format!(
            "{}: has read {} in {} and written nothing; its output may be buffered: see plumbd-plugin(7)",
            child.name,
            size(taken),
            age(child.since, now)
        )
    })
    .collect()
}

fn is_silent_filter(status: &Status, child: &Child, now: Timestamp) -> bool {
    let writes = |link: &Link| link.from == child.name && link.stream == Stream::Stdout;
    child.state == ChildState::Up
        // What a plugin writes, it counts.
        && child.metrics.is_empty()
        && now.as_second() - child.since.as_second() >= LONG
        && child.usage.is_some_and(|usage| usage.written_bytes == Some(0))
        && status.links.iter().any(writes)
}

/// How much it has taken from its links at least; `None`: that is not known.
fn taken(status: &Status, child: &Child) -> Option<u64> {
    let into = status.links.iter().filter(|link| link.to == child.name);
    let sent: u64 = into.filter_map(|link| passed(status, child, link)).sum();
    Some(sent.min(child.usage?.read_bytes?))
}

/// What has gone through a link since its sink was started.
fn passed(status: &Status, sink: &Child, link: &Link) -> Option<u64> {
    let source = status.children.iter().find(|child| child.name == link.from)?;
    let sent = link.bytes.or_else(|| source.usage?.written_bytes)?;
    (source.since >= sink.since).then(|| sent.saturating_sub(link.queued_bytes))
}

/// As `20 KB`.
fn size(count: u64) -> String {
    let mut shown = bytes(count);
    let unit = shown.pop().unwrap_or('B');
    if unit == 'B' { format!("{shown} B") } else { format!("{shown} {unit}B") }
}

#[cfg(test)]
mod tests {
    use super::super::{Page, Paper, page};
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn child(name: &str, since: i64, read: u64, written: Option<u64>) -> Value {
        json!({
            "name": name, "state": "up", "pid": 7, "ready": true, "since": at(since).to_string(), "restarts": 0,
            "last_exit": null, "problem": null, "metrics": {},
            "usage": {"processes": 1, "cpu_ms": 0, "memory_bytes": 0, "read_bytes": read, "written_bytes": written}
        })
    }

    /// `tail` writes to `errors`, which writes to `logger`.
    fn status(children: [Value; 3]) -> Status {
        let link = |from: &str, to: &str| json!({"from": from, "to": to, "queued_bytes": 480, "capacity_bytes": 1_048_576, "stalled_for_ms": 0});
        serde_json::from_value(json!({
            "version": 1, "pid": 4242, "state": "running", "config": null, "since": at(0).to_string(), "reloads": 0,
            "children": children, "links": [link("tail", "errors"), link("errors", "logger")]
        }))
        .unwrap()
    }

    /// A filter since second 0, which has read and written this much.
    fn filter(read: u64, written: Option<u64>, source: Value) -> Status {
        status([source, child("errors", 0, read, written), child("logger", 0, 0, Some(0))])
    }

    fn shown(status: &Status, width: usize) -> Page {
        page(status, at(30), Paper { width: Some(width), colours: false })
    }

    #[test]
    fn a_filter_that_reads_and_writes_nothing_is_noted_but_is_no_problem() {
        let status = filter(400_000, Some(0), child("tail", 0, 30_000, Some(20_960)));
        let page = shown(&status, 80);
        assert_eq!(
            page.problems.concat(),
            "- errors: has read 20 KB in 30s and written nothing; its output may be buffered:\n  see plumbd-plugin(7)\n"
        );
        assert!(page.head.starts_with("plumbd running: 3 of 3 children up\n"), "{}", page.head);
        assert!(super::super::is_well(&status));
    }

    #[test]
    fn a_plugins_count_shows_what_a_filter_has_taken() {
        let mut status = filter(400_000, Some(0), child("tail", 0, 0, None));
        assert_eq!(notes(&status, at(30)), [""; 0]);
        status.links[0].bytes = Some(5_600);
        assert_eq!(notes(&status, at(30)).len(), 1);
        // It has not read that much itself.
        status.children[1].usage.as_mut().unwrap().read_bytes = Some(4_095);
        assert_eq!(notes(&status, at(30)), [""; 0]);
    }

    #[test]
    fn what_may_well_wait_is_not_noted() {
        let busy = || child("tail", 0, 0, Some(1_000_000));
        let silent = [
            ("it has written something", filter(400_000, Some(1), busy())),
            ("what it has written is not known", filter(400_000, None, busy())),
            ("it has only read its modules", filter(400_000, Some(0), child("tail", 0, 0, Some(4_000)))),
            ("it takes nothing", filter(1_000, Some(0), busy())),
            ("its source is older", filter(400_000, Some(0), child("tail", -1, 0, Some(1_000_000)))),
        ];
        for (why, status) in silent {
            assert_eq!(notes(&status, at(30)), [""; 0], "{why}");
        }
        let status = filter(400_000, Some(0), busy());
        assert_eq!((notes(&status, at(9)).len(), notes(&status, at(10)).len()), (0, 1));
        // A source that reads files and waits, and a sink that saves elsewhere.
        let mut status = filter(400_000, Some(0), busy());
        status.links.remove(1);
        assert_eq!(notes(&status, at(30)), [""; 0]);
        // It reports errors, if there are any.
        let mut status = filter(400_000, Some(0), busy());
        status.links[1].stream = Stream::Stderr;
        assert_eq!(notes(&status, at(30)), [""; 0]);
    }
}
