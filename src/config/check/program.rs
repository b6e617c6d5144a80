//! `plugin` and `command`: what runs.

use super::super::model::Program;
use crate::plugin::{self, PLUGINS, Plugin};
use crate::schema::nearest;
use crate::schema::system::NotRunnable;
use crate::schema::table::{Placed, Reader, Section};
use crate::schema::value::{self, Read, Wrong, absolute, filled, quoted, wrong};
use std::path::{Path, PathBuf};

/// The program that runs, if the table is right, and the plugin, if it is one.
pub(super) fn read(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    path: &str,
) -> (Option<Program>, Option<&'static Plugin>) {
    let plugin = reader.optional(section, "plugin", |value| find(&filled(value)?));
    let command = command(reader, section, "command", path);
    match (section.has("plugin"), section.has("command")) {
        (true, true) => {
            let help = "a child is a built-in plugin or a program: keep one of the two";
            reader.problem(section.key_place("command"), "plugin and command exclude each other", help);
        }
        (false, false) if section.lacks("plugin") && section.lacks("command") => {
            let what = format!("{} has neither plugin nor command", section.title);
            let help = format!(r#"add plugin = "{}", or command = ["/path/to/program"]"#, PLUGINS[0].name);
            reader.missing(section.span.clone(), what, help);
        }
        _ => {}
    }
    match plugin {
        Some(placed) => (Some(Program::Plugin(placed.value.name)), Some(placed.value)),
        None => (command.map(Program::Command), None),
    }
}

fn find(name: &str) -> Read<&'static Plugin> {
    let names = || PLUGINS.iter().map(|plugin| plugin.name);
    match plugin::find(name) {
        Some(plugin) => Ok(plugin),
        None => {
            let help = match nearest(name, names()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => {
                    format!(
                        "write {}, or command = [...] for another program",
                        names().collect::<Vec<_>>().join(" or ")
                    )
                }
            };
            wrong(format!("unknown plugin {}", quoted(name)), help)
        }
    }
}

/// That key of the table, a command: the absolute path of a program, and its arguments.
pub(super) fn command(reader: &mut Reader<'_>, section: &Section<'_>, key: &str, path: &str) -> Option<Vec<String>> {
    const EXAMPLE: &str = r#"["/usr/bin/prog", "arg"]"#;
    let words = reader.list(section, key, EXAMPLE, value::string);
    let Some(first) = words.first() else {
        if section.is_empty_list(key) {
            reader.problem(section.place(key), "the command is empty", format!("as in {key} = {EXAMPLE}"));
        }
        return None;
    };
    let found = locate(reader, &first.value, path);
    let program = match found {
        Err(Wrong { what, help }) if !first.value.is_empty() => {
            reader.absent(first.span.clone(), what, help);
            return None;
        }
        found => reader.take(first.span.clone(), found)?,
    };
    let arguments = words.iter().skip(1).map(|Placed { value, .. }| value.clone());
    Some([program.value.to_string_lossy().into_owned()].into_iter().chain(arguments).collect())
}

/// The absolute path of a program. A name with a slash is relative to the file; a name
/// without one is looked up in PATH.
fn locate(reader: &Reader<'_>, name: &str, path: &str) -> Read<PathBuf> {
    if name.is_empty() {
        return wrong("the program has no name", "write its path, or its name in PATH");
    }
    if name.contains('/') {
        let program = absolute(reader.base, name);
        return match reader.system.program(&program) {
            Ok(()) => Ok(program),
            Err(why) => wrong(format!("cannot run {}: {}", program.display(), why.cause), advice(name, why)),
        };
    }
    let folders = path.split(':').filter(|folder| folder.starts_with('/'));
    let mut found = None;
    for folder in folders {
        let program = Path::new(folder).join(name);
        match reader.system.program(&program) {
            Ok(()) => return Ok(program),
            // That a program can't be run says more than that it does not exist.
            Err(why) if !why.cause.starts_with("No such file") => {
                let what = format!("cannot run {}: {}", program.display(), why.cause);
                found.get_or_insert_with(|| Wrong { what, help: advice(name, why) });
            }
            Err(_) => {}
        }
    }
    let nowhere = || wrong(format!("cannot run {}: it is in no folder of PATH", quoted(name)), help(name));
    found.map_or_else(nowhere, Err)
}

fn advice(name: &str, why: NotRunnable) -> String {
    if why.help.is_empty() { help(name) } else { why.help }
}

/// A whole command line in the first word is a common mistake.
fn help(name: &str) -> String {
    match name.split_once(char::is_whitespace) {
        Some((program, _)) => {
            format!("write each word as a string of its own: [\"{program}\", ...]; or [\"/bin/sh\", \"-c\", \"...\"]")
        }
        None => "name a program that exists and can be executed".to_owned(),
    }
}
