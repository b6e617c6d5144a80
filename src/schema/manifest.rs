//! Tables of keys as JSON: the `keys` of a plugin's manifest.

use super::kind::{Key, Keys, Kind, Word};
use super::value::{duration_text, json, size_text};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A row for each key.
pub fn keys(keys: Keys) -> Value {
    keys.iter().map(row).collect()
}

fn row(key: &Key) -> Value {
    let mut row = kind(&key.kind);
    row["name"] = key.name.into();
    row["required"] = key.required.into();
    row["line"] = key.doc.into();
    row["text"] = key.text.into();
    if let Some(Ok(default)) = key.default_value().map(|value| json(&value)) {
        row["default"] = default;
    }
    if !key.help.is_empty() {
        row["help"] = key.help.into();
    }
    row
}

fn kind(kind: &Kind) -> Value {
    match kind {
        Kind::Text => json!({"kind": "text"}),
        Kind::Path => json!({"kind": "path"}),
        Kind::File(called) => json!({"kind": "file", "called": called}),
        Kind::Group => json!({"kind": "group"}),
        Kind::Name => json!({"kind": "name"}),
        Kind::Address => json!({"kind": "address"}),
        Kind::Network => json!({"kind": "network"}),
        Kind::Signal(useless) => {
            json!({"kind": "signal", "not": useless.iter().map(|(signal, _)| Signal::as_str(*signal)).collect::<Vec<_>>()})
        }
        Kind::Octal => json!({"kind": "octal"}),
        Kind::Words(known) => json!({"kind": "word", "words": words(known)}),
        Kind::WordsOr(known, other) => {
            let mut row = self::kind(other);
            row["words"] = words(known);
            row
        }
        Kind::Duration(least, most) => {
            json!({"kind": "duration", "min": duration_text(*least), "max": duration_text(*most)})
        }
        Kind::Size(least, most) => json!({"kind": "size", "min": size_text(*least), "max": size_text(*most)}),
        Kind::Integer(least, most) => json!({"kind": "integer", "min": least, "max": most}),
        Kind::Number(least, most) => json!({"kind": "number", "min": least, "max": most}),
        Kind::List(item) => json!({"kind": "list", "items": self::kind(item)}),
        Kind::Table(inner) => json!({"kind": "table", "keys": keys(inner)}),
        Kind::Named(inner) => json!({"kind": "tables by name", "keys": keys(inner)}),
        Kind::Row(inner) => json!({"kind": "list of tables", "keys": keys(inner)}),
        Kind::Map(value) => json!({"kind": "map", "values": self::kind(value)}),
        Kind::Limits => json!({"kind": "limits"}),
        Kind::Settings => json!({"kind": "settings"}),
    }
}

fn words(words: &[Word]) -> Value {
    words.iter().map(|(word, meaning)| json!({"word": word, "meaning": meaning})).collect()
}
