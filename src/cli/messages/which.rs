//! Which message file is meant, and the format that the configuration gives it.

use super::super::Failure;
use super::parse::Shape;
use crate::config::{self, BUILTIN, BUILTIN_NAME};
use crate::plugin;
use crate::schema::kind::Kind;
use crate::sys::cause::cause;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A plugin's file in a configuration.
#[derive(Debug, PartialEq, Eq)]
struct Saved {
    file: PathBuf,
    shape: Shape,
}

/// The message file of the only logger.
///
/// # Errors
/// The configuration can't be read, or has no logger, or several.
pub(super) fn only(config: Option<&Path>) -> Result<(PathBuf, Shape), Failure> {
    let (name, mut saved) = configured(config)?;
    match (saved.pop(), saved.is_empty()) {
        (Some(Saved { file, shape }), true) => Ok((file, shape)),
        (Some(last), false) => {
            let files: String =
                saved.iter().chain([&last]).map(|saved| format!("\n  {}", saved.file.display())).collect();
            let why =
                format!("cannot tell which messages are meant: {name} has several loggers; name one file:{files}");
            Err(Failure::new(Failure::USAGE, why))
        }
        (None, _) => {
            Err(Failure::from(format!("cannot find messages: {name} has no logger; name a file, or give -c FILE")))
        }
    }
}

/// How the lines of that file are to be read, if the configuration has it.
///
/// # Errors
/// The configuration was named and can't be read.
pub(super) fn shape_of(file: &Path, config: Option<&Path>) -> Result<Option<Shape>, Failure> {
    let saved = match configured(config) {
        Ok((_, saved)) => saved,
        Err(failure) if config.is_some() => return Err(failure),
        Err(_) => return Ok(None),
    };
    let absolute = |path: &Path| std::path::absolute(path).ok();
    let is_same = |saved: &Saved| absolute(&saved.file).is_some_and(|path| Some(path) == absolute(file));
    Ok(saved.into_iter().find(is_same).map(|saved| saved.shape))
}

fn configured(config: Option<&Path>) -> Result<(String, Vec<Saved>), Failure> {
    let Some(path) = config::find(config) else {
        return Ok((BUILTIN_NAME.to_owned(), saved_by(BUILTIN, Path::new(""))));
    };
    let text = config::text(&path)
        .map_err(|e| format!("cannot read {}: {}; or name a message file", path.display(), cause(&e)))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok((path.display().to_string(), saved_by(&String::from_utf8_lossy(&text), folder)))
}

/// What a configuration has its plugins save. It may have problems elsewhere: the messages
/// are there all the same.
fn saved_by(text: &str, folder: &Path) -> Vec<Saved> {
    let (table, _problems) = DeTable::parse_recoverable(text);
    let table = table.into_inner();
    let Some(children) = table.get("children").and_then(inner) else { return Vec::new() };
    let mut all: Vec<Saved> = Vec::new();
    for child in children.values() {
        let saved = inner(child).and_then(|child| saved(child, folder));
        all.extend(saved.filter(|saved| all.iter().all(|other| other.file != saved.file)));
    }
    all
}

fn saved(child: &DeTable<'_>, folder: &Path) -> Option<Saved> {
    let plugin = plugin::find(child.get("plugin")?.as_ref().as_str()?)?;
    let key = plugin.keys.iter().find(|key| matches!(key.kind, Kind::File(_)))?;
    let settings = inner(child.get("settings")?)?;
    let file = folder.join(settings.get(key.name)?.as_ref().as_str()?);
    let is_raw = settings.get("format").is_some_and(|format| format.as_ref().as_str() == Some("raw"));
    Some(Saved { file, shape: if is_raw { Shape::Raw } else { Shape::Timed } })
}

fn inner<'a, 't>(value: &'a Spanned<DeValue<'t>>) -> Option<&'a DeTable<'t>> {
    value.as_ref().as_table()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(file: &str, shape: Shape) -> Saved {
        Saved { file: file.into(), shape }
    }

    #[test]
    fn the_loggers_of_a_configuration_say_where() {
        let text = "[children.a]\nplugin = \"logger\"\nsettings = { file = \"a.log\", format = \"raw\" }\n\
                    [children.b]\nplugin = \"logger\"\n[children.b.settings]\nfile = \"/var/b.log\"\n\
                    [children.c]\nplugin = \"echo\"\n[children.d]\ncommand = [\"x\"]\nsettings = { file = \"d\" }\n\
                    [children.e]\nplugin = \"logger\"\nsettings = { file = \"a.log\" }\n";
        assert_eq!(
            saved_by(text, Path::new("/etc/plumbd")),
            [saved("/etc/plumbd/a.log", Shape::Raw), saved("/var/b.log", Shape::Timed)]
        );
        assert_eq!(saved_by(BUILTIN, Path::new("")), [saved("messages.log", Shape::Timed)]);
    }

    #[test]
    fn a_file_that_is_half_edited_still_says_where() {
        let text = "[children.a]\nplugin = \"logger\"\n[children.a.settings]\nfile = \"a.log\"\nformat = \n\
                    [children.x]\ncommand = [\"a\"\nrestart = maybe\n";
        assert_eq!(saved_by(text, Path::new("/x")), [saved("/x/a.log", Shape::Timed)]);
        for text in ["", "children = 7", "[children]\na = 1\n", "[children.a]\nplugin = 3\n"] {
            assert_eq!(saved_by(text, Path::new("/x")), [], "{text}");
        }
    }
}
