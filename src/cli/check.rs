//! `plumbd check`.

use super::{Failure, output};
use crate::config::{self, effective};
use std::path::Path;

/// Checks the configuration; prints it with its defaults where that is asked.
/// Every problem there is comes back as the failure.
pub(super) fn check(file: Option<&Path>, effective: bool) -> Result<u8, Failure> {
    let loaded = config::load(file)?;
    if effective {
        output::print(effective::effective(&loaded.model))?;
    } else {
        output::print(format!("{}: no problems\n", loaded.name))?;
    }
    Ok(0)
}
