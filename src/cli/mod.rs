//! The command line: from what was typed to an exit status.
//!
//! `typed` has the shape of the arguments, `meant` what they ask for; then there is one
//! file per command. Commands return their exit status, or a [`Failure`] that
//! `main` prints; only answers go to standard output.

mod amounts;
mod ask;
mod check;
mod child;
mod completions;
mod daemon;
mod elsewhere;
mod events;
mod example;
mod holders;
mod log;
mod man;
mod meant;
mod messages;
mod output;
mod page;
mod pid_file;
mod plugin;
mod run;
mod schema;
mod screen;
mod socket;
mod status;
mod table;
mod typed;
mod watch;

use crate::sys::{cause, text};
use clap::Parser;
use meant::Meant;
use std::ffi::OsString;
use std::fmt;

/// Why a command could not do what was asked, and its exit status.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    why: String,
    status: u8,
}

impl Failure {
    /// It could not be done.
    const FAILED: u8 = 1;
    /// The command was used wrongly.
    const USAGE: u8 = 2;
    /// `status`: no daemon runs.
    const NO_DAEMON: u8 = 3;
    /// `status`: a daemon runs, but not all is up.
    const NOT_ALL_UP: u8 = 4;
    /// The configuration has problems (EX_CONFIG of sysexits.h).
    const CONFIGURATION: u8 = 78;

    fn new(status: u8, why: impl fmt::Display) -> Failure {
        // What other users chose, such as names of files and processes, must not control a terminal.
        let why = text::plain(&why.to_string());
        Failure { why: cause::plain(&why).into_owned(), status }
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            // Each line begins with FILE:LINE:COL.
            Failure::CONFIGURATION => f.write_str(&self.why),
            _ => write!(f, "plumbd: {}", self.why),
        }
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Failure {
        Failure::new(Failure::FAILED, why)
    }
}

impl From<crate::config::Problems> for Failure {
    fn from(problems: crate::config::Problems) -> Failure {
        Failure::new(Failure::CONFIGURATION, problems)
    }
}

/// Does what these arguments ask (the first is the program's own name), and
/// returns the exit status.
///
/// # Errors
/// The failure to print on standard error before exiting with its status.
pub fn main(arguments: impl Iterator<Item = OsString>) -> Result<u8, Failure> {
    let arguments: Vec<OsString> = arguments.collect();
    if completions::answer(&arguments) {
        return Ok(0);
    }
    match typed::Typed::try_parse_from(typed::help_as_option(arguments)) {
        Ok(typed) => carry_out(typed.meant()?),
        Err(usage) => {
            // Help that was asked for goes to standard output, which may be a
            // pipe that nobody reads any more.
            let _unread = usage.print();
            Ok(u8::try_from(usage.exit_code()).unwrap_or(Failure::USAGE))
        }
    }
}

fn carry_out(meant: Meant) -> Result<u8, Failure> {
    match meant {
        Meant::Run(run) => run.carry_out(),
        Meant::Check { config, effective } => check::check(config.as_deref(), effective),
        Meant::Ask { socket, request } => ask::ask(&socket, &request),
        Meant::Events { socket, request } => events::events(&socket, &request),
        Meant::Log { socket, request } => log::log(&socket, &request, status::paper()),
        Meant::Status { socket, children, how } => status::status(&socket, children, how),
        Meant::Messages(asked) => messages::messages(*asked),
        Meant::Examples => example::list(),
        Meant::Example(example) => example::print(example),
        Meant::Completions(shell) => completions::completions(shell),
        Meant::Manuals => man::list(),
        Meant::Manual(page) => man::print(page),
        Meant::ManualsTo(folder) => man::write_all(&folder),
        Meant::Schema(what) => schema::schema(what),
        Meant::Plugin { name, run } => plugin::run(name, run),
        Meant::Describe(plugin) => plugin::describe(plugin),
    }
}
