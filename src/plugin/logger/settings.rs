//! The settings of `logger`: their keys, the type that it reads them into, and the checks
//! between them. Also its metrics.

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
/// With smaller files, a rotation would make more names than content.
const SMALLEST: u64 = 4096;
/// No file system holds larger files.
const LARGEST: u64 = 1 << 60;
/// More rotated files than this make a folder slow to list.
const MOST: u64 = 100_000;

/// The shortest time between two rotations. Without inotify, `tail -F` looks at the open
/// file six times, a second apart, before it looks at the name again. It never sees a file
/// that comes and goes in between. doc/rotation.md has the calculation.
pub const LEAST: Duration = Duration::from_secs(10);

/// `[children.NAME.settings]` of a logger.
pub const KEYS: Keys = &[
    required(
        "file",
        Kind::File("the message file"),
        "the message file; its folder must exist",
        "The message file. Its folder must exist, and the child must be allowed to write to the file. The logger locks \
         the file, so a second logger on it waits. In a folder that users other than root and the child's own may \
         write to, the file must belong to one of these two and must have only one name, and the logger follows no \
         symbolic link. If this does not hold, the logger waits and reports why. Beside the file, the logger keeps its \
         intent file, `.NAME.intent`, with the batch that it is about to save (at most some 2 MiB): after a kill, the \
         next logger completes that batch from it. Leave it there; if it is removed, only what a kill interrupts just \
         then can be missing or twice.",
    )
    .help(r#"add file = "messages.log""#),
    key(
        "mode",
        Kind::Octal,
        r#""0640""#,
        "mode of the file when it is created",
        "The mode of the file when it is created. The child's `umask` takes bits away. A rotation gives the new file \
         what the old one has at that time: mode, owner, group, access control list and user attributes. So to change \
         any of these later, change it on the file itself.",
    ),
    key(
        "group",
        Kind::Group,
        r#""""#,
        "group of the file when it is created, and of its archives; empty: as for any new file",
        "The group of the file when it is created, by name or number. Its archives get the same group. Without root, \
         it must be one of the child's own groups. Empty: the file gets the same group as any file that the child \
         creates.",
    ),
    key(
        "format",
        Kind::Words(&[
            ("text", "TIME PEER MESSAGE, with everything escaped that could control a terminal"),
            ("raw", "the bytes of the message and a newline, nothing else"),
            (
                "json",
                "one object per line, with the keys `time`, `child`, `peer`, `stream` (`stderr`, if the child wrote it to \
                 its standard error), `message` (if it is not UTF-8, `message_base64`), and `more` (true if further \
                 parts of the message follow)",
            ),
        ]),
        r#""text""#,
        "text | raw | json",
        "How messages are written to the file, see THE MESSAGE FILE.",
    ),
    key(
        "sync",
        Kind::WordsOr(
            &[
                ("asked", "when a source asks for it, as echo does with echo_after = \"synced\""),
                ("always", "for every batch"),
            ],
            &Kind::Duration(MILLISECOND, HOUR),
        ),
        r#""asked""#,
        "asked: when a source asks; always: every batch; \"1s\": at least this often",
        "When the file is synced to the disk with fdatasync(2). With a duration, it is synced at least this often, and \
         when a source asks.",
    )
    .help(r#"write "asked", "always", or how long at most between two, as in "1s""#),
    key(
        "rotate",
        Kind::Table(ROTATE),
        "{}",
        "as in { size = \"100MiB\", age = \"24h\", keep = 14, compress = \"zstd\" }; {}: never",
        "When the logger renames its file and begins a new one, and what happens to the renamed files. These are \
         called archives, and are named `FILE.20261122T150405.123456Z`, with .gz or .zst appended if they are \
         compressed. `tail -F` misses no line. Without `size` and `age`, the file is never rotated.",
    ),
    key(
        "when_full",
        Kind::Words(&[
            ("wait", "clients wait, and status and log report it; nothing is lost, and saving resumes by itself"),
            ("drop-archives", "the oldest archives are removed first; if that is not enough, clients wait"),
        ]),
        r#""wait""#,
        "wait: clients wait, nothing is lost; drop-archives: remove the oldest archives first",
        "What the logger does when the disk is full.",
    ),
];

/// `rotate`.
const ROTATE: Keys = &[
    key(
        "size",
        Kind::Size(SMALLEST, LARGEST),
        "",
        "rotate when the file has this many bytes; rotations are at least 10s apart",
        "Rotate when the file has this many bytes. Rotations are at least 10s apart.",
    ),
    key(
        "age",
        Kind::Duration(LEAST, YEAR),
        "",
        "rotate when the first message of the file is this old",
        "Rotate when the first message of the file is this old.",
    ),
    key(
        "keep",
        Kind::Integer(1, MOST),
        "",
        "keep this many archives; without it, all",
        "Only this many archives are kept, the newest ones. Without this key, all are kept.",
    ),
    key(
        "keep_size",
        Kind::Size(SMALLEST, LARGEST),
        "",
        "keep this many bytes of archives, and always the newest; without it, all",
        "Only this many bytes of archives are kept, and always the newest archive. Without this key, all are kept.",
    ),
    key(
        "compress",
        Kind::Words(&[("none", "they stay as they are"), ("gzip", "as .gz"), ("zstd", "as .zst")]),
        r#""none""#,
        "none | gzip | zstd: in the background, at low priority",
        "How archives are compressed, in the background at low priority.",
    ),
];

/// The slots of its metrics page, in order.
pub const METRICS: &[Metric] = &[
    Metric::counter("messages", "messages", "Messages that were saved.").rated(),
    Metric::counter("bytes", "bytes", "Bytes of messages that were saved.").rated(),
    Metric::counter("batches", "batches", "Batches in which they were saved."),
    Metric::counter("syncs", "calls", "Calls of fdatasync(2) on the file."),
    Metric::counter("incomplete", "messages", "Messages that were left out because their end never came."),
    Metric::counter("garbage_bytes", "bytes", "Bytes from sources that were not part of a record."),
    Metric::counter("rotations", "rotations", "How often the file was rotated."),
    Metric::counter(
        "file_bytes",
        "bytes",
        "Bytes that were written to the file: messages with what stands around them.",
    )
    .rated(),
];

/// `[children.NAME.settings]` of a logger.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The message file, as an absolute path.
    pub file: PathBuf,
    /// Its mode when it is created.
    #[serde(deserialize_with = "mode")]
    pub mode: u32,
    /// Its group when it is created; `None` means the one that any new file gets.
    #[serde(deserialize_with = "some")]
    pub group: Option<Group>,
    /// How messages are written.
    pub format: Format,
    /// When it is synced to the disk.
    pub sync: Sync,
    /// When it is rotated, and what happens to rotated files.
    pub rotate: Rotate,
    /// What happens on a full disk.
    pub when_full: WhenFull,
}

impl Settings {
    /// Reads them from JSON. A missing setting has its default.
    ///
    /// # Errors
    /// They are not settings of a logger.
    pub fn read(json: &str) -> Result<Settings, String> {
        read(KEYS, json)
    }

    /// The rights that a new message file gets.
    pub fn rights(&self) -> Rights<'_> {
        Rights { mode: self.mode, group: self.group.as_ref() }
    }
}

/// The rights that a new message file gets.
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
    /// One object per message, each on a line.
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
    /// How archives are compressed.
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
    /// The oldest archives are removed first.
    DropArchives,
}

/// Checks more than each key's own range.
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
            let what =
                format!("the logger cannot give its file the group {}: its user is not in it", quoted(&group.name));
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
        let what = "nothing would be rotated: neither size nor age is set";
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
