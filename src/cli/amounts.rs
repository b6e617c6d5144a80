//! What `plumbd status` looks at by itself: what the children's processes use, how many clients
//! wait at Unix sockets, and how large and how full the message files and their file systems are. The daemon does not look,
//! because it must not wait for any of it.

use crate::control::status::{Listener, MessageFile, Status, Usage, rounded};
use crate::sys::aside::Keeps;
use crate::sys::look::Look as Aside;
use crate::sys::unix_diag;
use crate::sys::usage::{self, Process, Processes};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a file system may take to answer for one file.
const PATIENCE: Duration = Duration::from_millis(500);
/// At a lower rate, in bytes per second, no disk counts as filling up.
const SLOWEST: f64 = 1.0;

/// Fills in what the daemon did not look at, and returns whether a file system did not answer,
/// in which case it should not be asked again soon. `before` is an earlier status of the same
/// daemon and how long ago that was.
pub(super) fn fill_in(
    status: &mut Status,
    processes: Option<&Processes>,
    before: Option<(&Status, Duration)>,
    files: bool,
) -> bool {
    // If nothing can be seen, all of it is shown as unknown.
    if let Some(processes) = processes {
        fill_in_usage(status, processes, before);
    }
    fill_in_backlogs(status);
    files && fill_in_files(status)
}

fn fill_in_usage(status: &mut Status, processes: &Processes, before: Option<(&Status, Duration)>) {
    let pids: Vec<i32> = status.children.iter().filter_map(|child| child.pid).collect();
    let found = processes.of_children(status.pid, &pids);
    // What the same processes used at the earlier look.
    let each = |(before, elapsed): (&Status, Duration)| {
        let children = before.children.iter().filter_map(|child| Some((child.pid?, child.usage?)));
        (children.collect::<HashMap<i32, Usage>>(), elapsed)
    };
    let before = before.map(each);
    for child in &mut status.children {
        let Some((pid, own)) = child.pid.and_then(|pid| Some((pid, found.get(&pid)?))) else { continue };
        let same = before.as_ref().and_then(|(used, elapsed)| Some((*used.get(&pid)?, *elapsed)));
        child.usage = Some(used(processes, own, same));
    }
}

/// What these processes use; the first is the child's own.
fn used(processes: &Processes, own: &[&Process], before: Option<(Usage, Duration)>) -> Usage {
    let sum = |of: fn(i32) -> Option<u64>| own.iter().map(|process| of(process.pid)).sum::<Option<u64>>();
    let io = own.iter().map(|process| usage::read_and_written(process.pid)).collect::<Option<Vec<_>>>();
    let bytes = |place: usize| io.as_ref().map(|io| io.iter().map(|io| io[place]).sum());
    let now = Usage {
        processes: own.len() as u64,
        stopped: own.iter().find(|process| process.is_stopped()).map(|process| process.pid),
        cpu_ms: millis(processes.time(own)),
        memory_bytes: processes.memory(own),
        descriptors: sum(usage::descriptors),
        read_bytes: bytes(0),
        written_bytes: bytes(1),
        ..Usage::default()
    };
    match (before, own.first()) {
        (Some((before, elapsed)), _) => since(now, before, elapsed),
        (None, Some(process)) => since_start(now, processes.age(process)),
        (None, None) => now,
    }
}

fn since_start(now: Usage, age: Duration) -> Usage {
    Usage { cpu_percent: percent(now.cpu_ms, age), cpu_percent_over_ms: Some(millis(age)), ..now }
}

/// The same, with what changed since an earlier look. A process that ended meanwhile and was
/// reaped by nobody of the child takes its figures along.
fn since(now: Usage, before: Usage, elapsed: Duration) -> Usage {
    let rate = |now: Option<u64>, before: Option<u64>| {
        let more = now?.saturating_sub(before?);
        (!elapsed.is_zero()).then(|| rounded(more as f64 / elapsed.as_secs_f64()))
    };
    Usage {
        cpu_percent: percent(now.cpu_ms.saturating_sub(before.cpu_ms), elapsed),
        cpu_percent_over_ms: Some(millis(elapsed)),
        read_rate: rate(now.read_bytes, before.read_bytes),
        written_rate: rate(now.written_bytes, before.written_bytes),
        ..now
    }
}

fn percent(cpu_ms: u64, time: Duration) -> Option<f64> {
    (!time.is_zero()).then(|| rounded(cpu_ms as f64 / 10.0 / time.as_secs_f64()))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Fills in the backlogs of Unix sockets, which a sandbox may hide from the daemon.
fn fill_in_backlogs(status: &mut Status) {
    let path = |listener: &Listener| listener.address.strip_prefix("unix:").map(PathBuf::from);
    if !status.listeners.iter().any(|listener| path(listener).is_some()) {
        return;
    }
    let Ok(backlogs) = unix_diag::backlogs() else { return };
    for listener in &mut status.listeners {
        if let Some(fill) = path(listener).and_then(|path| backlogs.get(&path)) {
            (listener.backlog, listener.backlog_max) = (Some(fill.now), Some(fill.most));
        }
    }
}

/// Asks a process aside, because a file system may not answer. Returns whether one did not.
fn fill_in_files(status: &mut Status) -> bool {
    if status.files.is_empty() {
        return false;
    }
    let pid = |child: &str| status.children.iter().find(|other| other.name == child)?.pid;
    let asked: Vec<(String, PathBuf)> = status
        .files
        .iter()
        .map(|file| (file.path.clone(), pid(&file.child).map_or_else(PathBuf::new, |pid| as_seen_by(pid, &file.path))))
        .collect();
    let begun = Aside::begin(Keeps::Only(&[]), |scribe| {
        for (path, seen) in &asked {
            let look = || usage::file(seen).or_else(|_| usage::file(Path::new(path))).ok();
            scribe.ask(path, &format!("looking at {path}"), look);
        }
    });
    let Ok((answers, hangs)) = begun.and_then(|look| look.wait_each(PATIENCE)) else { return false };
    for file in &mut status.files {
        if let Some([size, free]) = answers.get::<Option<[u64; 2]>>(&file.path).flatten() {
            (file.size, file.free) = (Some(size), Some(free));
            file.full_in_s = full_in(file);
        }
    }
    hangs.is_some()
}

/// The file as a process sees it that may have other file systems mounted, such as a /tmp of
/// its own.
fn as_seen_by(pid: i32, path: &str) -> PathBuf {
    Path::new(&format!("/proc/{pid}/root")).join(path.trim_start_matches('/'))
}

/// In how many seconds its file system is full, at the rate of the last minute.
fn full_in(file: &MessageFile) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let seconds = |free: u64| (free as f64 / file.rate_1m) as u64;
    file.free.filter(|_| file.rate_1m >= SLOWEST).map(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_and_bytes_are_compared_with_the_look_before() {
        let before = Usage { cpu_ms: 1000, read_bytes: Some(100), ..Usage::default() };
        let now = Usage { cpu_ms: 2500, read_bytes: Some(1100), written_bytes: Some(7), ..Usage::default() };
        let shown = since(now, before, Duration::from_secs(2));
        assert_eq!((shown.cpu_percent, shown.cpu_percent_over_ms), (Some(75.0), Some(2000)));
        assert_eq!((shown.read_rate, shown.written_rate), (Some(500.0), None));
        let shown = since_start(now, Duration::from_secs(10));
        assert_eq!((shown.cpu_percent, shown.cpu_percent_over_ms), (Some(25.0), Some(10_000)));
        assert_eq!(since_start(now, Duration::ZERO).cpu_percent, None);
        // Less than before: a descendant took its figures along.
        assert_eq!(since(before, now, Duration::from_secs(2)).cpu_percent, Some(0.0));
    }

    #[test]
    fn a_disk_is_full_once_the_rate_of_a_minute_has_filled_it() {
        let file = |free, rate_1m| MessageFile {
            path: "/x".to_owned(),
            child: "logger".to_owned(),
            rate: 1e9,
            rate_1m,
            size: Some(1),
            free,
            full_in_s: None,
        };
        assert_eq!(full_in(&file(Some(100_000), 10.0)), Some(10_000));
        assert_eq!(full_in(&file(Some(0), 10.0)), Some(0));
        assert_eq!(full_in(&file(Some(100_000), 0.0)), None);
        assert_eq!(full_in(&file(None, 10.0)), None);
    }
}
