//! `[children.NAME]`.

use super::super::keys;
use super::super::limits;
use super::super::model::{
    Address, Backoff, Child, Identity, Policy, Program, Ready, Restart, StartLimit, StopTo, Success,
};
use super::super::table::{Placed, Reader, Section, Span};
use super::super::value::{self, quoted, wrong};
use super::{echo, identity, logger, program};
use crate::config::keys::nearest;
use crate::journal::LogLimit;
use crate::plugin::Plugin;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use toml::Spanned;
use toml::de::DeValue;

/// The longest name of a child: it stands before each of its lines in the log, and both
/// ends of a link are in the name by which a service manager keeps it.
pub const NAME_MOST: usize = 64;

/// A child as its table tells it, with the places that later checks point at.
#[derive(Debug)]
pub(super) struct Draft {
    /// The child, but for instances and `after`.
    pub(super) child: Child,
    /// Where its name stands.
    pub(super) span: Span,
    pub(super) instances: u64,
    pub(super) instances_span: Span,
    /// The built-in plugin that it is, where it is one.
    pub(super) plugin: Option<&'static Plugin>,
    pub(super) listen: Vec<Placed<Address>>,
    pub(super) after: Vec<Placed<String>>,
    pub(super) settings: Settings,
}

/// What later checks need of a child's settings.
#[derive(Debug)]
pub(super) enum Settings {
    Echo(echo::Echo),
    /// The message file, where it is given.
    Logger(Option<Placed<PathBuf>>),
    /// Another program's own.
    Free,
}

impl Draft {
    pub(super) fn name(&self) -> &str {
        &self.child.name
    }

    /// The names of its instances.
    pub(super) fn names(&self) -> Vec<String> {
        match self.instances {
            1 => vec![self.name().to_owned()],
            n => (0..n).map(|i| format!("{}.{i}", self.name())).collect(),
        }
    }

    /// Its instances as the model has them.
    pub(super) fn instances(&self, drafts: &[Draft]) -> Vec<Rc<Child>> {
        let mut after: Vec<String> = Vec::new();
        for placed in &self.after {
            let all = drafts.iter().filter(|other| other.name() == placed.value).flat_map(Draft::names);
            after.extend(all.filter(|name| !after.contains(name)).collect::<Vec<_>>());
        }
        self.names()
            .into_iter()
            .map(|name| Rc::new(Child { name, after: after.clone(), ..self.child.clone() }))
            .collect()
    }
}

pub(super) fn read<'t>(reader: &mut Reader<'_>, name: &str, span: Span, table: &'t Spanned<DeValue<'t>>) -> Draft {
    reader.child = Some(name.to_owned());
    check_name(reader, name, span.clone());
    let title = format!("[children.{name}]");
    let section = reader.section(&title, span.clone(), table, keys::CHILD);
    let identity = identity::read(reader, &section);
    let environment = identity::environment(reader, &section, identity.as_ref());
    let path = environment.get("PATH").cloned().unwrap_or_default();
    let (program, plugin) = program::read(reader, &section, &path);
    let listen = listen(reader, &section);
    let (instances, instances_span) = instances(reader, &section, plugin);
    let (settings, settings_json) = settings(reader, &section, plugin, &listen, identity.as_ref());
    let child = Child {
        name: name.to_owned(),
        line: reader.places.line(span.start),
        program: program.unwrap_or(Program::Command(Vec::new())),
        listen: listen.iter().map(|placed| placed.value.clone()).collect(),
        policy: Policy {
            restart: restart(reader, &section),
            backoff: backoff(reader, &section),
            start_limit: start_limit(reader, &section),
            ready: ready(reader, &section, plugin),
            ready_timeout: reader.duration(&section, "ready_timeout"),
            stop_signal: stop_signal(reader, &section, plugin),
            stop_to: stop_to(reader, &section),
            stop_timeout: reader.duration(&section, "stop_timeout"),
            success: success(reader, &section),
        },
        after: Vec::new(),
        user: identity,
        directory: directory(reader, &section),
        umask: reader.read(&section, "umask", value::octal),
        environment: environment.into_iter().collect(),
        pass_environment: identity::passed(reader, &section),
        limits: read_limits(reader, &section),
        log_limit: log_limit(reader, &section),
        settings: settings_json,
        lines: section.lines(&reader.places),
        lacks: Vec::new(),
    };
    let after = reader.list(&section, "after", r#"["NAME"]"#, value::string);
    reader.child = None;
    Draft { child, span, instances, instances_span, plugin, listen, after, settings }
}

fn check_name(reader: &mut Reader<'_>, name: &str, span: Span) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(allowed) {
        let what = format!("{} is no name for a child", quoted(name));
        reader.problem(span, what, "use letters, digits, - and _ (a dot is kept for instances, as in NAME.0)");
    } else if name.len() > NAME_MOST {
        let what = format!("{} is too long for a name: it has {} characters", quoted(name), name.len());
        reader.problem(span, what, format!("at most {NAME_MOST}"));
    }
}

fn listen(reader: &mut Reader<'_>, section: &Section<'_>) -> Vec<Placed<Address>> {
    let base = reader.base;
    let listen = reader.list(section, "listen", r#"["tcp://127.0.0.1:7007"]"#, |value| value::address(value, base));
    for placed in &listen {
        if let Address::Unix(path) = &placed.value {
            if let Some(folder) = path.parent() {
                super::folder_exists(reader, placed.span.clone(), folder, "the socket");
            }
        }
    }
    listen
}

fn instances(reader: &mut Reader<'_>, section: &Section<'_>, plugin: Option<&'static Plugin>) -> (u64, Span) {
    let (instances, span) = (reader.integer(section, "instances"), section.place("instances"));
    if let Some(plugin) = plugin.filter(|plugin| instances > 1 && !plugin.instances) {
        let what = format!("{} can have but one instance, not {instances}", plugin.name);
        reader.problem(span.clone(), what, "leave `instances` out; several sources may flow into one");
    }
    (instances, span)
}

/// What the program is given as settings, by its own rules where they are known.
fn settings(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    plugin: Option<&'static Plugin>,
    listen: &[Placed<Address>],
    identity: Option<&Identity>,
) -> (Settings, serde_json::Value) {
    let title = format!("{}.settings]", section.title.trim_end_matches(']'));
    match plugin.map(|plugin| plugin.name) {
        Some("echo") => echo::read(reader, section, &title, listen),
        Some("logger") => logger::read(reader, section, &title, listen, identity),
        _ => {
            let mut json = serde_json::Map::new();
            for entry in reader.free(section, "settings", r#"as in settings = { key = "value" }"#) {
                if let Some(placed) = reader.take_of(entry.key, entry.value.span(), value::json(entry.value.get_ref()))
                {
                    json.insert(entry.key.to_owned(), placed.value);
                }
            }
            (Settings::Free, serde_json::Value::Object(json))
        }
    }
}

fn stop_signal(reader: &mut Reader<'_>, section: &Section<'_>, plugin: Option<&'static Plugin>) -> Signal {
    let stop_signal = reader.read(section, "stop_signal", signal(keys::NO_STOP));
    if let Some(plugin) = plugin.filter(|_| stop_signal != Signal::SIGTERM) {
        let what = format!("{stop_signal} would kill {} before it could drain", plugin.name);
        reader.problem(section.place("stop_signal"), what, "leave `stop_signal` out: plugins stop at SIGTERM");
    }
    stop_signal
}

fn restart(reader: &mut Reader<'_>, section: &Section<'_>) -> Restart {
    let words = [("always", Restart::Always), ("on-failure", Restart::OnFailure), ("never", Restart::Never)];
    reader.read(section, "restart", value::choice(&words))
}

fn backoff(reader: &mut Reader<'_>, section: &Section<'_>) -> Backoff {
    let inner = reader.inner(section, "backoff", "backoff", keys::BACKOFF);
    let backoff = Backoff {
        first: reader.duration(&inner, "first"),
        factor: reader.number(&inner, "factor"),
        max: reader.duration(&inner, "max"),
        reset_after: reader.duration(&inner, "reset_after"),
    };
    if backoff.first > backoff.max {
        let (first, max) = (value::duration_text(backoff.first), value::duration_text(backoff.max));
        let key = if inner.has("first") { "first" } else { "max" };
        reader.problem(
            inner.place(key),
            format!("first, {first}, is longer than max, {max}"),
            "raise max, or lower first",
        );
    }
    backoff
}

fn start_limit(reader: &mut Reader<'_>, section: &Section<'_>) -> StartLimit {
    let inner = reader.inner(section, "start_limit", "start_limit", keys::START_LIMIT);
    let burst = reader.integer(&inner, "burst");
    StartLimit { burst: u32::try_from(burst).unwrap_or(u32::MAX), within: reader.duration(&inner, "within") }
}

fn log_limit(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<LogLimit> {
    if let Some(DeValue::String(_)) = section.value("log_limit").map(Spanned::get_ref) {
        let none = value::choice(&[("none", ())]);
        return match reader.optional(section, "log_limit", none) {
            Some(_) => None,
            None => Some(LogLimit::default()),
        };
    }
    let inner = reader.inner(section, "log_limit", "log_limit", keys::LOG_LIMIT);
    let [lines, per_second] =
        ["lines", "per_second"].map(|key| u32::try_from(reader.integer(&inner, key)).unwrap_or(u32::MAX));
    Some(LogLimit { lines, per_second })
}

fn ready(reader: &mut Reader<'_>, section: &Section<'_>, plugin: Option<&'static Plugin>) -> Ready {
    let words = [("exec", Ready::Exec), ("notify", Ready::Notify), ("fd", Ready::Fd)];
    let ready = reader.read(section, "ready", value::choice(&words));
    match plugin {
        Some(_) if !section.has("ready") => Ready::Notify,
        Some(plugin) if ready == Ready::Fd => {
            let what = format!("{} would never be ready: it says so by notify", plugin.name);
            reader.problem(section.place("ready"), what, "leave `ready` out");
            ready
        }
        _ => ready,
    }
}

fn stop_to(reader: &mut Reader<'_>, section: &Section<'_>) -> StopTo {
    let words = [("group", StopTo::Group), ("leader", StopTo::Leader)];
    reader.read(section, "stop_to", value::choice(&words))
}

fn success(reader: &mut Reader<'_>, section: &Section<'_>) -> Success {
    let inner = reader.inner(section, "success", "success", keys::SUCCESS);
    let codes = match inner.has("codes") {
        true => reader.list(&inner, "codes", "[0, 143]", value::integer(0..=u8::MAX.into())),
        false => vec![Placed { value: 0, span: inner.span.clone() }],
    };
    let signals = reader.list(&inner, "signals", r#"["SIGTERM"]"#, signal(keys::NO_END));
    Success {
        codes: codes.into_iter().filter_map(|placed| u8::try_from(placed.value).ok()).collect(),
        signals: signals.into_iter().map(|placed| placed.value).collect(),
    }
}

/// The name of a signal, but for those that would be of no use.
fn signal(useless: keys::Useless) -> impl Fn(&DeValue<'_>) -> value::Read<Signal> {
    const HELP: &str = "write a name, as SIGTERM, SIGINT or SIGHUP";
    move |value| {
        if let DeValue::Integer(number) = value {
            return wrong(format!("expected a signal's name, found {number}"), HELP);
        }
        let name = value::filled(value)?;
        let Ok(signal) = name.parse::<Signal>() else {
            let upper = name.to_uppercase();
            let known = Signal::iterator().map(|signal| signal.as_str().trim_start_matches("SIG"));
            let near = nearest(upper.strip_prefix("SIG").unwrap_or(&upper), known);
            let help = near.map_or(HELP.to_owned(), |near| format!("did you mean \"SIG{near}\"?"));
            return wrong(format!("unknown signal {}", quoted(&name)), help);
        };
        match useless.iter().find(|(useless, _)| *useless == signal) {
            Some((_, why)) => wrong(format!("{signal} {why}"), HELP),
            None => Ok(signal),
        }
    }
}

fn directory(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<PathBuf> {
    let path = reader.read(section, "directory", value::string);
    if path.is_empty() {
        return None;
    }
    let path = value::absolute(reader.base, &path);
    if let Err(cause) = reader.system.folder(&path) {
        let what = format!("cannot run in {}: {cause}", path.display());
        reader.absent(section.place("directory"), what, "make the folder, or name another");
    }
    Some(path)
}

fn read_limits(reader: &mut Reader<'_>, section: &Section<'_>) -> Vec<(super::super::model::Resource, u64)> {
    let mut read = BTreeMap::new();
    for entry in reader.free(section, "limits", "as in limits = { nofile = 20000 }") {
        let resource = reader.take(entry.key_span.clone(), limits::resource(entry.key));
        let limit = reader.take_of(entry.key, entry.value.span(), limits::limit(entry.value.get_ref()));
        if let (Some(resource), Some(limit)) = (resource, limit) {
            read.insert(limits::name(resource.value), (resource.value, limit.value));
        }
    }
    read.into_values().collect()
}
