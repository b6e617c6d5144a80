//! `plumbd schema`.

use super::{Failure, output};
use crate::config::schema;

/// Prints the JSON schema of the configuration.
pub(super) fn schema() -> Result<u8, Failure> {
    output::print(schema::text())?;
    Ok(0)
}
