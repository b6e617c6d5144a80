//! What the check of a plugin's settings gets and what it returns. Apart from the plugin's
//! row, this is all that the check of a configuration knows of a plugin.

use crate::schema::address::Address;
use crate::schema::table::{Placed, Reader, Section, Span};
use serde_json::Value;

/// The settings to check. Each value has passed the check of its own key.
pub struct Check<'a, 'r> {
    pub(crate) reader: &'a mut Reader<'r>,
    /// The settings as written in the file.
    pub(crate) section: &'a Section<'a>,
    /// Their values, with every default filled in.
    pub(crate) values: &'a Value,
    /// Where the child listens.
    pub(crate) listen: &'a [Placed<Address>],
    /// The user that it runs as; `None` means the supervisor's own.
    pub(crate) user: Option<User<'a>>,
}

impl std::fmt::Debug for Check<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check").field("values", self.values).finish_non_exhaustive()
    }
}

/// The user that a child runs as.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// The user's name.
    pub name: &'a str,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Check<'_, '_> {
    /// Reports a problem with the value of that key.
    pub(crate) fn problem(&mut self, key: &str, what: impl Into<String>, help: impl Into<String>) {
        self.reader.problem(self.section.place(key), what, help);
    }
}

/// What a source asks of its outbound link.
#[derive(Debug, Default)]
pub struct Asks {
    /// That the sink acknowledges what it has saved.
    pub saved: Option<Saved>,
    /// That the queue has room for a few of the longest messages.
    pub largest: Option<Largest>,
}

/// A setting that needs acknowledgements.
#[derive(Debug)]
pub struct Saved {
    /// The setting as it is written in the file.
    pub setting: &'static str,
    /// The same setting with a value that needs no acknowledgements.
    pub without: &'static str,
    /// Its place in the file; `None` if it is the default.
    pub span: Option<Span>,
}

/// The longest message.
#[derive(Debug)]
pub struct Largest {
    /// The key that sets it.
    pub key: &'static str,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its place in the file; `None` if it is the default.
    pub span: Option<Span>,
}
