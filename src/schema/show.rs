//! Turns values into TOML again.

use super::kind::{Keys, Kind};
use serde_json::Value;
use std::fmt::Write;

/// The keys of a table that was read by its rows, in the order of the rows, each with its
/// value.
pub fn settings(keys: Keys, settings: &Value) -> Vec<(String, String)> {
    let of = |name| settings.get(name).filter(|value| !value.is_null());
    keys.iter().filter_map(|key| Some((key.name.to_owned(), setting(&key.kind, of(key.name)?)))).collect()
}

fn setting(kind: &Kind, value: &Value) -> String {
    match (kind, value) {
        (Kind::Table(keys) | Kind::WordsOr(_, Kind::Table(keys)), Value::Object(_)) => inline(settings(keys, value)),
        (Kind::Group, Value::Object(group)) => group.get("name").map(json).unwrap_or_default(),
        _ => json(value),
    }
}

/// A header and the keys below it, with their values in one column.
pub fn table<K: AsRef<str>>(out: &mut String, header: &str, pairs: impl IntoIterator<Item = (K, String)>) {
    let pairs: Vec<(K, String)> = pairs.into_iter().collect();
    let width = pairs.iter().map(|(key, _)| key.as_ref().chars().count()).max().unwrap_or(0);
    let gap = if out.is_empty() { "" } else { "\n" };
    let lines = pairs.iter().map(|(key, value)| format!("{:<width$} = {value}\n", key.as_ref()));
    write!(out, "{gap}{header}\n{}", lines.collect::<String>()).expect("a String takes all that is written");
}

/// A basic string of TOML.
pub fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => write!(out, "\\u{:04x}", c as u32).expect("a String takes all that is written"),
            c => out.push(c),
        }
    }
    out + "\""
}

/// A key, in quotes if it needs them.
pub fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { name.to_owned() } else { string(name) }
}

/// A list of values.
pub fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

/// A table on one line.
pub fn inline<K: AsRef<str>>(pairs: impl IntoIterator<Item = (K, String)>) -> String {
    let pairs: Vec<String> =
        pairs.into_iter().map(|(name, value)| format!("{} = {value}", key(name.as_ref()))).collect();
    if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
}

/// A value of JSON.
pub fn json(value: &Value) -> String {
    match value {
        // TOML has no null, so no configuration makes one.
        Value::Null => string(""),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => format!("{float:?}"),
            None => number.to_string(),
        },
        Value::String(text) => string(text),
        Value::Array(items) => list(items.iter().map(json)),
        Value::Object(entries) => inline(entries.iter().map(|(name, value)| (name.as_str(), json(value)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_string_is_read_back() {
        for text in ["", "a", "\"quotes\" \\ and\nnew\tlines\r\u{7f}\u{1}\u{85}", "日本"] {
            let read = format!("a = {}", string(text)).parse::<toml::Table>().unwrap();
            assert_eq!(read["a"].as_str(), Some(text));
        }
    }
}
