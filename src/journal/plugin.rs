//! The log of a built-in plugin: lines with a priority on standard error, in the form of
//! sd-daemon(3). The supervisor logs them under the child's name.

use super::entry::Priority;
use crate::sys::cause;
use log::{LevelFilter, Log, Metadata, Record};
use std::io::Write;

/// The environment variable that gives a child the daemon's log level: `error`,
/// `warn`, `info`, `debug` or `trace`.
pub const LEVEL: &str = "PLUMBD_LOG_LEVEL";

/// Starts the log of this plugin, at the level in [`LEVEL`], else at
/// `info`. The supervisor filters by level too; filtering here saves the writing.
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
            // If nobody reads any more, the supervisor is dead, and so is its log.
            let _unread = std::io::stderr().write_all(lines.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Puts the priority before each line of the message. It is one string, so that one
/// write puts all of it into the pipe.
fn lines(priority: Priority, message: &str) -> String {
    message.lines().map(|line| format!("<{}>{line}\n", priority.number())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_begins_with_its_priority() {
        assert_eq!(lines(Priority::from(log::Level::Warn), "one\ntwo"), "<4>one\n<4>two\n");
    }
}
