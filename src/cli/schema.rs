//! `plumbd schema`.

use super::typed::Schema;
use super::{Failure, output};
use crate::config;
use crate::control;

/// Prints a JSON schema.
pub(super) fn schema(of: Schema) -> Result<u8, Failure> {
    match of {
        Schema::Config => output::print(config::schema::text())?,
        Schema::Status => output::print(control::schema::STATUS)?,
    };
    Ok(0)
}
