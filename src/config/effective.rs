//! A model as a configuration file with every default filled in.

use super::model::{Child, Link, LogTarget, Model, Program, Ready, Restart, StopTo, base_name};
use super::value::{duration_text, size_text};
use super::{keys, limits};
use crate::journal::LogLimit;
use crate::link::handover::Protocol;
use crate::plugin::echo::settings as echo;
use crate::plugin::logger::settings as logger;
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Prints it: valid TOML in the manual's shape, which checks again to the
/// same model, but for its file and lines. Paths are absolute, programs found,
/// environments whole.
pub fn effective(model: &Model) -> String {
    let mut out = String::new();
    let daemon = &model.daemon;
    let log = match daemon.log {
        LogTarget::Auto => "auto",
        LogTarget::Stderr => "stderr",
        LogTarget::Syslog => "syslog",
    };
    let level = daemon.log_level.as_str().to_lowercase();
    let pairs = [
        ("control", string(&daemon.control.to_string_lossy())),
        ("log", string(log)),
        ("syslog_facility", string(daemon.syslog_facility)),
        ("log_level", string(&level)),
        ("stop_timeout", duration(daemon.stop_timeout)),
    ];
    table(&mut out, "[daemon]", pairs);
    for child in firsts(&model.children, |child| base_name(&child.name)) {
        let name = base_name(&child.name);
        let instances = model.children.iter().filter(|other| base_name(&other.name) == name).count();
        table(&mut out, &format!("[children.{name}]"), child_pairs(child, instances));
        table(&mut out, &format!("[children.{name}.settings]"), settings(child));
    }
    for link in firsts(&model.links, |link| base_name(&link.from)) {
        table(&mut out, "[[links]]", link_pairs(link));
    }
    out
}

/// The first of each name: instances have one table.
fn firsts<T>(all: &[T], name: impl Fn(&T) -> &str) -> Vec<&T> {
    let mut firsts: Vec<&T> = Vec::new();
    for item in all {
        if !firsts.iter().any(|first| name(first) == name(item)) {
            firsts.push(item);
        }
    }
    firsts
}

fn table<K: AsRef<str>>(out: &mut String, header: &str, pairs: impl IntoIterator<Item = (K, String)>) {
    let pairs: Vec<(K, String)> = pairs.into_iter().collect();
    let width = pairs.iter().map(|(key, _)| key.as_ref().chars().count()).max().unwrap_or(0);
    let gap = if out.is_empty() { "" } else { "\n" };
    let lines = pairs.iter().map(|(key, value)| format!("{:<width$} = {value}\n", key.as_ref()));
    write!(out, "{gap}{header}\n{}", lines.collect::<String>()).expect("a String takes all that is written");
}

fn child_pairs(child: &Child, instances: usize) -> Vec<(&'static str, String)> {
    let program = match &child.program {
        Program::Plugin(name) => ("plugin", string(name)),
        Program::Command(words) => ("command", list(words.iter().map(|word| string(word)))),
    };
    let restart = match child.policy.restart {
        Restart::Always => "always",
        Restart::OnFailure => "on-failure",
        Restart::Never => "never",
    };
    let ready = match child.policy.ready {
        Ready::Exec => "exec",
        Ready::Notify => "notify",
        Ready::Fd => "fd",
    };
    let stop_to = match child.policy.stop_to {
        StopTo::Group => "group",
        StopTo::Leader => "leader",
    };
    let codes = list(child.policy.success.codes.iter().map(ToString::to_string));
    let signals = list(child.policy.success.signals.iter().map(|signal| string(signal.as_str())));
    let (backoff, limit) = (&child.policy.backoff, &child.policy.start_limit);
    let mut after: Vec<&str> = child.after.iter().map(|name| base_name(name)).collect();
    after.dedup();
    let limits = child.limits.iter().map(|(resource, limit)| (limits::name(*resource), limit_text(*limit)));
    let mut pairs = vec![
        program,
        ("listen", list(child.listen.iter().map(|address| string(&address.to_string())))),
        ("instances", instances.to_string()),
        ("restart", string(restart)),
        (
            "backoff",
            inline([
                ("first", duration(backoff.first)),
                ("factor", format!("{:?}", backoff.factor)),
                ("max", duration(backoff.max)),
                ("reset_after", duration(backoff.reset_after)),
            ]),
        ),
        ("start_limit", inline([("burst", limit.burst.to_string()), ("within", duration(limit.within))])),
        ("ready", string(ready)),
        ("ready_timeout", duration(child.policy.ready_timeout)),
        ("stop_signal", string(child.policy.stop_signal.as_str())),
        ("stop_to", string(stop_to)),
        ("stop_timeout", duration(child.policy.stop_timeout)),
        ("success", inline([("codes", codes), ("signals", signals)])),
        ("after", list(after.into_iter().map(string))),
        ("umask", string(&format!("{:04o}", child.umask))),
        ("environment", inline(child.environment.iter().map(|(name, value)| (name.as_str(), string(value))))),
        ("pass_environment", list(child.pass_environment.iter().map(|name| string(name)))),
        ("limits", inline(limits)),
        ("log_limit", log_limit(child.log_limit)),
    ];
    let path = |path: Option<&PathBuf>| string(&path.map(|path| path.to_string_lossy()).unwrap_or_default());
    let (user, group) = match &child.user {
        Some(identity) => (identity.user.clone(), identity.gid.to_string()),
        None => (String::new(), String::new()),
    };
    pairs.extend([("user", string(&user)), ("group", string(&group)), ("directory", path(child.directory.as_ref()))]);
    pairs.sort_by_key(|(name, _)| keys::CHILD.iter().position(|key| key.name == *name));
    pairs
}

fn log_limit(limit: Option<LogLimit>) -> String {
    let Some(LogLimit { lines, per_second }) = limit else { return string("none") };
    inline([("lines", lines.to_string()), ("per_second", per_second.to_string())])
}

fn link_pairs(link: &Link) -> [(&'static str, String); 4] {
    let protocol = match link.protocol {
        Protocol::Lines => "lines",
        Protocol::Records => "records",
    };
    [
        ("from", string(base_name(&link.from))),
        ("to", string(&link.to)),
        ("capacity", size(link.capacity)),
        ("protocol", string(protocol)),
    ]
}

fn settings(child: &Child) -> Vec<(String, String)> {
    let own = |pairs: Vec<(&str, String)>| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    match &child.program {
        Program::Plugin("echo") => serde_json::from_value(child.settings.clone()).map(|echo| own(of_echo(&echo))),
        Program::Plugin("logger") => {
            serde_json::from_value(child.settings.clone()).map(|logger| own(of_logger(&logger)))
        }
        _ => {
            let entries = child.settings.as_object().into_iter().flatten();
            Ok(entries.map(|(key, value)| (toml_key(key), json(value))).collect())
        }
    }
    .expect("the check made these settings of the plugin's own type")
}

fn of_echo(settings: &echo::Settings) -> Vec<(&'static str, String)> {
    let echo_after = match settings.echo_after {
        echo::EchoAfter::Queued => "queued",
        echo::EchoAfter::Saved => "saved",
        echo::EchoAfter::Synced => "synced",
    };
    let framing = match settings.framing {
        echo::Framing::Line => "line",
        echo::Framing::Read => "read",
    };
    vec![
        ("echo_after", string(echo_after)),
        ("framing", string(framing)),
        ("partial_after", duration(Duration::from_millis(settings.partial_after_ms))),
        ("max_message", size(settings.max_message)),
        ("max_connections", settings.max_connections.to_string()),
        ("max_connections_per_address", settings.max_connections_per_address.to_string()),
        ("ipv6_prefix", settings.ipv6_prefix.to_string()),
        ("idle_timeout", duration(Duration::from_millis(settings.idle_timeout_ms))),
        ("send_timeout", duration(Duration::from_millis(settings.send_timeout_ms))),
        ("keepalive", duration(Duration::from_millis(settings.keepalive_ms))),
        ("max_memory", size(settings.max_memory)),
        ("allow", list(settings.allow.iter().map(|network| string(&network.to_string())))),
    ]
}

fn of_logger(settings: &logger::Settings) -> Vec<(&'static str, String)> {
    let format = match settings.format {
        logger::Format::Text => "text",
        logger::Format::Raw => "raw",
        logger::Format::Json => "json",
    };
    let sync = match settings.sync {
        logger::Sync::Asked => string("asked"),
        logger::Sync::Always => string("always"),
        logger::Sync::EveryMs(millis) => duration(Duration::from_millis(millis)),
    };
    let when_full = match settings.when_full {
        logger::WhenFull::Wait => "wait",
        logger::WhenFull::DropArchives => "drop-archives",
    };
    vec![
        ("file", string(&settings.file.to_string_lossy())),
        ("mode", string(&format!("{:04o}", settings.mode))),
        ("group", string(settings.group.as_ref().map_or("", |group| &group.name))),
        ("format", string(format)),
        ("sync", sync),
        ("rotate", rotate(&settings.rotate)),
        ("when_full", string(when_full)),
    ]
}

fn rotate(rotate: &logger::Rotate) -> String {
    if !rotate.is_on() {
        return inline([]);
    }
    let compress = match rotate.compress {
        None => "none",
        Some(logger::Compress::Gzip) => "gzip",
        Some(logger::Compress::Zstd) => "zstd",
    };
    let bytes = |bytes: u64| string(&size_text(bytes));
    let pairs = [
        ("size", rotate.size.map(bytes)),
        ("age", rotate.age_ms.map(|millis| duration(Duration::from_millis(millis)))),
        ("keep", rotate.keep.map(|keep| keep.to_string())),
        ("keep_size", rotate.keep_size.map(bytes)),
        ("compress", Some(string(compress))),
    ];
    inline(pairs.into_iter().filter_map(|(key, value)| Some((key, value?))))
}

fn duration(duration: Duration) -> String {
    string(&duration_text(duration))
}

fn size(bytes: usize) -> String {
    string(&size_text(bytes as u64))
}

fn limit_text(limit: u64) -> String {
    match i64::try_from(limit) {
        Ok(limit) => limit.to_string(),
        Err(_) => string("unlimited"),
    }
}

/// A TOML basic string.
fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => write!(out, "\\u{:04x}", c as u32).expect("a String takes all that is written"),
            c => out.push(c),
        }
    }
    out + "\""
}

fn toml_key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { name.to_owned() } else { string(name) }
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

fn inline<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{} = {value}", toml_key(key))).collect();
    if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
}

fn json(value: &Value) -> String {
    match value {
        // TOML has no null, so no configuration makes one.
        Value::Null => string(""),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => format!("{float:?}"),
            None => number.to_string(),
        },
        Value::String(text) => string(text),
        Value::Array(items) => list(items.iter().map(json)),
        Value::Object(entries) => inline(entries.iter().map(|(key, value)| (key.as_str(), json(value)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::rc::Rc;

    #[test]
    fn every_string_is_read_back() {
        for text in ["", "a", "\"quotes\" \\ and\nnew\tlines\r\u{7f}\u{1}\u{85}", "日本"] {
            let read = format!("a = {}", string(text)).parse::<toml::Table>().unwrap();
            assert_eq!(read["a"].as_str(), Some(text));
        }
    }

    #[test]
    fn the_built_in_configuration_checks_again_to_the_same() {
        let base = Path::new("/");
        let model = crate::config::check_text(crate::config::BUILTIN.as_bytes(), "builtin", base).unwrap();
        let mut again = crate::config::check_text(effective(&model).as_bytes(), "effective", base).unwrap();
        for (child, before) in again.children.iter_mut().map(Rc::make_mut).zip(&model.children) {
            child.line = before.line;
        }
        for (link, before) in again.links.iter_mut().zip(&model.links) {
            link.line = before.line;
        }
        assert_eq!(model, again);
    }
}
