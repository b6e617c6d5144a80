//! What the check of a plugin's settings sees, and what it finds out: all that a
//! configuration's check needs to know of a plugin beside its row.

use crate::schema::address::Address;
use crate::schema::table::{Placed, Reader, Section, Span};
use serde_json::Value;

/// Settings whose values are right one by one.
pub struct Check<'a, 'r> {
    pub(crate) reader: &'a mut Reader<'r>,
    /// As they stand in the file.
    pub(crate) section: &'a Section<'a>,
    /// Their values, with every default filled in.
    pub(crate) values: &'a Value,
    /// Where the child listens.
    pub(crate) listen: &'a [Placed<Address>],
    /// Who it runs as; `None`: as the supervisor.
    pub(crate) user: Option<User<'a>>,
}

impl std::fmt::Debug for Check<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check").field("values", self.values).finish_non_exhaustive()
    }
}

/// Who a child runs as.
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
    /// Says that something is wrong with the value of that key.
    pub(crate) fn problem(&mut self, key: &str, what: impl Into<String>, help: impl Into<String>) {
        self.reader.problem(self.section.place(key), what, help);
    }
}

/// What a source asks of the link out of it.
#[derive(Debug, Default)]
pub struct Asks {
    /// That its sink acknowledges what it has saved.
    pub saved: Option<Saved>,
    /// That its queue holds some messages of the longest.
    pub largest: Option<Largest>,
}

/// A setting that needs acknowledgements.
#[derive(Debug)]
pub struct Saved {
    /// As it is written.
    pub setting: &'static str,
    /// What needs none.
    pub without: &'static str,
    /// Where it stands; `None`: it is the default.
    pub span: Option<Span>,
}

/// The longest message.
#[derive(Debug)]
pub struct Largest {
    /// The key that says so.
    pub key: &'static str,
    /// In bytes.
    pub bytes: u64,
    /// Where that is said; `None`: it is the default.
    pub span: Option<Span>,
}
