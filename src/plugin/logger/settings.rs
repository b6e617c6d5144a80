//! The settings of `logger`, as the configuration's check writes them and the
//! plugin reads them (JSON in $PLUMBD_SETTINGS).

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[children.NAME.settings]` of a logger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The message file; absolute.
    pub file: PathBuf,
    /// Its mode when it is created.
    pub mode: u32,
    /// How a message stands in it.
    pub format: Format,
    /// When it is brought to the disk.
    pub sync: Sync,
}

/// `format`, section "message file" of the manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `TIME PEER MESSAGE`, escaped.
    Text,
    /// The message's bytes and a newline.
    Raw,
    /// An object a line.
    Json,
}

/// `sync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// When a source asks.
    Asked,
    /// Every batch.
    Always,
    /// At least every so many milliseconds, and when a source asks.
    EveryMs(u64),
}
