//! What only a logger asks.

use super::super::keys;
use super::super::model::{Address, Identity};
use super::super::table::{Placed, Reader, Section};
use super::super::value::{self, Read, quoted, wrong};
use super::child;
use crate::plugin::logger::settings::{Compress, Format, Group, LEAST, Rotate, Settings, Sync, WhenFull};
use std::time::Duration;
use toml::de::DeValue;

/// A file smaller than this would be all names and no content.
const SMALLEST: u64 = 4096;
/// No file system holds a larger file.
const LARGEST: u64 = 1 << 60;
/// More rotated files than this make a folder slow to list.
const MOST: u64 = 100_000;

pub(super) fn read(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    title: &str,
    listen: &[Placed<Address>],
    identity: Option<&Identity>,
) -> (child::Settings, serde_json::Value) {
    if let Some(placed) = listen.first() {
        reader.problem(placed.span.clone(), "logger does not listen: it reads its links", "leave `listen` out");
    }
    let inner = reader.inner(section, "settings", title, keys::LOGGER);
    let base = reader.base;
    let file = reader.required(&inner, "file", r#"add file = "messages.log""#, |value| {
        Ok(value::absolute(base, &value::filled(value)?))
    });
    if let Some(placed) = &file {
        let path = placed.value.display();
        match (reader.system.message_file(&placed.value), placed.value.parent()) {
            (Ok(()), Some(folder)) => {
                super::folder_exists(reader, placed.span.clone(), folder, "the message file");
            }
            (Ok(()), None) => {}
            (Err(what), _) => {
                let what = format!("cannot save to {path}: {what}");
                reader.problem(placed.span.clone(), what, "name a file in a folder, as in messages.log");
            }
        }
    }
    let (rotate, when_full) = rotation(reader, &inner);
    let formats = [("text", Format::Text), ("raw", Format::Raw), ("json", Format::Json)];
    let settings = Settings {
        file: file.as_ref().map(|placed| placed.value.clone()).unwrap_or_default(),
        mode: reader.read(&inner, "mode", value::octal),
        group: group(reader, &inner, identity),
        format: reader.read(&inner, "format", value::choice(&formats)),
        sync: reader.read(&inner, "sync", sync),
        rotate,
        when_full,
    };
    let json = serde_json::to_value(&settings).expect("the path is UTF-8, as TOML and the base folder are");
    (child::Settings::Logger(file), json)
}

/// `group`, which the child must be allowed to give: chown(2).
fn group(reader: &mut Reader<'_>, inner: &Section<'_>, identity: Option<&Identity>) -> Option<Group> {
    let name = reader.read(inner, "group", value::string);
    if name.is_empty() {
        return None;
    }
    let id = match reader.system.group(&name) {
        Ok(Some(id)) => id,
        other => {
            let what = match other {
                Err(cause) => format!("cannot look up the group {}: {cause}", quoted(&name)),
                Ok(_) => format!("there is no group {}", quoted(&name)),
            };
            reader.absent(inner.place("group"), what, "`getent group` lists those that exist");
            return None;
        }
    };
    let is_root = identity.map_or(reader.system.is_root(), |identity| identity.uid == 0);
    let own = identity.is_some_and(|identity| identity.gid == id);
    if !is_root && !own {
        let user = identity.map_or("", |identity| &identity.user);
        match reader.system.groups(user) {
            Ok(groups) if groups.contains(&id) => {}
            Ok(_) => {
                let what = format!("the logger cannot give its file the group {}: it is not in it", quoted(&name));
                reader.absent(inner.place("group"), what, "name a group of the logger's user, or run it as root");
            }
            Err(cause) => {
                let what = format!("cannot look up the groups of the logger's user: {cause}");
                reader.absent(inner.place("group"), what, "`id` lists them");
            }
        }
    }
    Some(Group { name, id })
}

/// `rotate` and `when_full`.
fn rotation(reader: &mut Reader<'_>, inner: &Section<'_>) -> (Rotate, WhenFull) {
    let section = reader.inner(inner, "rotate", "rotate", keys::ROTATE);
    let sizes = || value::size(SMALLEST..=LARGEST);
    let size = reader.optional(&section, "size", sizes());
    let age = reader.optional(&section, "age", value::duration(LEAST..=value::YEAR));
    let keep = reader.optional(&section, "keep", value::integer(1..=MOST));
    let keep_size = reader.optional(&section, "keep_size", sizes());
    let compress = [("none", None), ("gzip", Some(Compress::Gzip)), ("zstd", Some(Compress::Zstd))];
    let rotate = Rotate {
        size: size.as_ref().map(|placed| placed.value),
        age_ms: age.map(|placed| u64::try_from(placed.value.as_millis()).unwrap_or(u64::MAX)),
        keep: keep.map(|placed| placed.value),
        keep_size: keep_size.as_ref().map(|placed| placed.value),
        compress: reader.read(&section, "compress", value::choice(&compress)),
        ..Rotate::default()
    };
    let others = ["keep", "keep_size", "compress"].into_iter().find(|key| section.has(key));
    let never = section.lacks("size") && section.lacks("age");
    if let Some(key) = others.filter(|_| never) {
        let what = "nothing would be rotated: neither size nor age is said";
        reader.problem(section.key_place(key), what, "add size = \"100MiB\", or age = \"24h\", or both");
    }
    if let (Some(size), Some(all)) = (size, keep_size) {
        if all.value < size.value {
            let what = "keep_size is less than size: not even one rotated file would fit";
            reader.problem(all.span, what, format!("write \"{}\" or more", value::size_text(size.value)));
        }
    }
    let words = [("wait", WhenFull::Wait), ("drop-archives", WhenFull::DropArchives)];
    let when_full = reader.read(inner, "when_full", value::choice(&words));
    if when_full == WhenFull::DropArchives && never {
        let what = "there is nothing to drop: without `rotate` there are no archives";
        reader.problem(inner.place("when_full"), what, "add rotate = { size = \"100MiB\" }, or write \"wait\"");
    }
    (rotate, when_full)
}

fn sync(value: &DeValue<'_>) -> Read<Sync> {
    const HELP: &str = "write \"asked\", \"always\", or how long at most between two, as in \"1s\"";
    let longest = Duration::from_secs(3600);
    match value {
        DeValue::String(word) if word == "asked" => Ok(Sync::Asked),
        DeValue::String(word) if word == "always" => Ok(Sync::Always),
        DeValue::String(word) if !word.starts_with(|c: char| c.is_ascii_digit()) => {
            wrong(format!("unknown word {}", quoted(word)), HELP)
        }
        other => {
            let every = value::duration(Duration::from_millis(1)..=longest)(other)?;
            Ok(Sync::EveryMs(u64::try_from(every.as_millis()).unwrap_or(u64::MAX)))
        }
    }
}
