//! A model as a configuration file with every default filled in.

use super::keys;
use super::model::{Check, Child, Hooks, Link, LogTarget, Model, Probe, Program, Ready, Restart, StopTo, base_name};
use crate::journal::LogLimit;
use crate::link::handover::Protocol;
use crate::plugin;
use crate::schema::kind::Keys;
use crate::schema::limits;
use crate::schema::show::{self, inline, list, string, table};
use crate::schema::value::{duration_text, size_text};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Prints a model as TOML in the shape of the manual. Checking the text gives the same model
/// again, except for its file and lines. In it, all paths are absolute, also those of
/// programs that were looked up in PATH, and environments are complete.
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
        ("on", hooks(&daemon.on)),
    ];
    table(&mut out, "[daemon]", pairs);
    for child in firsts(&model.children, |child| base_name(&child.name)) {
        child_tables(&mut out, model, child, base_name(&child.name));
    }
    for link in firsts(&model.links, |link| (base_name(&link.from), link.stream)) {
        table(&mut out, "[[links]]", link_pairs(link));
    }
    out
}

/// One child's part of a model, as an object with every default filled in.
pub fn child(model: &Model, child: &Child) -> Value {
    let mut text = String::new();
    let name = base_name(&child.name);
    child_tables(&mut text, model, child, name);
    // What is printed can be read again: a test makes sure of it.
    let mut file: Value = toml::from_str(&text).unwrap_or_default();
    file["children"][name].take()
}

/// Such an object as TOML again, as [`effective`] prints it. Keys that this version does not
/// know come last.
pub fn child_text(name: &str, config: &Value) -> String {
    let mut own = config.as_object().cloned().unwrap_or_default();
    let settings = own.remove("settings").unwrap_or_default();
    let keys = own.get("plugin").and_then(Value::as_str).and_then(plugin::find).map_or(&[][..], |plugin| plugin.keys);
    let mut out = String::new();
    table(&mut out, &format!("[children.{name}]"), in_order(keys::CHILD, &Value::Object(own)));
    table(&mut out, &format!("[children.{name}.settings]"), in_order(keys, &settings));
    out
}

/// The keys of an object, in the order of the rows.
fn in_order(keys: Keys, object: &Value) -> Vec<(String, String)> {
    let mut pairs = show::settings(keys, object);
    let others =
        object.as_object().into_iter().flatten().filter(|(name, _)| !keys.iter().any(|key| key.name == **name));
    pairs.extend(others.map(|(name, value)| (show::key(name), show::json(value))));
    pairs
}

fn child_tables(out: &mut String, model: &Model, child: &Child, name: &str) {
    let instances = model.children.iter().filter(|other| base_name(&other.name) == name).count();
    table(out, &format!("[children.{name}]"), child_pairs(child, instances));
    table(out, &format!("[children.{name}.settings]"), settings(child));
}

/// The first item of each name, because all instances of a child share one table.
fn firsts<'a, T, N: PartialEq>(all: &'a [T], name: impl Fn(&'a T) -> N) -> Vec<&'a T> {
    let mut firsts: Vec<&'a T> = Vec::new();
    for item in all {
        if !firsts.iter().any(|first| name(first) == name(item)) {
            firsts.push(item);
        }
    }
    firsts
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
        Ready::Health => "health",
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
        ("health", health(child.health.check.as_ref())),
        ("watchdog", duration(child.health.watchdog.unwrap_or_default())),
        ("stalled", duration(child.health.stalled.unwrap_or_default())),
        ("on", hooks(&child.on)),
        ("log_keep", string(&size_text(child.log_keep))),
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

/// The value of each key of that child, and of each setting of a plugin as `settings.NAME`.
/// Settings of other programs are left out, as they may be secrets.
pub(super) fn values(child: &Child) -> BTreeMap<String, String> {
    let keys = child_pairs(child, 1).into_iter().map(|(key, value)| (key.to_owned(), value));
    let settings = matches!(child.program, Program::Plugin(_)).then(|| settings(child)).into_iter().flatten();
    keys.chain(settings.map(|(key, value)| (format!("settings.{key}"), value))).collect()
}

fn log_limit(limit: Option<LogLimit>) -> String {
    let Some(LogLimit { lines, per_second }) = limit else { return string("none") };
    inline([("lines", lines.to_string()), ("per_second", per_second.to_string())])
}

fn health(check: Option<&Check>) -> String {
    let Some(Check { probe, every, timeout, failures, start }) = check else { return "{}".to_owned() };
    let probe = match probe {
        Probe::Command(words) => ("command", list(words.iter().map(|word| string(word)))),
        Probe::Tcp(at) => ("tcp", string(&at.to_string())),
        Probe::Http { url, .. } => ("http", string(url)),
    };
    inline([
        probe,
        ("every", duration(*every)),
        ("timeout", duration(*timeout)),
        ("failures", failures.to_string()),
        ("start", duration(*start)),
    ])
}

fn hooks(on: &Hooks) -> String {
    inline(on.iter().map(|(event, words)| (*event, list(words.iter().map(|word| string(word))))))
}

fn link_pairs(link: &Link) -> [(&'static str, String); 5] {
    let protocol = match link.protocol {
        Protocol::Lines => "lines",
        Protocol::Records => "records",
    };
    [
        ("from", string(base_name(&link.from))),
        ("stream", string(link.stream.word())),
        ("to", string(&link.to)),
        ("capacity", size(link.capacity)),
        ("protocol", string(protocol)),
    ]
}

fn settings(child: &Child) -> Vec<(String, String)> {
    match &child.program {
        Program::Plugin(name) => show::settings(plugin::find(name).map_or(&[], |plugin| plugin.keys), &child.settings),
        Program::Command(_) => {
            let entries = child.settings.as_object().into_iter().flatten();
            entries.map(|(name, value)| (show::key(name), show::json(value))).collect()
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::rc::Rc;

    #[test]
    fn the_built_in_configuration_as_printed_gives_the_same_model() {
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

    #[test]
    fn the_part_of_a_child_as_an_object_is_printed_as_it_was() {
        let text = r#"
            [children.echo]
            plugin = "echo"
            instances = 2
            listen = ["tcp://127.0.0.1:7007", "tcp://[::1]:7007"]
            backoff = { first = "1ms", factor = 3.0 }
            environment = { B = "2\n\u001b", A = "\"1\"" }
            [children.logger]
            plugin = "logger"
            settings = { file = "/var/log/m.log", rotate = { size = "1MiB", compress = "zstd" } }
            [children.any]
            command = ["/bin/cat", "-u", ""]
            limits = { nofile = 7, core = "unlimited" }
            health = { tcp = "127.0.0.1:1" }
            log_limit = "none"
            settings = { "a key" = [1, 2.0, { x = true }] }
            [[links]]
            from = "echo"
            to = "logger"
        "#;
        for text in [crate::config::BUILTIN, text] {
            let model = crate::config::check_text(text.as_bytes(), "x", Path::new("/")).unwrap();
            let children = firsts(&model.children, |child| base_name(&child.name));
            let parts: Vec<String> =
                children.iter().map(|one| child_text(base_name(&one.name), &child(&model, one))).collect();
            let (_, whole) = effective(&model).split_once("\n\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
            let (whole, _) = whole.split_once("\n[[links]]").unwrap();
            assert_eq!(parts.join("\n"), whole);
        }
    }

    #[test]
    fn keys_of_a_later_version_are_printed_too() {
        let later = serde_json::json!({"command": ["x"], "moon": "full", "settings": {"y": 1}});
        assert_eq!(
            child_text("a", &later),
            "[children.a]\ncommand = [\"x\"]\nmoon    = \"full\"\n\n[children.a.settings]\ny = 1\n"
        );
    }
}
