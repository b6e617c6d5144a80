//! What `plumbd status CHILD` shows of a child besides its status: what the daemon answers,
//! and what the command adds.

use super::entry::Entry;
use super::status::{Ended, rfc3339};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What only the daemon knows of a child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Its name.
    pub child: String,
    /// Its part of the configuration that is in force, with every default filled in.
    pub config: Value,
    /// Its last ends.
    pub ends: Vec<End>,
    /// Its last log entries.
    pub lines: Vec<Entry>,
    /// What the pipes are that the daemon gave it, by their names in /proc, such as
    /// `pipe:[4242]`.
    pub pipes: BTreeMap<String, String>,
}

/// The keys that `status CHILD` adds to a child. `null` is what can't be seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Details {
    /// Its part of the configuration that is in force, with every default filled in, as
    /// `plumbd check --effective` prints it: an object with the keys of `[children.NAME]`.
    pub config: Value,
    /// The environment that its process was executed with: the value of each name.
    pub environment: Option<BTreeMap<String, String>>,
    /// What its process has open, by number.
    pub descriptors: Option<Vec<Descriptor>>,
    /// The resource limits of its process, by the names that `limits` has in the configuration.
    pub limits: Option<BTreeMap<String, Limit>>,
    /// Its process and everything that it started, each after its parent. Empty if it has none.
    pub processes: Option<Vec<Process>>,
    /// Its last ends, at most 10, the newest last.
    pub ends: Vec<End>,
    /// Its last entries in the log, at most 10, the newest last: what it wrote to its standard
    /// output or standard error, unless that is a link, and what the daemon logged about it.
    pub lines: Vec<Entry>,
}

/// An end of a child's process: `{"code":1,"at":"...","ran_ms":7,...}` or
/// `{"signal":"SIGKILL",...}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct End {
    /// Whether it exited or was killed by a signal.
    #[serde(flatten)]
    pub how: Ended,
    /// When the process was reaped, as RFC 3339.
    #[serde(with = "rfc3339")]
    #[cfg_attr(test, schemars(with = "Timestamp"))]
    pub at: Timestamp,
    /// How long the process ran, in milliseconds.
    pub ran_ms: u64,
    /// Whether somebody had asked for it: an operator, a reload, the end of the daemon.
    pub asked: bool,
    /// Why it could not be started or was ended, in words, if that is known.
    pub reason: Option<String>,
    /// The last line that the process wrote to its log pipe, if it wrote any.
    pub last_line: Option<String>,
}

/// A descriptor that a process has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Descriptor {
    /// Its number in the process.
    pub number: i32,
    /// Which kind of thing it is.
    pub kind: DescriptorKind,
    /// What it is: the link of a pipe, the address of a socket, the path of a file.
    pub name: String,
}

/// A kind of thing that can be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DescriptorKind {
    /// A pipe.
    Pipe,
    /// A socket that is no connection.
    Socket,
    /// A socket that is connected to another one.
    Connection,
    /// Shared memory.
    Memory,
    /// Anything that has a path.
    File,
    /// Something else of the kernel, such as an epoll instance.
    Other,
}

/// A resource limit (setrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Limit {
    /// The limit that holds, in the resource's own unit: bytes, seconds (`cpu`), microseconds
    /// (`rttime`) or a count. `null`: unlimited.
    pub soft: Option<u64>,
    /// How far the process may raise it, in the same unit. `null`: unlimited.
    pub hard: Option<u64>,
    /// Whether the supervisor has another soft or hard limit. `null`: that can't be seen.
    pub differs: Option<bool>,
}

/// A process of a child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// The process id of its parent.
    pub parent: i32,
    /// How many of its ancestors are processes of the child too: its depth in the tree.
    pub depth: usize,
    /// Its command line, with a space between words, or its name in brackets if that is empty
    /// or can't be seen.
    pub command: String,
    /// What it is doing: running, sleeping, disk (it waits in the kernel and takes no signal),
    /// stopped, ended (but its parent has not reaped it), or other.
    pub state: String,
    /// The processor time that it, and the processes that it has reaped, spent, in milliseconds.
    pub cpu_ms: u64,
    /// Its resident memory, in bytes. What it shares with others counts too.
    pub memory_bytes: u64,
    /// How long ago it was started, in milliseconds.
    pub age_ms: u64,
}
