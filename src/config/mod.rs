//! The configuration: from a file's bytes to a [`model::Model`].
//!
//! - [`load`] finds the file and reads it, [`check_text`] checks its text;
//!   both give a model, or a list of every [`Problem`];
//! - [`looked`] does the same in two halves: another process asks the system, and this
//!   one works from the answers;
//! - [`effective`] prints a model with every default filled in;
//! - [`order`] says which child must be ready before which;
//! - [`plan`] says what a reload does;
//! - [`keys`] has every key; [`schema`] has them for editors;
//! - [`examples`] ship with the program.
//!
//! Nothing in this module changes anything outside it, and nothing in it names a plugin.

mod check;
pub mod effective;
pub mod examples;
pub mod keys;
pub(crate) mod looked;
pub mod model;
pub(crate) mod order;
pub mod plan;
pub mod schema;
mod syntax;
mod trust;

pub use crate::schema::problem::{Problem, Problems};
pub use check::Which;

use crate::schema::system::{Real, System};
use crate::sys::cause::cause;
use model::{Lines, Model};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The built-in configuration, used if there is no file.
pub const BUILTIN: &str = include_str!("builtin.toml");
/// What messages call it.
pub const BUILTIN_NAME: &str = "built-in configuration";
/// The first place where a configuration is looked for, in the working directory.
const HERE: &str = "plumbd.toml";
/// The last place where a configuration is looked for.
const SYSTEM: &str = "/etc/plumbd/plumbd.toml";

/// The largest configuration, in bytes. The supervisor does nothing else while it reads
/// one.
const MAX_FILE: u64 = 256 << 10;

/// A configuration that is right.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it says.
    pub model: Model,
    /// The file's name as it was given or found, or [`BUILTIN_NAME`].
    pub name: String,
    /// Whether it is the built-in one.
    pub builtin: bool,
    /// Its programs that are known to be [at hand](crate::sys::at_hand::is_at_hand).
    pub at_hand: BTreeSet<PathBuf>,
    /// The text that it was made from.
    pub source: Rc<Source>,
}

/// A configuration as it was found, before it is checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    /// As it was given or found, or [`BUILTIN_NAME`].
    name: String,
    /// Its absolute path; `None`: the built-in one.
    #[serde(with = "bytes")]
    file: Option<PathBuf>,
    /// The folder that the built-in one is relative to.
    #[serde(with = "bytes")]
    here: Option<PathBuf>,
    text: Vec<u8>,
}

impl Loaded {
    /// Whether that child's program can be executed without waiting for a file system.
    pub fn is_at_hand(&self, child: &model::Child) -> bool {
        self.at_hand.contains(looked::program_of(child))
    }

    /// What was in the file; `None` for the built-in configuration.
    pub(crate) fn text(&self) -> Option<&[u8]> {
        self.source.file.as_ref().map(|_| &*self.source.text)
    }

    /// `FILE:LINE`, as in problems; the file alone for line 0.
    pub fn place(&self, line: usize) -> String {
        match line {
            0 => self.name.clone(),
            line => format!("{}:{line}", self.name),
        }
    }
}

/// Where a configuration is looked for, in this order: `./plumbd.toml`; the user's own,
/// `$XDG_CONFIG_HOME/plumbd/plumbd.toml` (the XDG Base Directory Specification);
/// `/etc/plumbd/plumbd.toml`.
///
/// Root has none of its own, because under sudo(8) HOME may be the home of the user who
/// called it.
pub fn places() -> Vec<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    places_of(Real.is_root(), folder("XDG_CONFIG_HOME"), folder("HOME"))
}

fn places_of(is_root: bool, settings: Option<PathBuf>, home: Option<PathBuf>) -> Vec<PathBuf> {
    // The specification says that a path that is not absolute counts as not set.
    let settings = settings.filter(|folder| folder.is_absolute());
    let home = || home.filter(|folder| folder.is_absolute()).map(|home| home.join(".config"));
    let own = settings.or_else(home).filter(|_| !is_root).map(|folder| folder.join("plumbd").join(HERE));
    [Some(PathBuf::from(HERE)), own, Some(PathBuf::from(SYSTEM))].into_iter().flatten().collect()
}

/// Where the configuration is: `path` if it is given, otherwise the first of [`places`] that
/// exists. `None` stands for the built-in one.
///
/// This includes a place that can't be read, and one of which it is unknown whether it
/// exists, so that the error is reported rather than ignored.
pub fn find(path: Option<&Path>) -> Option<PathBuf> {
    match path {
        Some(path) => Some(path.to_owned()),
        None => places().into_iter().find(|place| may_exist(place)),
    }
}

fn may_exist(place: &Path) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    place.symlink_metadata().map_or_else(|error| !matches!(error.kind(), NotFound | NotADirectory), |_| true)
}

/// The text of a configuration, for a command that only looks for a word in it.
///
/// # Errors
/// It can't be read, or is not an ordinary file.
pub fn text(path: &Path) -> io::Result<Vec<u8>> {
    read(path, Reader::Word)
}

/// Finds, reads and checks the configuration.
///
/// # Errors
/// Every problem that there is, with the file or in it.
pub fn load(path: Option<&Path>) -> Result<Loaded, Problems> {
    check_source(&Rc::new(source(path, Reader::Command(&|| ()))?), &Real, Which::All)
}

/// Who reads a configuration.
#[derive(Clone, Copy)]
pub enum Reader<'a> {
    /// A command, which may wait for its input. It calls this function before it does.
    Command(&'a dyn Fn()),
    /// A running daemon, which reads only ordinary files.
    Daemon,
    /// A command that only looks for a word, in ordinary files only.
    Word,
}

/// Finds and reads the configuration.
///
/// # Errors
/// It can't be read, or is too large.
pub fn source(path: Option<&Path>, reader: Reader<'_>) -> Result<Source, Problems> {
    let Some(path) = find(path) else {
        let here = std::env::current_dir().map_err(|error| {
            let what = format!("cannot find the working directory: {}", cause(&error));
            Problems::unreadable(
                BUILTIN_NAME,
                &what,
                "go to a folder that exists, or name a configuration with -c FILE",
            )
        })?;
        return Ok(Source { name: BUILTIN_NAME.to_owned(), file: None, here: Some(here), text: BUILTIN.into() });
    };
    let name = path.to_string_lossy().into_owned();
    let file = std::path::absolute(&path).map_err(|error| unreadable(&name, &error))?;
    let text = read(&file, reader).map_err(|error| unreadable(&name, &error))?;
    if text.len() as u64 > MAX_FILE {
        return Err(Problems::unreadable(&name, "the file is larger than 256 KiB", "is it a configuration?"));
    }
    Ok(Source { name, file: Some(file), here: None, text })
}

/// Checks what was found, on a given system.
///
/// # Errors
/// Every problem that there is.
pub fn check_source(source: &Rc<Source>, system: &dyn System, which: Which) -> Result<Loaded, Problems> {
    let Source { name, file, here, text } = &**source;
    let base = file.as_deref().map_or(here.as_deref(), Path::parent).unwrap_or(Path::new("/"));
    let mut model = check::check(text, name, base, system, which)?;
    let builtin = file.is_none();
    if builtin {
        // There is no file that these lines could refer to.
        model.daemon.lines = Lines::default();
        for child in model.children.iter_mut().map(Rc::make_mut) {
            (child.line, child.lines) = (0, Lines::default());
        }
        model.links.iter_mut().for_each(|link| link.line = 0);
    }
    model.file.clone_from(file);
    Ok(Loaded { model, name: name.clone(), builtin, at_hand: BTreeSet::new(), source: source.clone() })
}

/// Checks a configuration's text. `name` is what messages call it; `base` is the
/// absolute folder that relative paths are relative to.
///
/// # Errors
/// Every problem that there is.
pub fn check_text(text: &[u8], name: &str, base: &Path) -> Result<Model, Problems> {
    check_text_on(text, name, base, &Real)
}

/// Like [`check_text`], on a given system with its accounts and files.
///
/// # Errors
/// Every problem that there is.
pub fn check_text_on(text: &[u8], name: &str, base: &Path, system: &dyn System) -> Result<Model, Problems> {
    check::check(text, name, base, system, Which::All)
}

fn read(path: &Path, reader: Reader<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let is_daemon = match reader {
        Reader::Daemon | Reader::Word => true,
        Reader::Command(waits) => {
            let found = std::fs::metadata(path)?;
            if !found.is_file() {
                // Do not even wait for a FIFO that belongs to another user.
                if let Some(why) = trust::why_not(path, &found) {
                    return Err(io::Error::other(why));
                }
                waits();
            }
            false
        }
    };
    let flags = if is_daemon { nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY } else { 0 };
    let file = std::fs::File::options().read(true).custom_flags(flags).open(path)?;
    // A word is not run as a program, so the file need not be trusted.
    let is_word = matches!(reader, Reader::Word);
    if let Some(why) = trust::why_not(path, &file.metadata()?).filter(|_| !is_word) {
        return Err(io::Error::other(why));
    }
    if is_daemon && !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no ordinary file, so reading it might wait forever"));
    }
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Paths as bytes, because a JSON string can't hold a path that is not UTF-8.
mod bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::PathBuf;

    pub(super) fn serialize<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(|path| path.as_os_str().as_bytes()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
        let bytes = Option::<Vec<u8>>::deserialize(from)?;
        Ok(bytes.map(|bytes| OsString::from_vec(bytes).into()))
    }
}

fn unreadable(name: &str, error: &io::Error) -> Problems {
    let what = format!("cannot read the file: {}", cause(error));
    Problems::unreadable(name, &what, "give the path of a configuration with -c FILE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_own_configuration_comes_after_the_folders_and_before_the_systems() {
        let path = |text: &str| Some(PathBuf::from(text));
        let own = |is_root, settings: Option<PathBuf>, home: Option<PathBuf>| {
            let places = places_of(is_root, settings, home);
            assert_eq!((places.first(), places.last()), (path(HERE).as_ref(), path(SYSTEM).as_ref()));
            (places.len() == 3).then(|| places[1].clone())
        };
        assert_eq!(own(false, path("/x"), path("/home/u")), path("/x/plumbd/plumbd.toml"));
        for unset in [None, path(""), path("x")] {
            assert_eq!(own(false, unset.clone(), path("/home/u")), path("/home/u/.config/plumbd/plumbd.toml"));
            assert_eq!(own(false, unset.clone(), None), None);
            assert_eq!(own(false, unset, path("")), None);
        }
        assert_eq!(own(true, path("/x"), path("/home/u")), None);
    }
}
