//! `plumbd run`.

use super::daemon::{self, Side};
use super::pid_file::PidFile;
use super::{Failure, output};
use crate::config::model::{Address, LogTarget, Model, Program};
use crate::config::{self, Loaded, Which, looked};
use crate::journal::{self, Target};
use crate::supervisor::ready::Ready;
use crate::supervisor::{self, Options};
use crate::sys;
use crate::sys::aside::Keeps;
use crate::sys::cause::cause;
use crate::sys::look::Look;
use crate::sys::text::counted;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the last log entries may take to go out at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The arguments of the command.
#[derive(Debug)]
pub(super) struct Run {
    /// The configuration, as it was given.
    pub(super) config: Option<PathBuf>,
    /// Whether to go to the background.
    pub(super) daemon: bool,
    /// The pid file, as an absolute path.
    pub(super) pid_file: Option<PathBuf>,
}

impl Run {
    /// Supervises until it is told to end. With `--daemon` this process only
    /// waits until its child, the daemon, is ready.
    pub(super) fn carry_out(self) -> Result<u8, Failure> {
        sys::signals::ignore([nix::libc::SIGXFSZ]);
        let loaded = load(self.config.as_deref())?;
        if loaded.builtin {
            output::tell(&built_in(&loaded.model, &config::places()));
        }
        match self.target(&loaded.model) {
            Target::Syslog(_) if !journal::syslog_listens() => {
                output::tell("plumbd: nobody listens on /dev/log: the log waits for a syslog daemon");
            }
            Target::Stderr if self.daemon => {
                output::tell("plumbd: daemon.log is \"stderr\", but a daemon has no standard error: nothing is logged");
            }
            Target::Stderr | Target::Syslog(_) => {}
        }
        if !self.daemon {
            self.supervise(loaded, &mut Ready::nobody_waits())?;
            return Ok(0);
        }
        match daemon::fork(loaded.builtin)? {
            Side::Caller(awaited) => {
                awaited.outcome()?;
                Ok(0)
            }
            Side::Failed => Ok(Failure::FAILED),
            Side::Daemon(mut ready) => {
                let outcome = self.supervise(loaded, &mut ready);
                if let Err(why) = &outcome {
                    ready.failed(why);
                }
                outcome?;
                Ok(0)
            }
        }
    }

    fn target(&self, model: &Model) -> Target {
        match model.daemon.log {
            LogTarget::Stderr => Target::Stderr,
            LogTarget::Auto if !self.daemon => Target::Stderr,
            LogTarget::Auto | LogTarget::Syslog => Target::Syslog(model.daemon.syslog_facility),
        }
    }

    fn supervise(self, loaded: Loaded, ready: &mut Ready) -> Result<(), String> {
        let target = self.target(&loaded.model);
        let mut pid_file = self.pid_file.as_deref().map(PidFile::hold).transpose()?;
        journal::start(target, loaded.model.daemon.log_level)?;
        let renew = Box::new(move || pid_file.iter_mut().for_each(PidFile::renew));
        let outcome = supervisor::run(Options { loaded, daemonized: self.daemon, renew }, ready);
        // With standard error as the log, `main` prints it there as the command's failure.
        if let (Err(why), Target::Syslog(_)) = (&outcome, target) {
            log::error!("{why}");
        }
        journal::finish(LAST_WORDS);
        let unsent = journal::unsent();
        if unsent > 0 {
            // This is lost in a daemon, whose standard error is /dev/null, but not in the foreground.
            output::tell(&format!("plumbd: {} could not be logged", counted(unsent, "log entry", "log entries")));
        }
        outcome
    }
}

/// Loads the configuration; waits no longer than a look may take.
fn load(path: Option<&Path>) -> Result<Loaded, Failure> {
    let cannot = |why: String| format!("cannot start: {why}");
    let look = Look::begin(Keeps::All, |scribe| drop(looked::look(path, false, scribe)))
        .map_err(|error| cannot(format!("no process can look at the system: {}", cause(&error))))?;
    Ok(looked::loaded(&look.wait().map_err(cannot)?, Which::OfTheFile)?)
}

/// Says that the built-in configuration is used, and what to do with it.
fn built_in(model: &Model, places: &[PathBuf]) -> String {
    let places: Vec<String> = places.iter().map(|place| format!("no {}", place.display())).collect();
    let mut text = format!("plumbd: {}: using the built-in configuration", places.join(", "));
    let addresses = model.children.iter().flat_map(|child| &child.listen);
    for address in addresses {
        if let Address::Tcp(host) = address {
            text += &format!("\n  talk to it:  nc {} {}", host.at.ip(), host.at.port());
        }
    }
    for child in model.children.iter().filter(|child| child.program == Program::Plugin("logger")) {
        if let Some(file) = child.settings["file"].as_str() {
            text += &format!("\n  follow it:   tail -F {file}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_built_in_configuration_is_introduced() {
        let folder = tempfile::tempdir().unwrap();
        let model = config::check_text(config::BUILTIN.as_bytes(), config::BUILTIN_NAME, folder.path()).unwrap();
        let file = folder.path().join("messages.log");
        assert_eq!(
            built_in(&model, &["plumbd.toml", "/home/u/.config/plumbd/plumbd.toml"].map(PathBuf::from)),
            format!(
                "plumbd: no plumbd.toml, no /home/u/.config/plumbd/plumbd.toml: using the built-in configuration\n  \
                   talk to it:  nc 127.0.0.1 7007\n  \
                   follow it:   tail -F {}",
                file.display()
            )
        );
    }
}
