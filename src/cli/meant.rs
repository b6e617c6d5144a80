//! What the arguments mean: every name is looked up, and every path is made absolute
//! if the daemon needs that.

use super::man::{self, Page};
use super::messages::Asked;
use super::run::Run;
use super::socket::Socket;
use super::status::How;
use super::typed::{Children, Command, Daemon, Schema, Typed};
use super::{Failure, example};
use crate::config::examples::Example;
use crate::control::Request;
use crate::plugin::start::Start;
use crate::plugin::{self, Plugin};
use clap_complete::Shell;
use std::path::{Path, PathBuf};

/// A command, ready to be carried out.
#[derive(Debug)]
pub(super) enum Meant {
    /// `run`
    Run(Run),
    /// `check`
    Check { config: Option<PathBuf>, effective: bool },
    /// Every command that is one request to the daemon.
    Ask { socket: Socket, request: Request },
    /// `status`
    Status { socket: Socket, children: Vec<String>, how: How },
    /// `events`
    Events { socket: Socket, request: Request },
    /// `log`
    Log { socket: Socket, request: Request },
    /// `messages`
    Messages(Box<Asked>),
    /// `example`
    Examples,
    /// `example NAME`
    Example(&'static Example),
    /// `completions`
    Completions(Shell),
    /// `man`
    Manuals,
    /// `man PAGE`
    Manual(&'static Page),
    /// `man --out DIR`
    ManualsTo(PathBuf),
    /// `schema`
    Schema(Schema),
    /// `plugin`
    Plugin { name: &'static str, run: fn(Start) -> Result<(), String> },
    /// `plugin --describe`
    Describe(&'static Plugin),
}

impl Typed {
    /// What these arguments mean.
    ///
    /// # Errors
    /// Wrong usage, such as an unknown name.
    pub(super) fn meant(self) -> Result<Meant, Failure> {
        Ok(match self.command {
            Command::Run { config, daemon, pid_file } => {
                let pid_file = pid_file.as_deref().map(absolute).transpose()?;
                Meant::Run(Run { config: config.config, daemon, pid_file })
            }
            Command::Check { config, file, effective } => Meant::Check { config: config.config.or(file), effective },
            Command::Plan { daemon } => {
                let file = daemon.config.config.as_deref().map(absolute).transpose()?;
                ask(daemon, Request::Plan { file })
            }
            Command::Reload { daemon } => ask(daemon, Request::Reload),
            Command::Start(Children { children, daemon }) => ask(daemon, Request::Start { children }),
            Command::Stop(Children { children, daemon }) => ask(daemon, Request::Stop { children }),
            Command::Restart(Children { children, daemon }) => ask(daemon, Request::Restart { children }),
            Command::Shutdown { daemon, fast } => ask(daemon, Request::Shutdown { fast }),
            Command::Reopen { daemon } => ask(daemon, Request::Reopen),
            Command::Status { children, daemon, json, watch } => {
                Meant::Status { socket: socket(daemon), children, how: How { json, watch } }
            }
            Command::Events { child, since, daemon } => {
                Meant::Events { socket: socket(daemon), request: Request::Events { child, since } }
            }
            Command::Log { mut children, lines, follow, daemon } => {
                // As with no name at all.
                children.retain(|name| name != "all");
                Meant::Log { socket: socket(daemon), request: Request::Log { children, lines, follow } }
            }
            Command::Messages(typed) => Meant::Messages(Box::new(typed.meant()?)),
            Command::Example { name: None } => Meant::Examples,
            Command::Example { name: Some(name) } => Meant::Example(example::find(&name)?),
            Command::Completions { shell } => Meant::Completions(shell),
            Command::Man { page: None, out: None } => Meant::Manuals,
            Command::Man { page: Some(page), .. } => Meant::Manual(man::find(&page)?),
            Command::Man { page: None, out: Some(folder) } => Meant::ManualsTo(folder),
            Command::Schema { of } => Meant::Schema(of),
            Command::Plugin { name, describe } => plugin(&name, describe)?,
        })
    }
}

fn plugin(name: &str, describe: bool) -> Result<Meant, Failure> {
    Ok(match (plugin::find(name), plugin::worker(name)) {
        (Some(plugin), _) if describe => Meant::Describe(plugin),
        (Some(Plugin { name, run, .. }), _) => Meant::Plugin { name, run: *run },
        (None, Some(worker)) if !describe => Meant::Plugin { name: worker.name, run: worker.run },
        (None, _) => {
            let (verb, known) = (if describe { "describe" } else { "run" }, plugin::PLUGINS.iter());
            let known: Vec<&str> = known.map(|plugin| plugin.name).collect();
            let why = format!("cannot {verb} plugin {name:?}: there are {}", known.join(", "));
            return Err(Failure::new(Failure::USAGE, why));
        }
    })
}

fn ask(daemon: Daemon, request: Request) -> Meant {
    Meant::Ask { socket: socket(daemon), request }
}

fn socket(daemon: Daemon) -> Socket {
    socket_of(daemon.control, daemon.config.config)
}

/// How to find the daemon's socket, from the options that were typed.
pub(super) fn socket_of(control: Option<PathBuf>, config: Option<PathBuf>) -> Socket {
    let from_environment = || std::env::var_os("PLUMBD_CONTROL").filter(|path| !path.is_empty()).map(PathBuf::from);
    match control.or_else(from_environment) {
        Some(path) => Socket::Given(path),
        None => Socket::Configured(config),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::from(format!("cannot use the path {}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    fn meant(words: &[&str]) -> Meant {
        Typed::try_parse_from(words).unwrap().meant().unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Typed::command().debug_assert();
    }

    #[test]
    fn control_has_precedence_over_the_configuration() {
        let words = ["plumbd", "stop", "echo", "logger", "-c", "x.toml", "--control", "y.sock"];
        let Meant::Ask { socket, request } = meant(&words) else { panic!() };
        assert_eq!(socket, Socket::Given("y.sock".into()));
        assert_eq!(request, Request::Stop { children: vec!["echo".into(), "logger".into()] });
    }

    #[test]
    fn a_plan_names_its_file_by_an_absolute_path() {
        let Meant::Ask { request: Request::Plan { file: Some(file) }, .. } = meant(&["plumbd", "plan", "-c", "x.toml"])
        else {
            panic!()
        };
        assert!(file.is_absolute() && file.ends_with("x.toml"));
    }
}
