//! Which descriptors of its links a child is given, and how it is told.
//!
//! The supervisor sets `PLUMBD_LINKS` to [`Links`] as JSON; the plugin reads
//! it back into the same type, so the two can't disagree. Where that is too long
//! for an environment, `PLUMBD_LINKS_FD` is the number of a read-only file with
//! it instead. A child whose links are plain lines on stdin and stdout has
//! neither.

use serde::{Deserialize, Serialize};

/// The environment variable.
pub const VARIABLE: &str = "PLUMBD_LINKS";

/// The environment variable in its place, where there are many links.
pub const FILE_VARIABLE: &str = "PLUMBD_LINKS_FD";

/// How messages stand in a link's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A line each, as any program writes and reads them.
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
    /// The source's name (`echo`, or `echo.0` where it has instances).
    pub from: String,
    /// How messages stand in the queue.
    pub protocol: Protocol,
    /// Read end of the queue.
    pub queue: i32,
    /// Read and write end of the staging pipe, which only the sink uses.
    pub staging: [i32; 2],
    /// The ledger: a memory file, a page and two areas for what is carried over.
    pub ledger: i32,
    /// Write end of the replies pipe, O_NONBLOCK; `None` for lines.
    pub replies: Option<i32>,
}

/// A link at its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbound {
    /// The sink's name.
    pub to: String,
    /// How messages stand in the queue. With records, stdout is O_NONBLOCK.
    pub protocol: Protocol,
    /// Read end of the replies pipe, O_NONBLOCK; `None` for lines.
    pub replies: Option<i32>,
}
