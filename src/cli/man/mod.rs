//! `plumbd man`: the manual pages.
//!
//! The text is in the `.roff` files beside this one. A line that begins with `@` is
//! replaced by what the program knows about itself: commands from the source of `--help`,
//! keys from the tables that the check reads, numbers from the code. So they can't
//! disagree.

mod command;
mod config;
mod roff;

use super::typed::Typed;
use super::{Failure, output};
use crate::config::BUILTIN;
use crate::config::examples;
use crate::link::record;
use crate::sys::beside;
use crate::sys::cause::cause;
use clap::CommandFactory;
use std::path::Path;

/// A manual page.
#[derive(Debug)]
pub(super) struct Page {
    /// `plumbd man NAME`.
    pub(super) name: &'static str,
    /// The section of the manual.
    section: u8,
    /// What it is about, in a line.
    pub(super) about: &'static str,
    text: &'static str,
}

/// All of them.
pub(super) static PAGES: [Page; 3] = [
    Page {
        name: "plumbd",
        section: 1,
        about: "supervise programs linked by pipes",
        text: include_str!("plumbd.1.roff"),
    },
    Page {
        name: "plumbd.toml",
        section: 5,
        about: "configuration of plumbd",
        text: include_str!("plumbd.toml.5.roff"),
    },
    Page {
        name: "plumbd-plugin",
        section: 7,
        about: "how a program works under plumbd",
        text: include_str!("plumbd-plugin.7.roff"),
    },
];

/// When the pages were last read from top to bottom.
const DATE: &str = "2026-11-29";

impl Page {
    /// `plumbd.1`.
    fn file(&self) -> String {
        format!("{}.{}", self.name, self.section)
    }

    /// `plumbd(1)`.
    fn title(&self) -> String {
        format!("{}({})", self.name, self.section)
    }

    /// The page itself, in roff (man(7)).
    pub(super) fn roff(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let title = roff::escaped(&self.name.to_uppercase());
        let mut page = format!(
            "'\\\" t\n.TH \"{title}\" {} {DATE} \"plumbd {version}\" \"plumbd manual\"\n.nh\n.ad l\n.SH NAME\n{} \\- {}\n",
            self.section,
            roff::escaped(self.name),
            roff::escaped(self.about)
        );
        for line in self.text.lines() {
            match line.strip_prefix('@') {
                Some(words) => page.push_str(&filled_in(words)),
                None => {
                    page.push_str(line);
                    page.push('\n');
                }
            }
        }
        page
    }
}

/// What replaces the line `@WORDS`.
fn filled_in(words: &str) -> String {
    let command = Typed::command();
    match words.split_once(' ').unwrap_or((words, "")) {
        ("synopsis", _) => command::synopsis(&command),
        ("commands", _) => command::commands(&command),
        ("options", _) => command::shared_options(&command),
        ("keys", table) => config::keys(table),
        ("settings", _) => config::settings(),
        ("builtin", _) => roff::verbatim(BUILTIN),
        ("example", name) => roff::verbatim(examples::find(name).map_or("", |example| example.text)),
        ("record", _) => roff::text(&format!(
            "A record has at most {} bytes, which is PIPE_BUF of pipe(7). A message has at most {} bytes, in any number of \
             records.",
            record::RECORD_MAX,
            record::MESSAGE_MAX
        )),
        _ => unreachable!("a manual page has @{words}"),
    }
}

/// The page of that name; the name of its file, or its title, will do too.
pub(super) fn find(name: &str) -> Result<&'static Page, Failure> {
    let is = |page: &&Page| page.name == name || page.file() == name || page.title() == name;
    PAGES.iter().find(is).ok_or_else(|| {
        let known: Vec<&str> = PAGES.iter().map(|page| page.name).collect();
        Failure::new(
            Failure::USAGE,
            format_args!("cannot print the manual page {name:?}: there are {}", known.join(", ")),
        )
    })
}

/// Lists them, one line each.
pub(super) fn list() -> Result<u8, Failure> {
    let width = PAGES.iter().map(|page| page.name.len()).max().unwrap_or(0);
    let lines: String = PAGES
        .iter()
        .map(|page| format!("{:width$}  {} (read it: plumbd man {} | man -l -)\n", page.name, page.about, page.name))
        .collect();
    output::print(lines)?;
    Ok(0)
}

/// Prints one.
pub(super) fn print(page: &Page) -> Result<u8, Failure> {
    output::print(page.roff())?;
    Ok(0)
}

/// Writes all of them below a folder, where man(1) looks for them.
pub(super) fn write_all(folder: &Path) -> Result<u8, Failure> {
    for page in &PAGES {
        let folder = folder.join(format!("man{}", page.section));
        let file = folder.join(page.file());
        std::fs::create_dir_all(&folder)
            .and_then(|()| beside::write_anew(&file, 0o644, page.roff().as_bytes()))
            .map_err(|e| format!("cannot write {}: {}", file.display(), cause(&e)))?;
        output::print(format!("{}\n", file.display()))?;
    }
    Ok(0)
}
