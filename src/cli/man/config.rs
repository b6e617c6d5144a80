//! The tables of keys for plumbd.toml(5).

use super::roff::{escaped, text};
use crate::config::keys;
use crate::plugin::PLUGINS;
use crate::schema::kind::{Key, Keys, Kind, Word};
use crate::schema::limits;
use crate::schema::value::{duration_text, size_text};
use std::time::Duration;

const A_DAY: Duration = Duration::from_secs(24 * 3600);
const A_TERABYTE: u64 = 1 << 40;

/// The keys of one table.
pub(super) fn keys(table: &str) -> String {
    let table = match table {
        "daemon" => keys::DAEMON,
        "child" => keys::CHILD,
        "link" => keys::LINK,
        other => unreachable!("a manual page has @keys {other}"),
    };
    list(table)
}

/// A section for each plugin, with the keys of its settings.
pub(super) fn settings() -> String {
    let section = |name: &str, keys| {
        let title = escaped(&name.to_uppercase());
        let name = escaped(name);
        format!(
            ".SH SETTINGS OF {title}\nIn\n.BR [children.NAME.settings] ,\nif\n.B plugin\nis\n.BR \\(dq{name}\\(dq :\n{}",
            list(keys)
        )
    };
    PLUGINS.iter().map(|plugin| section(plugin.name, plugin.keys)).collect()
}

fn limits() -> String {
    let names: Vec<String> = limits::names().map(|name| format!("`{name}`")).collect();
    format!("The resources are {}.", names.join(", "))
}

fn list(keys: Keys) -> String {
    keys.iter().map(entry).collect()
}

fn entry(key: &Key) -> String {
    let default = match (key.required, key.default) {
        (true, _) => ", required".to_owned(),
        (false, "") => String::new(),
        (false, default) => format!(", default {}", escaped(default)),
    };
    let mut entry = format!(".TP\n\\fB{}\\fR (\\fI{}\\fR{default})\n", escaped(key.name), escaped(&key.kind.called()));
    entry += &text(key.text);
    match key.kind {
        Kind::WordsOr(words, Kind::Table(inner)) => {
            entry += &meanings(words);
            entry += &format!(".RS\n{}.RE\n", list(inner));
        }
        Kind::Words(words) | Kind::WordsOr(words, _) => entry += &meanings(words),
        Kind::Table(inner) => entry += &format!(".RS\n{}.RE\n", list(inner)),
        // A range that excludes no useful value is not shown.
        Kind::Duration(least, most) if least.is_zero() && most > A_DAY => {}
        Kind::Duration(least, most) if most > A_DAY => {
            entry += &text(&format!("At least {}.", duration_text(least)));
        }
        Kind::Duration(least, most) => entry += &range(&duration_text(least), &duration_text(most)),
        Kind::Size(least, most) if most > A_TERABYTE => entry += &text(&format!("At least {}.", size_text(least))),
        Kind::Size(least, most) => entry += &range(&size_text(least), &size_text(most)),
        Kind::Limits => entry += &text(&limits()),
        _ => {}
    }
    entry
}

fn range(least: &str, most: &str) -> String {
    text(&format!("From {least} to {most}."))
}

fn meanings(words: &[Word]) -> String {
    let each = words.iter().map(|(word, meaning)| format!(".TP\n\\fB{}\\fR\n{}", escaped(word), text(meaning)));
    format!(".RS\n{}.RE\n", each.collect::<String>())
}
