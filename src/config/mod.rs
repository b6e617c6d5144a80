//! The configuration: from a file's bytes to a [`model::Model`].
//!
//! - [`load`] finds the file and reads it, [`check_text`] checks its text;
//!   both give a model, or every [`problem::Problem`] there is;
//! - [`effective`] prints a model with every default filled in;
//! - [`order`] says which child must be ready before which;
//! - [`plan`] says what a reload does;
//! - [`keys`] is the table of every key; [`schema`] is that for editors;
//! - [`examples`] ship with the program.
//!
//! Nothing here changes anything outside.

mod check;
pub mod effective;
pub mod examples;
pub mod keys;
pub mod limits;
pub mod model;
pub mod order;
pub mod plan;
pub mod problem;
pub mod schema;
mod syntax;
pub mod system;
mod table;
mod value;

pub use problem::{Problem, Problems};
pub use value::{duration_text, size_text};

use model::{Lines, Model};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use system::{Real, System};

/// The built-in configuration, for where there is no file.
pub const BUILTIN: &str = include_str!("builtin.toml");
/// What it is called in messages.
pub const BUILTIN_NAME: &str = "built-in configuration";
/// Where a configuration is looked for, in this order.
pub const PLACES: [&str; 2] = ["plumbd.toml", "/etc/plumbd/plumbd.toml"];

/// No configuration is larger, in bytes: the supervisor reads it whole while
/// it does nothing else.
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
}

impl Loaded {
    /// `FILE:LINE`, as problems are placed; the file alone for line 0.
    pub fn place(&self, line: usize) -> String {
        match line {
            0 => self.name.clone(),
            line => format!("{}:{line}", self.name),
        }
    }
}

/// Where the configuration is: `path` where given, else the first of
/// [`PLACES`] that exists, else `None`: the built-in one.
///
/// A place that exists and can't be read is taken, and so is one of which nobody
/// can say whether it exists: the error is reported rather than passed over.
pub fn find(path: Option<&Path>) -> Option<PathBuf> {
    match path {
        Some(path) => Some(path.to_owned()),
        None => PLACES.iter().map(PathBuf::from).find(|place| may_exist(place)),
    }
}

fn may_exist(place: &Path) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    place.symlink_metadata().map_or_else(|error| !matches!(error.kind(), NotFound | NotADirectory), |_| true)
}

/// Finds, reads and checks the configuration.
///
/// # Errors
/// Every problem that there is, with the file or in it.
pub fn load(path: Option<&Path>) -> Result<Loaded, Problems> {
    load_by(path, false)
}

/// The same for a daemon that runs, which must not wait: of ordinary files alone.
///
/// # Errors
/// As [`load`].
pub fn load_again(path: Option<&Path>) -> Result<Loaded, Problems> {
    load_by(path, true)
}

fn load_by(path: Option<&Path>, daemon: bool) -> Result<Loaded, Problems> {
    let Some(path) = find(path) else {
        let here = std::env::current_dir().map_err(|error| unreadable(BUILTIN_NAME, &error))?;
        let mut model = check_text(BUILTIN.as_bytes(), BUILTIN_NAME, &here)?;
        // These lines are in no file that anybody could open.
        model.daemon.lines = Lines::default();
        for child in model.children.iter_mut().map(Rc::make_mut) {
            (child.line, child.lines) = (0, Lines::default());
        }
        model.links.iter_mut().for_each(|link| link.line = 0);
        return Ok(Loaded { model, name: BUILTIN_NAME.to_owned(), builtin: true });
    };
    let name = path.to_string_lossy().into_owned();
    let file = std::path::absolute(&path).map_err(|error| unreadable(&name, &error))?;
    let bytes = read(&file, daemon).map_err(|error| unreadable(&name, &error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Problems::unreadable(&name, "the file is larger than 256 KiB", "is it a configuration?"));
    }
    let base = file.parent().unwrap_or(Path::new("/"));
    let mut model = check_text(&bytes, &name, base)?;
    model.file = Some(file);
    Ok(Loaded { model, name, builtin: false })
}

/// Checks a configuration's text. `name` is what messages call it, `base` the
/// absolute folder that relative paths are relative to.
///
/// # Errors
/// Every problem that there is.
pub fn check_text(text: &[u8], name: &str, base: &Path) -> Result<Model, Problems> {
    check_text_on(text, name, base, &Real)
}

/// [`check_text`] on a given system: who exists there, which paths.
///
/// # Errors
/// Every problem that there is.
pub fn check_text_on(text: &[u8], name: &str, base: &Path, system: &dyn System) -> Result<Model, Problems> {
    check::check(text, name, base, system)
}

fn read(path: &Path, daemon: bool) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let flags = if daemon { nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY } else { 0 };
    let file = std::fs::File::options().read(true).custom_flags(flags).open(path)?;
    if daemon && !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no ordinary file, and a daemon that runs waits for none"));
    }
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable(name: &str, error: &io::Error) -> Problems {
    let what = format!("cannot read the file: {}", system::cause(error));
    Problems::unreadable(name, &what, "give the path of a configuration with -c FILE")
}
