//! Checks the text of a file, from the whole to its parts, and gathers every problem. If
//! there is none, makes the model.

mod across;
mod child;
mod foreign;
mod health;
mod hooks;
mod identity;
mod links;
mod program;

use super::keys;
use super::model::{Daemon, LogTarget, Model, base_name};
use super::syntax::{decode, readable};
use crate::journal;
use crate::schema::problem::{Places, Problem, Problems};
use crate::schema::system::System;
use crate::schema::table::{Entry, Reader, Section};
use crate::schema::value;
use crate::schema::{address, nearest};
use child::Draft;
use std::path::Path;
use std::rc::Rc;
use toml::de::{DeTable, DeValue};

/// The most children, and the most links.
const MAX_TABLES: usize = 1000;
/// The most instances of all children together. Each is a process, and takes about ten of
/// the supervisor's descriptors.
const MAX_INSTANCES: u64 = 4096;

/// Whom the hooks of the daemon belong to, where others belong to a child: no child can have
/// this name.
const DAEMON: &str = "[daemon]";

/// See [`super::check_text_on`].
pub(super) fn check(
    text: &[u8],
    name: &str,
    base: &Path,
    system: &dyn System,
    which: Which,
) -> Result<Model, Problems> {
    if base.to_str().is_none() {
        // Paths go to programs as JSON and into messages.
        let what = format!("the name of the folder {} is no UTF-8", base.display());
        return Err(Problems::unreadable(name, &what, "move the configuration to another folder"));
    }
    let (text, mut mistakes) = decode(text);
    let readable = readable(&text);
    mistakes.extend(readable.mistakes);
    let (table, _) = DeTable::parse_recoverable(&readable.text);
    let mut reader = Reader {
        places: Places::new(&text),
        problems: Vec::new(),
        partial: !mistakes.is_empty(),
        reported: Vec::new(),
        base,
        system,
        child: None,
        meant: foreign::meant,
    };
    for (span, what, help) in &mistakes {
        reader.problem(span.clone(), what, help);
    }
    reader.reported = mistakes.into_iter().map(|(span, ..)| span).collect();
    let mut model = file(&mut reader, table.get_ref());
    if reader.problems.is_empty() {
        return Ok(model);
    }
    let problems = Problems::new(name, &text, reader.problems);
    match which {
        Which::All => Err(problems),
        Which::OfTheFile => hold_back(&mut model, &problems).then_some(model).ok_or(problems),
    }
}

/// Which problems a configuration may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// No problem at all.
    All,
    /// No problem of the file itself. A child that lacks something on the system is held
    /// back.
    OfTheFile,
}

/// Holds back the children, and leaves out the hooks of the daemon, that lack something, and
/// returns whether nothing else is wrong.
fn hold_back(model: &mut Model, problems: &Problems) -> bool {
    for child in model.children.iter_mut().map(Rc::make_mut) {
        let lacking = |problem: &&Problem| problem.lacking.as_deref() == Some(base_name(&child.name));
        child.lacks = problems.iter().filter(lacking).map(|problem| problems.headline(problem)).collect();
    }
    let of_the_daemon = problems.iter().filter(|problem| problem.lacking.as_deref() == Some(DAEMON));
    model.daemon.lacks = of_the_daemon.map(|problem| problems.headline(problem)).collect();
    problems.iter().all(|problem| problem.lacking.is_some())
}

fn file(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Model {
    let root = reader.root(table, keys::FILE);
    let daemon = daemon(reader, &root);
    let drafts = children(reader, &root);
    let links = links::read(reader, &root, &drafts);
    across::check(reader, &daemon, &drafts);
    Model {
        file: None,
        daemon,
        children: drafts.iter().flat_map(|draft| draft.instances(&drafts)).collect(),
        links: links.iter().flat_map(|link| link.instances(&drafts)).collect(),
    }
}

fn daemon(reader: &mut Reader<'_>, root: &Section<'_>) -> Daemon {
    use log::LevelFilter::{Debug, Error, Info, Trace, Warn};
    let section = reader.inner(root, "daemon", "[daemon]", keys::DAEMON);
    let targets = [("auto", LogTarget::Auto), ("stderr", LogTarget::Stderr), ("syslog", LogTarget::Syslog)];
    let levels = [("error", Error), ("warn", Warn), ("info", Info), ("debug", Debug), ("trace", Trace)];
    let facilities = journal::FACILITIES.map(|(name, _)| (name, name));
    let base = reader.base;
    let control = reader.read(&section, "control", |value| Ok(value::absolute(base, &value::filled(value)?)));
    reader.take(section.place("control"), address::socket_path(&control));
    if let Some(folder) = control.parent() {
        reader.folder_exists(section.place("control"), folder, "the control socket");
    }
    let environment = identity::minimal(reader);
    reader.child = Some(DAEMON.to_owned());
    let on = hooks::read(reader, &section, keys::ON, &environment["PATH"]);
    reader.child = None;
    Daemon {
        control,
        on,
        environment: environment.into_iter().collect(),
        lacks: Vec::new(),
        log: reader.read(&section, "log", value::choice(&targets)),
        syslog_facility: reader.read(&section, "syslog_facility", value::choice(&facilities)),
        log_level: reader.read(&section, "log_level", value::choice(&levels)),
        stop_timeout: reader.duration(&section, "stop_timeout"),
        lines: section.lines(&reader.places).into_iter().collect(),
    }
}

fn children(reader: &mut Reader<'_>, root: &Section<'_>) -> Vec<Draft> {
    let tables = reader.free(root, "children", "write a table each, [children.NAME]");
    let none = root.value("children").is_some_and(|value| is_table(value.get_ref()) && tables.is_empty());
    if none || root.lacks("children") {
        reader.missing(
            root.key_place("children"),
            "there are no children",
            "add [children.NAME] with plugin or command",
        );
    }
    if let Some(entry) = tables.get(MAX_TABLES) {
        let what = format!("{} children are too many", tables.len());
        reader.problem(entry.key_span.clone(), what, format!("at most {MAX_TABLES}"));
    }
    let mut drafts = Vec::new();
    let mut total = 0;
    for Entry { key, key_span, value } in tables.iter().take(MAX_TABLES) {
        let draft = child::read(reader, key, key_span.clone(), value);
        let before = total;
        total += draft.instances;
        if before <= MAX_INSTANCES && total > MAX_INSTANCES {
            let what = format!("with these there are {total} instances, which are too many");
            reader.problem(draft.instances_span.clone(), what, format!("at most {MAX_INSTANCES} in all"));
        }
        drafts.push(draft);
    }
    drafts
}

/// Advice for a name that is not among the known ones.
fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let base = base_name(name);
    if base != name && known.clone().any(|known| known == base) {
        return format!("write \"{base}\": all its instances are meant");
    }
    match nearest(name, known.clone()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("the children are {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// Whether a value is a table.
fn is_table(value: &DeValue<'_>) -> bool {
    matches!(value, DeValue::Table(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::system::Real;

    fn checked(text: &str, which: Which) -> Result<Model, Problems> {
        check(text.as_bytes(), "x.toml", Path::new("/"), &Real, which)
    }

    #[test]
    fn what_the_system_lacks_holds_back_the_child_that_needs_it() {
        let lacks = "[children.good]\ncommand = [\"sh\"]\n\
                     [children.bad]\ncommand = [\"no-such\"]\ninstances = 2\ndirectory = \"/none\"\n\
                     [children.socket]\ncommand = [\"sh\"]\nlisten = [\"unix:/none/x\"]\n";
        assert_eq!(checked(lacks, Which::All).unwrap_err().count(), 3);
        let model = checked(lacks, Which::OfTheFile).unwrap();
        let lacks_of = |name: &str| model.child(name).unwrap().lacks.clone();
        assert!(lacks_of("good").is_empty());
        assert_eq!(lacks_of("bad.0"), lacks_of("bad.1"));
        for (name, places) in [("bad.0", vec!["x.toml:4:12: ", "x.toml:6:13: "]), ("socket", vec!["x.toml:9:11: "])] {
            let lacks = lacks_of(name);
            assert_eq!(lacks.len(), places.len());
            assert!(lacks.iter().zip(places).all(|(lack, place)| lack.starts_with(place)), "{lacks:?}");
        }
    }

    #[test]
    fn if_the_file_itself_has_a_problem_all_problems_are_reported() {
        let bad = "[children.bad]\ncommand = [\"no-such\"]\n";
        for wrong in ["umaks = 1\n", "[daemon]\ncontrol = \"/none/x\"\n", "command = 1\n", "directory = 1\n", "x"] {
            let text = format!("{bad}{wrong}");
            assert_eq!(checked(&text, Which::OfTheFile).unwrap_err(), checked(&text, Which::All).unwrap_err());
        }
        assert!(checked("[children.bad]\ncommand = [\"\"]\n", Which::OfTheFile).is_err(), "no program has no name");
    }
}
