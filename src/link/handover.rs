//! Which descriptors of its links a child is given, and how it learns their numbers.
//!
//! The supervisor sets `PLUMBD_LINKS` to [`Links`] as JSON; the plugin reads
//! it back into the same type, so the two can't disagree. If the JSON is too long
//! for an environment, it is in a read-only file, and `PLUMBD_LINKS_FD` is the descriptor
//! of that file. A child whose links are plain lines on stdin and stdout has
//! neither variable.

use crate::sys::stream::Stream;
use serde::{Deserialize, Serialize};

/// The environment variable.
pub const VARIABLE: &str = "PLUMBD_LINKS";

/// The environment variable that takes its place if there are many links.
pub const FILE_VARIABLE: &str = "PLUMBD_LINKS_FD";

/// The form that messages have in a link's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Each message is a line, which any program can write and read.
    Lines,
    /// Records, see [`super::record`].
    Records,
}

/// All links of one child, as descriptor numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Links {
    /// Links of which this child is the sink.
    #[serde(rename = "in", default)]
    pub inbound: Vec<Inbound>,
    /// The link of which this child is the source. Its queue is stdout.
    #[serde(rename = "out", default)]
    pub outbound: Option<Outbound>,
}

/// A link at its sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// The source's name (`echo`, or `echo.0` if it has instances).
    pub from: String,
    /// Which of the source's outputs it is.
    #[serde(default, skip_serializing_if = "Stream::is_stdout")]
    pub stream: Stream,
    /// The form of messages in the queue.
    pub protocol: Protocol,
    /// The read end of the queue.
    pub queue: i32,
    /// The read and write end of the staging pipe, which only the sink uses.
    pub staging: [i32; 2],
    /// The ledger: a memory file with a page of words and two areas for carries.
    pub ledger: i32,
    /// The write end of the replies pipe, O_NONBLOCK; `None` for lines.
    pub replies: Option<i32>,
}

/// A link at its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbound {
    /// The sink's name.
    pub to: String,
    /// The form of messages in the queue. With records, stdout is O_NONBLOCK.
    pub protocol: Protocol,
    /// The read end of the replies pipe, O_NONBLOCK; `None` for lines.
    pub replies: Option<i32>,
}
