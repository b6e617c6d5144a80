//! `plumbd plugin NAME`: what the supervisor runs.

use super::Failure;
use crate::journal;
use crate::plugin::Plugin;
use crate::plugin::start::Start;

/// Runs it. What ends it goes to the log, with its priority.
pub(super) fn plugin(plugin: &Plugin) -> Result<u8, Failure> {
    journal::plugin::start();
    match Start::from_environment().and_then(plugin.run) {
        Ok(()) => Ok(0),
        Err(why) => {
            log::error!("{why}");
            Ok(Failure::FAILED)
        }
    }
}
