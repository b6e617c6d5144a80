//! What a reload does: a pure function of the old configuration and the new.

use super::model::{Address, Child, Model, Program};
use std::collections::BTreeSet;
use std::fmt;

/// What a reload does. Children and links stand in the order of the new file,
/// those that go last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Every child of either configuration.
    pub children: Vec<ChildPlan>,
    /// Links that come, go or change.
    pub links: Vec<LinkPlan>,
    /// Sockets that come or go. One that only moves to another child is
    /// kept, and so not here.
    pub sockets: Vec<SocketPlan>,
    /// What changes of the daemon itself.
    pub daemon: Vec<DaemonPlan>,
}

/// What happens to one child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildPlan {
    /// Its name.
    pub name: String,
    /// Its line in the new file, of its table; 0 where it has none.
    pub line: usize,
    /// What happens.
    pub action: Action,
    /// Why, in words, each about one key. Empty for [`Action::Keep`].
    pub reasons: Vec<String>,
}

/// What happens to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Nothing.
    Keep,
    /// It keeps its pid; what the supervisor does about it changes.
    Update,
    /// It is stopped, draining, and started with its new part.
    Restart,
    /// It is new.
    Start,
    /// It is gone.
    Stop,
}

/// What happens to one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPlan {
    /// The source's name.
    pub from: String,
    /// The sink's name.
    pub to: String,
    /// Its line in the new file; 0 where it has none.
    pub line: usize,
    /// What happens.
    pub change: LinkChange,
}

/// What happens to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// It is new, or speaks another protocol than the one of the same ends
    /// that goes.
    Added,
    /// It is gone, once what is in it has been taken.
    Removed,
    /// It holds another number of bytes; both its ends keep their pids.
    Capacity {
        /// Bytes until now.
        from: usize,
        /// Bytes from now on.
        to: usize,
    },
}

/// What happens to one listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPlan {
    /// Where it listens.
    pub address: Address,
    /// Bound, or closed.
    pub added: bool,
}

/// What changes of the daemon itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonPlan {
    /// The key of `[daemon]`.
    pub key: &'static str,
    /// Whether a reload can do it; otherwise the daemon must be restarted.
    pub in_place: bool,
}

impl Action {
    /// The word that operators read: an update keeps the child.
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

    /// What happens to the child of that name; `None` where neither
    /// configuration has it.
    pub fn child(&self, name: &str) -> Option<&ChildPlan> {
        self.children.iter().find(|child| child.name == name)
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
        reasons: vec!["it is not in the new configuration".to_owned()],
    }));
    Plan { children, links, sockets: sockets(old, new), daemon: daemon(old, new) }
}

fn child_plan(old: &Model, new: &Model, child: &Child) -> ChildPlan {
    let (action, reasons) = match old.child(&child.name) {
        None => (Action::Start, vec!["it is new".to_owned()]),
        Some(before) => {
            let mut restart = given(before, child);
            restart.extend(linked(old, new, &child.name));
            let update = policy(before, child);
            match (restart.is_empty(), update.is_empty()) {
                (true, true) => (Action::Keep, Vec::new()),
                (true, false) => (Action::Update, update),
                (false, _) => (Action::Restart, restart.into_iter().chain(update).collect()),
            }
        }
    };
    ChildPlan { name: child.name.clone(), line: child.line, action, reasons }
}

/// What a process is given when it starts: a change needs a new process.
fn given(old: &Child, new: &Child) -> Vec<String> {
    let mut reasons = Vec::new();
    match (&old.program, &new.program) {
        (Program::Plugin(a), Program::Plugin(b)) if a != b => reasons.push(format!("plugin {a} becomes {b}")),
        (Program::Command(a), Program::Command(b)) if a != b => reasons.push("command changes".to_owned()),
        (Program::Plugin(a), Program::Command(_)) => reasons.push(format!("plugin {a} becomes a command")),
        (Program::Command(_), Program::Plugin(b)) => reasons.push(format!("the command becomes plugin {b}")),
        _ => {}
    }
    if old.listen != new.listen {
        reasons.push(listens(&old.listen, &new.listen));
    }
    let differ = [
        ("user or group", old.user != new.user),
        ("directory", old.directory != new.directory),
        ("umask", old.umask != new.umask),
        ("pass_environment", old.pass_environment != new.pass_environment),
        ("limits", old.limits != new.limits),
        ("ready", old.ready != new.ready),
    ];
    reasons.extend(differ.iter().filter(|(_, differs)| *differs).map(|(key, _)| format!("{key} changes")));
    // Values may be secrets, and this goes to the log: names only.
    let environment = different(&old.environment, &new.environment, |(name, _)| name.clone());
    reasons.extend(environment.into_iter().map(|name| format!("environment {name} changes")));
    reasons.extend(settings(old, new));
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

/// Names of what is in only one list, or in both and different; sorted.
fn different<T: PartialEq>(old: &[T], new: &[T], name: impl Fn(&T) -> String) -> BTreeSet<String> {
    let gone = old.iter().filter(|item| !new.contains(item));
    let come = new.iter().filter(|item| !old.contains(item));
    gone.chain(come).map(name).collect()
}

fn settings(old: &Child, new: &Child) -> Vec<String> {
    if old.settings == new.settings {
        return Vec::new();
    }
    let (Some(a), Some(b)) = (old.settings.as_object(), new.settings.as_object()) else {
        return vec!["settings change".to_owned()];
    };
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name)).collect();
    // A plugin's durations have their unit in the name; the file has not.
    let key = |name: &str| match new.program {
        Program::Plugin(_) => name.strip_suffix("_ms").unwrap_or(name).to_owned(),
        Program::Command(_) => name.to_owned(),
    };
    names.into_iter().map(|name| format!("settings.{} changes", key(name))).collect()
}

/// What only the supervisor goes by.
fn policy(old: &Child, new: &Child) -> Vec<String> {
    let differ = [
        ("restart", old.restart != new.restart),
        ("backoff", old.backoff != new.backoff),
        ("start_limit", old.start_limit != new.start_limit),
        ("ready_timeout", old.ready_timeout != new.ready_timeout),
        ("stop_signal", old.stop_signal != new.stop_signal),
        ("stop_timeout", old.stop_timeout != new.stop_timeout),
        ("after", old.after != new.after),
    ];
    differ.iter().filter(|(_, differs)| *differs).map(|(key, _)| format!("{key} changes")).collect()
}

/// What a link's ends must agree on. A link into a plugin is made otherwise
/// than one into a command: it has an intake.
fn speaks(model: &Model, link: &super::model::Link) -> String {
    let protocol = format!("{:?}", link.protocol).to_lowercase();
    match model.child(&link.to).map(|sink| &sink.program) {
        Some(Program::Plugin(name)) => format!("{protocol} to plugin {name}"),
        Some(Program::Command(_)) | None => protocol,
    }
}

/// Why a child's links, which it gets as descriptors when it starts, are others.
fn linked(old: &Model, new: &Model, name: &str) -> Vec<String> {
    let ends = |model: &Model| -> Vec<(bool, String, String)> {
        let of = model.links.iter().filter(|link| link.from == name || link.to == name);
        of.map(|link| {
            let out = link.from == name;
            let other = if out { link.to.clone() } else { link.from.clone() };
            (out, other, speaks(model, link))
        })
        .collect()
    };
    let (before, after) = (ends(old), ends(new));
    let word = |out: bool| if out { "to" } else { "from" };
    let come = after.iter().filter(|end| !before.contains(end)).map(|(out, other, protocol)| {
        match before.iter().any(|(o, p, _)| (o, p) == (out, other)) {
            true => format!("the link {} {other} speaks {protocol}", word(*out)),
            false => format!("a link {} {other} comes", word(*out)),
        }
    });
    let stays = |out: &bool, other: &String| after.iter().any(|(o, p, _)| (o, p) == (out, other));
    let gone = before
        .iter()
        .filter(|(out, other, _)| !stays(out, other))
        .map(|(out, other, _)| format!("the link {} {other} goes", word(*out)));
    come.chain(gone).collect()
}

fn links(old: &Model, new: &Model) -> Vec<LinkPlan> {
    let mut plans = Vec::new();
    for link in &new.links {
        let same = |other: &&super::model::Link| {
            (&other.from, &other.to, other.protocol) == (&link.from, &link.to, link.protocol)
        };
        let change = match old.links.iter().find(same) {
            Some(before) if before.capacity == link.capacity => continue,
            Some(before) => LinkChange::Capacity { from: before.capacity, to: link.capacity },
            None => LinkChange::Added,
        };
        plans.push(LinkPlan { from: link.from.clone(), to: link.to.clone(), line: link.line, change });
    }
    for link in &old.links {
        let stays = new
            .links
            .iter()
            .any(|other| (&other.from, &other.to, other.protocol) == (&link.from, &link.to, link.protocol));
        if !stays {
            let (from, to) = (link.from.clone(), link.to.clone());
            plans.push(LinkPlan { from, to, line: 0, change: LinkChange::Removed });
        }
    }
    plans
}

fn sockets(old: &Model, new: &Model) -> Vec<SocketPlan> {
    let bound = |model: &Model| -> BTreeSet<Address> {
        model.children.iter().flat_map(|child| child.listen.iter().cloned()).collect()
    };
    let (before, after) = (bound(old), bound(new));
    let added = after.difference(&before).map(|address| SocketPlan { address: address.clone(), added: true });
    let removed = before.difference(&after).map(|address| SocketPlan { address: address.clone(), added: false });
    added.chain(removed).collect()
}

fn daemon(old: &Model, new: &Model) -> Vec<DaemonPlan> {
    let (a, b) = (&old.daemon, &new.daemon);
    let differ = [
        ("control", false, a.control != b.control),
        ("log", false, a.log != b.log),
        ("log_level", true, a.log_level != b.log_level),
        ("stop_timeout", true, a.stop_timeout != b.stop_timeout),
    ];
    differ.iter().filter(|(.., d)| *d).map(|(key, in_place, _)| DaemonPlan { key, in_place: *in_place }).collect()
}

impl fmt::Display for Plan {
    /// A line a child, then a line each for what else changes; no newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        for child in &self.children {
            let place = if child.line > 0 { format!(" (line {})", child.line) } else { String::new() };
            let why = if child.reasons.is_empty() { String::new() } else { format!(": {}", child.reasons.join(", ")) };
            lines.push(match child.action {
                Action::Keep => format!("keep     {}", child.name),
                action => format!("{:<8} {}{place}{why}", action.word(), child.name),
            });
        }
        for link in &self.links {
            let ends = format!("{} -> {}", link.from, link.to);
            lines.push(match link.change {
                LinkChange::Added => format!("link     {ends} (line {}): comes", link.line),
                LinkChange::Removed => format!("link     {ends}: goes, once what is in it has been taken"),
                LinkChange::Capacity { from, to } => {
                    format!("link     {ends} (line {}): holds {to} bytes instead of {from}", link.line)
                }
            });
        }
        for socket in &self.sockets {
            lines.push(match socket.added {
                true => format!("socket   {}: bound", socket.address),
                false => format!("socket   {}: closed", socket.address),
            });
        }
        for part in &self.daemon {
            lines.push(match part.in_place {
                true => format!("daemon   {} changes", part.key),
                false => format!("daemon   {} changes only with a restart of the daemon", part.key),
            });
        }
        write!(f, "{}", lines.join("\n"))
    }
}
