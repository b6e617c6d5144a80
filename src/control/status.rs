//! The shape of `plumbd status --json`. Keys may be added, but are never changed; readers
//! ignore keys that they do not know.

use crate::sys::stream::Stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The version of this shape.
pub const VERSION: u32 = 1;

/// The metrics of plugins whose rates are shown.
const COUNTED: [&str; 2] = ["messages", "bytes"];

/// The daemon, its children and its links at one instant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// The supervisor's process id.
    pub pid: i32,
    /// What the daemon is doing.
    pub state: DaemonState,
    /// The configuration file; `null` for the built-in configuration.
    pub config: Option<String>,
    /// The version of the daemon's program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program: String,
    /// What was in that file when the configuration that is in force was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_content: Option<Content>,
    /// When the file was changed, if something else is in it now. The command that shows
    /// the status looks; the daemon itself sends none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339::optional")]
    pub config_changed: Option<Timestamp>,
    /// When the daemon started.
    #[serde(with = "rfc3339")]
    pub since: Timestamp,
    /// How many reloads were applied.
    pub reloads: u64,
    /// How many log entries are not written: they wait, or were dropped and that is not
    /// logged yet.
    #[serde(default)]
    pub unlogged: u64,
    /// Every child, in the order of the configuration.
    pub children: Vec<Child>,
    /// Every link, in the order of the configuration.
    pub links: Vec<Link>,
}

/// What a file holds: enough to see that it holds something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its length in bytes.
    pub bytes: u64,
    /// Its CRC-32, as of gzip.
    pub crc32: u32,
}

impl Content {
    /// That of a file with this text.
    pub fn of(text: &[u8]) -> Content {
        Content { bytes: text.len() as u64, crc32: crc32fast::hash(text) }
    }
}

/// What the daemon is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DaemonState {
    /// Not all children have been ready yet.
    Starting,
    /// Supervising.
    Running,
    /// Carrying out a reload.
    Reloading,
    /// Draining, about to end.
    Stopping,
}

/// What a child is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChildState {
    /// Not running, and not wanted up.
    Down,
    /// Running, not ready yet.
    Starting,
    /// Running and ready.
    Up,
    /// Asked to stop, not gone yet.
    Stopping,
    /// Ended; waits before its next start.
    Backoff,
    /// Past its start limit: stays down until an operator or a reload starts it.
    Failed,
}

/// One child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: ChildState,
    /// Its process id, while it has a process.
    pub pid: Option<i32>,
    /// Whether it is ready.
    pub ready: bool,
    /// When it came into this state.
    #[serde(with = "rfc3339")]
    pub since: Timestamp,
    /// Whether it ended as it should and its `restart` does not start it again: it is
    /// down, and nothing is wrong.
    #[serde(default)]
    pub finished: bool,
    /// How often it was started again.
    pub restarts: u64,
    /// The same by cause.
    #[serde(default)]
    pub restarts_by: RestartsBy,
    /// How its last process ended.
    pub last_exit: Option<LastExit>,
    /// What is wrong, in plain words.
    pub problem: Option<String>,
    /// What its plugin counts.
    pub metrics: BTreeMap<String, u64>,
    /// The rates of its metrics, per second. The command that shows the status computes
    /// them from two looks, a moment apart; the daemon itself sends none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rates: BTreeMap<String, f64>,
}

/// How a process ended: `{"code":1,"at":"..."}` or `{"signal":"SIGKILL","at":"..."}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// Whether it exited or was killed by a signal.
    #[serde(flatten)]
    pub how: Ended,
    /// When it was reaped.
    #[serde(with = "rfc3339")]
    pub at: Timestamp,
    /// Whether somebody had asked for it: an operator, a reload, the end of the daemon.
    #[serde(default)]
    pub asked: bool,
}

/// How often a child was started again, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartsBy {
    /// Its process ended, and nobody had asked.
    #[serde(default)]
    pub failure: u64,
    /// An operator asked for it.
    #[serde(default)]
    pub operator: u64,
    /// A reload changed it.
    #[serde(default)]
    pub reload: u64,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// It exited with this status.
    Code(i32),
    /// A signal killed it: its name, such as `SIGKILL`.
    Signal(String),
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The source's name.
    pub from: String,
    /// Which of the source's outputs it is.
    #[serde(default)]
    pub stream: Stream,
    /// The sink's name.
    pub to: String,
    /// Bytes that wait in the queue.
    pub queued_bytes: u64,
    /// Bytes that the queue can hold.
    pub capacity_bytes: u64,
    /// For how long the sink has taken nothing while bytes waited, in milliseconds.
    /// The daemon looks only when it is asked for the status, and counts from the look
    /// that first saw the bytes. Once they have waited for 100 ms, and if the sink keeps a
    /// ledger, as logger does, it counts from when the sink last took something.
    pub stalled_for_ms: u64,
}

impl Link {
    /// `FROM -> TO`, or `FROM (stderr) -> TO`.
    pub fn title(&self) -> String {
        format!("{} -> {}", self.stream.of(&self.from), self.to)
    }
}

impl Status {
    /// Whether the daemon is running and each child is up or finished.
    pub fn all_up(&self) -> bool {
        self.state == DaemonState::Running && self.children.iter().all(|c| c.state == ChildState::Up || c.finished)
    }

    /// Fills in the children's rates since `before`, which was taken `elapsed` ago.
    pub fn rate(&mut self, before: &Status, elapsed: Duration) {
        for child in &mut self.children {
            // A new process may count from zero again.
            let same = before.children.iter().find(|other| other.name == child.name && other.pid == child.pid);
            let Some(same) = same.filter(|_| child.pid.is_some() && !elapsed.is_zero()) else { continue };
            for (&name, counted) in COUNTED.iter().filter_map(|name| Some((name, child.metrics.get(*name)?))) {
                let more = same.metrics.get(name).and_then(|less| counted.checked_sub(*less));
                if let Some(more) = more {
                    let rate = more as f64 / elapsed.as_secs_f64();
                    child.rates.insert(name.to_owned(), (rate * 10.0).round() / 10.0);
                }
            }
        }
    }
}

impl std::fmt::Display for DaemonState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            DaemonState::Starting => "starting",
            DaemonState::Running => "running",
            DaemonState::Reloading => "reloading",
            DaemonState::Stopping => "stopping",
        })
    }
}

impl std::fmt::Display for ChildState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            ChildState::Down => "down",
            ChildState::Starting => "starting",
            ChildState::Up => "up",
            ChildState::Stopping => "stopping",
            ChildState::Backoff => "backoff",
            ChildState::Failed => "failed",
        })
    }
}

/// Times as RFC 3339 in UTC with milliseconds.
pub(super) mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::control) fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{time:.3}"))
    }

    pub(in crate::control) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|e| D::Error::custom(format_args!("{text}: {e}")))
    }

    /// A time that may not be there.
    pub(in crate::control) mod optional {
        use super::{Deserializer, Serializer, Timestamp};

        pub(in crate::control) fn serialize<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, to),
                None => to.serialize_none(),
            }
        }

        pub(in crate::control) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Timestamp>, D::Error> {
            super::deserialize(from).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract() -> serde_json::Value {
        serde_json::json!({
            "version": 1, "pid": 4242, "state": "running", "config": "/etc/plumbd/plumbd.toml",
            "since": "2026-11-22T15:00:00.000Z", "reloads": 0, "unlogged": 0,
            "children": [
                {"name": "echo", "state": "up", "pid": 4243, "ready": true, "since": "2026-11-22T15:00:01.250Z", "finished": false,
                 "restarts": 0, "restarts_by": {"failure": 0, "operator": 0, "reload": 0}, "last_exit": null, "problem": null,
                 "metrics": {"connections": 3, "accepted": 10, "refused": 0, "messages": 1234, "bytes": 56789}},
                {"name": "tidy", "state": "backoff", "pid": null, "ready": false, "since": "2026-11-22T15:00:01.250Z", "finished": false,
                 "restarts": 2, "restarts_by": {"failure": 1, "operator": 1, "reload": 0},
                 "last_exit": {"code": 1, "at": "2026-11-22T15:00:01.250Z", "asked": false},
                 "problem": "it exits at once", "metrics": {}},
                {"name": "gone", "state": "down", "pid": null, "ready": false, "since": "2026-11-22T15:00:01.250Z", "finished": false,
                 "restarts": 2, "restarts_by": {"failure": 0, "operator": 0, "reload": 2},
                 "last_exit": {"signal": "SIGKILL", "at": "2026-11-22T15:00:01.250Z", "asked": true},
                 "problem": null, "metrics": {}}
            ],
            "links": [
                {"from": "echo", "stream": "stdout", "to": "logger", "queued_bytes": 0, "capacity_bytes": 1048576, "stalled_for_ms": 0}
            ]
        })
    }

    #[test]
    fn the_documented_shape_goes_in_and_out_unchanged() {
        let status: Status = serde_json::from_value(contract()).unwrap();
        assert_eq!(serde_json::to_value(&status).unwrap(), contract());
    }

    #[test]
    fn keys_that_a_later_version_adds_are_ignored() {
        let mut later = contract();
        later["children"][0]["colour"] = "green".into();
        later["moon"] = "full".into();
        assert!(serde_json::from_value::<Status>(later).is_ok());
    }

    #[test]
    fn all_is_up_only_when_each_child_is() {
        let mut status: Status = serde_json::from_value(contract()).unwrap();
        assert!(!status.all_up());
        status.children.truncate(1);
        assert!(status.all_up());
        status.state = DaemonState::Reloading;
        assert!(!status.all_up());
    }

    #[test]
    fn a_child_that_finished_is_no_reason_for_alarm() {
        let mut status: Status = serde_json::from_value(contract()).unwrap();
        status.children.remove(1);
        assert!(!status.all_up());
        status.children[1].finished = true;
        assert!(status.all_up());
    }

    #[test]
    fn rates_are_computed_between_two_looks_at_one_process() {
        let before: Status = serde_json::from_value(contract()).unwrap();
        let mut now = before.clone();
        now.children[0].metrics.insert("messages".to_owned(), 1234 + 100);
        now.rate(&before, Duration::from_millis(200));
        assert_eq!(now.children[0].rates, [("bytes".to_owned(), 0.0), ("messages".to_owned(), 500.0)].into());
        assert!(now.children[1].rates.is_empty());
        for (pid, messages) in [(Some(5), 2000), (Some(4243), 7)] {
            let mut other = before.clone();
            other.children[0].pid = pid;
            other.children[0].metrics = [("messages".to_owned(), messages)].into();
            other.rate(&before, Duration::from_millis(200));
            assert!(other.children[0].rates.is_empty(), "{pid:?}");
        }
    }
}
