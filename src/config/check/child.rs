//! `[children.NAME]`.

use super::super::keys;
use super::super::model::{
    Address, Backoff, Child, Identity, Policy, Program, Ready, Restart, StartLimit, StopTo, Success,
};
use super::{health, hooks, identity, program};
use crate::journal::LogLimit;
use crate::plugin::Plugin;
use crate::plugin::check::{Asks, Check, User};
use crate::schema::kind::Kind;
use crate::schema::limits;
use crate::schema::table::{Placed, Reader, Section, Span};
use crate::schema::value::{self, quoted};
use crate::schema::{NAME_MOST, address};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use toml::Spanned;
use toml::de::DeValue;

/// An example, for advice.
const LISTEN: &str = r#"["tcp://127.0.0.1:7007"]"#;

/// A child as its table describes it, with the places that later checks refer to.
#[derive(Debug)]
pub(super) struct Draft {
    /// The child, without instances and `after`.
    pub(super) child: Child,
    /// Where its name is in the file.
    pub(super) span: Span,
    pub(super) instances: u64,
    pub(super) instances_span: Span,
    /// Its plugin, if it is one.
    pub(super) plugin: Option<&'static Plugin>,
    pub(super) listen: Vec<Placed<Address>>,
    pub(super) after: Vec<Placed<String>>,
    /// What it asks of the link out of it.
    pub(super) asks: Asks,
    /// Where `stalled` is, if it is given.
    pub(super) stalled: Option<Span>,
    /// The files that it writes to.
    pub(super) files: Vec<Placed<PathBuf>>,
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
    if let Some(plugin) = plugin {
        listens(reader, &section, plugin, &listen);
    }
    let health = health::read(reader, &section, plugin, &listen, &path);
    let on = hooks::read(reader, &section, keys::CHILD_ON, &path);
    let settings = settings(reader, &section, plugin, &listen, identity.as_ref());
    let child = Child {
        name: name.to_owned(),
        line: reader.places.line(span.start),
        program: program.unwrap_or(Program::Command(Vec::new())),
        listen: listen.iter().map(|placed| placed.value.clone()).collect(),
        policy: Policy {
            restart: restart(reader, &section),
            backoff: backoff(reader, &section),
            start_limit: start_limit(reader, &section),
            ready: ready(reader, &section, plugin, health.check.is_some()),
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
        log_keep: reader.size(&section, "log_keep"),
        log_limit: log_limit(reader, &section),
        health,
        on,
        settings: settings.json,
        lines: section.lines(&reader.places).into_iter().collect(),
        lacks: Vec::new(),
    };
    let after = reader.list(&section, "after", r#"["NAME"]"#, value::string);
    reader.child = None;
    let Settings { asks, files, .. } = settings;
    let stalled = child.health.stalled.map(|_| section.place("stalled"));
    Draft { child, span, instances, instances_span, plugin, listen, after, asks, stalled, files }
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
    let listen = reader.list(section, "listen", LISTEN, |value| address::address(value, base));
    for placed in &listen {
        if let Address::Unix(path) = &placed.value {
            if let Some(folder) = path.parent() {
                reader.folder_exists(placed.span.clone(), folder, "the socket");
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

/// A plugin that listens must have addresses, all of a kind that it serves. Other plugins
/// must have none.
fn listens(reader: &mut Reader<'_>, section: &Section<'_>, plugin: &Plugin, listen: &[Placed<Address>]) {
    if plugin.listens.is_empty() {
        if let Some(placed) = listen.first() {
            let reads = if plugin.sink { ": it reads its links" } else { "" };
            let what = format!("{} does not listen{reads}", plugin.name);
            reader.problem(placed.span.clone(), what, "leave `listen` out");
        }
        return;
    }
    if section.lacks("listen") {
        let what = format!("{} is {} and listens nowhere", section.title, plugin.one());
        reader.missing(section.span.clone(), what, format!("add listen = {LISTEN}"));
    } else if section.is_empty_list("listen") {
        let what = format!("the list is empty: {} would listen nowhere", plugin.name);
        reader.problem(section.place("listen"), what, format!("as in listen = {LISTEN}"));
    }
    for placed in listen.iter().filter(|placed| !plugin.listens.contains(&placed.value.scheme())) {
        let kind = address::form(placed.value.scheme()).trim_end_matches("HOST:PORT").trim_end_matches("PATH");
        let what = format!("{} does not serve {kind} addresses yet", plugin.name);
        let served: Vec<&str> = plugin.listens.iter().map(|scheme| address::form(scheme)).collect();
        reader.problem(placed.span.clone(), what, format!("write {}", served.join(" or ")));
    }
}

/// The settings that a program is given, and what they ask of its link.
#[derive(Default)]
struct Settings {
    json: serde_json::Value,
    asks: Asks,
    files: Vec<Placed<PathBuf>>,
}

/// Reads settings by the plugin's rows and its check. Those of an ordinary program are
/// taken as they are.
fn settings(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    plugin: Option<&'static Plugin>,
    listen: &[Placed<Address>],
    identity: Option<&Identity>,
) -> Settings {
    let Some(plugin) = plugin else {
        let mut json = serde_json::Map::new();
        for entry in reader.free(section, "settings", r#"as in settings = { key = "value" }"#) {
            if let Some(placed) = reader.take_of(entry.key, entry.value.span(), value::json(entry.value.get_ref())) {
                json.insert(entry.key.to_owned(), placed.value);
            }
        }
        return Settings { json: json.into(), ..Settings::default() };
    };
    let title = format!("{}.settings]", section.title.trim_end_matches(']'));
    let inner = reader.inner(section, "settings", &title, plugin.keys);
    let json = reader.settings(&inner).into();
    let user = identity.map(|identity| User { name: &identity.user, uid: identity.uid, gid: identity.gid });
    let asks = (plugin.check)(&mut Check { reader, section: &inner, values: &json, listen, user });
    let files = plugin.keys.iter().filter(|key| matches!(key.kind, Kind::File(_))).filter_map(|key| {
        let path = json.get(key.name)?.as_str()?;
        Some(Placed { value: path.into(), span: inner.place(key.name) })
    });
    Settings { files: files.collect(), asks, json }
}

fn stop_signal(reader: &mut Reader<'_>, section: &Section<'_>, plugin: Option<&'static Plugin>) -> Signal {
    let stop_signal = reader.read(section, "stop_signal", value::signal(keys::NO_STOP));
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

fn ready(reader: &mut Reader<'_>, section: &Section<'_>, plugin: Option<&'static Plugin>, checked: bool) -> Ready {
    let words = [("exec", Ready::Exec), ("notify", Ready::Notify), ("fd", Ready::Fd), ("health", Ready::Health)];
    let ready = reader.read(section, "ready", value::choice(&words));
    if ready == Ready::Health && !checked && section.lacks("health") {
        let what = format!("{} has no check that could show that it is ready", section.title);
        reader.problem(section.place("ready"), what, r#"add health, as in health = { tcp = "127.0.0.1:7007" }"#);
    }
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
    let signals = reader.list(&inner, "signals", r#"["SIGTERM"]"#, value::signal(keys::NO_END));
    Success {
        codes: codes.into_iter().filter_map(|placed| u8::try_from(placed.value).ok()).collect(),
        signals: signals.into_iter().map(|placed| placed.value).collect(),
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
