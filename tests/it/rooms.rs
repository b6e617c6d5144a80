//! The rooms of `src/`, and which of them may know which: compares the code with what
//! ARCHITECTURE.md promises.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each room of `src/`, and the rooms that it may use.
const ROOMS: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("journal", &["sys"]),
    ("control", &["sys"]),
    ("schema", &["sys"]),
    ("link", &["sys"]),
    ("plugin", &["journal", "link", "schema", "sys"]),
    ("config", &["journal", "link", "plugin", "schema", "sys"]),
    ("supervisor", &["config", "control", "journal", "link", "plugin", "schema", "sys"]),
    ("cli", &["config", "control", "journal", "link", "plugin", "schema", "supervisor", "sys"]),
];

/// A source file: its path below `src/`, and its numbered lines, without comments and
/// unit tests.
struct Source {
    path: PathBuf,
    lines: Vec<(usize, String)>,
}

impl Source {
    /// The room, which is `cli` for `cli/man/mod.rs`.
    fn room(&self) -> &str {
        self.path.iter().next().and_then(|first| first.to_str()).expect("a name in UTF-8")
    }

    fn at(&self, number: usize) -> String {
        format!("src/{}:{number}", self.path.display())
    }

    /// The places that have one of these texts.
    fn having<'a>(&'a self, texts: &'a [&str]) -> impl Iterator<Item = String> + 'a {
        let has = |line: &str| texts.iter().any(|text| line.contains(text));
        self.lines
            .iter()
            .filter(move |(_, line)| has(line))
            .map(|(number, line)| format!("{}: {}", self.at(*number), line.trim()))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let below = path.strip_prefix(&root).unwrap().to_owned();
            let is_test = below.iter().any(|part| part == "tests" || part == "tests.rs");
            if below.extension().is_some_and(|extension| extension == "rs") && !is_test {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push(Source { path: below, lines: code(&text) });
            }
        }
    }
    assert!(found.len() > 100, "{} files", found.len());
    found
}

/// The numbered lines of a file without comments, up to its unit tests, which are at the end.
fn code(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().collect::<Vec<_>>();
    let ends = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1] == "mod tests {");
    let numbered = lines[..ends.unwrap_or(lines.len())].iter().enumerate();
    let without_comment = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    numbered.map(|(at, line)| (at + 1, without_comment(line))).collect()
}

/// The rooms that a line names, as in `crate::sys`, anywhere in it.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("crate::").map(|(at, found)| {
        let rest = &line[at + found.len()..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

#[track_caller]
fn none(found: Vec<String>, law: &str) {
    assert!(found.is_empty(), "{law}:\n{}", found.join("\n"));
}

#[test]
fn a_room_uses_only_the_rooms_below_it() {
    let mut wrong = Vec::new();
    let mut rooms = BTreeSet::new();
    for source in sources() {
        let room = source.room().trim_end_matches(".rs").to_owned();
        if ["lib", "main"].contains(&room.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("src/{} is in no room", source.path.display()));
            continue;
        };
        for (number, line) in &source.lines {
            let bad = named(line).filter(|used| *used != room && !allowed.contains(used));
            wrong.extend(bad.map(|used| format!("{}: {room} uses {used}", source.at(*number))));
        }
        rooms.insert(room);
    }
    none(wrong, "arrows go one way");
    assert_eq!(rooms.len(), ROOMS.len(), "{rooms:?}");
}

#[test]
fn each_use_is_on_a_line_of_its_own() {
    // So that the test above sees them all.
    let found = sources()
        .iter()
        .flat_map(|source| {
            source.having(&["use crate::{", "use super::super::super::super::super"]).collect::<Vec<_>>()
        })
        .collect();
    none(found, "write `use crate::ROOM::...`, a line each");
}

#[test]
fn the_configuration_and_the_supervisor_know_no_more_of_a_plugin_than_its_row() {
    let plugins: Vec<String> = plumbd::plugin::PLUGINS
        .iter()
        .flat_map(|row| [format!("plugin::{}", row.name), format!("\"{}\"", row.name)])
        .collect();
    let plugins: Vec<&str> = plugins.iter().map(String::as_str).collect();
    let found = sources()
        .iter()
        .filter(|source| ["config", "supervisor", "schema", "control"].contains(&source.room()))
        .flat_map(|source| source.having(&plugins).collect::<Vec<_>>())
        .collect();
    none(found, "a plugin is named in its own folder and its row");
}

#[test]
fn plugins_know_nothing_of_each_other() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.room() == "plugin") {
        let Some(own) = source.path.iter().nth(1).and_then(|part| part.to_str()) else { continue };
        for row in plumbd::plugin::PLUGINS.iter().filter(|row| row.name != own && source.path.iter().count() > 2) {
            found.extend(source.having(&[&format!("plugin::{}", row.name)]));
        }
    }
    none(found, "a plugin uses no other plugin");
}

#[test]
fn unsafe_code_is_in_sys_and_only_main_exits() {
    let mut found = Vec::new();
    for source in sources() {
        if source.room() != "sys" {
            found.extend(source.having(&["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"]));
            found.extend(source.having(&["process::exit(", "libc::exit(", "libc::_exit("]));
        }
    }
    none(found, "unsafe code stands in src/sys, and nothing but main ends the process");
}

#[test]
fn there_is_no_thread_and_no_async_runtime() {
    let found = sources()
        .iter()
        .flat_map(|source| {
            source
                .having(&[
                    "thread::spawn",
                    "thread::Builder",
                    "thread::scope",
                    "async fn",
                    ".await;",
                    ".await?",
                    ".await.",
                ])
                .collect::<Vec<_>>()
        })
        .collect();
    none(found, "one thread, one loop");
}

/// `let` chains came with Rust 1.88, and `rust-version` promises an older one.
#[test]
fn nothing_needs_a_newer_rust_than_is_promised() {
    let mut found = Vec::new();
    for source in sources() {
        found.extend(source.having(&["&& let ", "|| let "]));
        for pair in source.lines.windows(2) {
            let [(number, line), (_, next)] = pair else { continue };
            let begins = ["if let ", "while let "].iter().any(|words| line.trim().starts_with(words));
            if begins && next.trim().starts_with("&& ") {
                found.push(format!("{}: {}", source.at(*number), line.trim()));
            }
        }
    }
    none(found, "a `let` chain");
}
