//! What a reload does: a pure function of the old configuration and the new.

use super::effective;
use super::model::{Address, Child, Hooks, Link, Model, Program};
use crate::schema::value::size_text;
use crate::sys::stream::Stream;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// What a reload does. Children and links are in the order of the new file; those that
/// are removed come last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// The new file; `None` for the built-in configuration.
    pub file: Option<PathBuf>,
    /// Every child of either configuration.
    pub children: Vec<ChildPlan>,
    /// Links that are added, removed or changed.
    pub links: Vec<LinkPlan>,
    /// Sockets that are bound or closed. A socket that only moves to another child is kept,
    /// so it is not in this list.
    pub sockets: Vec<SocketPlan>,
    /// Keys of the daemon itself that change.
    pub daemon: Vec<DaemonPlan>,
}

/// What happens to one child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildPlan {
    /// Its name.
    pub name: String,
    /// The line of its table in the new file; 0 if it has none.
    pub line: usize,
    /// What happens.
    pub action: Action,
    /// The reasons, each about one key. Empty for [`Action::Keep`].
    pub reasons: Vec<Reason>,
}

/// Why something happens to a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The reason in words.
    pub why: String,
    /// The line in the new file that is the reason: the key's, or otherwise the table's;
    /// 0 if there is none.
    pub line: usize,
}

/// What happens to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Nothing.
    Keep,
    /// It keeps its pid, and only the supervisor treats it differently.
    Update,
    /// It drains, stops, and is started with its new configuration.
    Restart,
    /// It is new.
    Start,
    /// It is not in the new configuration.
    Stop,
}

/// What happens to one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPlan {
    /// The source's name.
    pub from: String,
    /// Which of the source's outputs it is.
    pub stream: Stream,
    /// The sink's name.
    pub to: String,
    /// Its line in the new file; 0 if it has none.
    pub line: usize,
    /// What happens.
    pub change: LinkChange,
}

/// What happens to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// It is new, or replaces a link between the same children with another protocol.
    Added,
    /// It is removed, once its sink has taken what is in it.
    Removed,
    /// Its capacity changes; both its ends keep their pids.
    Capacity {
        /// The old capacity, in bytes.
        from: usize,
        /// The new capacity, in bytes.
        to: usize,
    },
}

/// What happens to one listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPlan {
    /// Where it listens.
    pub address: Address,
    /// The line in the new file that names it; 0 if there is none.
    pub line: usize,
    /// Whether it is bound; otherwise it is closed.
    pub added: bool,
}

/// A key of the daemon itself that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonPlan {
    /// The key of `[daemon]`.
    pub key: &'static str,
    /// Its line in the new file; 0 if it is no longer given.
    pub line: usize,
    /// Whether a reload can do it; otherwise the daemon must be restarted.
    pub in_place: bool,
}

impl Action {
    /// The word that operators read. An update keeps the child.
    pub fn word(self) -> &'static str {
        match self {
            Action::Keep | Action::Update => "keep",
            Action::Restart => "restart",
            Action::Start => "start",
            Action::Stop => "stop",
        }
    }
}

impl Plan {
    /// Whether a reload would do nothing at all.
    pub fn is_empty(&self) -> bool {
        self.children.iter().all(|child| child.action == Action::Keep)
            && self.links.is_empty()
            && self.sockets.is_empty()
            && self.daemon.is_empty()
    }

    /// Makes the plan restart the child of that name, and puts the reason first.
    pub fn restart(&mut self, name: &str, reason: Reason) {
        let Some(child) = self.children.iter_mut().find(|child| child.name == name) else { return };
        if child.action != Action::Stop {
            child.action = Action::Restart;
            child.reasons.insert(0, reason);
        }
    }

    /// What happens to the child of that name; `None` if neither configuration has it.
    pub fn child(&self, name: &str) -> Option<&ChildPlan> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The children whose process ends, because they are stopped or restarted.
    pub fn going(&self) -> BTreeSet<String> {
        let going = self.children.iter().filter(|child| matches!(child.action, Action::Restart | Action::Stop));
        going.map(|child| child.name.clone()).collect()
    }

    /// Whether something happens to that child.
    pub fn concerns(&self, name: &str) -> bool {
        self.child(name).is_some_and(|child| child.action != Action::Keep)
    }
}

/// Computes what a reload from `old` to `new` does.
pub fn plan(old: &Model, new: &Model) -> Plan {
    let links = links(old, new);
    let mut children: Vec<ChildPlan> = new.children.iter().map(|child| child_plan(old, new, child)).collect();
    let gone = old.children.iter().filter(|child| new.child(&child.name).is_none());
    children.extend(gone.map(|child| ChildPlan {
        name: child.name.clone(),
        line: 0,
        action: Action::Stop,
        reasons: vec![Reason { why: "it is not in the new configuration".to_owned(), line: 0 }],
    }));
    Plan { file: new.file.clone(), children, links, sockets: sockets(old, new), daemon: daemon(old, new) }
}

fn child_plan(old: &Model, new: &Model, child: &Child) -> ChildPlan {
    let at = |(key, why): (&str, String)| Reason { why, line: child.lines.of(key).unwrap_or(child.line) };
    let (action, reasons) = match old.child(&child.name) {
        None => (Action::Start, vec![Reason { why: "it is new".to_owned(), line: child.line }]),
        Some(before) => {
            let mut restart: Vec<Reason> =
                given(before, child).iter().map(|(key, why)| at((key, why.clone()))).collect();
            restart.extend(linked(old, new, child));
            let update: Vec<Reason> = policy(before, child).into_iter().map(at).collect();
            match (restart.is_empty(), update.is_empty()) {
                (true, true) => (Action::Keep, Vec::new()),
                (true, false) => (Action::Update, update),
                (false, _) => (Action::Restart, restart.into_iter().chain(update).collect()),
            }
        }
    };
    ChildPlan { name: child.name.clone(), line: child.line, action, reasons }
}

/// Changes of what a process is given when it starts, each with its key. Any of them needs
/// a new process.
fn given(old: &Child, new: &Child) -> Vec<(String, String)> {
    let mut reasons = Vec::new();
    let mut because = |key: &str, why: String| reasons.push((key.to_owned(), why));
    match (&old.program, &new.program) {
        (Program::Plugin(a), Program::Plugin(b)) if a != b => because("plugin", format!("plugin {a} becomes {b}")),
        (Program::Command(a), Program::Command(b)) if a != b => because("command", "command changes".to_owned()),
        (Program::Plugin(a), Program::Command(_)) => because("command", format!("plugin {a} becomes a command")),
        (Program::Command(_), Program::Plugin(b)) => because("plugin", format!("the command becomes plugin {b}")),
        _ => {}
    }
    if old.listen != new.listen {
        because("listen", listens(&old.listen, &new.listen));
    }
    if old.user != new.user {
        let key = if new.lines.of("user").is_some() { "user" } else { "group" };
        because(key, "user or group changes".to_owned());
    }
    let differ = [
        ("directory", old.directory != new.directory),
        ("umask", old.umask != new.umask),
        ("pass_environment", old.pass_environment != new.pass_environment),
        ("limits", old.limits != new.limits),
        ("ready", old.policy.ready != new.policy.ready),
    ];
    differ.iter().filter(|(_, differs)| *differs).for_each(|(key, _)| because(key, changes(old, new, key)));
    // Only names, because values may be secrets and this goes to the log.
    for name in different(&old.environment, &new.environment, |(name, _)| name.clone()) {
        because(&format!("environment.{name}"), format!("environment {name} changes"));
    }
    for (key, why) in settings(old, new) {
        because(&key, why);
    }
    reasons
}

fn listens(old: &[Address], new: &[Address]) -> String {
    let gone = old.iter().filter(|address| !new.contains(address)).map(|address| format!("no longer on {address}"));
    let come = new.iter().filter(|address| !old.contains(address)).map(|address| format!("on {address}"));
    let words: Vec<String> = come.chain(gone).collect();
    match words.is_empty() {
        true => "listen changes its order".to_owned(),
        false => format!("listens {}", words.join(", ")),
    }
}

/// The names of items that are only in one list, or differ between both; sorted.
fn different<T: PartialEq>(old: &[T], new: &[T], name: impl Fn(&T) -> String) -> BTreeSet<String> {
    let gone = old.iter().filter(|item| !new.contains(item));
    let come = new.iter().filter(|item| !old.contains(item));
    gone.chain(come).map(name).collect()
}

fn settings(old: &Child, new: &Child) -> Vec<(String, String)> {
    if old.settings == new.settings {
        return Vec::new();
    }
    let (Some(a), Some(b)) = (old.settings.as_object(), new.settings.as_object()) else {
        return vec![("settings".to_owned(), "settings change".to_owned())];
    };
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name)).collect();
    let keys = names.into_iter().map(|name| format!("settings.{name}"));
    keys.map(|key| (key.clone(), changes(old, new, &key))).collect()
}

/// Longer values would hide the rest of a line.
const SHORT: usize = 60;
/// Keys of `health` whose values may have secrets, which would go to the log.
const MAY_BE_SECRET: [&str; 2] = ["command", "http"];

/// That the value of a key changes, with both values if they are short, or else with those of
/// the keys in it that differ.
fn changes(old: &Child, new: &Child, key: &str) -> String {
    let (old, new) = (effective::values(old).remove(key), effective::values(new).remove(key));
    let (Some(old), Some(new)) = (old, new) else { return format!("{key} changes") };
    if is_short(&old) && is_short(&new) {
        return format!("{key} changes from {old} to {new}");
    }
    let inner = inner_changes(key, &old, &new);
    if inner.is_empty() { format!("{key} changes") } else { inner.join(", ") }
}

fn is_short(value: &str) -> bool {
    value.chars().count() <= SHORT
}

/// What changes in a table; nothing if one of the two is empty or no table.
fn inner_changes(key: &str, old: &str, new: &str) -> Vec<String> {
    let (Some(old), Some(new)) = (inner(old), inner(new)) else { return Vec::new() };
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differ = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    let shown = |value: Option<&toml::Value>| value.map(ToString::to_string).filter(|value| is_short(value));
    differ
        .map(|name| match (shown(old.get(name)), shown(new.get(name))) {
            (Some(old), Some(new)) if !MAY_BE_SECRET.contains(&name.as_str()) => {
                format!("{key}.{name} changes from {old} to {new}")
            }
            _ => format!("{key}.{name} changes"),
        })
        .collect()
}

fn inner(value: &str) -> Option<toml::Table> {
    let outer: toml::Table = format!("it = {value}").parse().ok()?;
    outer.get("it")?.as_table().filter(|table| !table.is_empty()).cloned()
}

/// Changes of what only the supervisor uses, each with its key.
fn policy(old: &Child, new: &Child) -> Vec<(&'static str, String)> {
    let mut keys = old.policy.differing(&new.policy);
    // This one is given to the process, so it is not for the supervisor alone.
    keys.retain(|key| *key != "ready");
    keys.extend((old.after != new.after).then_some("after"));
    keys.extend((old.health.check != new.health.check).then_some("health"));
    keys.extend((old.health.watchdog != new.health.watchdog).then_some("watchdog"));
    keys.extend((old.health.stalled != new.health.stalled).then_some("stalled"));
    keys.extend((old.log_keep != new.log_keep).then_some("log_keep"));
    keys.extend((old.log_limit != new.log_limit).then_some("log_limit"));
    let of_keys = keys.into_iter().map(|key| (key, changes(old, new, key)));
    of_keys.chain(hooks(&old.on, &new.on).map(|why| ("on", why))).collect()
}

/// Which hooks change. Their words may be secrets, which would go to the log.
fn hooks(old: &Hooks, new: &Hooks) -> Option<String> {
    let events: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
    let differ = events.into_iter().filter(|event| old.get(event) != new.get(event));
    let names: Vec<String> = differ.map(|event| format!("on.{event}")).collect();
    let change = if names.len() == 1 { "changes" } else { "change" };
    (!names.is_empty()).then(|| format!("{} {change}", names.join(", ")))
}

/// The plugin at the sink of a link. A link into a plugin is made differently from a link
/// into a command, because the plugin has an intake.
fn plugin_at_sink(model: &Model, link: &Link) -> Option<&'static str> {
    match model.child(&link.to)?.program {
        Program::Plugin(name) => Some(name),
        Program::Command(_) => None,
    }
}

/// A link as seen from one end: its direction and its other end, in words, and what both
/// ends must agree on.
struct End {
    words: String,
    protocol: String,
    plugin: Option<&'static str>,
    line: usize,
}

fn ends_of(model: &Model, name: &str) -> Vec<End> {
    let of = model.links.iter().filter(|link| link.from == name || link.to == name);
    of.map(|link| End {
        words: match (link.from == name, link.stream) {
            (true, Stream::Stdout) => format!("to {}", link.to),
            (true, Stream::Stderr) => format!("of its stderr to {}", link.to),
            (false, stream) => format!("from {}", stream.of(&link.from)),
        },
        protocol: format!("{:?}", link.protocol).to_lowercase(),
        plugin: plugin_at_sink(model, link),
        line: link.line,
    })
    .collect()
}

/// Changes of a child's links. A child gets its links as descriptors when it starts.
fn linked(old: &Model, new: &Model, child: &Child) -> Vec<Reason> {
    let (before, after) = (ends_of(old, &child.name), ends_of(new, &child.name));
    let come = after.iter().filter_map(|end| {
        let End { words, protocol, plugin, line } = end;
        let why = match before.iter().find(|other| other.words == *words) {
            Some(was) if was.protocol != *protocol => format!("the link {words} speaks {protocol}"),
            Some(was) if was.plugin == *plugin => return None,
            Some(_) => format!("the link {words} is made anew, because something else runs at its sink"),
            None => format!("a link {words} comes"),
        };
        Some(Reason { why, line: *line })
    });
    let gone = before
        .iter()
        .filter(|end| !after.iter().any(|other| other.words == end.words))
        .map(|end| Reason { why: format!("the link {} goes", end.words), line: child.line });
    come.chain(gone).collect()
}

fn links(old: &Model, new: &Model) -> Vec<LinkPlan> {
    let mut plans = Vec::new();
    for link in &new.links {
        let change = match old.links.iter().find(|other| is_same(other, link)) {
            Some(before) if before.capacity == link.capacity => continue,
            Some(before) => LinkChange::Capacity { from: before.capacity, to: link.capacity },
            None => LinkChange::Added,
        };
        plans.push(link_plan(link, link.line, change));
    }
    for link in &old.links {
        if !new.links.iter().any(|other| is_same(other, link)) {
            plans.push(link_plan(link, 0, LinkChange::Removed));
        }
    }
    plans
}

/// Whether both are the same link, whatever its capacity.
fn is_same(a: &Link, b: &Link) -> bool {
    (&a.from, a.stream, &a.to, a.protocol) == (&b.from, b.stream, &b.to, b.protocol)
}

fn link_plan(link: &Link, line: usize, change: LinkChange) -> LinkPlan {
    let Link { from, stream, to, .. } = link;
    LinkPlan { from: from.clone(), stream: *stream, to: to.clone(), line, change }
}

fn sockets(old: &Model, new: &Model) -> Vec<SocketPlan> {
    let bound = |model: &Model| -> BTreeSet<Address> {
        model.children.iter().flat_map(|child| child.listen.iter().cloned()).collect()
    };
    let (before, after) = (bound(old), bound(new));
    let line = |address: &Address| {
        let child = new.children.iter().find(|child| child.listen.contains(address));
        child.map_or(0, |child| child.lines.of("listen").unwrap_or(child.line))
    };
    let of = |address: &Address, added| SocketPlan { address: address.clone(), line: line(address), added };
    let added = after.difference(&before).map(|address| of(address, true));
    let removed = before.difference(&after).map(|address| of(address, false));
    added.chain(removed).collect()
}

fn daemon(old: &Model, new: &Model) -> Vec<DaemonPlan> {
    let (a, b) = (&old.daemon, &new.daemon);
    let differ = [
        ("control", true, a.control != b.control),
        ("log", false, a.log != b.log),
        ("syslog_facility", false, a.syslog_facility != b.syslog_facility),
        ("log_level", true, a.log_level != b.log_level),
        ("stop_timeout", true, a.stop_timeout != b.stop_timeout),
        ("on", true, a.on != b.on),
    ];
    let differ = differ.into_iter().filter(|(.., differs)| *differs);
    differ.map(|(key, in_place, _)| DaemonPlan { key, line: b.lines.of(key).unwrap_or(0), in_place }).collect()
}

/// This many children that are kept as they are have a line each; more have one together.
const FEW: usize = 3;

impl fmt::Display for Plan {
    /// A line for each child, or for each of its reasons, then a line for everything else
    /// that changes. Each line can go to the log alone. There is no newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_kept = |child: &&ChildPlan| child.action == Action::Keep;
        let kept = self.children.iter().filter(is_kept).count();
        let folds = kept > FEW;
        let children = self.children.iter().filter(|child| !(folds && is_kept(child)));
        let children = children.flat_map(|child| self.child_lines(child));
        let folded = folds.then(|| format!("{:<8} {kept} children as they are", Action::Keep.word()));
        f.write_str(&children.chain(folded).chain(self.others()).collect::<Vec<_>>().join("\n"))
    }
}

impl Plan {
    /// A line for each change that is not about a child.
    fn others(&self) -> impl Iterator<Item = String> + '_ {
        let links = self.links.iter().map(|link| {
            let ends = format!("{} -> {}", link.stream.of(&link.from), link.to);
            let what = match link.change {
                LinkChange::Added => "it is new".to_owned(),
                LinkChange::Removed => "it goes, once what is in it has been taken".to_owned(),
                LinkChange::Capacity { from, to } => {
                    format!("holds {} instead of {}", size_text(to as u64), size_text(from as u64))
                }
            };
            format!("link     {ends}  {}{what}", self.place(link.line))
        });
        let sockets = self.sockets.iter().map(|socket| {
            let what = if socket.added { "bound" } else { "closed" };
            format!("socket   {}  {}{what}", socket.address, self.place(socket.line))
        });
        let daemon = self.daemon.iter().map(|part| {
            let what = if part.in_place { "changes" } else { "changes only with a restart of the daemon" };
            format!("daemon   {}  {}{what}", part.key, self.place(part.line))
        });
        links.chain(sockets).chain(daemon)
    }

    /// The lines that [`Display`](fmt::Display) prints, except those about children that are
    /// kept as they are. These go to the log, because most reloads leave most children alone.
    pub fn changes(&self) -> Vec<String> {
        let children = self.children.iter().filter(|child| child.action != Action::Keep);
        children.flat_map(|child| self.child_lines(child)).chain(self.others()).collect()
    }

    fn child_lines(&self, child: &ChildPlan) -> Vec<String> {
        let word = child.action.word();
        if child.reasons.is_empty() {
            return vec![format!("{word:<8} {}", child.name)];
        }
        let width = self.children.iter().map(|child| child.name.len()).max().unwrap_or(0);
        let note = if child.action == Action::Update { "; its process stays" } else { "" };
        let lines = child.reasons.iter();
        lines.map(|r| format!("{word:<8} {:<width$}  {}{}{note}", child.name, self.place(r.line), r.why)).collect()
    }

    /// `FILE:LINE: `, or nothing if there is no line.
    fn place(&self, line: usize) -> String {
        match &self.file {
            Some(file) if line > 0 => format!("{}:{line}: ", file.display()),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const TWO: &str = r#"
[children.echo]
plugin = "echo"
listen = ["tcp://127.0.0.1:7007"]

[children.logger]
plugin = "logger"
settings = { file = "/messages.log" }

[[links]]
from = "echo"
to = "logger"
"#;

    fn model(text: &str) -> Model {
        let model = crate::config::check_text(text.as_bytes(), "test", Path::new("/"));
        Model { file: Some("/t".into()), ..model.unwrap_or_else(|problems| panic!("{problems}")) }
    }

    /// The reasons for what happens to that child.
    fn whys<'a>(plan: &'a Plan, child: &str) -> Vec<&'a str> {
        plan.child(child).unwrap().reasons.iter().map(|reason| reason.why.as_str()).collect()
    }

    /// What a reload from [`TWO`] does when one text in it becomes another.
    fn changed(from: &str, to: &str) -> String {
        assert!(TWO.contains(from), "{from}");
        plan(&model(TWO), &model(&TWO.replacen(from, to, 1))).to_string()
    }

    #[test]
    fn nothing_changed_is_an_empty_plan() {
        let plan = plan(&model(TWO), &model(&format!("\n# a comment\n{TWO}")));
        assert!(plan.is_empty());
        assert_eq!(plan.to_string(), "keep     echo\nkeep     logger");
    }

    #[test]
    fn many_children_that_are_kept_have_one_line() {
        let child = |name: &str| format!("[children.{name}]\ncommand = [\"/bin/sh\"]\n");
        let before = ["a", "b", "c", "d"].map(child).concat();
        let after = format!("{before}{}", child("new"));
        let said = "start    new  /t:9: it is new\nkeep     4 children as they are";
        assert_eq!(plan(&model(&before), &model(&after)).to_string(), said);
    }

    #[test]
    fn values_that_may_be_secrets_are_not_in_a_plan() {
        let child = |secret: &str| {
            format!(
                "[children.a]\ncommand = [\"/bin/sh\", \"{secret}\"]\nenvironment = {{ S = \"{secret}\" }}\n\
                 settings = {{ s = \"{secret}\" }}\n"
            )
        };
        let plan = plan(&model(&child("old")), &model(&child("new")));
        let said = ["command changes", "environment S changes", "settings.s changes"];
        assert_eq!(whys(&plan, "a"), said);
    }

    #[test]
    fn a_policy_changes_in_place() {
        let keys = "restart = \"never\"\nstop_timeout = \"1s\"\nafter = [\"logger\"]\nplugin = \"echo\"";
        let said = "keep     echo    /t:3: restart changes from \"always\" to \"never\"; its process stays\n\
                    keep     echo    /t:4: stop_timeout changes from \"10s\" to \"1s\"; its process stays\n\
                    keep     echo    /t:5: after changes from [] to [\"logger\"]; its process stays\nkeep     logger";
        assert_eq!(changed("plugin = \"echo\"", keys), said);
        let keys = "stop_to = \"leader\"\nsuccess = { codes = [0, 3] }\nplugin = \"echo\"";
        let said = "keep     echo    /t:3: stop_to changes from \"group\" to \"leader\"; its process stays\n\
                    keep     echo    /t:4: success changes from { codes = [0], signals = [] } to { codes = [0, 3], signals = [] }; its process stays\nkeep     logger";
        assert_eq!(changed("plugin = \"echo\"", keys), said);
    }

    #[test]
    fn of_a_long_value_what_differs_is_shown_and_no_secret() {
        let keys = |backoff: &str, health: &str| format!("plugin = \"echo\"\nbackoff = {backoff}\nhealth = {health}");
        let from = |backoff: &str, health: &str| model(&TWO.replacen("plugin = \"echo\"", &keys(backoff, health), 1));
        let old = from("{}", "{ http = \"http://127.0.0.1:1/?secret\" }");
        let new = from("{ max = \"1m\", first = \"1s\" }", "{ http = \"http://127.0.0.1:1/?other\", every = \"1m\" }");
        let said = [
            r#"backoff.first changes from "0s" to "1s", backoff.max changes from "30s" to "1m""#,
            r#"health.every changes from "10s" to "1m", health.http changes"#,
        ];
        assert_eq!(whys(&plan(&old, &new), "echo"), said);
        // It has other keys now, or none.
        let other = from("{}", "{ command = [\"/bin/true\", \"secret\"] }");
        assert_eq!(whys(&plan(&old, &other), "echo"), ["health.command changes, health.http changes"]);
        assert_eq!(whys(&plan(&old, &from("{}", "{}")), "echo"), ["health changes"]);
    }

    #[test]
    fn a_change_of_what_a_process_is_given_restarts_it() {
        for (keys, why) in [
            ("umask = \"0077\"", "umask changes from \"0022\" to \"0077\""),
            ("directory = \"/tmp\"", "directory changes from \"\" to \"/tmp\""),
            ("ready = \"exec\"", "ready changes from \"notify\" to \"exec\""),
            ("environment = { SECRET = \"x\" }", "environment SECRET changes"),
            ("limits = { core = 0 }", "limits changes from {} to { core = 0 }"),
            ("settings = { partial_after = \"2s\" }", "settings.partial_after changes from \"1s\" to \"2s\""),
        ] {
            let said = format!("restart  echo    /t:4: {why}\nkeep     logger");
            assert_eq!(changed("plugin = \"echo\"", &format!("plugin = \"echo\"\n{keys}")), said);
        }
    }

    #[test]
    fn each_reason_has_the_line_of_its_key_or_else_of_its_table() {
        let keys = "plugin = \"echo\"\numask = \"0077\"\n[children.echo.environment]\nA = \"1\"\nB = \"2\"\n\
                    [children.echo.settings]\nframing = \"read\"\n#";
        let text = TWO.replacen("listen = [\"tcp://127.0.0.1:7007\"]\n", "", 1);
        let text = text.replacen("plugin = \"echo\"", &format!("listen = [\"tcp://127.0.0.1:7007\"]\n{keys}"), 1);
        let there = plan(&model(TWO), &model(&text));
        let lines = |plan: &Plan| plan.child("echo").unwrap().reasons.iter().map(|r| r.line).collect::<Vec<_>>();
        assert_eq!((whys(&there, "echo").len(), lines(&there)), (4, vec![5, 7, 8, 10]));
        // A key that is now left out has no line of its own.
        let back = plan(&model(&text), &model(TWO));
        assert_eq!(lines(&back), [2, 2, 2, 2]);
    }

    #[test]
    fn a_new_address_is_bound_and_the_old_one_closed() {
        let said = "restart  echo    /t:4: listens on tcp://127.0.0.1:7008, no longer on tcp://127.0.0.1:7007\n\
                    keep     logger\nsocket   tcp://127.0.0.1:7008  /t:4: bound\nsocket   tcp://127.0.0.1:7007  closed";
        assert_eq!(changed(":7007", ":7008"), said);
    }

    #[test]
    fn a_socket_that_moves_is_neither_bound_nor_closed() {
        let before = format!("{TWO}\n[children.web]\ncommand = [\"/bin/sh\"]\nlisten = [\"tcp://127.0.0.1:80\"]\n");
        let after = before.replace(":80", ":7007").replacen(":7007", ":80", 1);
        let plan = plan(&model(&before), &model(&after));
        assert_eq!(plan.sockets, []);
        assert_eq!(plan.child("web").unwrap().action, Action::Restart);
    }

    #[test]
    fn a_new_capacity_restarts_no_child() {
        let said = "keep     echo\nkeep     logger\nlink     echo -> logger  /t:10: holds 2MiB instead of 1MiB";
        assert_eq!(changed("to = \"logger\"", "to = \"logger\"\ncapacity = \"2MiB\""), said);
    }

    #[test]
    fn a_new_source_restarts_its_sink() {
        let more =
            "[children.other]\ncommand = [\"/bin/sh\"]\n\n[[links]]\nfrom = \"other\"\nto = \"logger\"\n\n[[links]]";
        let said = "keep     echo\nrestart  logger  /t:13: a link from other comes\nstart    other   /t:10: it is new\n\
                    link     other -> logger  /t:13: it is new";
        assert_eq!(changed("[[links]]", more), said);
        let back = plan(&model(&TWO.replacen("[[links]]", more, 1)), &model(TWO)).to_string();
        let said = "keep     echo\nrestart  logger  /t:6: the link from other goes\n\
                    stop     other   it is not in the new configuration\n\
                    link     other -> logger  it goes, once what is in it has been taken";
        assert_eq!(back, said);
    }

    #[test]
    fn each_output_of_a_child_is_a_link_of_its_own() {
        const ONE: &str = "[children.a]\ncommand = [\"/bin/sh\"]\n[children.b]\ncommand = [\"/bin/cat\"]\n\
                           [[links]]\nfrom = \"a\"\nto = \"b\"\n";
        let two = format!("{ONE}[[links]]\nfrom = \"a\"\nstream = \"stderr\"\nto = \"b\"\n");
        let (one, two) = (model(ONE), model(&two));
        let said = "restart  a  /t:8: a link of its stderr to b comes\n\
                    restart  b  /t:8: a link from a (stderr) comes\nlink     a (stderr) -> b  /t:8: it is new";
        assert_eq!(plan(&one, &two).to_string(), said);
        let said = "restart  a  /t:1: the link of its stderr to b goes\n\
                    restart  b  /t:3: the link from a (stderr) goes\n\
                    link     a (stderr) -> b  it goes, once what is in it has been taken";
        assert_eq!(plan(&two, &one).to_string(), said);
        // The other output is another link.
        let other = model(&ONE.replace("to = \"b\"", "stream = \"stderr\"\nto = \"b\""));
        let plan = plan(&one, &other);
        assert_eq!(
            plan.links.iter().map(|link| link.change).collect::<Vec<_>>(),
            [LinkChange::Added, LinkChange::Removed]
        );
        assert_eq!(whys(&plan, "b"), ["a link from a (stderr) comes", "the link from a goes"]);
    }

    #[test]
    fn more_instances_are_other_children() {
        let plan = plan(&model(TWO), &model(&TWO.replacen("plugin = \"echo\"", "plugin = \"echo\"\ninstances = 2", 1)));
        let actions: Vec<_> = plan.children.iter().map(|child| (child.name.as_str(), child.action)).collect();
        let expected =
            [("echo.0", Action::Start), ("echo.1", Action::Start), ("logger", Action::Restart), ("echo", Action::Stop)];
        assert_eq!(actions, expected);
        assert_eq!(plan.sockets, []);
    }

    #[test]
    fn a_link_with_another_protocol_is_another_link() {
        let more = "settings = { echo_after = \"queued\" }\nplugin = \"echo\"";
        let records = TWO.replacen("plugin = \"echo\"", more, 1);
        let lines = format!("{records}protocol = \"lines\"\n");
        let plan = plan(&model(&records), &model(&lines));
        let changes: Vec<_> = plan.links.iter().map(|link| link.change).collect();
        assert_eq!(changes, [LinkChange::Added, LinkChange::Removed]);
        assert_eq!(whys(&plan, "echo"), ["the link to logger speaks lines"]);
        assert_eq!(whys(&plan, "logger"), ["the link from echo speaks lines"]);
    }

    #[test]
    fn a_source_restarts_if_its_sink_becomes_a_plugin() {
        const ORDINARY: &str = "[children.a]\ncommand = [\"/bin/sh\"]\n[children.b]\ncommand = [\"/bin/cat\"]\n\
                                [[links]]\nfrom = \"a\"\nto = \"b\"\n";
        let logger = "plugin = \"logger\"\nsettings = { file = \"messages.log\" }";
        let plan = plan(&model(ORDINARY), &model(&ORDINARY.replace("command = [\"/bin/cat\"]", logger)));
        let why = "the link to b is made anew, because something else runs at its sink";
        assert_eq!(whys(&plan, "a"), [why]);
    }

    #[test]
    fn the_daemon_changes_in_place_what_it_can() {
        let keys = "[daemon]\nlog_level = \"debug\"\nstop_timeout = \"1s\"\ncontrol = \"/other.sock\"\nlog = \"syslog\"\nsyslog_facility = \"local0\"\n\n[children.echo]";
        let said = "keep     echo\nkeep     logger\n\
                    daemon   control  /t:5: changes\n\
                    daemon   log  /t:6: changes only with a restart of the daemon\n\
                    daemon   syslog_facility  /t:7: changes only with a restart of the daemon\n\
                    daemon   log_level  /t:3: changes\ndaemon   stop_timeout  /t:4: changes";
        assert_eq!(changed("[children.echo]", keys), said);
    }
}
