//! The commands and their options for plumbd(1), from the same description as `--help`.

use super::roff::{escaped, text, verbatim};
use clap::{Arg, ArgAction, Command};

/// Options that say which daemon or configuration is meant. The page describes them once.
const SHARED: [&str; 2] = ["config", "control"];

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

/// A line for each command.
pub(super) fn synopsis(command: &Command) -> String {
    shown(command).map(usage).collect::<Vec<_>>().join(".br\n")
}

/// A section for each command.
pub(super) fn commands(command: &Command) -> String {
    shown(command).map(section).collect()
}

/// The options that most commands take.
pub(super) fn shared_options(command: &Command) -> String {
    let all: Vec<&Arg> = shown(command).flat_map(Command::get_arguments).collect();
    SHARED.iter().filter_map(|name| all.iter().find(|arg| arg.get_id() == *name)).map(|arg| option(arg)).collect()
}

/// `plumbd start CHILD... [-c FILE] [--control PATH]`, on a line of its own.
fn usage(command: &Command) -> String {
    let words: Vec<String> = arguments(command)
        .map(|arg| {
            let value = value(arg).map(|name| format!("\\fI{}\\fR", escaped(&name)));
            let word = match (names(arg).first(), value) {
                (Some(name), Some(value)) => format!("\\fB{}\\fR\\~{value}", escaped(name)),
                (Some(name), None) => format!("\\fB{}\\fR", escaped(name)),
                (None, value) => value.unwrap_or_default(),
            };
            if arg.is_required_set() { word } else { format!("[{word}]") }
        })
        .collect();
    format!("\\fBplumbd {}\\fR {}\n", escaped(command.get_name()), words.join(" "))
}

fn section(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let mut out = format!(".SS {}\n{}", escaped(command.get_name()), usage(command));
    for paragraph in about.split("\n\n") {
        out += ".PP\n";
        out += &text(&ended(paragraph));
    }
    for arg in arguments(command).filter(|arg| !SHARED.contains(&arg.get_id().as_str())) {
        out += &option(arg);
    }
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for paragraph in after.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        out += &match paragraph.strip_prefix("Examples:\n") {
            Some(lines) => {
                verbatim(&lines.lines().map(|line| format!("{}\n", line.get(2..).unwrap_or(""))).collect::<String>())
            }
            None => format!(".PP\n{}", text(&paragraph.replace('\n', " "))),
        };
    }
    out
}

fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    let named = command.get_arguments().filter(|arg| !arg.is_positional());
    command
        .get_positionals()
        .chain(named)
        .filter(|arg| !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version))
}

fn option(arg: &Arg) -> String {
    let names: Vec<String> = names(arg).iter().map(|name| format!("\\fB{}\\fR", escaped(name))).collect();
    let value = value(arg).map(|name| format!("\\fI{}\\fR", escaped(&name)));
    let tag: Vec<String> =
        [names.join(", "), value.unwrap_or_default()].into_iter().filter(|part| !part.is_empty()).collect();
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let kinds: Vec<String> = match arg.get_action().takes_values() {
        true => arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect(),
        false => Vec::new(),
    };
    let kinds = if kinds.is_empty() { String::new() } else { format!(" One of {}.", kinds.join(", ")) };
    format!(".TP\n{}\n{}", tag.join(" "), text(&(ended(&help) + &kinds)))
}

fn names(arg: &Arg) -> Vec<String> {
    let short = arg.get_short().map(|name| format!("-{name}"));
    let long = arg.get_long().map(|name| format!("--{name}"));
    short.into_iter().chain(long).collect()
}

fn value(arg: &Arg) -> Option<String> {
    let name = arg.get_value_names()?.first().filter(|_| arg.get_action().takes_values())?;
    let more = if matches!(arg.get_action(), ArgAction::Append) { "..." } else { "" };
    Some(format!("{}{more}", name.to_uppercase()))
}

/// A sentence with its full stop.
fn ended(text: &str) -> String {
    let text = text.replace('\n', " ");
    if text.ends_with(['.', ']', ')']) || text.is_empty() { text } else { text + "." }
}
