//! The shape of what `plumbd log` reads.

use super::status::rfc3339;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Entry {
    /// Its number, which rises from each entry to the next; not every number is a reader's.
    pub seq: u64,
    /// When it was logged, as RFC 3339.
    #[serde(with = "rfc3339")]
    #[cfg_attr(test, schemars(with = "Timestamp"))]
    pub at: Timestamp,
    /// The child that wrote it, or that it is about; `plumbd`: the daemon.
    pub child: String,
    /// How much it matters.
    pub level: Level,
    /// Printable text.
    pub text: String,
}

/// How much an entry matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something failed.
    Error,
    /// Something may need attention.
    Warn,
    /// What happens.
    Info,
    /// Details.
    Debug,
}

/// Entries that a reader was too slow for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Whose they were.
    pub child: String,
    /// How many.
    pub entries: u64,
}

impl From<log::Level> for Level {
    fn from(level: log::Level) -> Level {
        match level {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warn,
            log::Level::Info => Level::Info,
            log::Level::Debug | log::Level::Trace => Level::Debug,
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Level::Error => "ERROR",
            Level::Warn => "WARN",
            Level::Info => "INFO",
            Level::Debug => "DEBUG",
        })
    }
}
