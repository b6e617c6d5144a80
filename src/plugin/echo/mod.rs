//! The echo server.

pub mod settings;

use super::start::Start;

/// What its metrics page counts.
pub const METRICS: &[&str] = &["connections", "accepted", "refused", "messages", "bytes"];

/// Serves until told to stop.
///
/// # Errors
/// What ended it, for the log.
pub fn run(_start: Start) -> Result<(), String> {
    Err("cannot serve: not built".to_owned())
}
