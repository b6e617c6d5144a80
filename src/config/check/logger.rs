//! What only a logger asks.

use super::super::keys;
use super::super::model::Address;
use super::super::table::{Placed, Reader, Section};
use super::super::value::{self, Read, wrong};
use super::child;
use crate::plugin::logger::settings::{Format, Settings, Sync};
use std::time::Duration;
use toml::de::DeValue;

const NO_ROTATION: &str = "rotate with logrotate(8), and let it run `plumbd reopen`";

pub(super) fn read(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    title: &str,
    listen: &[Placed<Address>],
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
        match placed.value.parent() {
            Some(folder) if reader.system.folder(&placed.value).is_err() => {
                super::folder_exists(reader, placed.span.clone(), folder, "the message file");
            }
            _ => {
                let what = format!("cannot save to {}: it is a folder", placed.value.display());
                reader.problem(placed.span.clone(), what, "name a file in it, as in messages.log");
            }
        }
    }
    rotation(reader, &inner);
    let formats = [("text", Format::Text), ("raw", Format::Raw), ("json", Format::Json)];
    let settings = Settings {
        file: file.as_ref().map(|placed| placed.value.clone()).unwrap_or_default(),
        mode: reader.read(&inner, "mode", value::octal),
        format: reader.read(&inner, "format", value::choice(&formats)),
        sync: reader.read(&inner, "sync", sync),
    };
    let json = serde_json::to_value(&settings).expect("the path is UTF-8, as TOML and the base folder are");
    (child::Settings::Logger(file), json)
}

/// Parts of the contract that this version does not carry out.
fn rotation(reader: &mut Reader<'_>, inner: &Section<'_>) {
    if !reader.free(inner, "rotate", NO_ROTATION).is_empty() {
        reader.problem(inner.key_place("rotate"), "logger does not rotate its file in this version", NO_ROTATION);
    }
    let words = [("wait", true), ("drop-archives", false)];
    if !reader.read(inner, "when_full", value::choice(&words)) {
        let what = "logger does not drop archives in this version: it makes none";
        reader.problem(inner.place("when_full"), what, "write \"wait\"");
    }
}

fn sync(value: &DeValue<'_>) -> Read<Sync> {
    const HELP: &str = "write \"asked\", \"always\", or how long at most between two, as in \"1s\"";
    let longest = Duration::from_secs(3600);
    match value {
        DeValue::String(word) if word == "asked" => Ok(Sync::Asked),
        DeValue::String(word) if word == "always" => Ok(Sync::Always),
        DeValue::String(word) if !word.starts_with(|c: char| c.is_ascii_digit()) => {
            wrong(format!("unknown word {}", value::quoted(word)), HELP)
        }
        other => {
            let every = value::duration(Duration::from_millis(1)..=longest)(other)?;
            Ok(Sync::EveryMs(u64::try_from(every.as_millis()).unwrap_or(u64::MAX)))
        }
    }
}
