//! `plumbd status CHILD` for people: everything about one child. Pure, but for
//! [`look`], which collects it.

pub(super) mod look;
#[cfg(test)]
mod tests;
mod text;

use super::page::{self, age, bytes, percent, places, short};
use super::status::Shown;
use super::table::{Colour, Column, Paper, table};
use crate::config::effective;
use crate::config::model::base_name;
use crate::control::details::{Descriptor, DescriptorKind, Details, End, Limit, Process};
use crate::control::entry::{Entry, Level};
use crate::control::status::{Child, ChildState, Ended, Status, Usage};
use crate::sys::text::{clipped, counted};
use jiff::Timestamp;
use nix::unistd::geteuid;
use std::collections::BTreeMap;
use std::time::Duration;
use text::{folded, one_line};

/// More connections than this are only counted.
const CONNECTIONS: usize = 3;
/// Of other descriptors, no more than this are shown.
const DESCRIPTORS: usize = 40;
/// A command line is cut to this many characters.
const COMMAND: usize = 200;

/// Everything about one child; each part consists of whole lines, and may be empty.
struct Sheet {
    /// What is wrong with it, and its state.
    head: String,
    config: String,
    environment: String,
    descriptors: String,
    limits: String,
    processes: String,
    usage: String,
    /// Its links, sockets and files.
    places: String,
    ends: String,
    lines: String,
}

/// Whether each of these children is up, or has finished, and nothing is a problem.
pub(super) fn are_well(status: &Status) -> bool {
    let is_up = |child: &Child| child.state == ChildState::Up || child.finished;
    status.children.iter().all(is_up) && page::problems(status).is_empty()
}

/// Shows the children of a status, each with its details. Ages are counted up to `now`.
pub(super) fn shown(status: &Status, now: Timestamp, paper: Paper) -> Shown {
    let frame = Status { children: Vec::new(), links: Vec::new(), ..status.clone() };
    let sheet = |child: &Child| {
        let mut own = Status { children: vec![child.clone()], links: status.links.clone(), ..frame.clone() };
        // It is there, so this can't fail.
        let _found = look::keep(&mut own, std::slice::from_ref(&child.name));
        sheet(&own, child, now, paper)
    };
    let sheets: Vec<Sheet> = status.children.iter().map(sheet).collect();
    let all = |each: fn(&Sheet) -> String| sheets.iter().map(each).collect::<Vec<_>>().join("\n");
    Shown { print: all(Sheet::print), watch: all(Sheet::watch) }
}

impl Sheet {
    /// What happened lately comes last, just above the next prompt.
    fn print(&self) -> String {
        let Sheet { head, config, environment, descriptors, limits, processes, usage, places, ends, lines } = self;
        joined([head, config, environment, descriptors, limits, processes, usage, places, ends, lines])
    }

    /// What changes comes first, so that even a small window shows it.
    fn watch(&self) -> String {
        let Sheet { head, config, environment, descriptors, limits, processes, usage, places, ends, lines } = self;
        joined([head, usage, processes, places, ends, lines, descriptors, limits, environment, config])
    }
}

/// With an empty line between one part and the next.
fn joined(parts: [&String; 10]) -> String {
    let parts: Vec<&str> = parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

/// Shows one child; `own` is what the status has about it.
fn sheet(own: &Status, child: &Child, now: Timestamp, paper: Paper) -> Sheet {
    let mut sheet = Sheet {
        head: head(own, child, now, paper),
        usage: child.usage.as_ref().map_or_else(String::new, |usage| uses(usage, child, paper)),
        places: tables(own, paper),
        config: String::new(),
        environment: String::new(),
        descriptors: String::new(),
        limits: String::new(),
        processes: String::new(),
        ends: String::new(),
        lines: String::new(),
    };
    let Some(details) = &child.details else { return sheet };
    sheet.config = config(own, child, details, now, paper);
    sheet.ends = block("LAST ENDS", details.ends.iter().map(|end| end_line(end, now)), paper);
    sheet.lines = lines(&details.lines, paper);
    if child.pid.is_some() {
        sheet.environment = environment(details.environment.as_ref(), paper);
        sheet.descriptors = descriptors(details.descriptors.as_deref(), paper);
        sheet.limits = limits(details.limits.as_ref(), paper);
        sheet.processes = processes(details.processes.as_deref(), paper);
    }
    sheet
}

fn head(own: &Status, child: &Child, now: Timestamp, paper: Paper) -> String {
    let wrong = page::problems(own).into_iter();
    let mut out: String = wrong.map(|problem| marked(&problem, paper)).collect();
    if let Some(note) = page::failing(child) {
        out += &folded(&format!("- {}", one_line(&note)), paper.width, "", "  ");
    }
    let (state, colour) = page::state(child);
    let process = child.pid.map_or_else(|| ", no process".to_owned(), |pid| format!(", process {pid}"));
    let rest = format!(" for {}{process}, {}", age(child.since, now), restarts(child));
    let text = folded(&format!("{}: {state}{rest}", one_line(&child.name)), paper.width, "", "  ");
    // The state is in the first line, unless that is very short.
    out += &text.replacen(&format!(": {state}"), &format!(": {}", paper.paint(colour, &state)), 1);
    out
}

fn restarts(child: &Child) -> String {
    let by = child.restarts_by;
    let causes = [
        (by.failure, "after it ended"),
        (by.health, "because it was not well"),
        (by.operator, "by an operator"),
        (by.reload, "by a reload"),
    ];
    let causes: Vec<String> =
        causes.iter().filter(|(count, _)| *count > 0).map(|(count, cause)| format!("{count} {cause}")).collect();
    match (child.restarts, causes.is_empty()) {
        (0, _) => "not restarted".to_owned(),
        (count, true) => format!("restarted {}", counted(count, "time", "times")),
        (count, false) => format!("restarted {}: {}", counted(count, "time", "times"), causes.join(", ")),
    }
}

/// A problem or a hint.
fn marked(text: &str, paper: Paper) -> String {
    let text = folded(&format!("! {}", one_line(text)), paper.width, "", "  ");
    text.replacen('!', &paper.paint(Colour::Bad, "!"), 1)
}

fn config(own: &Status, child: &Child, details: &Details, now: Timestamp, paper: Paper) -> String {
    let mut out = heading("CONFIGURATION IN FORCE", paper);
    if let Some(hint) = page::not_in_force(own, now) {
        out += &marked(&hint, paper);
    }
    let text = effective::child_text(base_name(&child.name), &details.config);
    out + &text.lines().map(|line| folded(&one_line(line), paper.width, "", "    ")).collect::<String>()
}

fn environment(found: Option<&BTreeMap<String, String>>, paper: Paper) -> String {
    let Some(found) = found else { return unseen("ENVIRONMENT", paper) };
    block("ENVIRONMENT", found.iter().map(|(name, value)| format!("{name}={value}")), paper)
}

fn descriptors(found: Option<&[Descriptor]>, paper: Paper) -> String {
    let Some(found) = found else { return unseen("DESCRIPTORS", paper) };
    let is_connection = |one: &&Descriptor| one.kind == DescriptorKind::Connection;
    let connections = found.iter().filter(is_connection).count();
    let counts_only = connections > CONNECTIONS;
    let listed: Vec<&Descriptor> = found.iter().filter(|one| !counts_only || !is_connection(one)).collect();
    let mut rows: Vec<String> = listed.iter().take(DESCRIPTORS).map(|one| descriptor(one)).collect();
    if counts_only {
        rows.push(format!("     {connections} connections"));
    }
    if listed.len() > DESCRIPTORS {
        rows.push(format!("     {} more, see --json", listed.len() - DESCRIPTORS));
    }
    block("DESCRIPTORS", rows.into_iter(), paper)
}

fn descriptor(one: &Descriptor) -> String {
    let Descriptor { number, kind, name } = one;
    let kind = match kind {
        DescriptorKind::Pipe => "pipe: ",
        DescriptorKind::Socket => "socket: ",
        DescriptorKind::Connection => "connection: ",
        DescriptorKind::Memory => "memory: ",
        DescriptorKind::File | DescriptorKind::Other => "",
    };
    format!("{number:>3}  {kind}{name}")
}

/// Those that differ from the supervisor's, and always how much can be open.
fn limits(found: Option<&BTreeMap<String, Limit>>, paper: Paper) -> String {
    let Some(found) = found else { return unseen("LIMITS", paper) };
    let is_shown = |(name, limit): &(&String, &Limit)| *name == "nofile" || limit.differs != Some(false);
    let rows = found.iter().filter(is_shown).map(|(name, limit)| {
        let value = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        let hard = if limit.soft == limit.hard { String::new() } else { format!(", hard {}", value(limit.hard)) };
        format!("{name:<10}  {}{hard}", value(limit.soft))
    });
    block("LIMITS (all others are the supervisor's)", rows, paper)
}

fn processes(found: Option<&[Process]>, paper: Paper) -> String {
    let Some(found) = found else { return unseen("PROCESS", paper) };
    let all = || found.iter();
    let command = |process: &Process| {
        let command = clipped(&one_line(&process.command), COMMAND);
        (format!("{}{command}", "  ".repeat(process.depth)), Colour::None)
    };
    let columns = vec![
        Column::text("PROCESS", all().map(command)),
        Column::number("PID", all().map(|process| process.pid.to_string())),
        Column::text("STATE", all().map(|process| (process.state.clone(), Colour::None))).gives_way(4),
        Column::number("CPU TIME", all().map(|process| page::time(Duration::from_millis(process.cpu_ms)))).gives_way(2),
        Column::number("MEM", all().map(|process| bytes(process.memory_bytes))).gives_way(1),
        Column::number("AGE", all().map(|process| short(seconds(process.age_ms)))).gives_way(3),
    ];
    table(columns, paper)
}

fn uses(usage: &Usage, child: &Child, paper: Paper) -> String {
    let over = usage.cpu_percent_over_ms.map_or_else(String::new, |over| format!(" over {}", short(seconds(over))));
    let known = [
        Some(counted(usage.processes, "process", "processes")),
        usage.cpu_percent.map(|share| format!("{} CPU{over}", percent(share))),
        Some(format!("{} CPU time", page::time(Duration::from_millis(usage.cpu_ms)))),
        Some(format!("{} memory", bytes(usage.memory_bytes))),
        usage.descriptors.map(|count| counted(count, "descriptor", "descriptors")),
        usage.read_bytes.map(|read| format!("{} read", bytes(read))),
        usage.written_bytes.map(|written| format!("{} written", bytes(written))),
    ];
    let known: Vec<String> = known.into_iter().flatten().collect();
    let counts = child.metrics.iter().map(|(name, count)| {
        let rate = child.rates.get(name).map_or_else(String::new, |rate| format!(" ({}/s)", page::count(*rate)));
        format!("{} {count}{rate}", one_line(name))
    });
    let counts: Vec<String> = counts.collect();
    let rows = [("USES", known), ("COUNTS", counts)].into_iter().filter(|(_, words)| !words.is_empty());
    rows.map(|(title, words)| {
        let text = folded(&format!("{title} {}", words.join(", ")), paper.width, "", "  ");
        text.replacen(title, &paper.paint(Colour::Quiet, title), 1)
    })
    .collect()
}

fn tables(own: &Status, paper: Paper) -> String {
    let mut out = if own.links.is_empty() { String::new() } else { table(page::links(&own.links, paper), paper) };
    out += &table(places::listeners(&own.listeners), paper);
    out += &table(places::files(&own.files), paper);
    out
}

fn end_line(end: &End, now: Timestamp) -> String {
    let how = match &end.how {
        Ended::Code(code) => format!("exited with status {code}"),
        Ended::Signal(name) => format!("was killed by {name}"),
    };
    let asked = if end.asked { ", as asked" } else { "" };
    let reason = end.reason.as_ref().map_or_else(String::new, |reason| format!("; {reason}"));
    let line = end.last_line.as_ref().map_or_else(String::new, |line| format!("; its last line: \"{line}\""));
    let (at, ran) = (end.at, short(Duration::from_millis(end.ran_ms)));
    format!("{at:.3} ({} ago): {how} after {ran}{asked}{reason}{line}", age(at, now))
}

fn lines(found: &[Entry], paper: Paper) -> String {
    if found.is_empty() {
        return String::new();
    }
    let mut out = heading("LAST LINES", paper);
    for Entry { at, level, text, .. } in found {
        let colour = match level {
            Level::Error => Colour::Bad,
            Level::Warn => Colour::Wait,
            Level::Info => Colour::None,
            Level::Debug => Colour::Quiet,
        };
        let text = folded(&one_line(&format!("{at:.3} {level} {text}")), paper.width, "  ", "    ");
        out.extend(text.lines().map(|line| paper.paint(colour, line) + "\n"));
    }
    out
}

/// Rows below a title; nothing at all if there are no rows.
fn block(title: &str, rows: impl Iterator<Item = String>, paper: Paper) -> String {
    let rows: String = rows.map(|row| folded(&one_line(&row), paper.width, "  ", "    ")).collect();
    if rows.is_empty() { rows } else { heading(title, paper) + &rows }
}

fn heading(title: &str, paper: Paper) -> String {
    let lines = folded(title, paper.width, "", "  ");
    lines.lines().map(|line| paper.paint(Colour::Quiet, line) + "\n").collect()
}

/// For what this user may not look at.
fn unseen(title: &str, paper: Paper) -> String {
    let advice = if geteuid().is_root() { "" } else { ": use sudo" };
    heading(title, paper) + &folded(&format!("cannot be seen{advice}"), paper.width, "  ", "    ")
}

/// Milliseconds without their fraction of a second.
fn seconds(millis: u64) -> Duration {
    Duration::from_secs(millis / 1000)
}
