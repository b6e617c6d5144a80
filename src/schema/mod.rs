//! How any table of keys is read, checked, shown and documented. No code in this module
//! knows a particular key or plugin.
//!
//! - [`kind`]: what a key is: the rows of the tables;
//! - `value`, [`address`], `network`, [`limits`]: from a TOML value to what it means;
//! - `table`: a file's tables, and a problem for each value that is not right;
//! - [`problem`]: what is wrong, where, and what would be right;
//! - [`system`]: what a check asks of the system;
//! - [`settings`]: reads a whole table by its rows alone, into JSON with the values as the
//!   file has them, and lets a program read that;
//! - [`show`]: values as TOML again;
//! - [`editor`]: rows as a JSON schema; [`manifest`]: rows as JSON.

pub(crate) mod address;
pub(crate) mod editor;
pub mod kind;
pub(crate) mod limits;
pub(crate) mod manifest;
pub(crate) mod network;
pub(crate) mod problem;
pub(crate) mod settings;
pub mod show;
pub mod system;
pub(crate) mod table;
pub(crate) mod value;

/// The longest name of a child. The name is at the front of each of the child's lines in
/// the log, and a service manager keeps a link under a name that has both ends in it.
pub const NAME_MOST: usize = 64;

/// The known name nearest to an unknown one; `None` if none is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    let near = known.into_iter().map(|other| (strsim::damerau_levenshtein(&name, &other.to_lowercase()), other));
    let (distance, other) = near.min_by_key(|(distance, _)| *distance)?;
    let shorter = name.chars().count().min(other.chars().count());
    (distance <= 1 + shorter / 4 && distance < shorter.max(2)).then_some(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_finds_the_one_that_was_meant() {
        let known = || ["plugin", "command", "listen", "start_limit"].into_iter();
        assert_eq!(nearest("listten", known()), Some("listen"));
        assert_eq!(nearest("Start-Limit", known()), Some("start_limit"));
        assert_eq!(nearest("comand", known()), Some("command"));
        assert_eq!(nearest("colour", known()), None);
        assert_eq!(nearest("x", ["to"]), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn a_long_name_is_compared_in_bounded_time() {
        assert_eq!(nearest(&"x".repeat(100_000), ["listen"]), None);
    }
}
