//! `on`: what is run at which event.

use super::super::model::Hooks;
use super::program;
use crate::schema::kind::Keys;
use crate::schema::table::{Reader, Section};

/// `path` is the PATH that the programs get.
pub(super) fn read(reader: &mut Reader<'_>, section: &Section<'_>, keys: Keys, path: &str) -> Hooks {
    let inner = reader.inner(section, "on", "on", keys);
    let of_key = |key: &'static str| Some((key, program::command(reader, &inner, key, path)?));
    keys.iter().map(|key| key.name).filter_map(of_key).collect()
}
