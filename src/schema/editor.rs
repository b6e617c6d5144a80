//! Tables of keys as a JSON schema (draft 7), so that an editor completes and checks a
//! file while it is typed.

use super::kind::{Key, Keys, Kind, Word};
use super::value::json;
use super::{NAME_MOST, limits};
use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};

const DURATION: &str = "^[0-9]+(ms|s|m|h)$";
const SIZE: &str = "^[0-9]+(B|KiB|MiB|GiB)$";
const OCTAL: &str = "^0*[0-7]{1,3}$";
const ADDRESS: &str = "^((tcp|udp)://.+:[0-9]{1,5}|unix:.+)$";
const NAME: &str = "^[A-Za-z0-9_-]+$";

/// The schema of a table with these keys.
pub fn table(keys: Keys) -> Value {
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
    if let Some(Ok(default)) = key.default_value().map(|value| json(&value)) {
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
    (key.text.to_owned() + &meanings).replace('`', "")
}

fn of(kind: &Kind) -> Value {
    match kind {
        Kind::Text | Kind::Path | Kind::File(_) | Kind::Group | Kind::Name | Kind::Network => json!({"type": "string"}),
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
            let names = json!({"pattern": NAME, "maxLength": NAME_MOST});
            json!({"type": "object", "minProperties": 1, "propertyNames": names, "additionalProperties": table(keys)})
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
