//! Keys that stand in the wrong table, and keys of other supervisors: what is meant.

use super::super::keys;
use crate::plugin;
use crate::schema::kind::Keys;
use crate::schema::table::{Entry, Meant, Section};
use crate::schema::value::{Wrong, quoted};
use toml::Spanned;
use toml::de::DeValue;

/// What other supervisors (systemd, supervisor, docker compose, process-compose, runit)
/// call a key of a child. In lower case, without `_` and `-`.
const OF_A_CHILD: [(&str, &str); 34] = [
    ("execstart", "command"),
    ("exec", "command"),
    ("cmd", "command"),
    ("program", "command"),
    ("entrypoint", "command"),
    ("run", "command"),
    ("cwd", "directory"),
    ("workingdirectory", "directory"),
    ("workingdir", "directory"),
    ("workdir", "directory"),
    ("chdir", "directory"),
    ("env", "environment"),
    ("dependson", "after"),
    ("requires", "after"),
    ("wants", "after"),
    ("needs", "after"),
    ("autorestart", "restart"),
    ("restartpolicy", "restart"),
    ("numprocs", "instances"),
    ("replicas", "instances"),
    ("killsignal", "stop_signal"),
    ("timeoutstopsec", "stop_timeout"),
    ("stopwaitsecs", "stop_timeout"),
    ("stopgraceperiod", "stop_timeout"),
    ("timeoutstartsec", "ready_timeout"),
    ("restartsec", "backoff"),
    ("startlimitburst", "start_limit"),
    ("startretries", "start_limit"),
    ("successexitstatus", "success"),
    ("exitcodes", "success"),
    ("ports", "listen"),
    ("bind", "listen"),
    ("ulimits", "limits"),
    ("limitnofile", "limits"),
];

/// What else the table of children is called.
const OF_THE_FILE: [(&str, &str); 6] = [
    ("child", "children"),
    ("program", "children"),
    ("programs", "children"),
    ("services", "children"),
    ("processes", "children"),
    ("pipes", "links"),
];

/// What else the ends of a link are called.
const OF_A_LINK: [(&str, &str); 4] = [("source", "from"), ("sink", "to"), ("target", "to"), ("size", "capacity")];

/// See [`crate::schema::table::Reader`].
pub(super) fn meant(section: &Section<'_>, entry: &Entry<'_>) -> Option<Meant> {
    let name = entry.key;
    let synonyms: &[(&str, &'static str)] = match section.keys {
        table if is(table, keys::CHILD) => &OF_A_CHILD,
        table if is(table, keys::LINK) => &OF_A_LINK,
        table if is(table, keys::FILE) => &OF_THE_FILE,
        _ => &[],
    };
    let plain: String = name.to_lowercase().chars().filter(|c| !matches!(c, '_' | '-')).collect();
    if let Some((_, key)) = synonyms.iter().find(|(other, _)| *other == plain) {
        let what = format!("unknown key {} in {}", quoted(name), section.title);
        return Some(Meant { key: Some(key), wrong: Wrong { what, help: format!("it is called {key} here") } });
    }
    if is(section.keys, keys::FILE) && is_child(entry.value) {
        let what = format!("unknown key {} in the file", quoted(name));
        let help = format!("if it is a child, write [children.{name}]");
        return Some(Meant { key: Some("children"), wrong: Wrong { what, help } });
    }
    let (whose, table) = place(section, entry)?;
    let what = format!("{} is {whose}, not of {}", quoted(name), section.title);
    Some(Meant { key: None, wrong: Wrong { what, help: format!("put it below {table}") } })
}

/// Whose key it is, and the table where it belongs.
fn place(section: &Section<'_>, entry: &Entry<'_>) -> Option<(String, String)> {
    let name = entry.key;
    let settings = section.title.strip_suffix(".settings]").filter(|title| title.starts_with("[children."));
    if let Some(child) = settings {
        return has(keys::CHILD, name).then(|| ("a key of the child".to_owned(), format!("{child}]")));
    }
    if is(section.keys, keys::CHILD) {
        let plugin = section.value("plugin").and_then(|value| plugin::find(value.get_ref().as_str()?));
        if let Some(plugin) = plugin.filter(|plugin| has(plugin.keys, name)) {
            let table = format!("{}.settings]", section.title.trim_end_matches(']'));
            return Some((format!("a setting of {}", plugin.name), table));
        }
    }
    let tables = [(keys::DAEMON, "[daemon]"), (keys::CHILD, "[children.NAME]"), (keys::LINK, "[[links]]")];
    let known = [keys::FILE, keys::DAEMON, keys::CHILD, keys::LINK].into_iter().any(|table| is(section.keys, table));
    let (_, table) = tables.into_iter().find(|(table, _)| known && !is(section.keys, table) && has(table, name))?;
    Some((format!("a key of {table}"), table.to_owned()))
}

/// Whether a table of the file looks like one of a child.
fn is_child(value: &Spanned<DeValue<'_>>) -> bool {
    let table = value.get_ref().as_table();
    table.is_some_and(|table| ["plugin", "command"].into_iter().any(|key| table.contains_key(key)))
}

/// Whether these are the same table: its address need not be the same at each use.
fn is(one: Keys, other: Keys) -> bool {
    one.iter().map(|key| key.name).eq(other.iter().map(|key| key.name))
}

fn has(keys: Keys, name: &str) -> bool {
    keys.iter().any(|key| key.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_synonym_names_a_key_that_exists_and_is_none_itself() {
        let tables: [(&[(&str, &str)], Keys); 3] =
            [(&OF_A_CHILD, keys::CHILD), (&OF_A_LINK, keys::LINK), (&OF_THE_FILE, keys::FILE)];
        for (synonyms, keys) in tables {
            for (other, key) in synonyms {
                assert!(has(keys, key) && !has(keys, other), "{other}: {key}");
            }
        }
    }
}
