//! The two outputs of a process.

use serde::{Deserialize, Serialize};

/// An output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Whether it is standard output.
    pub fn is_stdout(&self) -> bool {
        *self == Stream::Stdout
    }

    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }

    /// This output of that child, as people read it: `clock`, or `clock (stderr)`.
    pub fn of(self, source: &str) -> String {
        match self {
            Stream::Stdout => source.to_owned(),
            Stream::Stderr => format!("{source} (stderr)"),
        }
    }
}
