//! Loads a configuration in two halves. A separate process finds and reads the file, and
//! asks the system everything that the check needs to know. Then this process checks the
//! file from the answers alone, so it never waits for a file system or an account database.

use super::model::{Child, Model, Program};
use super::{Loaded, Problems, Reader, Source, Which, check_source, source};
use crate::schema::system::{Account, NotRunnable, Real, System};
use crate::sys::at_hand::is_at_hand;
use crate::sys::look::{Answers, Scribe};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

const SOURCE: &str = "source";
/// What runs a built-in plugin: this very executable.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// The half that the separate process does.
///
/// Returns the configuration if the file has no problem of its own.
pub fn look(path: Option<&Path>, is_daemon: bool, scribe: &Scribe<'_>) -> Option<Loaded> {
    let what = path.map_or("looking for the configuration".to_owned(), looking_at);
    scribe.does(&what);
    let waits = || scribe.waits(&what);
    let found = source(path, if is_daemon { Reader::Daemon } else { Reader::Command(&waits) });
    scribe.says(SOURCE, &found);
    look_again(&Rc::new(found.ok()?), scribe)
}

/// Like [`look`], for a configuration that has already been read.
pub fn look_again(found: &Rc<Source>, scribe: &Scribe<'_>) -> Option<Loaded> {
    let loaded = check_source(found, &Asking { scribe }, Which::OfTheFile).ok()?;
    for program in programs(&loaded.model) {
        scribe.ask(&at_hand(program), &looking_at(program), || is_at_hand(program));
    }
    Some(loaded)
}

/// The half that this process does.
///
/// # Errors
/// Every problem that there is.
pub fn loaded(answers: &Answers, which: Which) -> Result<Loaded, Problems> {
    let found: Result<Source, Problems> = answers
        .get(SOURCE)
        .unwrap_or_else(|| Err(Problems::unreadable("the configuration", "nobody has read it", "try again")));
    loaded_again(&Rc::new(found?), answers, which)
}

/// Like [`loaded`], for a configuration that has already been read.
///
/// # Errors
/// As [`loaded`].
pub fn loaded_again(found: &Rc<Source>, answers: &Answers, which: Which) -> Result<Loaded, Problems> {
    let mut loaded = check_source(found, &Answered { answers }, which)?;
    let all = programs(&loaded.model).into_iter().filter(|program| answers.get(&at_hand(program)) == Some(true));
    let at_hand: BTreeSet<PathBuf> = all.map(Path::to_owned).collect();
    loaded.at_hand = at_hand;
    Ok(loaded)
}

fn programs(model: &Model) -> BTreeSet<&Path> {
    model.children.iter().map(|child| program_of(child)).collect()
}

/// The file that is executed for a child.
pub(crate) fn program_of(child: &Child) -> &Path {
    match &child.program {
        Program::Plugin(_) => Path::new(OWN_PROGRAM),
        Program::Command(words) => Path::new(words.first().map_or("", String::as_str)),
    }
}

fn at_hand(program: &Path) -> String {
    format!("at hand {}", program.display())
}

fn looking_at(path: &Path) -> String {
    format!("looking at {}", path.display())
}

/// A system that really is asked, and whose answers are noted.
struct Asking<'a> {
    scribe: &'a Scribe<'a>,
}

impl System for Asking<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        Real.variable(name)
    }

    fn is_root(&self) -> bool {
        Real.is_root()
    }

    fn account(&self, name: &str) -> Result<Option<Account>, String> {
        self.scribe.ask(&account(name), &format!("looking up the user \"{name}\""), || Real.account(name))
    }

    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        self.scribe.ask(&group(name), &format!("looking up the group \"{name}\""), || Real.group(name))
    }

    fn groups(&self, user: &str) -> Result<Vec<u32>, String> {
        let what = format!("looking up the groups of the user \"{user}\"");
        self.scribe.ask(&groups(user), &what, || Real.groups(user))
    }

    fn folder(&self, path: &Path) -> Result<(), String> {
        self.scribe.ask(&folder(path), &looking_at(path), || Real.folder(path))
    }

    fn program(&self, path: &Path) -> Result<(), NotRunnable> {
        self.scribe.ask(&program(path), &looking_at(path), || Real.program(path))
    }

    fn regular_file(&self, path: &Path) -> Result<(), String> {
        self.scribe.ask(&regular_file(path), &looking_at(path), || Real.regular_file(path))
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        self.scribe.ask(&resolve(path), &looking_at(path), || Real.resolve(path))
    }
}

/// A system of which only the noted answers are known.
struct Answered<'a> {
    answers: &'a Answers,
}

impl Answered<'_> {
    fn of<T, E>(&self, question: &str) -> Result<T, E>
    where
        T: DeserializeOwned + Serialize,
        E: DeserializeOwned + Serialize + From<String>,
    {
        let nobody = || Err("nobody has looked".to_owned().into());
        self.answers.get::<Result<T, E>>(question).unwrap_or_else(nobody)
    }
}

impl System for Answered<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        Real.variable(name)
    }

    fn is_root(&self) -> bool {
        Real.is_root()
    }

    fn account(&self, name: &str) -> Result<Option<Account>, String> {
        self.of(&account(name))
    }

    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        self.of(&group(name))
    }

    fn groups(&self, user: &str) -> Result<Vec<u32>, String> {
        self.of(&groups(user))
    }

    fn folder(&self, path: &Path) -> Result<(), String> {
        self.of(&folder(path))
    }

    fn program(&self, path: &Path) -> Result<(), NotRunnable> {
        self.of(&program(path))
    }

    fn regular_file(&self, path: &Path) -> Result<(), String> {
        self.of(&regular_file(path))
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        self.answers.get(&resolve(path)).unwrap_or_else(|| path.to_owned())
    }
}

fn account(name: &str) -> String {
    format!("account {name}")
}

fn group(name: &str) -> String {
    format!("group {name}")
}

fn groups(user: &str) -> String {
    format!("groups of {user}")
}

fn folder(path: &Path) -> String {
    format!("folder {}", path.display())
}

fn program(path: &Path) -> String {
    format!("program {}", path.display())
}

fn regular_file(path: &Path) -> String {
    format!("regular file {}", path.display())
}

fn resolve(path: &Path) -> String {
    format!("resolve {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::look::noted;

    /// Does the second half from what the first half noted.
    fn both(path: &Path) -> Result<Loaded, Problems> {
        loaded(&noted(|scribe| drop(look(Some(path), true, scribe))), Which::All)
    }

    #[test]
    fn both_halves_together_give_the_same_as_loading_in_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plumbd.toml");
        let good = "[children.a]\ncommand = [\"sh\", \"-c\", \"exit\"]\ndirectory = \".\"\n\
                    [children.b]\ncommand = [\"cat\"]\n[[links]]\nfrom = \"a\"\nto = \"b\"\n";
        let bad = "[children.a]\ncommand = [\"no-such\"]\ndirectory = \"none\"\nuser = \"no-such\"\ngroup = \"none\"\n\
                   [children.b]\nplugin = \"logger\"\nsettings = { file = \"none/x\" }\n\
                   [children.c]\nplugin = \"logger\"\nsettings = { file = \"/dev/null\" }\n";
        for text in [good, bad, "", "x", "\u{0}"] {
            std::fs::write(&file, text).unwrap();
            match (super::super::load(Some(&file)), both(&file)) {
                (Ok(whole), Ok(halves)) => {
                    assert_eq!(whole.model, halves.model);
                    assert_eq!((whole.name, whole.builtin), (halves.name, halves.builtin));
                }
                (Err(whole), Err(halves)) => assert_eq!(whole, halves),
                (whole, halves) => panic!("{whole:?}\n{halves:?}"),
            }
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(super::super::load(Some(&file)).unwrap_err(), both(&file).unwrap_err());
    }

    #[test]
    fn the_second_half_asks_the_system_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (file, program) = (folder.path().join("plumbd.toml"), folder.path().join("program"));
        std::fs::write(&file, "[children.a]\ncommand = [\"./program\"]\ndirectory = \"d\"\n").unwrap();
        std::fs::copy("/bin/true", &program).unwrap();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        let answers = noted(|scribe| drop(look(Some(&file), true, scribe)));
        folder.close().unwrap();
        let loaded = loaded(&answers, Which::All).unwrap();
        assert_eq!(loaded.at_hand.len(), usize::from(crate::sys::at_hand::is_way_local(Path::new("/tmp"))));
    }
}
