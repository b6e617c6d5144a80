//! Reads a whole table by its rows alone. The check turns it into JSON, with the values as
//! the file has them and every default filled in, and a program reads that into a type of
//! its own. Neither end knows a key that has no row.

use super::address::address;
use super::kind::{Key, Keys, Kind};
use super::network::network;
use super::table::{Reader, Section, Span};
use super::value::{self, Read, absolute, filled, json, parse_duration, parse_size, quoted, wrong};
use super::value::{duration_text, size_text};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::path::Path;
use toml::de::DeValue;

impl Reader<'_> {
    /// Every key of a table with its value or its default. A key is left out if it has
    /// neither, or if its value is wrong and it has no default.
    pub(crate) fn settings(&mut self, section: &Section<'_>) -> Map<String, Value> {
        let keys = section.keys.iter();
        keys.filter_map(|key| Some((key.name.to_owned(), self.setting(section, key)?))).collect()
    }

    fn setting(&mut self, section: &Section<'_>, key: &'static Key) -> Option<Value> {
        let base = self.base;
        let default = || {
            let read = |value| parse(&key.kind, key, base, &value);
            key.default_value().map(read).and_then(Result::ok)
        };
        let Some(given) = section.value(key.name) else {
            if key.required && section.lacks(key.name) {
                let what = format!("{} lacks the key \"{}\"", section.title, key.name);
                self.missing(section.span.clone(), what, advice(key, || format!("add {}", key.name)));
            }
            return default();
        };
        match (key.kind, given.get_ref()) {
            (Kind::WordsOr(_, Kind::Table(_)), DeValue::String(_)) => {}
            (Kind::Table(keys) | Kind::WordsOr(_, &Kind::Table(keys)), _) => {
                let inner = self.inner(section, key.name, key.name, keys);
                let values = self.settings(&inner);
                return if inner.is_empty() { default() } else { Some(values.into()) };
            }
            (Kind::List(item), _) => {
                let help = advice(key, || format!("write a {}", key.kind.called()));
                let items = self.items(section, key.name, &help, |value| parse(item, key, base, value));
                return Some(items.into_iter().map(|placed| placed.value).collect());
            }
            (Kind::Map(kind), _) => {
                let mut values = Map::new();
                for entry in self.free(section, key.name, &advice(key, String::new)) {
                    let read = parse(kind, key, base, entry.value.get_ref());
                    if let Some(placed) = self.take_of(entry.key, entry.value.span(), read) {
                        values.insert(entry.key.to_owned(), placed.value);
                    }
                }
                return Some(values.into());
            }
            _ => {}
        }
        let read = self.optional(section, key.name, |value| parse(&key.kind, key, base, value));
        let value = read.map(|placed| placed.value).or_else(default)?;
        match (key.kind, value.as_str()) {
            (Kind::File(what), Some(path)) => self.can_be_file(section.place(key.name), Path::new(path), what),
            (Kind::Group, Some(name)) if !name.is_empty() => {
                let id = self.group_id(section.place(key.name), name);
                return Some(id.map_or_else(|| "".into(), |id| serde_json::json!({"name": name, "id": id})));
            }
            _ => {}
        }
        Some(value)
    }

    /// Reports a path that can't be a file for a program to write to.
    fn can_be_file(&mut self, span: Span, path: &Path, what: &str) {
        match (self.system.regular_file(path), path.parent()) {
            (Ok(()), Some(folder)) => self.folder_exists(span, folder, what),
            (Ok(()), None) => {}
            (Err(cause), _) => {
                let what = format!("cannot save to {}: {cause}", path.display());
                self.problem(span, what, "name a file in a folder, as in messages.log");
            }
        }
    }

    /// Reports a folder that does not exist, and that a file or socket would be made in.
    pub(crate) fn folder_exists(&mut self, span: Span, folder: &Path, what: &str) {
        if let Err(cause) = self.system.folder(folder) {
            let what = format!("cannot use the folder of {what}, {}: {cause}", folder.display());
            self.absent(span, what, "make the folder, or name another");
        }
    }

    /// The id of a group of the system, given by its name or as a number.
    pub(crate) fn group_id(&mut self, span: Span, name: &str) -> Option<u32> {
        let cause = match self.system.group(name) {
            Ok(Some(id)) => return Some(id),
            Ok(None) => match name.parse() {
                // A group that is given as a number needs no name: setgid(2) takes any but -1.
                Ok(id) if id != u32::MAX => return Some(id),
                _ => format!("there is no group {}", quoted(name)),
            },
            Err(cause) => format!("cannot look up the group {}: {cause}", quoted(name)),
        };
        self.absent(span, cause, "`getent group` lists those that exist");
        None
    }
}

/// Advice on what to write, in the row's own words if it has any.
fn advice(key: &Key, general: impl Fn() -> String) -> String {
    if key.help.is_empty() { general() } else { key.help.to_owned() }
}

/// Reads a value by its kind alone, without checking tables within it.
fn parse(kind: &Kind, key: &Key, base: &Path, value: &DeValue<'_>) -> Read<Value> {
    Ok(match kind {
        Kind::Text | Kind::Name | Kind::Group => value::string(value)?.into(),
        Kind::Path | Kind::File(_) => match value::string(value)?.as_str() {
            "" if key.default == r#""""# => "".into(),
            _ => absolute(base, &filled(value)?).to_string_lossy().into(),
        },
        Kind::Address => address(value, base)?.to_string().into(),
        Kind::Network => network(value)?.to_string().into(),
        Kind::Signal(useless) => value::signal(useless)(value)?.as_str().into(),
        Kind::Octal => format!("{:04o}", value::octal(value)?).into(),
        Kind::Words(words) => value::word(words.iter().map(|(word, _)| *word), value)?.into(),
        Kind::WordsOr(words, other) => match value {
            DeValue::String(word) if words.iter().any(|(known, _)| known == word) => word.as_ref().into(),
            DeValue::String(word) if !word.starts_with(|c: char| c.is_ascii_digit()) => {
                let listed: Vec<String> = words.iter().map(|(word, _)| quoted(word)).collect();
                let help = advice(key, || format!("write {}, or a {}", listed.join(", "), other.called()));
                return wrong(format!("unknown word {}", quoted(word)), help);
            }
            value => parse(other, key, base, value)?,
        },
        Kind::Duration(least, most) => duration_text(value::duration(*least..=*most)(value)?).into(),
        Kind::Size(least, most) => size_text(value::size(*least..=*most)(value)?).into(),
        Kind::Integer(least, most) => value::integer(*least..=*most)(value)?.into(),
        Kind::Number(least, most) => value::float(*least..=*most)(value)?.into(),
        Kind::List(item) => match value {
            DeValue::Array(items) => {
                items.iter().map(|value| parse(item, key, base, value.get_ref())).collect::<Read<_>>()?
            }
            other => return wrong(format!("expected a list, found {}", value::kind(other)), ""),
        },
        Kind::Table(_) | Kind::Named(_) | Kind::Row(_) | Kind::Map(_) | Kind::Limits | Kind::Settings => json(value)?,
    })
}

/// Reads settings from JSON into a program's own type. A key that is left out has its
/// default.
///
/// # Errors
/// They are not JSON, or not of that type.
pub fn read<T: DeserializeOwned>(keys: Keys, json: &str) -> Result<T, String> {
    let given = serde_json::from_str(json).map_err(|error| error.to_string())?;
    typed(keys, given).map_err(|error| error.to_string())
}

/// Settings that are all defaults.
///
/// # Panics
/// If a key must be given, or the defaults do not fit the type. Tests read all defaults.
pub fn defaults<T: DeserializeOwned>(keys: Keys) -> T {
    typed(keys, Value::Object(Map::new())).expect("the defaults of a table fit its type")
}

/// Settings as a program's own type.
///
/// # Errors
/// They do not fit it.
pub fn typed<T: DeserializeOwned>(keys: Keys, mut given: Value) -> serde_json::Result<T> {
    fill(keys, &mut given);
    serde_json::from_value(given)
}

fn fill(keys: Keys, given: &mut Value) {
    let Value::Object(given) = given else { return };
    for key in keys {
        if !given.contains_key(key.name) {
            if let Some(Ok(default)) = key.default_value().map(|value| json(&value)) {
                given.insert(key.name.to_owned(), default);
            }
        }
        if let (Kind::Table(inner), Some(value)) = (key.kind, given.get_mut(key.name)) {
            fill(inner, value);
        }
    }
}

/// Milliseconds of a duration such as `"10s"`; a number is in milliseconds.
///
/// # Errors
/// It is neither.
pub fn millis<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    number(from, |text| u64::try_from(parse_duration(text).ok()?.as_millis()).ok())
}

/// Bytes of a size such as `"64KiB"`; a number is in bytes.
///
/// # Errors
/// It is neither, or too large for the type.
pub fn bytes<'de, D: Deserializer<'de>, T: TryFrom<u64>>(from: D) -> Result<T, D::Error> {
    let bytes = number(from, |text| parse_size(text).ok())?;
    T::try_from(bytes).map_err(|_| D::Error::custom(format!("{bytes} bytes are too many")))
}

/// A mode in octal digits, such as `"0640"`, or as a number.
///
/// # Errors
/// It is neither.
pub fn mode<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let mode = number(from, |text| u64::from_str_radix(text, 8).ok())?;
    u32::try_from(mode).map_err(|_| D::Error::custom(format!("{mode:o} is no mode")))
}

/// Like [`millis`], for a key that may be left out. The field needs `serde(default)` too.
///
/// # Errors
/// As [`millis`].
pub fn some_millis<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    millis(from).map(Some)
}

/// Like [`bytes`], for a key that may be left out. The field needs `serde(default)` too.
///
/// # Errors
/// As [`bytes`].
pub fn some_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    bytes(from).map(Some)
}

/// A value, or `None` for an empty string or the word `"none"`.
///
/// # Errors
/// It is not of that type.
pub fn some<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Option<T>, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() || text == "none" => Ok(None),
        value => T::deserialize(value).map(Some).map_err(D::Error::custom),
    }
}

fn number<'de, D: Deserializer<'de>>(from: D, parse: fn(&str) -> Option<u64>) -> Result<u64, D::Error> {
    let value = Value::deserialize(from)?;
    let read = value.as_str().map_or_else(|| value.as_u64(), parse);
    read.ok_or_else(|| D::Error::custom(format!("{value} can't be read")))
}
