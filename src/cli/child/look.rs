//! What `plumbd status CHILD` asks the daemon and looks at by itself.

use crate::cli::Failure;
use crate::config::model::base_name;
use crate::control::details::{Descriptor, DescriptorKind, Details, Known, Limit, Process};
use crate::control::status::{Child, Status};
use crate::control::{Request, Response, client};
use crate::schema::nearest;
use crate::supervisor::holder::{self, Socket};
use crate::sys::aside::Keeps;
use crate::sys::inspect::{self, Limits};
use crate::sys::look::{Answers, Look as Aside};
use crate::sys::text::plain;
use crate::sys::usage::{Process as Used, Processes};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

/// How long one file of a process may take to be read.
const PATIENCE: Duration = Duration::from_millis(500);
/// The daemon is asked about this many children at a time, so that no answer is too long for
/// it to hold.
const AT_A_TIME: usize = 16;

/// Leaves in a status only these children, and what belongs to them. `NAME` stands for all
/// instances of a child, and `all` for every child.
///
/// # Errors
/// No child has that name.
pub(in crate::cli) fn keep(status: &mut Status, names: &[String]) -> Result<(), Failure> {
    for name in names {
        if !status.children.iter().any(|child| is_called(name, child)) && !is_all(name, status) {
            return Err(unknown(name, status).into());
        }
    }
    let all = names.iter().any(|name| is_all(name, status));
    status.children.retain(|child| all || names.iter().any(|name| is_called(name, child)));
    let kept: Vec<&str> = status.children.iter().map(|child| child.name.as_str()).collect();
    let is_kept = |name: &String| kept.contains(&name.as_str());
    status.links.retain(|link| is_kept(&link.from) || is_kept(&link.to));
    // The status names the first of the instances that share a socket.
    status.listeners.retain(|at| kept.iter().any(|name| base_name(name) == base_name(&at.child)));
    status.files.retain(|file| is_kept(&file.child));
    Ok(())
}

fn is_called(name: &str, child: &Child) -> bool {
    child.name == name || base_name(&child.name) == name
}

fn is_all(name: &str, status: &Status) -> bool {
    name == "all" && !status.children.iter().any(|child| is_called(name, child))
}

fn unknown(name: &str, status: &Status) -> String {
    let known: Vec<&str> = status.children.iter().map(|child| child.name.as_str()).collect();
    let near = nearest(name, known.iter().flat_map(|known| [*known, base_name(known)]));
    let help = match near {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.is_empty() => "there is none".to_owned(),
        None => format!("there are {}", known.join(", ")),
    };
    format!("cannot find child \"{name}\": {help}")
}

/// Fills in the details of each child of a status.
///
/// # Errors
/// The daemon can't be asked, or is of an earlier version.
pub(in crate::cli) fn fill_in(
    path: &Path,
    status: &mut Status,
    processes: Option<&Processes>,
    patience: Duration,
) -> Result<(), Failure> {
    let names: Vec<String> = status.children.iter().map(|child| child.name.clone()).collect();
    let mut known = HashMap::new();
    for names in names.chunks(AT_A_TIME) {
        known.extend(ask(path, names, patience)?.into_iter().map(|one| (one.child.clone(), one)));
    }
    let pids: Vec<i32> = status.children.iter().filter_map(|child| child.pid).collect();
    let trees = processes.map(|processes| (processes, processes.of_children(status.pid, &pids)));
    let own = inspect::limits(status.pid);
    for child in &mut status.children {
        let Some(known) = known.remove(&child.name) else { continue };
        let tree = trees.as_ref().and_then(|(all, trees)| Some((*all, trees.get(&child.pid?)?.as_slice())));
        child.details = Some(Box::new(details(known, child.pid, tree, own.as_ref())));
    }
    Ok(())
}

fn ask(path: &Path, children: &[String], patience: Duration) -> Result<Vec<Known>, Failure> {
    /// What a daemon says that does not know the request.
    const UNKNOWN: &str = "cannot read the request: unknown variant";
    let (mut known, mut why) = (Vec::new(), None);
    let asked = client::ask_within(patience, path, &Request::Inspect { children: children.to_vec() }, |response| {
        match response {
            Response::Known(one) => known.push(*one),
            Response::Err(text) => why = Some(text),
            _ => {}
        }
        Ok(())
    });
    match (asked, why) {
        (Ok(0), _) => Ok(known),
        (_, Some(why)) if why.starts_with(UNKNOWN) => Err(Failure::from(
            "cannot show a single child: the daemon that runs is of an earlier version, which does not tell; \
             `plumbd status` shows all children"
                .to_owned(),
        )),
        (_, Some(why)) => Err(why.into()),
        (Ok(_), None) => Err(Failure::from("cannot show the child: the daemon did not answer".to_owned())),
        (Err(failure), None) => Err(failure.to_string().into()),
    }
}

/// All that is seen of a child whose process is `pid`.
fn details(known: Known, pid: Option<i32>, tree: Option<(&Processes, &[&Used])>, own: Option<&Limits>) -> Details {
    let Known { config, ends, lines, pipes, .. } = known;
    let mut details = Details {
        config,
        environment: None,
        descriptors: None,
        limits: None,
        processes: pid.is_none().then(Vec::new),
        ends,
        lines,
    };
    let (Some(pid), Some((all, tree))) = (pid, tree) else { return details };
    let answers = aside(pid, tree);
    details.environment = answers.get::<Option<_>>("environment").flatten().map(plain_pairs);
    details.limits = answers.get::<Option<Limits>>("limits").flatten().map(|limits| compared(&limits, own));
    let open = answers.get::<Option<BTreeMap<i32, String>>>("descriptors").flatten();
    let has_sockets = open.iter().flat_map(BTreeMap::values).any(|target| target.starts_with("socket:"));
    let sockets = if has_sockets { holder::sockets(pid) } else { HashMap::new() };
    let described = |(number, target): (i32, String)| descriptor(number, &target, &pipes, &sockets);
    details.descriptors = open.map(|open| open.into_iter().map(described).collect());
    let command = |pid: i32| answers.get::<String>(&format!("command {pid}"));
    details.processes = Some(in_order(all, tree, &command));
    details
}

/// Reads the files of a child's processes in a process aside, the ones last that may not answer.
/// If it can't be started, nothing is known.
fn aside(pid: i32, tree: &[&Used]) -> Answers {
    let begun = Aside::begin(Keeps::Only(&[]), |scribe| {
        scribe.ask("limits", "reading its limits", || inspect::limits(pid));
        scribe.ask("descriptors", "reading its descriptors", || inspect::descriptors(pid));
        scribe.ask("environment", "reading its environment", || inspect::environment(pid));
        for process in tree {
            scribe.ask(&format!("command {}", process.pid), "reading a command line", || inspect::command(process.pid));
        }
    });
    begun.and_then(|look| look.wait_each(PATIENCE)).map(|(answers, _hangs)| answers).unwrap_or_default()
}

/// What a process chose can't control a terminal.
fn plain_pairs(pairs: BTreeMap<String, String>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (plain(&name), plain(&value))).collect()
}

fn compared(limits: &Limits, own: Option<&Limits>) -> BTreeMap<String, Limit> {
    let each = limits.iter().map(|(name, &values)| {
        let [soft, hard] = values;
        let differs = own.and_then(|own| own.get(name)).map(|own| *own != values);
        (name.clone(), Limit { soft, hard, differs })
    });
    each.collect()
}

/// What the link of a descriptor in /proc refers to (proc_pid_fd(5)).
fn descriptor(
    number: i32,
    target: &str,
    pipes: &BTreeMap<String, String>,
    sockets: &HashMap<u64, Socket>,
) -> Descriptor {
    let inside = |kind: &str| target.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']');
    let (kind, name) = if inside("pipe").is_some() {
        (DescriptorKind::Pipe, pipes.get(target).cloned().unwrap_or_else(|| "of its own".to_owned()))
    } else if let Some(inode) = inside("socket") {
        match inode.parse().ok().and_then(|inode: u64| sockets.get(&inode)) {
            Some(Socket { name, is_connected: true }) => (DescriptorKind::Connection, name.clone()),
            Some(Socket { name, .. }) => (DescriptorKind::Socket, name.clone()),
            None => (DescriptorKind::Socket, "of another kind".to_owned()),
        }
    } else if let Some(name) = target.strip_prefix("/memfd:") {
        let name = name.strip_suffix(" (deleted)").unwrap_or(name);
        (DescriptorKind::Memory, name.strip_prefix("plumbd-").unwrap_or(name).to_owned())
    } else if target.starts_with('/') {
        (DescriptorKind::File, target.to_owned())
    } else {
        let name = target.strip_prefix("anon_inode:").unwrap_or(target);
        (DescriptorKind::Other, name.trim_matches(['[', ']']).to_owned())
    };
    Descriptor { number, kind, name: plain(&name) }
}

/// The processes of a tree, each after its parent, siblings by age. Orphans are at the top, as
/// the child's own process is, which comes first.
fn in_order(all: &Processes, tree: &[&Used], command: &dyn Fn(i32) -> Option<String>) -> Vec<Process> {
    let mut rest: Vec<&Used> = tree.to_vec();
    if let Some((_, others)) = rest.split_first_mut() {
        others.sort_by_key(|process| (process.start, process.pid));
    }
    let is_in = |pid: i32| tree.iter().any(|process| process.pid == pid);
    let mut found = Vec::new();
    let tops: Vec<&Used> = rest.iter().copied().filter(|process| !is_in(process.parent)).collect();
    for top in tops {
        let mut open = vec![(top, 0)];
        while let Some((process, depth)) = open.pop() {
            found.push(shown(all, process, depth, command));
            // In reverse, because the next one is taken from the end.
            let children = rest.iter().rev().filter(|other| other.parent == process.pid && other.pid != process.pid);
            open.extend(children.map(|child| (*child, depth + 1)));
        }
    }
    found
}

fn shown(all: &Processes, process: &Used, depth: usize, command: &dyn Fn(i32) -> Option<String>) -> Process {
    let state = match process.state {
        'R' => "running",
        'S' | 'I' => "sleeping",
        'D' => "disk",
        'T' | 't' => "stopped",
        'Z' | 'X' => "ended",
        _ => "other",
    };
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Process {
        pid: process.pid,
        parent: process.parent,
        depth,
        command: command(process.pid).map_or_else(|| "[?]".to_owned(), |command| plain(&command)),
        state: state.to_owned(),
        cpu_ms: millis(all.time(&[process])),
        memory_bytes: all.memory(&[process]),
        age_ms: millis(all.age(process)),
    }
}
