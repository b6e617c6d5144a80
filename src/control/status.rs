//! The shape of `plumbd status --json`. Keys may be added, but are never changed; readers
//! ignore keys that they do not know.

use super::details::Details;
use crate::sys::stream::Stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of this shape.
pub const VERSION: u32 = 1;

/// The daemon, its children and its links at one instant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Status {
    /// The version of this shape: 1.
    pub version: u32,
    /// The supervisor's process id.
    pub pid: i32,
    /// What the daemon is doing.
    pub state: DaemonState,
    /// The configuration file; `null` for the built-in configuration.
    pub config: Option<String>,
    /// The version of the daemon's program, such as `0.1.0`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program: String,
    /// What was in that file when the configuration that is in force was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_content: Option<Content>,
    /// When the file was changed, if it holds something else than what is in force. The command
    /// that shows the status looks; the daemon itself sends none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339::optional")]
    #[cfg_attr(test, schemars(with = "Option<Timestamp>"))]
    pub config_changed: Option<Timestamp>,
    /// When the daemon started, as RFC 3339.
    #[serde(with = "rfc3339")]
    #[cfg_attr(test, schemars(with = "Timestamp"))]
    pub since: Timestamp,
    /// How many reloads were applied.
    pub reloads: u64,
    /// Why the last reload failed and the configuration from before is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload_failed: Option<String>,
    /// How many log entries are not written: they wait, or were dropped and that is not
    /// logged yet.
    #[serde(default)]
    pub unlogged: u64,
    /// What hooks of the daemon lack, so that they don't run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// What became of hooks.
    #[serde(default)]
    pub hooks: Hooks,
    /// Every child, or those that were named, in the order of the configuration.
    pub children: Vec<Child>,
    /// Every link (of these children), in the order of the configuration.
    pub links: Vec<Link>,
    /// Every listening socket (of these children).
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Every message file (of these children).
    #[serde(default)]
    pub files: Vec<MessageFile>,
}

/// What became of hooks since the daemon was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Hooks {
    /// The number that were started, or should have been.
    pub started: u64,
    /// The number of these that could not be started, failed or took too long.
    pub failed: u64,
    /// The number of events that were dropped because a hook ran and too many others waited.
    pub dropped: u64,
}

/// What a file holds: enough to see that it holds something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Child {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: ChildState,
    /// Its process id, while it has a process.
    pub pid: Option<i32>,
    /// Whether it is ready.
    pub ready: bool,
    /// When it came into this state, as RFC 3339.
    #[serde(with = "rfc3339")]
    #[cfg_attr(test, schemars(with = "Timestamp"))]
    pub since: Timestamp,
    /// Whether it ended as it should and its `restart` does not start it again: it is
    /// down, and nothing is wrong.
    #[serde(default)]
    pub finished: bool,
    /// How often it was started again.
    pub restarts: u64,
    /// How often it was started again, by cause.
    #[serde(default)]
    pub restarts_by: RestartsBy,
    /// How its last process ended. `null`: none has ended.
    pub last_exit: Option<LastExit>,
    /// What is wrong, in plain words. `null`: nothing is known to be wrong.
    pub problem: Option<String>,
    /// That it keeps ending, although it is up just now, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flapping: Option<String>,
    /// That its last checks failed, but not yet so many that it counts as unhealthy, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
    /// What its plugin counts since its process was started, by the names that
    /// `plumbd plugin NAME --describe` explains. Empty for a program.
    pub metrics: BTreeMap<String, u64>,
    /// How much some of its metrics rise per second: an average over about a second.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rates: BTreeMap<String, f64>,
    /// How much these metrics rise per second: an average over about a minute.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rates_1m: BTreeMap<String, f64>,
    /// What its processes use. The daemon sends none: the command that shows the status looks
    /// for itself, because that may take a while. `null`: it has no process, or that can't be
    /// seen.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// What only `status CHILD` shows.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
}

/// What a child's process and everything that it started use. `null` is what can't be seen.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Usage {
    /// How many processes there are.
    pub processes: u64,
    /// The process id of one that is stopped, and does nothing until it gets SIGCONT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<i32>,
    /// The processor time of all of them, and of those that they have reaped, in milliseconds.
    pub cpu_ms: u64,
    /// The share of one processor, in percent, over the last `cpu_percent_over_ms`.
    pub cpu_percent: Option<f64>,
    /// The time since the last look with `--watch`, else since the process was started, in
    /// milliseconds.
    pub cpu_percent_over_ms: Option<u64>,
    /// Resident memory, in bytes. What several processes share counts for each.
    pub memory_bytes: u64,
    /// How many descriptors they have open.
    pub descriptors: Option<u64>,
    /// How many bytes they have read, from whatever.
    pub read_bytes: Option<u64>,
    /// How many bytes they have written, to whatever.
    pub written_bytes: Option<u64>,
    /// How many bytes they read per second since the last look with `--watch`.
    pub read_rate: Option<f64>,
    /// How many bytes they wrote per second since the last look with `--watch`.
    pub written_rate: Option<f64>,
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Listener {
    /// Its address, as in `listen`.
    pub address: String,
    /// The child that has it: the first one, if several instances share it.
    pub child: String,
    /// How many new clients wait to be accepted, for a TCP socket or a Unix socket. Those of Unix
    /// sockets are for the command that shows the status to look at.
    pub backlog: Option<u64>,
    /// How many new clients may wait.
    pub backlog_max: Option<u64>,
    /// How much memory the datagrams take that wait to be read, in bytes, for a UDP socket.
    pub queued_bytes: Option<u64>,
    /// How much memory they may take, in bytes.
    pub queued_bytes_max: Option<u64>,
}

/// A message file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MessageFile {
    /// Its absolute path.
    pub path: String,
    /// The child that writes to it.
    pub child: String,
    /// How many bytes were written to it per second: an average over about a second.
    pub rate: f64,
    /// How many bytes were written to it per second: an average over about a minute.
    pub rate_1m: f64,
    /// Its length in bytes. The command that shows the status looks for itself, and fills in
    /// `free` and `full_in_s` too; `null` if it can't, or if the file system does not answer.
    #[serde(default)]
    pub size: Option<u64>,
    /// How many bytes a program without privileges can still write to its file system.
    #[serde(default)]
    pub free: Option<u64>,
    /// When the file system is full at the rate of the last minute, in seconds. `null`: never.
    #[serde(default)]
    pub full_in_s: Option<u64>,
}

/// How a process ended: `{"code":1,"at":"..."}` or `{"signal":"SIGKILL","at":"..."}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LastExit {
    /// Whether it exited or was killed by a signal.
    #[serde(flatten)]
    pub how: Ended,
    /// When it was reaped, as RFC 3339.
    #[serde(with = "rfc3339")]
    #[cfg_attr(test, schemars(with = "Timestamp"))]
    pub at: Timestamp,
    /// Whether somebody had asked for it: an operator, a reload, the end of the daemon.
    #[serde(default)]
    pub asked: bool,
}

/// How often a child was started again, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RestartsBy {
    /// How often because its process ended, and nobody had asked.
    #[serde(default)]
    pub failure: u64,
    /// How often because an operator asked for it.
    #[serde(default)]
    pub operator: u64,
    /// How often because a reload changed it.
    #[serde(default)]
    pub reload: u64,
    /// It was not well: its checks failed, it took none of the bytes that waited for it, or it
    /// did not send WATCHDOG=1 in time.
    #[serde(default)]
    pub health: u64,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// It exited with this status.
    Code(i32),
    /// A signal killed it: its name, such as `SIGKILL`.
    Signal(String),
}

/// One link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Link {
    /// The source's name.
    pub from: String,
    /// Which of the source's outputs it is.
    #[serde(default)]
    pub stream: Stream,
    /// The sink's name.
    pub to: String,
    /// How many bytes wait in the queue.
    pub queued_bytes: u64,
    /// How many bytes the queue can hold.
    pub capacity_bytes: u64,
    /// For how long the sink has taken nothing while bytes waited, in milliseconds.
    /// The daemon looks only when it is asked for the status, and counts from the look
    /// that first saw the bytes. Once they have waited for 100 ms, and if the sink keeps a
    /// ledger, as logger does, it counts from when the sink last took something.
    pub stalled_for_ms: u64,
    /// How many messages its sink has taken since the link was made, or if the sink keeps no
    /// ledger, how many its source has counted since that was started. `null`: nobody counts
    /// them.
    #[serde(default)]
    pub messages: Option<u64>,
    /// How many bytes these messages have.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// How many `messages` and `bytes` flow per second: an average over about a second.
    #[serde(default)]
    pub rates: Option<BTreeMap<String, f64>>,
    /// How many `messages` and `bytes` flow per second: an average over about a minute.
    #[serde(default)]
    pub rates_1m: Option<BTreeMap<String, f64>>,
}

impl Link {
    /// A link in which nothing waits and of which nothing is known.
    pub fn between(from: &str, stream: Stream, to: &str) -> Link {
        Link {
            from: from.to_owned(),
            stream,
            to: to.to_owned(),
            queued_bytes: 0,
            capacity_bytes: 0,
            stalled_for_ms: 0,
            messages: None,
            bytes: None,
            rates: None,
            rates_1m: None,
        }
    }

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
}

/// A rate as it is sent: a tenth is exact enough.
pub fn rounded(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
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
            "hooks": {"started": 0, "failed": 0, "dropped": 0},
            "children": [
                {"name": "echo", "state": "up", "pid": 4243, "ready": true, "since": "2026-11-22T15:00:01.250Z", "finished": false,
                 "restarts": 0, "restarts_by": {"failure": 0, "operator": 0, "reload": 0, "health": 0}, "last_exit": null, "problem": null,
                 "metrics": {"connections": 3, "accepted": 10, "refused": 0, "messages": 1234, "bytes": 56789},
                 "rates": {"messages": 1.5}, "rates_1m": {"messages": 20.1},
                 "usage": {"processes": 1, "cpu_ms": 70, "cpu_percent": 0.1, "cpu_percent_over_ms": 60000,
                           "memory_bytes": 4096000, "descriptors": 12, "read_bytes": 1, "written_bytes": null,
                           "read_rate": 0.5, "written_rate": null}},
                {"name": "tidy", "state": "backoff", "pid": null, "ready": false, "since": "2026-11-22T15:00:01.250Z", "finished": false,
                 "restarts": 2, "restarts_by": {"failure": 1, "operator": 1, "reload": 0, "health": 0},
                 "last_exit": {"code": 1, "at": "2026-11-22T15:00:01.250Z", "asked": false},
                 "problem": "it exits at once", "metrics": {}, "usage": null},
                {"name": "gone", "state": "down", "pid": null, "ready": false, "since": "2026-11-22T15:00:01.250Z", "finished": false,
                 "restarts": 2, "restarts_by": {"failure": 0, "operator": 0, "reload": 2, "health": 0},
                 "last_exit": {"signal": "SIGKILL", "at": "2026-11-22T15:00:01.250Z", "asked": true},
                 "problem": null, "metrics": {}, "usage": null}
            ],
            "links": [
                {"from": "echo", "stream": "stdout", "to": "logger", "queued_bytes": 0, "capacity_bytes": 1048576, "stalled_for_ms": 0,
                 "messages": 7, "bytes": 70, "rates": {"bytes": 2.0}, "rates_1m": {"bytes": 3.0}},
                {"from": "a", "stream": "stdout", "to": "b", "queued_bytes": 0, "capacity_bytes": 1048576, "stalled_for_ms": 0,
                 "messages": null, "bytes": null, "rates": null, "rates_1m": null}
            ],
            "listeners": [
                {"address": "tcp://127.0.0.1:7007", "child": "echo", "backlog": 0, "backlog_max": 4096,
                 "queued_bytes": null, "queued_bytes_max": null}
            ],
            "files": [
                {"path": "/var/log/messages.log", "child": "logger", "rate": 1.0, "rate_1m": 2.0,
                 "size": 900_000, "free": 126_976, "full_in_s": 63488}
            ]
        })
    }

    #[test]
    fn the_documented_shape_goes_in_and_out_unchanged() {
        let status: Status = serde_json::from_value(contract()).unwrap();
        assert_eq!(serde_json::to_value(&status).unwrap(), contract());
    }

    #[test]
    fn a_daemon_of_an_earlier_version_is_understood() {
        let mut earlier = contract();
        for key in ["hooks", "listeners", "files"] {
            earlier.as_object_mut().unwrap().remove(key);
        }
        for list in ["children", "links"] {
            for each in earlier[list].as_array_mut().unwrap() {
                for key in ["messages", "bytes", "rates", "rates_1m", "usage"] {
                    each.as_object_mut().unwrap().remove(key);
                }
            }
        }
        let status: Status = serde_json::from_value(earlier).unwrap();
        assert_eq!((status.links[0].bytes, status.children[0].usage), (None, None));
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
}
