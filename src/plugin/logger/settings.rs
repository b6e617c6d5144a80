//! The settings of `logger`, as the configuration's check writes them and the
//! plugin reads them (JSON in $PLUMBD_SETTINGS).

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// `[children.NAME.settings]` of a logger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The message file; absolute.
    pub file: PathBuf,
    /// Its mode when it is created.
    pub mode: u32,
    /// Its group then; `None`: that of whoever creates it.
    #[serde(default)]
    pub group: Option<Group>,
    /// How a message stands in it.
    pub format: Format,
    /// When it is brought to the disk.
    pub sync: Sync,
    /// When it is rotated, and what becomes of rotated ones.
    #[serde(default)]
    pub rotate: Rotate,
    /// What happens on a full disk.
    #[serde(default)]
    pub when_full: WhenFull,
}

impl Settings {
    /// What a new message file gets.
    pub fn rights(&self) -> Rights<'_> {
        Rights { mode: self.mode, group: self.group.as_ref() }
    }
}

/// What a new message file gets.
#[derive(Debug, Clone, Copy)]
pub struct Rights<'a> {
    /// Its mode.
    pub mode: u32,
    /// Its group.
    pub group: Option<&'a Group>,
}

/// `group`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// As it was given, by name or by number.
    pub name: String,
    /// Its id.
    pub id: u32,
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

/// The shortest time between two rotations. tail(1) with `-F` and without
/// inotify looks at the name only after six looks, a second apart, at the file
/// that it has open: one that came and went between two such looks it never
/// sees. ARCHITECTURE.md, "Rotation", has the reckoning.
pub const LEAST: Duration = Duration::from_secs(10);

/// `rotate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotate {
    /// Rotates a file of so many bytes.
    pub size: Option<u64>,
    /// Rotates a file whose first message is so many milliseconds old.
    pub age_ms: Option<u64>,
    /// How many archives are kept.
    pub keep: Option<u64>,
    /// How many bytes of archives are kept.
    pub keep_size: Option<u64>,
    /// What archives become.
    pub compress: Option<Compress>,
    /// [`LEAST`], in milliseconds: the configuration has no key for it.
    pub least_ms: u64,
}

impl Rotate {
    /// Whether the file is ever rotated.
    pub fn is_on(&self) -> bool {
        self.size.is_some() || self.age_ms.is_some()
    }

    /// See [`LEAST`].
    pub fn least(&self) -> Duration {
        Duration::from_millis(self.least_ms)
    }
}

impl Default for Rotate {
    fn default() -> Rotate {
        let least_ms = u64::try_from(LEAST.as_millis()).unwrap_or(u64::MAX);
        Rotate { size: None, age_ms: None, keep: None, keep_size: None, compress: None, least_ms }
    }
}

/// `compress`, where it is not "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compress {
    /// gzip(1), RFC 1952.
    Gzip,
    /// zstd(1), RFC 8878.
    Zstd,
}

/// `when_full`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// Sources wait until there is room.
    #[default]
    Wait,
    /// The oldest archives go first.
    DropArchives,
}
