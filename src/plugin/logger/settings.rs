//! The settings of `logger`: their keys, the type into which it reads them, and what must
//! hold between them. Its metrics too.

use crate::plugin::Metric;
use crate::plugin::check::{Asks, Check};
use crate::schema::kind::{Keys, Kind, key, required};
use crate::schema::settings::{defaults, millis, mode, read, some, some_bytes, some_millis, typed};
use crate::schema::value::{YEAR, quoted, size_text};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::path::PathBuf;
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Rotating smaller files would make more names than content.
const SMALLEST: u64 = 4096;
/// No file system holds larger files.
const LARGEST: u64 = 1 << 60;
/// More rotated files than this make a folder slow to list.
const MOST: u64 = 100_000;

/// The shortest time between two rotations. Without inotify, `tail -F` looks at the open
/// file six times, a second apart, before it looks at the name again. It never sees a file
/// that comes and goes in between. doc/rotation.md, has the calculation.
pub const LEAST: Duration = Duration::from_secs(10);

/// `[children.NAME.settings]` of a logger.
pub const KEYS: Keys = &[
    required(
        "file",
        Kind::File("the message file"),
        "the message file; its folder must exist",
        "The message file. Its folder must exist, and the child must be allowed to write to it. The file is locked: a \
         second logger on it waits. In a folder that others may write to than root and the child's user, it must belong to \
         one of those and have one name, and no symbolic link is followed: else the logger waits, and says why.",
    )
    .help(r#"add file = "messages.log""#),
    key(
        "mode",
        Kind::Octal,
        r#""0640""#,
        "the file's, when it is created",
        "The mode of the file when it is created; the child's `umask` takes bits away. A rotation gives the new file \
         what the old one has by then: mode, owner, group, access control list and user attributes. So to change them \
         later, change the file.",
    ),
    key(
        "group",
        Kind::Group,
        r#""""#,
        "the file's, when it is created, and so its archives'; empty: as for any new file",
        "The group of the file when it is created, by name or by number, which its archives get too. Without root, it \
         must be one of the child's own groups. Empty: the file gets the group that any file gets which the child \
         creates.",
    ),
    key(
        "format",
        Kind::Words(&[
            ("text", "TIME PEER MESSAGE, with everything escaped that could steer a terminal"),
            ("raw", "the message's bytes and a newline, nothing else"),
            ("json", "an object a line: time, child, peer, message or message_base64, more"),
        ]),
        r#""text""#,
        "text | raw | json",
        "How a message stands in the file, see THE MESSAGE FILE.",
    ),
    key(
        "sync",
        Kind::WordsOr(
            &[("asked", "when a source asks, as echo does with echo_after = \"synced\""), ("always", "every batch")],
            &Kind::Duration(MILLISECOND, HOUR),
        ),
        r#""asked""#,
        "asked: when a source asks; always; \"1s\": at least so often",
        "When the file is brought to the disk with fdatasync(2). A duration: at least so often, and when a source asks.",
    )
    .help(r#"write "asked", "always", or how long at most between two, as in "1s""#),
    key(
        "rotate",
        Kind::Table(ROTATE),
        "{}",
        "as in { size = \"100MiB\", age = \"24h\", keep = 14, compress = \"zstd\" }; {}: never",
        "When the logger renames its file and begins a new one, and what becomes of the renamed ones, which are called \
         `FILE.20261122T150405.123456Z`, with .gz or .zst where they are compressed. `tail -F` loses no line by it. \
         With neither `size` nor `age` it never does.",
    ),
    key(
        "when_full",
        Kind::Words(&[
            ("wait", "clients wait, and status and log say so; nothing is lost, and it goes on by itself"),
            ("drop-archives", "the oldest rotated files are removed first, then clients wait"),
        ]),
        r#""wait""#,
        "wait | drop-archives: the oldest rotated files first, then wait: clients wait, nothing is lost",
        "What is done when the disk is full.",
    ),
];

/// `rotate`.
const ROTATE: Keys = &[
    key(
        "size",
        Kind::Size(SMALLEST, LARGEST),
        "",
        "rotate when the file has so many bytes; two rotations are at least 10s apart",
        "Rotate when the file has so many bytes. Two rotations are at least 10s apart.",
    ),
    key(
        "age",
        Kind::Duration(LEAST, YEAR),
        "",
        "rotate when its first message is so old",
        "Rotate when its first message is so old.",
    ),
    key(
        "keep",
        Kind::Integer(1, MOST),
        "",
        "so many rotated files are kept; else all",
        "How many rotated files are kept, the newest. Without it, all are.",
    ),
    key(
        "keep_size",
        Kind::Size(SMALLEST, LARGEST),
        "",
        "so many bytes of rotated files are kept, and always the newest; else all",
        "How many bytes of rotated files are kept, and always the newest file. Without it, all are.",
    ),
    key(
        "compress",
        Kind::Words(&[("none", "they stay as they are"), ("gzip", "as .gz"), ("zstd", "as .zst")]),
        r#""none""#,
        "none | gzip | zstd: in the background, at low priority",
        "How rotated files are compressed, in the background at low priority.",
    ),
];

/// What its metrics page has, slot by slot.
pub const METRICS: &[Metric] = &[
    Metric::counter("messages", "messages", "Messages that were saved."),
    Metric::counter("bytes", "bytes", "Bytes of messages that were saved."),
    Metric::counter("batches", "batches", "Batches in which they were saved."),
    Metric::counter("syncs", "calls", "Calls of fdatasync(2) on the file."),
    Metric::counter("incomplete", "messages", "Messages that were left out because their end never came."),
    Metric::counter("garbage_bytes", "bytes", "Bytes from sources that were no record."),
    Metric::counter("rotations", "rotations", "How often the file was rotated."),
];

/// `[children.NAME.settings]` of a logger.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The message file; absolute.
    pub file: PathBuf,
    /// Its mode when it is created.
    #[serde(deserialize_with = "mode")]
    pub mode: u32,
    /// Its group when it is created; `None`: the one that any new file gets.
    #[serde(deserialize_with = "some")]
    pub group: Option<Group>,
    /// How messages are written.
    pub format: Format,
    /// When it is brought to the disk.
    pub sync: Sync,
    /// When it is rotated, and what becomes of rotated ones.
    pub rotate: Rotate,
    /// What happens on a full disk.
    pub when_full: WhenFull,
}

impl Settings {
    /// Reads them from JSON. What they leave out has its default.
    ///
    /// # Errors
    /// They are no settings of a logger.
    pub fn read(json: &str) -> Result<Settings, String> {
        read(KEYS, json)
    }

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
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name or number, as it was given.
    pub name: String,
    /// Its id.
    pub id: u32,
}

/// `format`, section "message file" of the manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `TIME PEER MESSAGE`, escaped.
    Text,
    /// The message's bytes and a newline.
    Raw,
    /// An object for each message, on a line.
    Json,
}

/// `sync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// When a source asks.
    Asked,
    /// Every batch.
    Always,
    /// At least this often, in milliseconds, and when a source asks.
    EveryMs(u64),
}

impl<'de> Deserialize<'de> for Sync {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Sync, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        match value.as_str() {
            Some("asked") => Ok(Sync::Asked),
            Some("always") => Ok(Sync::Always),
            _ => millis(value).map(Sync::EveryMs).map_err(D::Error::custom),
        }
    }
}

/// `rotate`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// Rotates a file that has this many bytes.
    #[serde(default, deserialize_with = "some_bytes")]
    pub size: Option<u64>,
    /// Rotates a file whose first message is this old, in milliseconds.
    #[serde(default, rename = "age", deserialize_with = "some_millis")]
    pub age_ms: Option<u64>,
    /// How many archives are kept.
    #[serde(default)]
    pub keep: Option<u64>,
    /// How many bytes of archives are kept.
    #[serde(default, deserialize_with = "some_bytes")]
    pub keep_size: Option<u64>,
    /// What archives become.
    #[serde(deserialize_with = "some")]
    pub compress: Option<Compress>,
    /// [`LEAST`], in milliseconds. The configuration has no key for it.
    #[serde(default = "least_ms")]
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

fn least_ms() -> u64 {
    u64::try_from(LEAST.as_millis()).unwrap_or(u64::MAX)
}

impl Default for Rotate {
    fn default() -> Rotate {
        defaults(ROTATE)
    }
}

/// `compress`, if it is not `"none"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compress {
    /// gzip(1), RFC 1952.
    Gzip,
    /// zstd(1), RFC 8878.
    Zstd,
}

/// `when_full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// Sources wait until there is room.
    Wait,
    /// The oldest archives go first.
    DropArchives,
}

/// What must hold beside each key's own range.
pub(crate) fn check(check: &mut Check<'_, '_>) -> Asks {
    let part = |name: &str| check.values.get(name).cloned().unwrap_or_default();
    let group: Option<Group> = some(part("group")).expect("what fits the row fits the type");
    let rotate: Rotate = typed(ROTATE, part("rotate")).expect("what fits the rows fits the type");
    let when_full = WhenFull::deserialize(part("when_full")).expect("what fits the row fits the type");
    if let Some(group) = group {
        may_give(check, &group);
    }
    rotation(check, &rotate, when_full);
    Asks::default()
}

/// The child must be allowed to give its file that group, see chown(2).
fn may_give(check: &mut Check<'_, '_>, group: &Group) {
    let user = check.user;
    let is_root = user.map_or(check.reader.system.is_root(), |user| user.uid == 0);
    if is_root || user.is_some_and(|user| user.gid == group.id) {
        return;
    }
    let place = check.section.place("group");
    match check.reader.system.groups(user.map_or("", |user| user.name)) {
        Ok(groups) if groups.contains(&group.id) => {}
        Ok(_) => {
            let what = format!("the logger cannot give its file the group {}: it is not in it", quoted(&group.name));
            check.reader.absent(place, what, "name a group of the logger's user, or run it as root");
        }
        Err(cause) => {
            let what = format!("cannot look up the groups of the logger's user: {cause}");
            check.reader.absent(place, what, "`id` lists them");
        }
    }
}

/// The keys of `rotate`, and `when_full`, must fit each other.
fn rotation(check: &mut Check<'_, '_>, rotate: &Rotate, when_full: WhenFull) {
    let section = check.section.within("rotate", ROTATE);
    let others = ["keep", "keep_size", "compress"].into_iter().find(|key| section.has(key));
    let never = section.lacks("size") && section.lacks("age");
    if let Some(key) = others.filter(|_| never) {
        let what = "nothing would be rotated: neither size nor age is said";
        check.reader.problem(section.key_place(key), what, "add size = \"100MiB\", or age = \"24h\", or both");
    }
    if let (Some(size), Some(all)) = (rotate.size, rotate.keep_size) {
        if all < size {
            let what = "keep_size is less than size: not even one rotated file would fit";
            let help = format!("write \"{}\" or more", size_text(size));
            check.reader.problem(section.place("keep_size"), what, help);
        }
    }
    if when_full == WhenFull::DropArchives && never {
        let what = "there is nothing to drop: without `rotate` there are no archives";
        check.problem("when_full", what, "add rotate = { size = \"100MiB\" }, or write \"wait\"");
    }
}
