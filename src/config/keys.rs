//! Every key of a configuration: its name, its default, what it does.
//!
//! The one table: the check reads defaults and suggestions from it, and
//! etc/plumbd.toml is held against it by a test.

/// A key of a table.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its default as TOML; empty where it has none and must be given, or
    /// where not to give it means something of its own.
    pub default: &'static str,
    /// What it does, in a line.
    pub doc: &'static str,
}

/// The keys of one table.
pub type Keys = &'static [Key];

const fn key(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { name, default, doc }
}

/// The file itself.
pub const FILE: Keys = &[
    key("daemon", "{}", "the daemon itself"),
    key("children", "", "a table a child, by its name"),
    key("links", "[]", "a table a link: what one child writes, another reads"),
];

/// `[daemon]`.
pub const DAEMON: Keys = &[
    key("control", r#""plumbd.sock""#, "operator socket; mode 0600"),
    key("log", r#""auto""#, "auto | stderr | syslog; auto: syslog where it daemonized, else stderr"),
    key("syslog_facility", r#""daemon""#, "daemon, user, local0 ... local7, as syslog(3) has them; at the next start"),
    key("log_level", r#""info""#, "error | warn | info | debug | trace"),
    key("stop_timeout", r#""10s""#, "bound on a drain"),
];

/// `[children.NAME]`.
pub const CHILD: Keys = &[
    key("plugin", "", "a built-in plugin, echo or logger; or else:"),
    key("command", "", "any program and its arguments"),
    key("listen", "[]", "tcp://HOST:PORT  udp://HOST:PORT  unix:PATH  ([::1] form for IPv6)"),
    key("instances", "1", "NAME.0, NAME.1 ... share the listening sockets"),
    key("restart", r#""always""#, "always | on-failure | never"),
    key("backoff", "{}", "wait before each start in a row; first 0: at once, then 100ms, then by the factor"),
    key("start_limit", "{}", "past it: failed, until an operator starts it or a reload changes it"),
    key("ready", r#""exec""#, "exec | notify (sd_notify) | fd (a newline on $PLUMBD_READY_FD); plugins: notify"),
    key("ready_timeout", r#""10s""#, "not ready by then: it is stopped and counts as failed"),
    key("stop_signal", r#""SIGTERM""#, "what asks it to stop"),
    key("stop_timeout", r#""10s""#, "then SIGKILL to its whole process group"),
    key("after", "[]", "start after these are ready; linked children start sinks first"),
    key("user", r#""""#, "with its supplementary groups; needs root"),
    key("group", r#""""#, "instead of the user's own; needs root"),
    key("directory", r#""""#, "where it runs; else where the supervisor runs"),
    key("umask", r#""0022""#, "file mode creation mask"),
    key("environment", "{}", "added to a minimal one: PATH, LANG, TZ, HOME/USER of `user`"),
    key("pass_environment", "[]", "names passed on from the supervisor's own"),
    key("limits", "{}", "nofile = 20000, core = 0, ... as setrlimit(2); a number, a size or \"unlimited\""),
    key("settings", "{}", "given to the plugin; each plugin checks its own"),
];

/// `backoff`.
pub const BACKOFF: Keys = &[
    key("first", r#""0ms""#, "before the first start in a row; 0: at once, and 100ms before the second"),
    key("factor", "2.0", "by what each wait is longer than the one before"),
    key("max", r#""30s""#, "no wait is longer"),
    key("reset_after", r#""10s""#, "up for so long: the row is over"),
];

/// `start_limit`.
pub const START_LIMIT: Keys = &[key("burst", "10", "so many starts"), key("within", r#""60s""#, "in that time")];

/// `[[links]]`.
pub const LINK: Keys = &[
    key("from", "", "the source: its standard output"),
    key("to", "", "the sink: its standard input"),
    key("capacity", r#""1MiB""#, "what the link holds while the sink is busy"),
    key("protocol", "", "lines | records; records between echo and logger, else lines"),
];

/// `settings` of echo.
pub const ECHO: Keys = &[
    key("echo_after", r#""saved""#, "queued | saved | synced: what has happened to a message before its echo leaves"),
    key("framing", r#""line""#, "line: a message ends at a newline; read: each read is one"),
    key("partial_after", r#""20ms""#, "bytes with no newline become a message when this long idle"),
    key("max_message", r#""64KiB""#, "longer ones are saved in parts, in order, none lost"),
    key("max_connections", "10000", "at the limit new clients wait in the backlog"),
    key("max_connections_per_address", "0", "0: no limit"),
    key("idle_timeout", r#""0s""#, "0s: none"),
    key("allow", r#"["0.0.0.0/0", "::/0"]"#, "networks; others are closed at once and counted"),
];

/// `settings` of logger.
pub const LOGGER: Keys = &[
    key("file", "", "the message file; its folder must exist"),
    key("mode", r#""0640""#, "the file's, when it is created"),
    key("format", r#""text""#, "text | raw | json"),
    key("sync", r#""asked""#, "asked: when a source asks; always; \"1s\": at least so often"),
    key("rotate", "{}", "not in this version: use logrotate and `plumbd reopen`"),
    key("when_full", r#""wait""#, "disk full: wait (pressure back to the clients, nothing lost)"),
];

/// The known name nearest to one that is not known; `None` where none is near.
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
    fn a_slip_finds_the_key_that_was_meant() {
        let known = || CHILD.iter().map(|key| key.name);
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
