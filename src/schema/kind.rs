//! What a key is: the shape of a row in the tables of keys.
//!
//! Everything is `'static`, so that tables are constants. Rows that are read at run time,
//! from the manifest of another program, are leaked once for each manifest.

use nix::sys::signal::Signal;
use std::time::Duration;
use toml::de::DeValue;

/// A key of a table.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What kind of value it has.
    pub kind: Kind,
    /// Its default as TOML. Empty if the key must be given, or if leaving it out has a
    /// meaning of its own.
    pub default: &'static str,
    /// Whether it must be given.
    pub required: bool,
    /// What it does, in one line: the comment beside it in etc/plumbd.toml.
    pub doc: &'static str,
    /// What it does, in sentences, for the manual and for editors; `code` is
    /// between backticks.
    pub text: &'static str,
    /// The advice if it is missing, is not a list, or is none of its words. If empty, the
    /// advice depends on its kind alone.
    pub help: &'static str,
}

/// A key that may be left out.
pub const fn key(name: &'static str, kind: Kind, default: &'static str, doc: &'static str, text: &'static str) -> Key {
    Key { name, kind, default, required: false, doc, text, help: "" }
}

/// A key that must be given.
pub const fn required(name: &'static str, kind: Kind, doc: &'static str, text: &'static str) -> Key {
    Key { name, kind, default: "", required: true, doc, text, help: "" }
}

impl Key {
    /// The same key with advice of its own.
    #[must_use]
    pub const fn help(self, help: &'static str) -> Key {
        Key { help, ..self }
    }

    /// Its default as a value of TOML, if it has one.
    ///
    /// # Panics
    /// If the default is not TOML. A test reads all defaults.
    pub fn default_value(&self) -> Option<DeValue<'static>> {
        let parse = |text| DeValue::parse(text).expect("every default is TOML: a test reads them all").into_inner();
        Some(self.default).filter(|text| !text.is_empty()).map(parse)
    }
}

/// The keys of one table.
pub type Keys = &'static [Key];

/// What a value is, and its range.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path; a relative one is relative to the folder of the file.
    Path,
    /// A file that only this child may write to, with the words that messages use for it.
    File(&'static str),
    /// A group of the system, by name or number. The program gets an object with both,
    /// `name` and `id`.
    Group,
    /// The name of a child.
    Name,
    /// An address to listen on.
    Address,
    /// A network, or a single address.
    Network,
    /// The name of a signal, except these.
    Signal(Useless),
    /// A mode in octal digits.
    Octal,
    /// One of these words, each with its meaning.
    Words(&'static [Word]),
    /// One of these words, or a value of that kind.
    WordsOr(&'static [Word], &'static Kind),
    /// A duration, and its least and greatest value.
    Duration(Duration, Duration),
    /// A size, and its least and greatest value in bytes.
    Size(u64, u64),
    /// A whole number, and its least and greatest value.
    Integer(u64, u64),
    /// A number, and its least and greatest value.
    Number(f64, f64),
    /// A list of values of that kind.
    List(&'static Kind),
    /// A table with these keys.
    Table(Keys),
    /// A table for each name that the file chooses, each with these keys.
    Named(Keys),
    /// A list of tables, each with these keys.
    Row(Keys),
    /// A table of names that the file chooses, each with a value of that kind.
    Map(&'static Kind),
    /// Resource limits by name.
    Limits,
    /// A table that the plugin itself defines.
    Settings,
}

/// Signals that are of no use to a key, each with what it does instead.
pub type Useless = &'static [(Signal, &'static str)];

/// A word, and what it means.
pub type Word = (&'static str, &'static str);

impl Kind {
    /// What the manual calls it.
    pub fn called(&self) -> String {
        let one = match self {
            Kind::Text | Kind::Group => "string",
            Kind::Path | Kind::File(_) => "path",
            Kind::Name => "name of a child",
            Kind::Address => "address",
            Kind::Network => "network",
            Kind::Signal(_) => "name of a signal",
            Kind::Octal => "octal mode",
            Kind::Words(_) => "word",
            Kind::WordsOr(_, other) => return format!("word or {}", other.called()),
            Kind::Duration(..) => "duration",
            Kind::Size(..) => "size",
            Kind::Integer(least, most) => return format!("number from {least} to {most}"),
            Kind::Number(least, most) => return format!("number from {least} to {most}"),
            Kind::List(Kind::Address) => "list of addresses",
            Kind::List(Kind::Network) => "list of networks",
            Kind::List(Kind::Name) => "list of names",
            Kind::List(Kind::Signal(_)) => "list of names of signals",
            Kind::List(Kind::Integer(least, most)) => return format!("list of numbers from {least} to {most}"),
            Kind::List(_) => "list of strings",
            Kind::Table(_) | Kind::Map(_) | Kind::Limits | Kind::Settings => "table",
            Kind::Named(_) => "table of tables",
            Kind::Row(_) => "list of tables",
        };
        one.to_owned()
    }
}
