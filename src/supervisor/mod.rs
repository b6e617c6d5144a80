//! The supervisor.

pub mod ready;

use crate::config::Loaded;
use ready::Ready;

/// What it starts with.
#[derive(Debug)]
pub struct Options {
    /// The configuration.
    pub loaded: Loaded,
    /// Whether this process went to the background.
    pub daemonized: bool,
}

/// Supervises until it is told to end.
///
/// # Errors
/// Why it could not.
pub fn run(_options: Options, _ready: &mut Ready) -> Result<(), String> {
    Err("cannot supervise: not built".to_owned())
}
