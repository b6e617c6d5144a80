//! The log of a built-in plugin: lines with a priority on its standard error,
//! as sd-daemon(3) has them, for the supervisor to log under the child's name.

use super::entry::Priority;
use crate::sys::cause;
use log::{LevelFilter, Log, Metadata, Record};
use std::io::Write;

/// The environment variable that tells a child what the daemon logs: `error`,
/// `warn`, `info`, `debug` or `trace`.
pub const LEVEL: &str = "PLUMBD_LOG_LEVEL";

/// Starts the log of this plugin, at the level that [`LEVEL`] names, else at
/// `info`. The supervisor leaves out what it does not want; the level here
/// saves the writing.
pub fn start() {
    let level = std::env::var(LEVEL).ok().and_then(|name| name.parse().ok()).unwrap_or(LevelFilter::Info);
    if log::set_logger(&PluginLog).is_ok() {
        log::set_max_level(level);
    }
}

/// Logs to standard error.
#[derive(Debug)]
struct PluginLog;

impl Log for PluginLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let lines = lines(Priority::from(record.level()), &cause::plain(&record.args().to_string()));
            // Where nobody reads any more the supervisor is dead, and so is its log.
            let _unread = std::io::stderr().write_all(lines.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Each line of the message behind the priority, in one piece, so that one
/// write takes it to the pipe.
fn lines(priority: Priority, message: &str) -> String {
    message.lines().map(|line| format!("<{}>{line}\n", priority.number())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_its_priority() {
        assert_eq!(lines(Priority::from(log::Level::Warn), "one\ntwo"), "<4>one\n<4>two\n");
    }
}
