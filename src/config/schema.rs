//! The table of keys as a JSON schema (draft 7), so that an editor completes
//! and checks a configuration while it is typed. What only the whole file can
//! tell, `plumbd check` does: links, programs, sockets.

use super::check::NAME_MOST;
use super::keys::{self, Key, Keys, Kind, Word};
use super::limits;
use crate::plugin::PLUGINS;
use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};

const DURATION: &str = "^[0-9]+(ms|s|m|h)$";
const SIZE: &str = "^[0-9]+(B|KiB|MiB|GiB)$";
const OCTAL: &str = "^0*[0-7]{1,3}$";
const ADDRESS: &str = "^((tcp|udp)://.+:[0-9]{1,5}|unix:.+)$";
const CHILD_NAME: &str = "^[A-Za-z0-9_-]+$";

/// The schema as text, with its newline: what `plumbd schema` prints and
/// share/plumbd/plumbd.schema.json holds.
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(&schema()).expect("a JSON value is always JSON");
    text.push('\n');
    text
}

/// The schema.
pub fn schema() -> Value {
    let mut schema = table(keys::FILE);
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("Configuration of plumbd");
    schema
}

fn table(keys: Keys) -> Value {
    let properties: Map<String, Value> = keys.iter().map(|key| (key.name.to_owned(), of_key(key))).collect();
    let required: Vec<&str> = keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let mut table = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

fn of_key(key: &Key) -> Value {
    let mut schema = of(&key.kind);
    schema["description"] = json!(described(key));
    if let Some(default) = default(key) {
        schema["default"] = default;
    }
    schema
}

/// What an editor shows beside a key.
fn described(key: &Key) -> String {
    let words = match key.kind {
        Kind::Words(words) | Kind::WordsOr(words, _) => words,
        _ => &[],
    };
    let meanings: String = words.iter().map(|(word, meaning)| format!("\n\"{word}\": {meaning}")).collect();
    key.text.replace('`', "") + &meanings
}

fn default(key: &Key) -> Option<Value> {
    let table: toml::Table = format!("default = {}", key.default).parse().ok()?;
    serde_json::to_value(table.get("default")?).ok()
}

fn of(kind: &Kind) -> Value {
    match kind {
        Kind::Text | Kind::Path | Kind::Name | Kind::Network => json!({"type": "string"}),
        Kind::Address => json!({"type": "string", "pattern": ADDRESS}),
        Kind::Signal(useless) => {
            let is_of_use = |signal: &Signal| !useless.iter().any(|(useless, _)| useless == signal);
            let names: Vec<&str> = Signal::iterator().filter(is_of_use).map(Signal::as_str).collect();
            json!({"enum": names})
        }
        Kind::Octal => json!({"type": "string", "pattern": OCTAL}),
        Kind::Words(words) => json!({"enum": names(words)}),
        Kind::WordsOr(words, other) => json!({"anyOf": [{"enum": names(words)}, of(other)]}),
        Kind::Duration(..) => json!({"type": "string", "pattern": DURATION}),
        Kind::Size(..) => json!({"type": "string", "pattern": SIZE}),
        Kind::Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Number(least, most) => json!({"type": "number", "minimum": least, "maximum": most}),
        Kind::List(item) => json!({"type": "array", "items": of(item)}),
        Kind::Table(keys) => table(keys),
        Kind::Named(keys) => {
            let child = child(keys);
            let names = json!({"pattern": CHILD_NAME, "maxLength": NAME_MOST});
            json!({"type": "object", "minProperties": 1, "propertyNames": names, "additionalProperties": child})
        }
        Kind::Row(keys) => json!({"type": "array", "items": table(keys)}),
        Kind::Map(value) => json!({"type": "object", "additionalProperties": of(value)}),
        Kind::Limits => {
            let limit = json!({"anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": SIZE},
                {"const": "unlimited"}
            ]});
            let properties: Map<String, Value> = limits::names().map(|name| (name.to_owned(), limit.clone())).collect();
            json!({"type": "object", "properties": properties, "additionalProperties": false})
        }
        Kind::Settings => json!({"type": "object"}),
    }
}

fn names(words: &[Word]) -> Vec<&'static str> {
    words.iter().map(|(word, _)| *word).collect()
}

/// A child: `plugin` or `command`, and the settings that the plugin has.
fn child(keys: Keys) -> Value {
    let mut child = table(keys);
    child["oneOf"] = json!([{"required": ["plugin"]}, {"required": ["command"]}]);
    let settings = PLUGINS.iter().filter_map(|plugin| {
        let mut settings = table(keys::settings_of(plugin.name)?);
        let needed: &[&str] = if settings.get("required").is_some() { &["settings"] } else { &[] };
        settings["description"] = json!(format!("Settings of {}.", plugin.name));
        Some(json!({
            "if": {"properties": {"plugin": {"const": plugin.name}}, "required": ["plugin"]},
            "then": {"properties": {"settings": settings}, "required": needed}
        }))
    });
    child["allOf"] = settings.collect();
    child
}
